//! Those that take turns: plain TCP, hive, another build of hive, and the programs of `tests/peers.d`.
//!
//! A peer is two small scripts in a folder of its name: `far` runs where the servers are, `near` where the clients are;
//! `tests/peers.d/README.md` says what they find in their environment.

use crate::{Bench, Servers, Way};
use hive_tests::{
    lab::{Host, Lab},
    notice,
    pair::{self, Pair},
    process::Process,
    usage::Usage,
};
use std::{
    fs, io,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long a peer may take from its start to its first echo.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one echo may take until then.
const ECHO: Duration = Duration::from_secs(1);

/// One of those that take turns.
pub struct Contender {
    /// For people.
    pub name: String,
    /// Where its clients find the servers.
    pub way: Way,
    running: Running,
}

/// What has to run for it.
enum Running {
    /// Where all the others lead, and plain TCP leads too.
    Servers {
        _running: Servers,
    },
    Agents(Box<Pair>),
    Peer([Process; 2]),
}

impl Contender {
    /// Plain TCP first, then hive, then all others that can be had.
    pub fn all(lab: &Lab, bench: Bench, other: Option<&Path>, peers: &[PathBuf]) -> Vec<Contender> {
        let (raw, tunnel) = (bench.raw, bench.tunnel);
        let hosts = [&bench.pair.near, &bench.pair.far].map(|node| node.host().clone());
        let mut all = Vec::new();
        let agents = |name: &str, way, pair| {
            let running = Running::Agents(Box::new(pair));
            Contender { name: name.to_owned(), way, running }
        };
        all.push(agents("hive", tunnel, bench.pair));
        if let Some(programs) = other {
            let pair = Pair::start_with(lab, ["other-near", "other-far"], || pair::options().programs(programs));
            all.push(agents("other hive", bench.servers.through(&pair), pair));
        }
        all.extend(peers.iter().filter_map(|scripts| peer(scripts, &hosts, raw)));
        let running = Running::Servers { _running: bench.servers };
        all.insert(0, Contender { name: "raw".to_owned(), way: raw, running });
        all
    }

    /// CPU time of both its ends since their start.
    pub fn cpu(&self) -> Duration {
        match &self.running {
            Running::Servers { .. } => Duration::ZERO,
            Running::Agents(pair) => pair.near.usage().cpu + pair.far.usage().cpu,
            Running::Peer(ends) => ends.iter().map(|end| family(end.pid())).sum(),
        }
    }
}

/// The peers of a folder, in the order of their names.
pub fn peers(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let mut peers: Vec<_> = entries.into_iter().filter(|path| path.join("near").is_file()).collect();
    peers.sort();
    Ok(peers)
}

/// Starts a peer; says why not if it carries no echo.
fn peer(scripts: &Path, hosts: &[Host; 2], raw: Way) -> Option<Contender> {
    let name = scripts.file_name()?.to_string_lossy().into_owned();
    let near = &hosts[0];
    let way = raw.map(|_| near.at(near.free_port()));
    let mut ends = start(scripts, &name, hosts, [raw, way]);
    let began = Instant::now();
    while echo(way).is_err() {
        if ends.iter_mut().any(|end| end.ended().is_some()) || began.elapsed() > PATIENCE {
            let said = ends.iter().map(Process::printed).collect::<String>();
            notice::left_out(&format!("the comparison with {name}"), said.lines().next_back().unwrap_or("no answer"));
            return None;
        }
        thread::sleep(Duration::from_millis(100));
    }
    Some(Contender { name, way, running: Running::Peer(ends) })
}

fn start(scripts: &Path, name: &str, [near, far]: &[Host; 2], [targets, entrances]: [Way; 2]) -> [Process; 2] {
    let folder = near.folder(&format!("peer-{name}"));
    let ports = |way: Way| way.all().map(|at| at.port().to_string()).join(" ");
    let own = [(); 3].map(|()| far.free_port().to_string()).join(" ");
    [(far, "far"), (near, "near")].map(|(host, side)| {
        let mut command = host.command(scripts.join(side));
        command.env("NEAR", near.ipv4().to_string()).env("FAR", far.ipv4().to_string()).env("FOLDER", &folder);
        command.env("ENTRANCES", ports(entrances)).env("TARGETS", ports(targets)).env("PORTS", &own);
        Process::start(host, &format!("{name}-{side}"), command)
    })
}

fn echo(way: Way) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&way.echo, ECHO)?;
    stream.set_read_timeout(Some(ECHO))?;
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0])
}

/// CPU time of a process and of all that it has started.
fn family(pid: u32) -> Duration {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let own = Usage::of(pid).map(|usage| usage.cpu).unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).map(family).fold(own, |sum, cpu| sum + cpu)
}
