//! What each carrier makes of a tunnel, in turns with plain TCP: a TLS channel of the bulk plane, a libp2p stream over TCP
//! (where the far node cannot be dialled), over QUIC, and over a relay. Needs network namespaces.

use crate::{
    bulk::{Direction, speed},
    latency::trips,
    report::Report,
    scene::{Course, Scene},
};
use argh::FromArgs;
use hive_tests::{
    facts::{median, percentile},
    lab::{Host, Lab},
    node::Node,
    pair,
};
use std::{io, time::Duration};

/// Compares the carriers of tunnels with each other and with plain TCP.
#[derive(FromArgs)]
#[argh(subcommand, name = "carriers")]
pub struct Carriers {}

const TEST: &str = "the benchmark of carriers";
const GIB: f64 = (1 << 30) as f64;
/// Round trips of one turn.
const TRIPS: usize = 500;

/// One of those that take turns.
struct Contender<'a> {
    course: Course,
    /// What has to work for it, the relay too.
    nodes: Vec<&'a Node>,
}

impl Contender<'_> {
    fn cpu(&self) -> Duration {
        self.nodes.iter().map(|node| node.usage().cpu).sum()
    }
}

/// All carriers in turns: speed and CPU time with one connection and with eight, then round trips.
pub fn measure(rounds: usize, bytes: u64) -> io::Result<Report> {
    let mut report = Report::new("carriers");
    let labs: Option<Vec<Lab>> = (0..4).map(|_| Lab::links(TEST)).collect();
    let Some([bulk, stream, quic, relayed]) = labs.as_deref() else { return Ok(report) };
    let near_by = |_: &Host| ();
    let bulk = Scene::direct(bulk, &near_by, "/ip4/0.0.0.0/tcp/4180", "tcp");
    let stream = Scene::walled(stream);
    let quic = Scene::direct(quic, &near_by, "/ip4/0.0.0.0/udp/4180/quic-v1", "quic");
    let relay = Node::start(&relayed.host("relay"), pair::options());
    let relayed = Scene::relayed(relayed, &relay, "relayed", &near_by);
    let plain = Course { name: "plain TCP", host: bulk.pair.near.host().clone(), way: bulk.servers.raw() };
    let mut contenders = vec![Contender { course: plain, nodes: Vec::new() }];
    let carriers = [(&bulk, "bulk"), (&stream, "libp2p over TCP"), (&quic, "QUIC"), (&relayed, "relayed")];
    contenders.extend(carriers.map(|(scene, name)| {
        let nodes = vec![&scene.pair.near, &scene.pair.far];
        Contender { course: scene.course(name), nodes }
    }));
    contenders.iter_mut().filter(|it| it.course.name == "relayed").for_each(|it| it.nodes.push(&relay));
    copies(&contenders, rounds, bytes, &mut report)?;
    round_trips(&contenders, rounds, &mut report)?;
    Ok(report)
}

fn copies(contenders: &[Contender<'_>], rounds: usize, bytes: u64, report: &mut Report) -> io::Result<()> {
    let directions = [(Direction::Up, "up"), (Direction::Down, "down")];
    for (connections, (direction, name)) in [1, 8].into_iter().flat_map(|count| directions.map(|way| (count, way))) {
        let (mut speeds, mut costs) = (vec![Vec::new(); contenders.len()], vec![Vec::new(); contenders.len()]);
        for _ in 0..rounds {
            for (at, contender) in contenders.iter().enumerate() {
                let (course, before) = (&contender.course, contender.cpu());
                speeds[at].push(course.enter(|| speed(course.way, direction, connections, bytes))?);
                costs[at].push((contender.cpu() - before).as_secs_f64() * GIB / bytes as f64);
            }
        }
        for (at, contender) in contenders.iter().enumerate().skip(1) {
            let case = format!("{}: bulk, {connections} {name}", contender.course.name);
            report.pair(&case, "MiB/s", &speeds[0], &speeds[at]);
            report.figure(&format!("{case}: CPU of all agents"), "s/GiB", median(&costs[at]));
        }
    }
    Ok(())
}

fn round_trips(contenders: &[Contender<'_>], rounds: usize, report: &mut Report) -> io::Result<()> {
    let mut samples = vec![Vec::new(); contenders.len()];
    for _ in 0..rounds {
        for (Contender { course, .. }, samples) in contenders.iter().zip(&mut samples) {
            samples.extend(course.enter(|| trips(course.way, TRIPS))?);
        }
    }
    for (contender, samples_of) in contenders.iter().zip(&samples).skip(1) {
        for percent in [50.0, 99.0] {
            let of = |samples: &[f64]| percentile(samples, percent).unwrap_or(f64::NAN);
            let case = format!("{}: round trip, p{percent}", contender.course.name);
            report.added(&case, "µs", of(&samples[0]), of(samples_of));
        }
    }
    Ok(())
}
