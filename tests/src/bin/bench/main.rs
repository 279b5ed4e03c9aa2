//! The benchmark: what a tunnel between two agents costs, as ratios to plain TCP over the same loopback in the same run,
//! raw and tunnelled taking turns; TLS that ends at an agent against nginx; `exec` against OpenSSH; relays against direct
//! paths; what changes of the network, strangers and restarts do; and what an agent costs that has nothing to do.
//! `tests/bench` builds and starts it.
//!
//! Single speeds of a shared machine mean little; ratios, CPU seconds and medians over the turns are what to compare.

#![forbid(unsafe_code)]

mod bulk;
mod carriers;
mod change;
mod connections;
mod contender;
mod exec;
mod idle;
mod latency;
mod many;
mod memory;
mod peers;
mod plot;
mod relay;
mod report;
mod resume;
mod scene;
mod storm;
mod strangers;
mod tls;

use argh::FromArgs;
use hive_tests::{
    lab::{Host, Lab},
    node::Node,
    pair::Pair,
    tcp,
};
use report::Report;
use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

/// Measures tunnels between two agents on this machine against plain TCP, and the agents' memory.
#[derive(FromArgs)]
struct Arguments {
    /// turns of raw and tunnelled of which the median counts (default: 5)
    #[argh(option, default = "5")]
    rounds: usize,
    /// mebibytes of one bulk copy, all its connections together (default: 512)
    #[argh(option, default = "512")]
    mib: u64,
    #[argh(subcommand)]
    what: Option<What>,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum What {
    Idle(idle::Idle),
    Exec(exec::Exec),
    Peers(peers::Peers),
    Many(many::Many),
    Resume(resume::Resume),
    Relay(relay::Relay),
    Carriers(carriers::Carriers),
    Change(change::Change),
    Storm(storm::Storm),
    Strangers(strangers::Strangers),
    Tls(tls::Tls),
}

fn main() -> io::Result<()> {
    let arguments: Arguments = argh::from_env();
    let (rounds, bytes) = (arguments.rounds, arguments.mib << 20);
    let report = match &arguments.what {
        Some(What::Peers(peers)) => return peers.measure(&Lab::new(), rounds, bytes),
        Some(What::Idle(idle)) => idle.measure(&Lab::new()),
        Some(What::Exec(_)) => exec::measure(&Lab::new(), rounds, bytes)?,
        Some(What::Many(many)) => many.measure(&Lab::new())?,
        Some(What::Resume(_)) => resume::measure(&Lab::new(), rounds, bytes)?,
        Some(What::Relay(relay)) => relay.measure(rounds, bytes)?,
        Some(What::Carriers(_)) => carriers::measure(rounds, bytes)?,
        Some(What::Change(change)) => change.measure(),
        Some(What::Storm(storm)) => storm.measure(&Lab::new()),
        Some(What::Strangers(strangers)) => strangers.measure(&Lab::new(), rounds, bytes)?,
        Some(What::Tls(_)) => tls::measure(&Lab::new(), rounds, bytes)?,
        None => tunnels(&Lab::new(), &arguments)?,
    };
    print!("{report}");
    let path = report.save()?;
    println!("\nAlso in {}", path.display());
    Ok(())
}

fn tunnels(lab: &Lab, arguments: &Arguments) -> io::Result<Report> {
    let bench = Bench::start(lab);
    let mut report = Report::new("tunnel");
    memory::fresh(&bench, &mut report);
    memory::open_connections(&bench, &mut report)?;
    bulk::measure(&bench, arguments.rounds, arguments.mib << 20, &mut report)?;
    latency::measure(&bench, arguments.rounds, &mut report)?;
    connections::measure(&bench, arguments.rounds, &mut report)?;
    memory::under_load(&bench, &mut report)?;
    memory::afterwards(&bench, &mut report);
    Ok(report)
}

/// Two agents, servers at the far one, and both ways to them.
struct Bench {
    pair: Pair,
    raw: Way,
    tunnel: Way,
    servers: Servers,
}

/// Where a client finds the servers.
#[derive(Clone, Copy)]
struct Way {
    /// Sends back what it receives.
    echo: SocketAddr,
    /// Sends as many zeros as the eight bytes say that it receives first, then the end.
    source: SocketAddr,
    /// Reads to the end and then sends one byte.
    sink: SocketAddr,
}

impl Way {
    fn all(self) -> [SocketAddr; 3] {
        [self.echo, self.source, self.sink]
    }

    fn map(self, to: impl Fn(SocketAddr) -> SocketAddr) -> Way {
        Way { echo: to(self.echo), source: to(self.source), sink: to(self.sink) }
    }
}

/// The servers of one host.
struct Servers {
    echo: tcp::Server,
    source: tcp::Server,
    sink: tcp::Server,
}

impl Servers {
    fn start(host: &Host) -> Servers {
        Servers {
            echo: tcp::Server::echo(host, 0),
            source: tcp::Server::start(host, 0, |stream| drop(serve_source(stream))),
            sink: tcp::Server::start(host, 0, |stream| drop(serve_sink(stream))),
        }
    }

    /// The way that does without hive.
    fn raw(&self) -> Way {
        Way { echo: self.echo.address(), source: self.source.address(), sink: self.sink.address() }
    }

    /// The way through new tunnels of a pair.
    fn through(&self, pair: &Pair) -> Way {
        self.raw().map(|target| pair.tunnel(target).entrance)
    }
}

impl Bench {
    fn start(lab: &Lab) -> Bench {
        let pair = Pair::start(lab);
        let servers = Servers::start(pair.far.host());
        Bench { raw: servers.raw(), tunnel: servers.through(&pair), servers, pair }
    }

    fn agents(&self) -> [&Node; 2] {
        [&self.pair.near, &self.pair.far]
    }

    /// CPU time of both agents since they started.
    fn cpu(&self) -> Duration {
        self.agents().iter().map(|agent| agent.usage().cpu).sum()
    }
}

const CHUNK: usize = 256 << 10;

fn serve_source(mut stream: TcpStream) -> io::Result<()> {
    let mut wanted = [0; 8];
    stream.read_exact(&mut wanted)?;
    send(&mut stream, u64::from_le_bytes(wanted))?;
    stream.shutdown(Shutdown::Write)
}

fn serve_sink(mut stream: TcpStream) -> io::Result<()> {
    drain(&mut stream)?;
    stream.write_all(&[0])
}

/// Sends so many zeros.
fn send(stream: &mut impl Write, bytes: u64) -> io::Result<()> {
    let chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(CHUNK as u64) as usize;
        stream.write_all(&chunk[..length])?;
        left -= length as u64;
    }
    Ok(())
}

/// Reads to the end and says how much it was.
fn drain(stream: &mut impl Read) -> io::Result<u64> {
    let (mut chunk, mut total) = (vec![0; CHUNK], 0);
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok(total),
            length => total += length as u64,
        }
    }
}
