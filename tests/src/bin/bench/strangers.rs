//! Members' tunnels while strangers crowd the node at their end: with and without them, in turns.
//!
//! The strangers are real libp2p nodes of one process on this machine (`hive-peer crowd`); each stays until the node closes
//! it, and comes again. What they cost themselves would be on other machines: their process has the lowest priority, so
//! that members' tunnels lose to the node's work alone. What that is, is also measured by itself, with a crowd at full
//! speed and no tunnel in use.

use crate::{
    Bench,
    bulk::{Direction, speed},
    latency::trips,
    report::Report,
};
use argh::FromArgs;
use hive_tests::{
    facts::{median, percentile},
    lab::Lab,
    process::{self, PATIENCE, Process},
    wait::wait_until,
};
use serde_json::Value;
use std::{io, time::Instant};

/// Measures members' tunnels beside a crowd of strangers.
#[derive(FromArgs)]
#[argh(subcommand, name = "strangers")]
pub struct Strangers {
    /// how many at once (default: 500)
    #[argh(option, default = "500")]
    count: usize,
    /// how far the crowd stands back from tunnels and agents on this machine's cores (default: 19, to the utmost; on a machine
    /// that does other work as well such a crowd would not come at all)
    #[argh(option, default = "19")]
    nice: u8,
}

const TRIPS: usize = 1000;
/// Far beyond what a turn takes; a crowd is ended when its turn is over.
const A_TURN: &str = "600";
/// In which a crowd comes again while nothing else happens.
const ALONE: &str = "20";
/// Strangers that a node holds at most, and sockets that something else may have opened meanwhile.
const PRESENT: usize = 200;

impl Strangers {
    /// A bulk copy, round trips and CPU of the node, with and without the crowd.
    pub fn measure(&self, lab: &Lab, rounds: usize, bytes: u64) -> io::Result<Report> {
        let bench = Bench::start(lab);
        let mut report = Report::against("strangers", "alone");
        let [mut alone, mut crowded] = [(); 2].map(|()| Samples::default());
        for _ in 0..rounds {
            let before = bench.pair.far.usage().fds;
            alone.take(&bench, bytes)?;
            let crowd = self.crowd(&bench, self.nice, A_TURN);
            let present = before + PRESENT.min(self.count / 4);
            wait_until("a crowd is present", PATIENCE, || bench.pair.far.usage().fds >= present);
            crowded.take(&bench, bytes)?;
            drop(crowd);
            wait_until("the crowd is gone", PATIENCE, || bench.pair.far.usage().fds <= before);
        }
        report.pair("bulk down", "MiB/s", &alone.speeds, &crowded.speeds);
        for percent in [50.0, 99.0] {
            let of = |samples: &[f64]| percentile(samples, percent).unwrap_or(f64::NAN);
            report.added(&format!("round trip, p{percent}"), "µs", of(&alone.trips), of(&crowded.trips));
        }
        report.figure("CPU of both agents in a turn, beside the crowd", "s", median(&crowded.cpu));
        report.figure("CPU of both agents in a turn, alone", "s", median(&alone.cpu));
        self.cost(&bench, &mut report);
        Ok(report)
    }

    /// What a crowd costs the node.
    fn cost(&self, bench: &Bench, report: &mut Report) {
        let cpu = || bench.pair.far.usage().cpu.as_secs_f64();
        let (before, began) = (cpu(), Instant::now());
        let mut crowd = self.crowd(bench, 0, ALONE);
        crowd.wait();
        let (seconds, used) = (began.elapsed().as_secs_f64(), cpu() - before);
        let told: Value = serde_json::from_str(crowd.printed().trim()).unwrap_or_default();
        let [stayed, away] = ["stayed", "turned_away"].map(|what| told[what].as_f64().unwrap_or(f64::NAN));
        report.figure("strangers let in", "a second", Some(stayed / seconds));
        report.figure("strangers turned away", "a second", Some(away / seconds));
        report.figure(
            "CPU of the node for one that was let in, with those turned away",
            "ms",
            Some(used * 1e3 / stayed),
        );
        report.figure("CPU of the node for the crowd", "% of a core", Some(used * 100.0 / seconds));
    }

    fn crowd(&self, bench: &Bench, nice: u8, seconds: &str) -> Process {
        let far = &bench.pair.far;
        let identity = far.json(&["id"]);
        let at = identity["addresses"][0].as_str().unwrap_or_default();
        let mut command = far.host().command("nice");
        command.args(["-n", &nice.to_string()]).arg(process::helper("hive-peer"));
        command.args(["crowd", "--seconds", seconds, "--count", &self.count.to_string()]);
        command.arg(format!("{at}/p2p/{}", far.peer_id()));
        Process::start(far.host(), "crowd", command)
    }
}

#[derive(Default)]
struct Samples {
    speeds: Vec<f64>,
    trips: Vec<f64>,
    cpu: Vec<f64>,
}

impl Samples {
    fn take(&mut self, bench: &Bench, bytes: u64) -> io::Result<()> {
        let before = bench.cpu();
        self.speeds.push(speed(bench.tunnel, Direction::Down, 1, bytes)?);
        self.trips.extend(trips(bench.tunnel, TRIPS)?);
        self.cpu.push((bench.cpu() - before).as_secs_f64());
        Ok(())
    }
}
