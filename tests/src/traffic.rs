//! Connections that check themselves: random bytes both ways, random half-closes and resets, every byte verified, by a
//! client on one host and a server on another. What lies between (a cable, a tunnel) must not show.
//!
//! Each connection plays a [`Script`], which follows from the plan's seed and the connection's number; the client
//! sends it to the server first. A failure names both, so the same connection can be played again.

mod play;
mod script;

pub use script::{Ending, Script};

use crate::{lab::Host, tcp};
use play::play;
use std::{
    fmt,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

/// A connection on which nothing moves for so long has stalled.
const STALL: Duration = Duration::from_secs(60);

/// What the client is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything random follows from it.
    pub seed: u64,
    /// How many connections it makes in all.
    pub connections: u64,
    /// How many of them at the same time.
    pub concurrency: usize,
    /// At most so many bytes in each direction of a connection.
    pub most_bytes: u64,
    /// The ways in which connections end, each as often as the others.
    pub endings: Vec<Ending>,
}

impl Plan {
    /// Connections one after the other, with all endings and at most 256 KiB each way.
    pub fn sequential(connections: u64) -> Plan {
        Plan { seed: 1, connections, concurrency: 1, most_bytes: 256 << 10, endings: Ending::ALL.to_vec() }
    }

    /// So many connections, all at the same time, with all endings and at most 256 KiB each way.
    pub fn concurrent(connections: usize) -> Plan {
        Plan { connections: connections as u64, concurrency: connections, ..Plan::sequential(0) }
    }

    /// The same plan with other random numbers.
    pub fn seed(self, seed: u64) -> Plan {
        Plan { seed, ..self }
    }

    /// The same plan with at most so many bytes in each direction.
    pub fn most_bytes(self, most_bytes: u64) -> Plan {
        Plan { most_bytes, ..self }
    }

    /// The same plan with these endings only.
    pub fn endings(self, endings: &[Ending]) -> Plan {
        Plan { endings: endings.to_vec(), ..self }
    }

    /// What connection number `index` does.
    pub fn script(&self, index: u64) -> Script {
        Script::random(self.seed, index, self.most_bytes, &self.endings)
    }
}

/// What one side saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Connections that ended as their scripts say, with the right bytes; with `resets`.
    pub good: u64,
    /// Those of the good ones that ended with a reset.
    pub resets: u64,
    /// Bytes verified.
    pub verified: u64,
    /// What went wrong, one line for each connection.
    pub failures: Vec<String>,
}

impl Report {
    fn count(&mut self, script: Script, outcome: Result<u64, String>) {
        match outcome {
            Ok(verified) => {
                self.good += 1;
                self.resets += u64::from(script.ending.is_reset());
                self.verified += verified;
            }
            Err(failure) => self.failures.push(failure),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { good, resets, verified, failures } = self;
        let size = crate::facts::iec(*verified);
        writeln!(out, "{good} good ({resets} resets, {size} verified), {} failed", failures.len())?;
        failures.iter().take(20).try_for_each(|failure| writeln!(out, "  {failure}"))
    }
}

/// The server that scripts are played with.
pub struct Server {
    tcp: tcp::Server,
    report: Arc<Mutex<Report>>,
}

impl Server {
    /// Starts on a port of the host's IPv4 address; 0 is any.
    pub fn start(host: &Host, port: u16) -> Server {
        let report = Arc::new(Mutex::new(Report::default()));
        let counted = report.clone();
        let tcp = tcp::Server::start(host, port, move |stream| serve(stream, &counted));
        Server { tcp, report }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.tcp.address()
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.tcp.port()
    }

    /// Waits until its connections have ended and takes its report; the next one begins at zero.
    ///
    /// # Panics
    /// When connections are still open long after their clients ended.
    pub fn take_report(&self) -> Report {
        self.tcp.wait_until_idle(STALL * 2);
        std::mem::take(&mut self.report.lock().expect("no panic under this lock"))
    }
}

/// Plays a plan from `host` with what listens at `address`, and returns what the client saw.
pub fn run(host: &Host, address: SocketAddr, plan: &Plan) -> Report {
    let next = Arc::new(AtomicU64::new(0));
    let report = Arc::new(Mutex::new(Report::default()));
    let workers: Vec<_> = (0..plan.concurrency.max(1))
        .map(|_| {
            let (plan, next, report) = (plan.clone(), next.clone(), report.clone());
            host.spawn(move || {
                while let Some(index) = take_number(&next, plan.connections) {
                    let script = plan.script(index);
                    let outcome = connect(address, script);
                    let outcome = outcome.map_err(|why| format!("connection {index} of seed {}: {why}", plan.seed));
                    report.lock().expect("no panic under this lock").count(script, outcome);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("a worker does not panic");
    }
    std::mem::take(&mut report.lock().expect("no panic under this lock"))
}

/// Plays a plan from `client` with `server`, reached at `address` (its own, or a tunnel's), and checks what both saw.
///
/// # Panics
/// When anything differs from the plan.
pub fn exercise(client: &Host, address: SocketAddr, server: &Server, plan: &Plan) -> Report {
    let seen = run(client, address, plan);
    let served = server.take_report();
    let whole = |report: &Report| report.failures.is_empty() && report.good == plan.connections;
    assert!(whole(&seen) && whole(&served), "{plan:?}\nclient: {seen}server: {served}");
    assert_eq!(seen.resets, served.resets, "resets that the client and the server took part in");
    seen
}

fn take_number(next: &AtomicU64, end: u64) -> Option<u64> {
    let number = next.fetch_add(1, SeqCst);
    (number < end).then_some(number)
}

fn connect(address: SocketAddr, script: Script) -> Result<u64, String> {
    let describe = |why: String| format!("{script:?}: {why}");
    let stream = TcpStream::connect(address).map_err(|why| describe(format!("connect: {why}")))?;
    prepare(&stream)
        .and_then(|()| script.send(&stream))
        .map_err(|why| describe(format!("sending the script: {why}")))?;
    play(stream, script.client()).map_err(describe)
}

fn serve(stream: TcpStream, report: &Mutex<Report>) {
    let received = prepare(&stream).and_then(|()| Script::receive(&stream));
    let report_line = |script: Script, outcome| {
        report.lock().expect("no panic under this lock").count(script, outcome);
    };
    match received {
        Ok(script) => {
            let outcome = play(stream, script.server());
            report_line(script, outcome.map_err(|why| format!("{script:?}: {why}")));
        }
        Err(why) => report_line(Script::NONE, Err(format!("receiving the script: {why}"))),
    }
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_follow_from_seed_and_number() {
        let plan = Plan::sequential(10);
        assert_eq!(plan.script(3), plan.script(3));
        assert_ne!(plan.script(3), plan.script(4));
        assert_ne!(plan.script(3), plan.clone().seed(2).script(3));
    }

    #[test]
    fn numbers_end() {
        let next = AtomicU64::new(0);
        assert_eq!(take_number(&next, 1), Some(0));
        assert_eq!(take_number(&next, 1), None);
    }
}
