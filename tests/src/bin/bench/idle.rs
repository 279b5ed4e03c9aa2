//! The footprint of an agent that has members and tunnels and nothing to do: memory, wake-ups, disk writes.

use crate::report::Report;
use argh::FromArgs;
use hive_tests::{
    lab::Lab,
    node::Node,
    pair::{self, NETWORK},
    usage::Usage,
};
use std::{thread, time::Duration};

/// Measures one idle agent that is connected to others: memory, wake-ups, disk writes.
#[derive(FromArgs)]
#[argh(subcommand, name = "idle")]
pub struct Idle {
    /// agents that it is connected to (default: 10)
    #[argh(option, default = "10")]
    peers: usize,
    /// seconds to wait for quiet before measuring (default: 90)
    #[argh(option, default = "90")]
    settle: u64,
    /// seconds to measure (default: 180)
    #[argh(option, default = "180")]
    seconds: u64,
}

const MIB: f64 = (1 << 20) as f64;

impl Idle {
    /// Starts all agents, waits until they are quiet, and watches the one.
    pub fn measure(&self, lab: &Lab) -> Report {
        let centre = Node::start(&lab.host("centre"), pair::options());
        let peers: Vec<Node> =
            (1..=self.peers).map(|number| Node::start(&lab.host(&format!("peer{number}")), pair::options())).collect();
        for peer in &peers {
            centre.register(peer, NETWORK);
        }
        centre.wait_until_sees(&peers.iter().collect::<Vec<_>>());
        thread::sleep(Duration::from_secs(self.settle));
        let connected = centre.json(&["status"])["connections"]["direct"].as_f64();
        let (before, after, writes) = self.watch(&centre);
        let mut report = Report::new("idle");
        report.figure("connected peers", "", connected);
        self.figures(&before, &after, &mut report);
        report.figure("moments with disk writes", "", Some(writes.len() as f64));
        let gaps = writes.windows(2).map(|pair| (pair[1] - pair[0]) as f64);
        report.figure("shortest time between them", "s", gaps.reduce(f64::min));
        report
    }

    fn figures(&self, before: &Usage, after: &Usage, report: &mut Report) {
        let seconds = self.seconds as f64;
        let wakes = after.voluntary_switches.saturating_sub(before.voluntary_switches);
        report.figure("resident", "MiB", Some(after.rss as f64 / MIB));
        report.figure("resident, shared pages by share", "MiB", Some(after.pss as f64 / MIB));
        report.figure("its own (heap, stacks)", "MiB", Some(after.anonymous as f64 / MIB));
        report.figure("threads", "", Some(after.threads as f64));
        report.figure("wake-ups", "/s", Some(wakes as f64 / seconds));
        report.figure("CPU", "ms/min", Some((after.cpu - before.cpu).as_secs_f64() * 60_000.0 / seconds));
        report.figure("written", "KiB", Some((after.written - before.written) as f64 / 1024.0));
    }

    /// The figures at both ends, and the seconds in which something was written.
    fn watch(&self, node: &Node) -> (Usage, Usage, Vec<u64>) {
        let before = node.usage();
        let (mut last, mut writes) = (before.clone(), Vec::new());
        for second in 1..=self.seconds {
            thread::sleep(Duration::from_secs(1));
            let now = node.usage();
            if now.written > last.written {
                writes.push(second);
            }
            last = now;
        }
        (before, last, writes)
    }
}
