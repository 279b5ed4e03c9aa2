//! What the kernel knows about a running process, read from `/proc`.

use std::{fs, io, path::PathBuf, time::Duration};

/// Figures about one process at one moment. Linux only; see `proc(5)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Memory in RAM, shared pages counted whole, in bytes.
    pub rss: u64,
    /// Memory in RAM, shared pages counted by their share, in bytes.
    pub pss: u64,
    /// Memory in RAM that stands for no file (heaps, stacks), in bytes.
    pub anonymous: u64,
    /// Open file descriptors.
    pub fds: usize,
    /// Threads.
    pub threads: usize,
    /// Time on a CPU, user and system, since the start; in steps of a clock tick (10 ms).
    pub cpu: Duration,
    /// How often the threads that now live have waited for something: each time they woke up later.
    pub voluntary_switches: u64,
    /// How often a CPU was taken from these threads.
    pub involuntary_switches: u64,
    /// Bytes sent to storage since the start.
    pub written: u64,
}

impl Usage {
    /// The figures of process `pid`.
    ///
    /// # Errors
    /// When it is gone, or belongs to somebody else.
    pub fn of(pid: u32) -> io::Result<Usage> {
        let memory = fs::read_to_string(proc(pid, "smaps_rollup"))?;
        let (voluntary_switches, involuntary_switches) = switches(pid)?;
        Ok(Usage {
            rss: field(&memory, "Rss:")? * 1024,
            pss: field(&memory, "Pss:")? * 1024,
            anonymous: field(&memory, "Anonymous:")? * 1024,
            fds: fs::read_dir(proc(pid, "fd"))?.count(),
            threads: fs::read_dir(proc(pid, "task"))?.count(),
            cpu: cpu(&fs::read_to_string(proc(pid, "stat"))?)?,
            voluntary_switches,
            involuntary_switches,
            written: field(&fs::read_to_string(proc(pid, "io"))?, "write_bytes:")?,
        })
    }
}

/// The most memory that a process has had in RAM, shared pages counted whole, in bytes.
///
/// # Panics
/// When the process is gone.
pub fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(proc(pid, "status")).expect("a process");
    field(&status, "VmHWM:").expect("the peak of its memory") * 1024
}

fn proc(pid: u32, what: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{what}"))
}

/// Voluntary and involuntary context switches, summed over the threads.
fn switches(pid: u32) -> io::Result<(u64, u64)> {
    let mut sum = (0, 0);
    for task in fs::read_dir(proc(pid, "task"))? {
        // A thread may end while we look.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else {
            continue;
        };
        sum.0 += field(&status, "voluntary_ctxt_switches:")?;
        sum.1 += field(&status, "nonvoluntary_ctxt_switches:")?;
    }
    Ok(sum)
}

/// The number after a line's first word.
fn field(text: &str, name: &str) -> io::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| io::Error::other(format!("no {name} in\n{text}")))
}

/// User and system time: fields 14 and 15 of `/proc/pid/stat`, counted behind the name, which may hold anything.
fn cpu(stat: &str) -> io::Result<Duration> {
    let wrong = || io::Error::other(format!("cannot read {stat:?}"));
    let (_, behind_name) = stat.rsplit_once(')').ok_or_else(wrong)?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let mut number = || fields.next()?.parse::<u64>().ok();
    let ticks = number().zip(number()).map(|(user, system)| user + system);
    let ticks = ticks.ok_or_else(wrong)?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_millis(ticks * 1000 / per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_this_process() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss > 100 << 10 && usage.pss > 0, "{usage:?}");
        assert!(usage.fds >= 3 && usage.threads >= 1, "{usage:?}");
    }

    #[test]
    fn counts_a_thread_and_a_file() {
        let before = Usage::of(std::process::id()).unwrap();
        let (done, wait) = std::sync::mpsc::sync_channel::<()>(0);
        let thread = std::thread::spawn(move || wait.recv());
        let file = fs::File::open("/proc/self/stat").unwrap();
        let after = Usage::of(std::process::id()).unwrap();
        // Other tests of this process may end meanwhile under plain `cargo test`; nextest has one process for each.
        if std::env::var_os("NEXTEST").is_some() {
            assert_eq!(after.threads, before.threads + 1);
            assert_eq!(after.fds, before.fds + 1);
        }
        drop((file, done));
        assert!(thread.join().unwrap().is_err());
    }

    #[test]
    fn reads_a_name_with_blanks_and_brackets() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0";
        assert_eq!(cpu(stat).unwrap(), Duration::from_secs(2));
        assert!(cpu("7 (a) S 1").is_err());
    }

    #[test]
    fn nobody_has_no_figures() {
        assert!(Usage::of(u32::MAX).is_err());
    }
}
