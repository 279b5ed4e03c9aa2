//! Figures for people: one node as a block, many as a table.

use std::{fmt::Write, time::Duration};

use hive_protocol::{GpuMetrics, MemoryMetrics, Metrics, NodeName};

use super::Answer;
use crate::{
    format::{bytes, clean, duration},
    style::Style,
    table::{Cell, Table},
};

/// One node.
pub fn one(name: &NodeName, m: &Metrics) -> String {
    let mut text = String::new();
    for (label, value) in facts(name, m) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{label:<13}{}", clean(&value));
    }
    text
}

fn facts(name: &NodeName, m: &Metrics) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("node", format!("{name}, {}, {}, up {}", m.node_version, m.target, duration(Duration::from_secs(m.uptime_s)))),
        ("cpu", format!("{} of {} cores, load {}", percent(m.cpu.usage_percent), or_dash(m.cpu.cores), load(m))),
        ("memory", memory(&m.memory)),
        ("agent", agent(m)),
    ];
    let disk = |d: &hive_protocol::DiskMetrics| {
        format!("{} of {} used at {}", percent(d.used_percent), d.total_bytes.map_or("-".into(), bytes), d.mount)
    };
    list(&mut facts, "disks", m.disks.iter().map(disk));
    list(&mut facts, "temperatures", m.temperatures.iter().map(|t| format!("{} {}", celsius(t.celsius), t.sensor)));
    list(&mut facts, "gpus", m.gpus.iter().map(gpu));
    let traffic = |i: &hive_protocol::InterfaceMetrics| {
        format!("{} {} in, {} out", i.interface, bytes(i.rx_bytes), bytes(i.tx_bytes))
    };
    list(&mut facts, "network", m.network.iter().map(traffic));
    facts
}

/// One line a value, the label on the first.
fn list(facts: &mut Vec<(&'static str, String)>, label: &'static str, values: impl Iterator<Item = String>) {
    for (i, value) in values.enumerate() {
        facts.push((if i == 0 { label } else { "" }, value));
    }
}

fn load(m: &Metrics) -> String {
    let averages: Vec<String> = m.cpu.load.iter().map(|average| format!("{average:.2}")).collect();
    if averages.is_empty() { "-".to_owned() } else { averages.join(" ") }
}

fn memory(memory: &MemoryMetrics) -> String {
    let (total, available) = (memory.total_bytes.map(bytes), memory.available_bytes.map(bytes));
    format!("{} of {} used, {} available", percent(memory.used_percent), or_dash(total), or_dash(available))
}

fn agent(m: &Metrics) -> String {
    let (rss, cpu) = (m.agent.rss_bytes.map(bytes), m.agent.cpu_seconds.map(|s| format!("{s:.1}")));
    let (threads, fds) = (or_dash(m.agent.threads), or_dash(m.agent.fds));
    format!("{} resident, {} s of CPU, {threads} threads, {fds} files", or_dash(rss), or_dash(cpu))
}

fn gpu(gpu: &GpuMetrics) -> String {
    let memory = gpu.memory_used_bytes.zip(gpu.memory_total_bytes);
    let memory = memory.map_or(String::new(), |(used, total)| format!(", {} of {}", bytes(used), bytes(total)));
    let watts = gpu.watts.map_or(String::new(), |watts| format!(", {watts:.0} W"));
    format!("{} {}{memory}, {}{watts}", percent(gpu.utilization_percent), gpu.name, celsius(gpu.celsius))
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{share:.0} %"))
}

fn celsius(degrees: Option<f64>) -> String {
    degrees.map_or("-".to_owned(), |degrees| format!("{degrees:.0} °C"))
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

/// Many nodes, a row each; those that did not answer with the reason below.
pub fn all(answers: &[Answer]) -> Table {
    let mut table = Table::new(&["node_name", "cpu", "memory", "fullest disk", "hottest", "gpus", "agent", "version"]);
    for answer in answers {
        match &answer.metrics {
            Some(metrics) => table.row(row(&answer.node_name, metrics)),
            None => silent(&mut table, answer),
        }
    }
    table
}

fn row(name: &NodeName, m: &Metrics) -> [Cell; 8] {
    let largest = |figures: &mut dyn Iterator<Item = Option<f64>>| figures.flatten().max_by(f64::total_cmp);
    let disk = largest(&mut m.disks.iter().map(|disk| disk.used_percent));
    let hottest = largest(&mut m.temperatures.iter().map(|t| t.celsius));
    let gpus: Vec<String> = m.gpus.iter().map(|gpu| percent(gpu.utilization_percent)).collect();
    [
        name.to_string().into(),
        percent(m.cpu.usage_percent).into(),
        percent(m.memory.used_percent).into(),
        percent(disk).into(),
        celsius(hottest).into(),
        gpus.join(", ").into(),
        m.agent.rss_bytes.map(bytes).unwrap_or_default().into(),
        (&m.node_version).into(),
    ]
}

fn silent(table: &mut Table, answer: &Answer) {
    table.row([answer.node_name.to_string().into(), Cell::new("no answer", Style::Bad)]);
    table.note(1, Cell::new(answer.error.as_deref().unwrap_or_default(), Style::Dim));
}

#[cfg(test)]
mod tests {
    use hive_protocol::{DiskMetrics, NodeId, TemperatureMetrics};

    use super::*;

    #[test]
    fn what_is_not_known_is_a_dash() {
        let mut metrics = super::super::prometheus::tests::sample();
        metrics.cpu = Default::default();
        metrics.memory = Default::default();
        let text = one(&"shed".parse().unwrap(), &metrics);
        assert!(text.contains("cpu          - of - cores, load -\n"), "{text}");
        assert!(text.contains("memory       - of - used, - available\n"), "{text}");
    }

    #[test]
    fn a_node_that_is_silent_stands_in_the_table() {
        let mut metrics = super::super::prometheus::tests::sample();
        metrics.disks.push(DiskMetrics { mount: "/x".into(), total_bytes: None, used_percent: Some(97.0) });
        metrics.temperatures.push(TemperatureMetrics { sensor: "off".into(), celsius: None });
        let answered = Answer {
            peer_id: NodeId::from_bytes([1; 32]),
            node_name: "shed".parse().unwrap(),
            metrics: Some(Box::new(metrics)),
            error: None,
        };
        let silent = Answer {
            node_name: "attic".parse().unwrap(),
            metrics: None,
            error: Some("cannot be reached".into()),
            ..answered.clone()
        };
        let text = all(&[answered, silent]).render(false);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("shed       12 %") && lines[1].contains("97 %"), "{text}");
        assert!(lines[2].starts_with("attic      no answer") && lines[3].trim() == "cannot be reached", "{text}");
    }
}
