//! NVIDIA's cards, as `nvidia-smi` shows them. It is started only where the driver is loaded.

use std::time::Duration;

use hive_protocol::GpuMetrics;
use smol::process::{Command, Stdio};

use super::{Machine, rounded};
use crate::time::within;

/// With a driver that hangs, `nvidia-smi` hangs, too.
const PATIENCE: Duration = Duration::from_secs(5);
const MIB: f64 = 1024.0 * 1024.0;
/// Longest answer that is read; sixteen cards need about 1 KiB.
const MAX_ANSWER: usize = 64 * 1024;

/// All cards; none without a driver, or when it does not answer.
pub async fn gpus(machine: &Machine) -> Vec<GpuMetrics> {
    if !machine.path("proc/driver/nvidia/version").exists() {
        return Vec::new();
    }
    let mut query = Command::new("nvidia-smi");
    query
        .arg("--query-gpu=name,utilization.gpu,memory.total,memory.used,temperature.gpu,power.draw")
        .arg("--format=csv,noheader,nounits")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    match within(PATIENCE, query.output()).await {
        Some(Ok(answer)) if answer.stdout.len() <= MAX_ANSWER => parse(&String::from_utf8_lossy(&answer.stdout)),
        Some(Err(e)) => {
            log::debug!("nvidia-smi: {e}");
            Vec::new()
        }
        _ => Vec::new(),
    }
}

/// One card a line, memory in MiB; a figure that a card does not give is `[N/A]` or the like.
fn parse(answer: &str) -> Vec<GpuMetrics> {
    answer.lines().filter_map(card).collect()
}

fn card(line: &str) -> Option<GpuMetrics> {
    // From the end: a name may hold a comma.
    let mut fields = line.rsplitn(6, ',').map(str::trim);
    let mut number = || fields.next().map(|text| text.parse::<f64>().ok().filter(|value| *value >= 0.0));
    let (watts, celsius, used, total, busy) = (number()?, number()?, number()?, number()?, number()?);
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    Some(GpuMetrics {
        name,
        vendor: "nvidia".to_owned(),
        utilization_percent: busy,
        memory_total_bytes: total.map(bytes),
        memory_used_bytes: used.map(bytes),
        celsius,
        watts: watts.map(rounded),
    })
}

fn bytes(mebibytes: f64) -> u64 {
    (mebibytes * MIB) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_not_given_is_none() {
        let cards =
            parse("NVIDIA H200, 37, 143771, 512, 41, 118.46\nGRID A, B, [N/A], 1024, 0, [N/A], [Not Supported]\n");
        let [first, second] = &cards[..] else { panic!("{cards:?}") };
        assert_eq!(
            (first.name.as_str(), first.utilization_percent, first.celsius),
            ("NVIDIA H200", Some(37.0), Some(41.0))
        );
        assert_eq!((first.memory_total_bytes, first.memory_used_bytes), (Some(143_771 << 20), Some(512 << 20)));
        assert_eq!(first.watts, Some(118.5));
        assert_eq!(second.name, "GRID A, B");
        assert_eq!((second.utilization_percent, second.celsius, second.watts), (None, None, None));
        assert_eq!((second.memory_total_bytes, second.memory_used_bytes), (Some(1 << 30), Some(0)));
    }

    #[test]
    fn complaints_are_no_cards() {
        assert_eq!(parse("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"), []);
        assert_eq!(parse(""), []);
    }
}
