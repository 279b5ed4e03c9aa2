//! Many agents restarted at one moment, as by a power cut: how many connections they make, and what that costs.

use crate::report::Report;
use argh::FromArgs;
use hive_tests::{
    lab::Lab,
    node::Node,
    pair::{self, NETWORK},
    wait::wait_until,
};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Counts the connections of many agents that are killed and started at once.
#[derive(FromArgs)]
#[argh(subcommand, name = "storm")]
pub struct Storm {
    /// how many (default: 50)
    #[argh(option, default = "50")]
    nodes: usize,
    /// seconds after the restart in which connections are counted (default: 120)
    #[argh(option, default = "120")]
    seconds: u64,
}

/// Between two counts.
const EVERY: Duration = Duration::from_secs(5);
/// On two cores fifty agents take their time.
const LONG: Duration = Duration::from_secs(600);

impl Storm {
    /// Starts all, one after another, then kills them and starts them at once.
    pub fn measure(&self, lab: &Lab) -> Report {
        let mut report = Report::new("storm");
        let mut nodes = Vec::<Node>::new();
        for number in 0..self.nodes {
            let node = Node::start(&lab.host(&format!("node{number}")), pair::options());
            if let Some(known) = nodes.first() {
                node.register(known, NETWORK);
            }
            nodes.push(node);
        }
        self.wait_until_complete(&nodes);
        report.figure("connections a node, as the network grew", "", Some(average(&nodes)));
        nodes.iter_mut().for_each(Node::kill9);
        let began = Instant::now();
        thread::scope(|scope| nodes.iter_mut().for_each(|node| drop(scope.spawn(move || node.start_again()))));
        report.figure("all answer after", "s", Some(began.elapsed().as_secs_f64()));
        let mut counted = Vec::new();
        while counted.is_empty() || began.elapsed() < Duration::from_secs(self.seconds) {
            counted.push(average(&nodes));
            thread::sleep(EVERY);
        }
        report.figure("connections a node, most at any count", "", counted.iter().copied().reduce(f64::max));
        report.figure("connections a node, settled", "", counted.last().copied());
        let most = nodes.iter().map(connections).reduce(f64::max);
        report.figure("connections of the node with most, settled", "", most);
        let seen = nodes.iter().map(online).sum::<usize>() as f64 / nodes.len() as f64;
        report.figure("members that a node has as online, settled", "", Some(seen));
        let cpu: Duration = nodes.iter().map(|node| node.usage().cpu).sum();
        report.figure("CPU a node since the restart", "s", Some(cpu.as_secs_f64() / nodes.len() as f64));
        report
    }

    /// Waits until every node has all of them as online.
    fn wait_until_complete(&self, nodes: &[Node]) {
        for node in nodes {
            wait_until("all are online", LONG, || online(node) == self.nodes);
        }
    }
}

fn online(node: &Node) -> usize {
    let rows = node.json(&["nodes"]);
    rows.as_array().into_iter().flatten().filter(|row| row["online"] == true).count()
}

fn average(nodes: &[Node]) -> f64 {
    nodes.iter().map(connections).sum::<f64>() / nodes.len() as f64
}

fn connections(node: &Node) -> f64 {
    let status = node.json(&["status"]);
    let of = |kind: &str| status["connections"][kind].as_f64().unwrap_or_default();
    of("direct") + of("relayed")
}
