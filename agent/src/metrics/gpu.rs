//! Graphics processors that the kernel itself describes: AMD's cards and the one inside an NVIDIA Jetson.

use std::path::{Path, PathBuf};

use hive_protocol::GpuMetrics;

use super::{Machine, rounded, sensors};

const AMD: &str = "0x1002";

/// What the kernel shows.
pub fn metrics(machine: &Machine) -> Vec<GpuMetrics> {
    jetson(machine).into_iter().chain(amd(machine)).collect()
}

/// `amdgpu` (kernel documentation, `gpu/amdgpu/thermal` and `driver-misc`): a busy percentage, video memory in bytes, and a
/// monitor with the temperature of the edge and the average power in microwatts.
fn amd(machine: &Machine) -> Vec<GpuMetrics> {
    let cards = machine.entries("sys/class/drm", "card");
    // Connectors such as card0-DP-1 stand beside the cards.
    let is_card =
        |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| !name.contains('-'));
    let devices = cards.into_iter().filter(is_card).map(|card| card.join("device"));
    devices
        .filter(|device| machine.text(device.join("vendor")).as_deref() == Some(AMD))
        .map(|d| amd_card(machine, &d))
        .collect()
}

fn amd_card(machine: &Machine, device: &Path) -> GpuMetrics {
    let monitor = machine.entries(device.join("hwmon"), "hwmon").into_iter().next();
    let power = |name: &str| machine.number::<u64>(monitor.as_ref()?.join(name));
    GpuMetrics {
        name: amd_name(machine, device),
        vendor: "amd".to_owned(),
        utilization_percent: machine.number(device.join("gpu_busy_percent")),
        memory_total_bytes: machine.number(device.join("mem_info_vram_total")),
        memory_used_bytes: machine.number(device.join("mem_info_vram_used")),
        celsius: monitor.as_ref().and_then(|monitor| sensors::celsius(machine, &monitor.join("temp1_input"))),
        // Older kernels average, newer ones measure.
        watts: power("power1_average").or_else(|| power("power1_input")).map(|micro| rounded(micro as f64 / 1e6)),
    }
}

/// Server cards bear their product's name; of the others the kernel knows the number only.
fn amd_name(machine: &Machine, device: &Path) -> String {
    let product = machine.text(device.join("product_name")).filter(|name| !name.is_empty());
    product.unwrap_or_else(|| {
        let number = machine.text(device.join("device")).unwrap_or_default();
        format!("AMD GPU {number}").trim_end().to_owned()
    })
}

/// Where Jetsons have shown their processor's load, in thousandths, from the TX1's kernel to the Orin's.
const JETSON_LOADS: [&str; 3] =
    ["sys/devices/gpu.0/load", "sys/devices/platform/gpu.0/load", "sys/devices/platform/bus@0/17000000.gpu/load"];

/// It shares the machine's memory, so it has none of its own; its power cannot be told from that of its neighbours.
fn jetson(machine: &Machine) -> Option<GpuMetrics> {
    let load: u64 = JETSON_LOADS.iter().find_map(|path| machine.number(path))?;
    let zones = sensors::temperatures(machine);
    let own = zones.into_iter().find(|zone| zone.sensor.to_ascii_lowercase().starts_with("gpu"));
    Some(GpuMetrics {
        name: machine.text("proc/device-tree/model").unwrap_or_else(|| "NVIDIA Jetson".to_owned()),
        vendor: "nvidia".to_owned(),
        utilization_percent: Some(rounded(load as f64 / 10.0)),
        memory_total_bytes: None,
        memory_used_bytes: None,
        celsius: own.and_then(|zone| zone.celsius),
        watts: None,
    })
}
