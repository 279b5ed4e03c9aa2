//! Real programs on a host of the lab: started, watched by what they print, signalled, and ended with the test.
//!
//! What a [`Process`] prints goes to a file in the lab's folder, and to standard error when a test panics.

mod log;
mod run;

pub use run::{Output, run};
pub use rustix::process::Signal;

use crate::{lab::Host, usage::Usage};
use log::Log;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, kill_process, pidfd_open},
};
use std::{
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How long a healthy program on a busy machine may take to do what a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running program. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    log: Log,
    /// Keeps the lab alive.
    _host: Host,
}

impl Process {
    /// Starts `command`, made by [`Host::command`] of the same host, with an empty standard input. `name` is for its log.
    pub fn start(host: &Host, name: &str, mut command: Command) -> Process {
        command.stdin(Stdio::null());
        Process::launch(host, name, command)
    }

    /// Starts `command` with its standard input open for [`Process::stdin`].
    pub fn start_with_stdin(host: &Host, name: &str, mut command: Command) -> Process {
        command.stdin(Stdio::piped());
        Process::launch(host, name, command)
    }

    fn launch(host: &Host, name: &str, mut command: Command) -> Process {
        let (log, out, err) = Log::create(&host.folder("logs").join(format!("{name}.log")));
        let child = command.stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        // The command holds the log's write ends: only without it does the log end with the program.
        drop(command);
        log.begin();
        Process { name: name.to_owned(), child, log, _host: host.clone() }
    }

    /// Its process id. (`ip netns exec` becomes the program that it starts, so this is the program itself.)
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Takes its standard input, to write to or to close.
    pub fn stdin(&mut self) -> std::process::ChildStdin {
        let stdin = self.child.stdin.take();
        stdin.expect("a process from `start_with_stdin`, asked once")
    }

    /// Everything that it has printed so far, to either output.
    pub fn printed(&self) -> String {
        self.log.text()
    }

    /// Waits until it prints a line that contains `part`, or has printed one, and returns that line.
    ///
    /// # Panics
    /// When it ends before, or after [`PATIENCE`].
    pub fn wait_for_line(&self, part: &str) -> String {
        let found = self.log.wait_for_line(part, Instant::now() + PATIENCE);
        found.unwrap_or_else(|why| panic!("{}: {why}: a line with {part:?}", self.name))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of a child")
    }

    /// Waits for its end; then [`Process::printed`] has all that it printed.
    ///
    /// # Panics
    /// When it still runs after [`PATIENCE`].
    pub fn wait(&mut self) -> ExitStatus {
        let ended = wait_for_end(&mut self.child, PATIENCE);
        let ended = ended.unwrap_or_else(|| panic!("{} has not ended", self.name));
        self.log.settle();
        ended
    }

    /// Sends a signal, as in `process.signal(Signal::STOP)`.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a pid is positive");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self) {
        self.child.kill().expect("a signal to a child");
        self.wait();
    }

    /// What the kernel knows about it now.
    pub fn usage(&self) -> Usage {
        Usage::of(self.pid()).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.log.settle();
            let end = self.child.try_wait();
            eprintln!("---- what {} printed ({end:?})\n{}----", self.name, self.log.text());
        }
    }
}

/// `hive-agent` or `hivectl`: beside the test's own executable, or in `HIVE_BIN_DIR`.
///
/// # Panics
/// When it is not there, with a hint.
pub fn binary(name: &str) -> PathBuf {
    program(std::env::var_os("HIVE_BIN_DIR").map_or_else(profile_folder, PathBuf::from), name)
}

/// A program that only the tests need, beside the test's own executable.
///
/// # Panics
/// When it is not there, with a hint.
pub fn helper(name: &str) -> PathBuf {
    program(profile_folder(), name)
}

fn program(folder: PathBuf, name: &str) -> PathBuf {
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{name} is not in {}: build it with `cargo build --workspace --bins`, or name its folder in HIVE_BIN_DIR",
        folder.display()
    );
    path
}

/// `target/<profile>`: executables lie there, those of tests in its `deps`.
fn profile_folder() -> PathBuf {
    let this = std::env::current_exe().expect("the path of this executable");
    let folder = this.parent().expect("a file is in a folder");
    if folder.ends_with("deps") {
        return folder.parent().expect("deps is in a folder").to_owned();
    }
    folder.to_owned()
}

/// Waits for the end of a child by its pidfd, so that it is noticed at once.
fn wait_for_end(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    let pid = Pid::from_raw(child.id().cast_signed())?;
    // An error means that the child is gone and waited for, which `try_wait` tells.
    if let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).expect("seconds that fit");
            match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
                Err(Errno::INTR) => {}
                _ => break,
            }
        }
    }
    child.try_wait().expect("the state of a child")
}
