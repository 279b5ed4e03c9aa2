//! Figures of captured machines, and what they cost on this one.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use hive_agent::metrics::{Machine, disks::Space};
use hive_protocol::{GpuMetrics, Metrics};

fn half_full(_: &Path) -> Option<Space> {
    Some(Space { total: 1000, free: 550, available: 450 })
}

fn captured(name: &str) -> Metrics {
    let tree: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/machines", name].iter().collect();
    smol::block_on(Machine::captured(tree, half_full).metrics(Duration::from_secs(90)))
}

fn sensors(metrics: &Metrics) -> Vec<(&str, Option<f64>)> {
    metrics.temperatures.iter().map(|t| (t.sensor.as_str(), t.celsius)).collect()
}

fn mounts(metrics: &Metrics) -> Vec<&str> {
    metrics.disks.iter().map(|disk| disk.mount.as_str()).collect()
}

#[test]
fn a_raspberry_pi() {
    let metrics = captured("raspberry-pi-4");
    assert_eq!((metrics.cpu.cores, metrics.cpu.usage_percent), (Some(4), None), "its clock stands still");
    assert_eq!(metrics.cpu.load, [0.31, 0.22, 0.15]);
    assert_eq!(metrics.memory.total_bytes, Some(3_884_996 * 1024));
    assert_eq!(metrics.memory.available_bytes, Some(3_302_244 * 1024));
    assert_eq!(metrics.memory.used_percent, Some(15.0));
    assert_eq!((metrics.agent.rss_bytes, metrics.agent.threads, metrics.agent.fds), (Some(9 << 20), Some(4), Some(12)));
    assert_eq!(mounts(&metrics), ["/", "/boot/firmware"], "no pseudo file systems, nothing of the network");
    assert_eq!((metrics.disks[0].total_bytes, metrics.disks[0].used_percent), (Some(1000), Some(50.0)));
    assert_eq!(sensors(&metrics), [("cpu-thermal", Some(48.3))], "the same sensor shows twice in the kernel");
    assert_eq!(metrics.gpus, []);
    let [eth0, wlan0] = &metrics.network[..] else { panic!("{:?}", metrics.network) };
    assert_eq!((eth0.interface.as_str(), eth0.rx_bytes, eth0.tx_bytes), ("eth0", 918_273_645, 192_837_465));
    assert_eq!((wlan0.interface.as_str(), wlan0.rx_bytes), ("wlan0", 0));
    assert_eq!(metrics.uptime_s, 90);
}

#[test]
fn a_jetson() {
    let metrics = captured("jetson-orin-nano");
    assert_eq!(metrics.cpu.cores, Some(6));
    let expected = GpuMetrics {
        name: "NVIDIA Jetson Orin Nano Developer Kit".into(),
        vendor: "nvidia".into(),
        utilization_percent: Some(43.7),
        memory_total_bytes: None,
        memory_used_bytes: None,
        celsius: Some(46.3),
        watts: None,
    };
    assert_eq!(metrics.gpus, [expected]);
    let zones = [("cpu-thermal", Some(47.4)), ("gpu-thermal", Some(46.3)), ("cv0-thermal", None)];
    assert_eq!(sensors(&metrics)[..3], zones, "a zone of a block that is off cannot be read");
    assert_eq!(sensors(&metrics).len(), 5);
    assert_eq!(mounts(&metrics), ["/", "/boot/efi"], "an image is no disk");
    assert_eq!(metrics.network[0].tx_bytes, 7_000_000_000);
}

#[test]
fn an_amd_card() {
    let metrics = captured("amd-desktop");
    let [card, built_in] = &metrics.gpus[..] else { panic!("{:?}", metrics.gpus) };
    let expected = GpuMetrics {
        name: "AMD GPU 0x744c".into(),
        vendor: "amd".into(),
        utilization_percent: Some(63.0),
        memory_total_bytes: Some(25_753_026_560),
        memory_used_bytes: Some(8_123_456_512),
        celsius: Some(61.0),
        watts: Some(212.0),
    };
    assert_eq!(*card, expected);
    assert_eq!((built_in.name.as_str(), built_in.utilization_percent), ("AMD GPU 0x164e", None));
    let expected = [("k10temp Tctl", Some(54.6)), ("k10temp Tccd1", Some(48.5)), ("amdgpu edge", Some(61.0))];
    assert_eq!(sensors(&metrics)[..3], expected);
    assert_eq!(sensors(&metrics)[3], ("nvme temp1", None), "absolute zero is no measurement");
    assert_eq!(mounts(&metrics), ["/", "/mnt/cold store"], "one device counts once");
    assert_eq!((metrics.memory.available_bytes, metrics.memory.used_percent), (None, None));
}

#[test]
fn an_empty_machine_gives_nothing_and_invents_nothing() {
    let metrics = captured("no-such-machine");
    assert_eq!((metrics.cpu.cores, metrics.memory.total_bytes, metrics.agent.rss_bytes), (None, None, None));
    assert!(metrics.cpu.load.is_empty() && metrics.disks.is_empty() && metrics.temperatures.is_empty());
    assert!(metrics.gpus.is_empty() && metrics.network.is_empty());
}

/// Processor time of this whole process, not wall time: a busy machine does not change it much.
#[test]
fn a_call_costs_less_than_five_milliseconds_of_cpu() {
    const CALLS: u32 = 10;
    smol::block_on(Machine::this().metrics(Duration::ZERO));
    let before = cpu_time();
    for _ in 0..CALLS {
        let metrics = smol::block_on(Machine::this().metrics(Duration::ZERO));
        assert!(metrics.memory.total_bytes.is_some() && metrics.cpu.usage_percent.is_some());
    }
    let cost = (cpu_time() - before) / CALLS;
    assert!(cost < Duration::from_millis(5), "{cost:?}");
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}
