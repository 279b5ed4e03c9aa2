//! Figures in Prometheus' text format 0.0.4: base units, shares from 0 to 1, one family after the other.

use std::fmt::Write;

use hive_protocol::Metrics;

use super::Answer;

/// Labels of a sample besides the node's, and its value.
type Sample = (Vec<(&'static str, String)>, f64);

/// A metric of all nodes.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    samples: fn(&Metrics) -> Vec<Sample>,
}

const FAMILIES: &[Family] = &[
    gauge("hive_node_info", "Version and target of the agent.", |m| {
        vec![(vec![("version", m.node_version.clone()), ("target", m.target.clone())], 1.0)]
    }),
    gauge("hive_uptime_seconds", "Time since the agent started.", |m| one(Some(m.uptime_s as f64))),
    gauge("hive_cpu_cores", "Processors online.", |m| one(m.cpu.cores.map(f64::from))),
    gauge("hive_cpu_usage_ratio", "Share of all processors' time spent on work.", |m| one(ratio(m.cpu.usage_percent))),
    gauge("hive_load1", "Load average over 1 minute.", |m| one(m.cpu.load.first().copied())),
    gauge("hive_load5", "Load average over 5 minutes.", |m| one(m.cpu.load.get(1).copied())),
    gauge("hive_load15", "Load average over 15 minutes.", |m| one(m.cpu.load.get(2).copied())),
    gauge("hive_memory_size_bytes", "Main memory.", |m| one(bytes(m.memory.total_bytes))),
    gauge("hive_memory_available_bytes", "Memory that programs could take.", |m| one(bytes(m.memory.available_bytes))),
    gauge("hive_agent_resident_bytes", "Resident memory of the agent.", |m| one(bytes(m.agent.rss_bytes))),
    counter("hive_agent_cpu_seconds_total", "Processor time of the agent.", |m| one(m.agent.cpu_seconds)),
    gauge("hive_agent_threads", "Threads of the agent.", |m| one(m.agent.threads.map(f64::from))),
    gauge("hive_agent_open_fds", "Open file descriptors of the agent.", |m| one(m.agent.fds.map(f64::from))),
    gauge("hive_disk_size_bytes", "Size of a file system.", |m| {
        each(&m.disks, |d| Some((vec![("mount", d.mount.clone())], bytes(d.total_bytes)?)))
    }),
    gauge("hive_disk_used_ratio", "Share of a file system that users cannot take any more.", |m| {
        each(&m.disks, |d| Some((vec![("mount", d.mount.clone())], ratio(d.used_percent)?)))
    }),
    gauge("hive_temperature_celsius", "Temperature.", |m| {
        let numbered = |(i, t): (usize, &hive_protocol::TemperatureMetrics)| {
            Some((vec![("sensor", t.sensor.clone()), ("index", i.to_string())], t.celsius?))
        };
        m.temperatures.iter().enumerate().filter_map(numbered).collect()
    }),
    gauge("hive_gpu_utilization_ratio", "Share of the time a graphics processor was busy.", |m| {
        gpus(m, |gpu| ratio(gpu.utilization_percent))
    }),
    gauge("hive_gpu_memory_size_bytes", "Memory of a graphics processor.", |m| {
        gpus(m, |gpu| bytes(gpu.memory_total_bytes))
    }),
    gauge("hive_gpu_memory_used_bytes", "Memory of a graphics processor in use.", |m| {
        gpus(m, |gpu| bytes(gpu.memory_used_bytes))
    }),
    gauge("hive_gpu_temperature_celsius", "Temperature of a graphics processor.", |m| gpus(m, |gpu| gpu.celsius)),
    gauge("hive_gpu_power_watts", "Power drawn by a graphics processor.", |m| gpus(m, |gpu| gpu.watts)),
    counter("hive_network_receive_bytes_total", "Bytes received on an interface.", |m| {
        each(&m.network, |i| Some((vec![("interface", i.interface.clone())], i.rx_bytes as f64)))
    }),
    counter("hive_network_transmit_bytes_total", "Bytes sent on an interface.", |m| {
        each(&m.network, |i| Some((vec![("interface", i.interface.clone())], i.tx_bytes as f64)))
    }),
];

const fn gauge(name: &'static str, help: &'static str, samples: fn(&Metrics) -> Vec<Sample>) -> Family {
    Family { name, help, kind: "gauge", samples }
}

const fn counter(name: &'static str, help: &'static str, samples: fn(&Metrics) -> Vec<Sample>) -> Family {
    Family { name, help, kind: "counter", samples }
}

/// The whole exposition; `hive_up` says which nodes answered.
pub fn text(answers: &[Answer]) -> String {
    let mut text = String::new();
    let up = |answer: &Answer| vec![(Vec::new(), if answer.metrics.is_some() { 1.0 } else { 0.0 })];
    write_family(&mut text, ("hive_up", "Whether the node answered.", "gauge"), answers.iter().map(|a| (a, up(a))));
    for family in FAMILIES {
        let samples = answers.iter().filter_map(|a| Some((a, (family.samples)(a.metrics.as_deref()?))));
        write_family(&mut text, (family.name, family.help, family.kind), samples);
    }
    text
}

/// A family without samples is left out.
fn write_family<'a>(
    text: &mut String,
    (name, help, kind): (&str, &str, &str),
    samples: impl Iterator<Item = (&'a Answer, Vec<Sample>)>,
) {
    let lines: Vec<String> = samples
        .flat_map(|(answer, samples)| samples.into_iter().map(|sample| line(name, answer, sample)).collect::<Vec<_>>())
        .collect();
    if !lines.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{}", lines.concat());
    }
}

fn line(name: &str, answer: &Answer, (labels, value): Sample) -> String {
    let own = [("node", answer.node_name.to_string()), ("peer_id", answer.peer_id.to_string())];
    let labels: Vec<String> =
        own.into_iter().chain(labels).map(|(label, value)| format!("{label}=\"{}\"", escaped(&value))).collect();
    format!("{name}{{{}}} {value}\n", labels.join(","))
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn one(value: Option<f64>) -> Vec<Sample> {
    value.map(|value| (Vec::new(), value)).into_iter().collect()
}

fn each<T>(rows: &[T], sample: impl Fn(&T) -> Option<Sample>) -> Vec<Sample> {
    rows.iter().filter_map(sample).collect()
}

/// Two cards of one make differ by their number.
fn gpus(m: &Metrics, value: fn(&hive_protocol::GpuMetrics) -> Option<f64>) -> Vec<Sample> {
    let numbered = |(i, gpu): (usize, &hive_protocol::GpuMetrics)| {
        Some((vec![("gpu", gpu.name.clone()), ("index", i.to_string())], value(gpu)?))
    };
    m.gpus.iter().enumerate().filter_map(numbered).collect()
}

fn bytes(count: Option<u64>) -> Option<f64> {
    count.map(|count| count as f64)
}

fn ratio(percent: Option<f64>) -> Option<f64> {
    percent.map(|percent| percent / 100.0)
}

#[cfg(test)]
pub mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use hive_protocol::{CpuMetrics, DiskMetrics, GpuMetrics, InterfaceMetrics, NodeId, TemperatureMetrics};

    use super::*;

    pub fn sample() -> Metrics {
        let sensor = |name: &str| TemperatureMetrics { sensor: name.into(), celsius: Some(41.5) };
        Metrics {
            node_version: "0.1.0".into(),
            target: "x86_64-unknown-linux-musl".into(),
            uptime_s: 60,
            cpu: CpuMetrics { cores: Some(2), usage_percent: Some(12.5), load: vec![0.5, 0.25, 0.125] },
            memory: Default::default(),
            agent: Default::default(),
            disks: vec![DiskMetrics { mount: "/odd \"name\\".into(), total_bytes: Some(10), used_percent: Some(50.0) }],
            temperatures: vec![sensor("acpitz"), sensor("acpitz")],
            gpus: vec![GpuMetrics {
                name: "NVIDIA H200".into(),
                vendor: "nvidia".into(),
                utilization_percent: Some(37.0),
                memory_total_bytes: Some(1 << 30),
                memory_used_bytes: Some(1 << 20),
                celsius: Some(41.0),
                watts: Some(118.5),
            }],
            network: vec![InterfaceMetrics { interface: "eth0".into(), rx_bytes: 1, tx_bytes: 2 }],
        }
    }

    fn exposition() -> String {
        let up = Answer {
            peer_id: NodeId::from_bytes([1; 32]),
            node_name: "shed".parse().unwrap(),
            metrics: Some(Box::new(sample())),
            error: None,
        };
        let down =
            Answer { node_name: "attic".parse().unwrap(), metrics: None, error: Some("gone".into()), ..up.clone() };
        text(&[up, down])
    }

    #[test]
    fn a_family_is_written_once_for_all_nodes() {
        let text = exposition();
        let id = NodeId::from_bytes([1; 32]);
        assert!(text.starts_with(&format!(
            "# HELP hive_up Whether the node answered.\n# TYPE hive_up gauge\n\
             hive_up{{node=\"shed\",peer_id=\"{id}\"}} 1\nhive_up{{node=\"attic\",peer_id=\"{id}\"}} 0\n"
        )));
        assert!(text.contains("mount=\"/odd \\\"name\\\\\"} 0.5\n"), "{text}");
        assert!(!text.contains("hive_memory"), "what is not known has no sample");
    }

    /// Prometheus' own parser and linter; skipped where Debian's package `prometheus` is not installed.
    #[test]
    fn prometheus_accepts_it() {
        let checked =
            Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let Ok(mut checked) = checked else { return };
        checked.stdin.take().unwrap().write_all(exposition().as_bytes()).unwrap();
        let outcome = checked.wait_with_output().unwrap();
        assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
    }
}
