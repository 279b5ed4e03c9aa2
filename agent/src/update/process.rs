//! Processes as `/proc` tells of them: which one this is, whether another still lives, and ending those of one binary.

use std::{fs, path::Path};

use hive_core::update::Process;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

/// How long a process that was killed may take to be gone: the kernel has memory to give back.
const GONE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// This process.
pub fn own() -> Option<Process> {
    identity(std::process::id())
}

/// Whether a process is still there.
pub fn lives(process: &Process) -> bool {
    identity(process.pid).as_ref() == Some(process)
}

fn identity(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // A container may hide it; then a process id with its start is all there is.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Some(Process { boot: boot.trim().to_owned() + "-", pid, started: started(&stat)? })
}

/// Field 22 of `/proc/PID/stat` (`proc(5)`); the second is a name in parentheses, which may have anything in it.
fn started(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Kills every process that runs this file and waits until it is gone.
pub fn end_all(executable: &Path) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let runs = || fs::read_link(entry.path().join("exe")).is_ok_and(|path| path == executable);
        if let Some(pid) = pid.filter(|_| runs()) {
            end(pid);
        }
    }
}

fn end(pid: Pid) {
    // Taken before the signal, so that it cannot be another process of the same number. Kernels before 5.3 have none.
    let handle = pidfd_open(pid, PidfdFlags::empty());
    if let Err(e) = kill_process(pid, Signal::KILL) {
        log::warn!("the new agent, process {pid}, cannot be ended: {e}");
    }
    if let Ok(handle) = handle {
        let _ = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&GONE));
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = own().unwrap();
        assert!(lives(&own) && own.started > 0);
        assert!(!lives(&Process { started: own.started + 1, ..own.clone() }));
        assert!(!lives(&Process { boot: "another".into(), ..own }));
        assert_eq!(started("7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9"), Some(4711));
    }

    #[test]
    fn all_processes_of_a_file_are_ended_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sleep");
        fs::copy("/bin/sleep", &file).unwrap();
        let start = |program: &Path| Command::new(program).arg("1000").spawn().unwrap();
        let (mut ours, mut other) = (start(&file), start(Path::new("/bin/sleep")));
        end_all(&file);
        assert!(!ours.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
