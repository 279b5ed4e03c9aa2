//! Processors: how many, how busy over a moment, and the load averages.

use hive_protocol::CpuMetrics;

use super::{Machine, percent};

/// What all processors together did since the machine started, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    total: u64,
    idle: u64,
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal, then guest times, which user
/// and nice contain already.
pub fn times(machine: &Machine) -> Option<Times> {
    let stat = machine.text("proc/stat")?;
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|word| word.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4).copied().unwrap_or(0);
    Some(Times { total: ticks.iter().sum(), idle })
}

/// The figures, with the usage since `before`.
pub fn metrics(machine: &Machine, before: Option<Times>) -> CpuMetrics {
    let usage = before.zip(times(machine)).and_then(|(before, now)| usage(before, now));
    CpuMetrics { cores: cores(machine), usage_percent: usage, load: load(machine) }
}

/// None when the clock has not moved, as in a captured tree.
fn usage(before: Times, now: Times) -> Option<f64> {
    let total = now.total.checked_sub(before.total)?;
    // The idle count of some kernels goes back a little (`proc(5)`).
    let idle = now.idle.saturating_sub(before.idle);
    percent(total.saturating_sub(idle), total)
}

fn cores(machine: &Machine) -> Option<u32> {
    let stat = machine.text("proc/stat")?;
    let is_core =
        |line: &&str| line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    u32::try_from(stat.lines().filter(is_core).count()).ok().filter(|count| *count > 0)
}

fn load(machine: &Machine) -> Vec<f64> {
    let text = machine.text("proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).map_while(|word| word.parse().ok()).collect()
}

/// User and kernel time of a process, fields 14 and 15 of its `stat`. The name before them may hold anything.
pub fn process_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_the_share_that_was_not_idle() {
        let before = Times { total: 1000, idle: 800 };
        assert_eq!(usage(before, Times { total: 1200, idle: 950 }), Some(25.0));
        assert_eq!(usage(before, Times { total: 1200, idle: 799 }), Some(100.0));
        assert_eq!(usage(before, before), None);
        assert_eq!(usage(before, Times { total: 10, idle: 0 }), None);
    }

    #[test]
    fn a_process_name_cannot_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 9 0 0 0 250 150 0 0 20 0 4 0 100 0 0";
        let seconds = process_seconds(stat).unwrap();
        assert_eq!(seconds * rustix::param::clock_ticks_per_second() as f64, 400.0);
        assert_eq!(process_seconds("7 (a"), None);
    }
}
