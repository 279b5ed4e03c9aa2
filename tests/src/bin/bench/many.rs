//! A hundred thousand connections, one after another and 64 at a time: whether any is lost, and what they leave behind.

use crate::{Bench, report::Report};
use argh::FromArgs;
use hive_tests::{lab::Lab, payload};
use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

/// Makes many connections, each used for some bytes there and back, and counts those that fail.
#[derive(FromArgs)]
#[argh(subcommand, name = "many")]
pub struct Many {
    /// connections (default: 100000)
    #[argh(option, default = "100_000")]
    count: usize,
    /// of these, at a time (default: 64)
    #[argh(option, default = "64")]
    at_once: usize,
}

/// Bytes there and back.
const EXCHANGE: usize = 1000;
/// One that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(30);

impl Many {
    /// Makes them, and says how many failed and what memory the agents took.
    pub fn measure(&self, lab: &Lab) -> io::Result<Report> {
        let bench = Bench::start(lab);
        let mut report = Report::new("many");
        // What the first ones allocate for good is no leak.
        self.make(bench.tunnel.echo, self.at_once * 16);
        let before = bench.agents().map(|agent| agent.usage().anonymous);
        let began = Instant::now();
        let failed = self.make(bench.tunnel.echo, self.count);
        let rate = self.count as f64 / began.elapsed().as_secs_f64();
        let case = format!("{} connections, {} at a time", self.count, self.at_once);
        report.figure(&format!("{case}: failed"), "", Some(failed as f64));
        report.figure(&format!("{case}: rate"), "/s", Some(rate));
        for ((agent, name), before) in bench.agents().into_iter().zip(["near", "far"]).zip(before) {
            let grown = agent.usage().anonymous as f64 - before as f64;
            report.figure(&format!("{case}: {name} keeps of each"), "B", Some(grown / self.count as f64));
        }
        Ok(report)
    }

    /// How many of these fail.
    fn make(&self, to: SocketAddr, count: usize) -> usize {
        let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..self.at_once {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Relaxed);
                        if number >= count {
                            return;
                        }
                        if let Err(error) = connection(to, number) {
                            failed.fetch_add(1, Relaxed);
                            eprintln!("connection {number}: {error}");
                        }
                    }
                });
            }
        });
        failed.into_inner()
    }
}

/// One connection, to its regular end.
fn connection(to: SocketAddr, number: usize) -> io::Result<()> {
    let mut stream = connect(to, number)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let sent = payload::bytes(number as u64, EXCHANGE);
    stream.write_all(&sent)?;
    stream.shutdown(Shutdown::Write)?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    if back == sent { Ok(()) } else { Err(io::Error::other(format!("{} of {EXCHANGE} bytes came back", back.len()))) }
}

/// Connects from one of several addresses: each has ports enough for what waits to be forgotten (TIME_WAIT).
fn connect(to: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if to.ip().is_loopback() {
        let [high, low] = u16::try_from(number % 64).unwrap_or_default().to_be_bytes();
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 77, high, low + 1), 0)).into())?;
    }
    socket.connect(&to.into())?;
    Ok(socket.into())
}
