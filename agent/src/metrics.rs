//! The machine's figures, read from `/proc` and `/sys` (`proc(5)`, `sysfs(5)`) under a root that tests replace.
//!
//! Everything is read anew for every call and nothing is kept: an agent that nobody asks spends nothing. What a machine
//! does not say is none. No process is started but `nvidia-smi`, because a static binary cannot load NVIDIA's library.

mod cpu;
pub mod disks;
mod gpu;
mod nvidia;
mod sensors;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use async_io::Timer;
use hive_protocol::{AgentMetrics, InterfaceMetrics, MemoryMetrics, Metrics};

use crate::BUILD;

/// Between the two looks at the processors' clocks.
const CPU_WINDOW: Duration = Duration::from_millis(200);
/// Most entries of one list; a container host may have thousands of interfaces and mounts.
const MAX_ENTRIES: usize = 64;

/// Where a machine shows itself: `/`, or a captured tree.
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
    capacity: disks::Capacity,
}

impl Machine {
    /// The machine that this runs on.
    pub fn this() -> Self {
        Self { root: PathBuf::from("/"), capacity: disks::capacity }
    }

    /// A captured tree, whose file systems have the given capacity.
    pub fn captured(root: impl Into<PathBuf>, capacity: disks::Capacity) -> Self {
        Self { root: root.into(), capacity }
    }

    /// All figures; takes a fifth of a second, most of it asleep.
    pub async fn metrics(self, uptime: Duration) -> Metrics {
        let before = cpu::times(&self);
        let nvidia = nvidia::gpus(&self).await;
        Timer::after(CPU_WINDOW).await;
        // A disk that has to wake up must not hold up the executor.
        let read = move || Metrics { cpu: cpu::metrics(&self, before), ..self.at_rest(uptime, nvidia) };
        blocking::unblock(read).await
    }

    /// What needs no second look.
    fn at_rest(&self, uptime: Duration, nvidia: Vec<hive_protocol::GpuMetrics>) -> Metrics {
        Metrics {
            node_version: BUILD.version.to_owned(),
            target: BUILD.target.to_owned(),
            uptime_s: uptime.as_secs(),
            cpu: Default::default(),
            memory: memory(self),
            agent: agent(self),
            disks: disks::metrics(self, self.capacity),
            temperatures: sensors::temperatures(self),
            gpus: nvidia.into_iter().chain(gpu::metrics(self)).take(MAX_ENTRIES).collect(),
            network: network(self),
        }
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// A file's text without what surrounds it; device trees end their strings with a zero.
    fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = fs::read_to_string(self.path(path)).ok()?;
        Some(text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned())
    }

    fn number<T: std::str::FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// The entries of a folder whose names begin with `prefix`, as paths below the root, in order.
    fn entries(&self, folder: impl AsRef<Path>, prefix: &str) -> Vec<PathBuf> {
        let folder = folder.as_ref();
        let Ok(found) = fs::read_dir(self.path(folder)) else { return Vec::new() };
        let names = found.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
        names.sort_by_key(|name| (name.len(), name.clone()));
        names.into_iter().map(|name| folder.join(name)).collect()
    }
}

/// `part` of `whole` in percent, to a tenth.
fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| rounded(part as f64 * 100.0 / whole as f64).clamp(0.0, 100.0))
}

/// To a tenth: more digits than these mean nothing here.
fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The line `KEY: VALUE kB` of a file such as `/proc/meminfo`, in bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    field(text, key)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The value of a line `KEY: VALUE`.
fn field<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
}

fn memory(machine: &Machine) -> MemoryMetrics {
    let text = machine.text("proc/meminfo").unwrap_or_default();
    let (total, available) = (kilobytes(&text, "MemTotal"), kilobytes(&text, "MemAvailable"));
    let used = total.zip(available).and_then(|(total, available)| percent(total.saturating_sub(available), total));
    MemoryMetrics { total_bytes: total, available_bytes: available, used_percent: used }
}

fn agent(machine: &Machine) -> AgentMetrics {
    let status = machine.text("proc/self/status").unwrap_or_default();
    AgentMetrics {
        rss_bytes: kilobytes(&status, "VmRSS"),
        cpu_seconds: machine.text("proc/self/stat").as_deref().and_then(cpu::process_seconds),
        threads: field(&status, "Threads").and_then(|count| count.parse().ok()),
        fds: fs::read_dir(machine.path("proc/self/fd")).ok().and_then(|open| u32::try_from(open.count()).ok()),
    }
}

/// Interfaces other than loopback, from `/proc/net/dev`: received bytes in the first column, sent in the ninth.
fn network(machine: &Machine) -> Vec<InterfaceMetrics> {
    let text = machine.text("proc/net/dev").unwrap_or_default();
    let interface = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let mut counters = counters.split_whitespace();
        let (rx_bytes, tx_bytes) = (counters.next()?.parse().ok()?, counters.nth(7)?.parse().ok()?);
        let interface = name.trim().to_owned();
        (interface != "lo").then_some(InterfaceMetrics { interface, rx_bytes, tx_bytes })
    };
    text.lines().filter_map(interface).take(MAX_ENTRIES).collect()
}
