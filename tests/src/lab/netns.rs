//! One network namespace: made, entered, configured with `ip`, and removed with all that runs in it.

use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsFd,
    process::{Command, Output, Stdio},
    sync::OnceLock,
    thread,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// Where `ip netns` keeps the named ones.
pub const FOLDER: &str = "/run/netns";

/// What every namespace is set to: addresses are usable at once and stay while a link is down.
const SYSCTLS: [(&str, &str); 4] = [
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/keep_addr_on_down", "1"),
    ("ipv6/conf/all/keep_addr_on_down", "1"),
];

/// A named namespace, removed when dropped.
pub struct Netns {
    name: String,
}

/// Why this machine makes no namespaces, although we are root; asked once.
pub fn why_impossible() -> Option<&'static str> {
    static ANSWER: OnceLock<Option<&'static str>> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let probe = format!("{}{}-probe", super::PREFIX, std::process::id());
        match Command::new("ip").args(["netns", "add", &probe]).output() {
            Err(_) => Some("no `ip`: install iproute2"),
            Ok(made) if !made.status.success() => Some("`ip netns add` is refused"),
            Ok(_) => {
                remove(&probe);
                None
            }
        }
    })
}

impl Netns {
    /// Makes the namespace and brings its loopback up.
    pub fn create(name: String) -> Netns {
        expect_success("ip netns add", &ip(&["netns", "add", &name], ""));
        let made = Netns { name };
        made.enter(|| {
            for (key, value) in SYSCTLS {
                // A kernel without IPv6 has none of these.
                let _ = fs::write(format!("/proc/sys/net/{key}"), value);
            }
        });
        made.ip("link set lo up");
        made
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs lines of `ip -batch` inside.
    pub fn ip(&self, lines: &str) {
        let done = ip(&["-n", &self.name, "-batch", "-"], lines);
        expect_success(&format!("ip in {}: {lines}", self.name), &done);
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Calls `act` on a thread inside; sockets made there stay there.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            move_here(&self.name);
            act()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a thread inside.
    pub fn spawn<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        let name = self.name.clone();
        thread::spawn(move || {
            move_here(&name);
            act()
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Kills what runs in a namespace and removes it. It may be gone already, or be removed by another process meanwhile.
pub fn remove(name: &str) {
    for pid in processes(name) {
        let _ = kill_process(pid, Signal::KILL);
    }
    let _ = ip(&["netns", "delete", name], "");
}

fn processes(namespace: &str) -> Vec<Pid> {
    let listed = ip(&["netns", "pids", namespace], "").stdout;
    let pids = String::from_utf8_lossy(&listed).into_owned();
    let pids = pids.lines().filter_map(|line| line.parse().ok());
    pids.filter_map(Pid::from_raw).collect()
}

fn move_here(name: &str) {
    let path = format!("{FOLDER}/{name}");
    let namespace = File::open(&path).unwrap_or_else(|error| panic!("cannot open {path}: {error}"));
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .unwrap_or_else(|error| panic!("cannot enter {name}: {error}"));
}

fn ip(arguments: &[&str], stdin: &str) -> Output {
    let mut command = Command::new("ip");
    feed(command.args(arguments), stdin)
}

/// Runs a command to its end with a short text on its standard input.
pub fn feed(command: &mut Command, stdin: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let child = command.stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    if let Some(mut pipe) = child.stdin.take() {
        // A command that fails before it reads tells why in its own words.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    child.wait_with_output().expect("the output of a child")
}

/// Panics with what a command wrote to standard error, when it failed.
pub fn expect_success(what: &str, done: &Output) {
    let problem = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{what} failed: {}", problem.trim());
}
