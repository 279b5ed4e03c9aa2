//! What it costs that a connection can outlive its path: the same copies through a tunnel that resumes and through one
//! that does not, taking turns.

use crate::{
    Bench, Way,
    bulk::{Direction, speed},
    report::Report,
};
use argh::FromArgs;
use hive_tests::lab::Lab;
use std::io;

/// Measures bulk copies with resumption against those without: speed and the agents' CPU time.
#[derive(FromArgs)]
#[argh(subcommand, name = "resume")]
pub struct Resume {}

const GIB: f64 = (1 << 30) as f64;

/// Both directions, with one connection and with eight.
pub fn measure(lab: &Lab, rounds: usize, bytes: u64) -> io::Result<Report> {
    let bench = Bench::start(lab);
    let brief = |target| bench.pair.brief_tunnel(target);
    let brief = Way { echo: brief(bench.raw.echo), source: brief(bench.raw.source), sink: brief(bench.raw.sink) };
    let mut report = Report::against("resume", "without");
    let directions = [(Direction::Up, "up"), (Direction::Down, "down")];
    for (connections, (direction, name)) in [1, 8].into_iter().flat_map(|count| directions.map(|way| (count, way))) {
        let (mut speeds, mut costs) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for turn in 0..2 * rounds {
            let way = if turn % 2 == 0 { brief } else { bench.tunnel };
            let before = bench.cpu();
            speeds[turn % 2].push(speed(way, direction, connections, bytes)?);
            costs[turn % 2].push((bench.cpu() - before).as_secs_f64() * GIB / bytes as f64);
        }
        report.pair(&format!("bulk, {connections} {name}"), "MiB/s", &speeds[0], &speeds[1]);
        report.pair(&format!("bulk, {connections} {name}: CPU of both agents"), "s/GiB", &costs[0], &costs[1]);
    }
    Ok(report)
}
