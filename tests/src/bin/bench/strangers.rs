//! Members' tunnels while strangers crowd the node at their end: with and without them, in turns.
//!
//! The strangers are real libp2p nodes of one process on this machine (`hive-peer crowd`); each stays until the node closes
//! it, and comes again. What they cost themselves is on the same cores, so the node's part is less than what is shown.

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
use std::io;

/// Measures members' tunnels beside a crowd of strangers.
#[derive(FromArgs)]
#[argh(subcommand, name = "strangers")]
pub struct Strangers {
    /// how many at once (default: 500)
    #[argh(option, default = "500")]
    count: usize,
}

const TRIPS: usize = 1000;
/// Far beyond what a turn takes; a crowd is ended when its turn is over.
const SECONDS: &str = "600";
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
            let crowd = self.crowd(&bench);
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
        Ok(report)
    }

    fn crowd(&self, bench: &Bench) -> Process {
        let far = &bench.pair.far;
        let identity = far.json(&["id"]);
        let at = identity["addresses"][0].as_str().unwrap_or_default();
        let mut command = far.host().command(process::helper("hive-peer"));
        command.args(["crowd", "--seconds", SECONDS, "--count", &self.count.to_string()]);
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
