//! What a machine and its agent are doing. Field names are the keys of `hivectl get-metrics --json`.
//!
//! A figure that the machine does not give is none, which JSON shows as null: nothing here is guessed.

use minicbor::{Decode, Encode};

/// A node's figures at one moment.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct Metrics {
    /// Version of the agent.
    #[n(0)]
    pub node_version: String,
    /// Target triple it was built for.
    #[n(1)]
    pub target: String,
    /// Seconds since the agent started.
    #[n(2)]
    pub uptime_s: u64,
    /// The processors.
    #[n(3)]
    pub cpu: CpuMetrics,
    /// The main memory.
    #[n(4)]
    pub memory: MemoryMetrics,
    /// The agent's own process.
    #[n(5)]
    pub agent: AgentMetrics,
    /// Mounted file systems with a device of their own.
    #[n(6)]
    pub disks: Vec<DiskMetrics>,
    /// Sensors.
    #[n(7)]
    pub temperatures: Vec<TemperatureMetrics>,
    /// Graphics processors.
    #[n(8)]
    pub gpus: Vec<GpuMetrics>,
    /// Network interfaces other than loopback.
    #[n(9)]
    pub network: Vec<InterfaceMetrics>,
}

/// Processors.
#[derive(Debug, Clone, Default, PartialEq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct CpuMetrics {
    /// Processors online.
    #[n(0)]
    pub cores: Option<u32>,
    /// Share of all processors' time spent on work, over a moment before the answer: 0 to 100.
    #[n(1)]
    pub usage_percent: Option<f64>,
    /// Load average over 1, 5 and 15 minutes; empty where unknown.
    #[n(2)]
    pub load: Vec<f64>,
}

/// Main memory.
#[derive(Debug, Clone, Default, PartialEq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct MemoryMetrics {
    /// All of it.
    #[n(0)]
    pub total_bytes: Option<u64>,
    /// What programs could take without swapping, by the kernel's estimate.
    #[n(1)]
    pub available_bytes: Option<u64>,
    /// The rest as a share of all of it: 0 to 100.
    #[n(2)]
    pub used_percent: Option<f64>,
}

/// The agent's process.
#[derive(Debug, Clone, Default, PartialEq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct AgentMetrics {
    /// Resident memory.
    #[n(0)]
    pub rss_bytes: Option<u64>,
    /// Processor time since it started, in user and kernel mode together.
    #[n(1)]
    pub cpu_seconds: Option<f64>,
    /// Threads.
    #[n(2)]
    pub threads: Option<u32>,
    /// Open file descriptors.
    #[n(3)]
    pub fds: Option<u32>,
}

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct DiskMetrics {
    /// Where it is mounted.
    #[n(0)]
    pub mount: String,
    /// Its size.
    #[n(1)]
    pub total_bytes: Option<u64>,
    /// Share that users cannot take any more: 0 to 100.
    #[n(2)]
    pub used_percent: Option<f64>,
}

/// A temperature sensor.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct TemperatureMetrics {
    /// Its name in the kernel.
    #[n(0)]
    pub sensor: String,
    /// What it measures; none for a sensor that cannot be read now.
    #[n(1)]
    pub celsius: Option<f64>,
}

/// A graphics processor.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct GpuMetrics {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// `nvidia` or `amd`.
    #[n(1)]
    pub vendor: String,
    /// Share of the time it was busy: 0 to 100.
    #[n(2)]
    pub utilization_percent: Option<f64>,
    /// Its own memory; none where it shares the machine's.
    #[n(3)]
    pub memory_total_bytes: Option<u64>,
    /// How much of that is in use.
    #[n(4)]
    pub memory_used_bytes: Option<u64>,
    /// Temperature of the chip.
    #[n(5)]
    pub celsius: Option<f64>,
    /// Power drawn.
    #[n(6)]
    pub watts: Option<f64>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct InterfaceMetrics {
    /// Its name.
    #[n(0)]
    pub interface: String,
    /// Bytes received since the interface came up.
    #[n(1)]
    pub rx_bytes: u64,
    /// Bytes sent since the interface came up.
    #[n(2)]
    pub tx_bytes: u64,
}
