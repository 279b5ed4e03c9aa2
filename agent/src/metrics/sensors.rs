//! Temperatures: the kernel's thermal zones, then the hardware monitors that are not the same sensor again.

use std::path::Path;

use hive_protocol::TemperatureMetrics;

use super::{MAX_ENTRIES, Machine, rounded};

/// All sensors. `thermal_zone*/type` and `temp`, `hwmon*/name`, `temp*_label` and `temp*_input`, in thousandths of a
/// degree (kernel documentation, `driver-api/thermal/sysfs-api` and `hwmon/sysfs-interface`).
pub fn temperatures(machine: &Machine) -> Vec<TemperatureMetrics> {
    let zones: Vec<TemperatureMetrics> = machine
        .entries("sys/class/thermal", "thermal_zone")
        .iter()
        .filter_map(|zone| zone_sensor(machine, zone))
        .collect();
    let monitors = machine.entries("sys/class/hwmon", "hwmon");
    let others: Vec<TemperatureMetrics> = monitors
        .iter()
        .filter(|monitor| !is_zone(machine, monitor, &zones))
        .flat_map(|m| monitor_sensors(machine, m))
        .collect();
    zones.into_iter().chain(others).take(MAX_ENTRIES).collect()
}

/// A zone that cannot be read now is listed without a figure; one without a type is no sensor.
fn zone_sensor(machine: &Machine, zone: &Path) -> Option<TemperatureMetrics> {
    let sensor = machine.text(zone.join("type"))?;
    Some(TemperatureMetrics { sensor, celsius: celsius(machine, &zone.join("temp")) })
}

/// The kernel shows every zone as a monitor, too, with `_` for `-` in its name.
fn is_zone(machine: &Machine, monitor: &Path, zones: &[TemperatureMetrics]) -> bool {
    let name = machine.text(monitor.join("name")).unwrap_or_default();
    zones.iter().any(|zone| zone.sensor.replace('-', "_") == name)
}

fn monitor_sensors(machine: &Machine, monitor: &Path) -> Vec<TemperatureMetrics> {
    let name = machine.text(monitor.join("name")).unwrap_or_else(|| "hwmon".to_owned());
    let inputs = machine.entries(monitor, "temp");
    let sensor = |input: &std::path::PathBuf| {
        let number = input.file_name()?.to_str()?.strip_suffix("_input")?.to_owned();
        let label = machine.text(monitor.join(format!("{number}_label"))).filter(|label| !label.is_empty());
        let sensor = label.map_or_else(|| format!("{name} {number}"), |label| format!("{name} {label}"));
        Some(TemperatureMetrics { sensor, celsius: celsius(machine, input) })
    };
    inputs.iter().filter_map(sensor).collect()
}

/// A temperature in degrees; what no chip survives is a broken sensor.
pub fn celsius(machine: &Machine, path: &Path) -> Option<f64> {
    let thousandths: i64 = machine.number(path)?;
    (-100_000..=250_000).contains(&thousandths).then(|| rounded(thousandths as f64 / 1000.0))
}
