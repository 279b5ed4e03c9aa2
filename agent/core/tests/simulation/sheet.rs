//! The figures of simulated networks: a line each as they are measured, a JSON document for programs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{Meter, World};

pub struct Sheet {
    nodes: usize,
    since: Instant,
    rows: Vec<Value>,
}

impl Default for Sheet {
    fn default() -> Self {
        Self { nodes: 0, since: Instant::now(), rows: Vec::new() }
    }
}

impl Sheet {
    /// What follows is of a network of so many nodes.
    pub fn begin(&mut self, nodes: usize) {
        (self.nodes, self.since) = (nodes, Instant::now());
        let count = format!("{nodes} nodes");
        println!("\n{count:<52} {:>15} {:>11} {:>9} {:>13}", "simulated time", "messages", "a node", "bytes a node");
    }

    /// Memory, and what of it is for each of the network's records.
    pub fn memory(&mut self, what: &str, bytes: u64) {
        let each = bytes / self.nodes as u64;
        println!("  {:<50} {bytes:>27} bytes, {each} a record", format!("memory of {what}"));
        self.rows.push(json!({ "nodes": self.nodes, "memory of": what, "bytes": bytes, "bytes a record": each }));
    }

    /// What travelled since the last time, while so much simulated time went by; returns the bytes for each node.
    pub fn take(&mut self, world: &mut World, what: &str, took: Option<Duration>) -> u64 {
        let Meter { messages, bytes, .. } = std::mem::take(&mut world.meter);
        let each = bytes / self.nodes as u64;
        let per_node = messages as f64 / self.nodes as f64;
        let seconds = took.map(|took| took.as_secs_f64());
        let shown = seconds.map_or_else(String::new, |seconds| format!("{seconds:.2} s"));
        println!("  {what:<50} {shown:>15} {messages:>11} {per_node:>9.1} {each:>13}");
        let cpu = std::mem::replace(&mut self.since, Instant::now()).elapsed().as_secs_f64();
        self.rows.push(json!({
            "nodes": self.nodes, "what": what, "simulated seconds": seconds, "messages": messages, "bytes": bytes,
            "bytes a node": each, "seconds to simulate": cpu,
        }));
        each
    }

    pub fn json(&self) -> String {
        format!("{:#}\n", Value::from(self.rows.clone()))
    }
}
