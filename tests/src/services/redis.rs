//! A Redis server that keeps everything in memory.

use crate::{
    lab::Host,
    process::{self, Output, PATIENCE, Process},
};
use std::net::SocketAddr;

/// A running Redis.
pub struct Redis {
    port: u16,
    process: Process,
}

impl Redis {
    /// Starts one on a free port of the host's IPv4 address; `None` where it is not installed, said for `test`.
    pub fn start(test: &str, host: &Host) -> Option<Redis> {
        let program = super::find(test, "redis-server", "redis-server", &[])?;
        let port = host.free_port();
        let mut command = host.command(program);
        command.args(["--port", &port.to_string(), "--bind", &host.ipv4().to_string()]);
        // `--save ""`: no snapshots. Nobody but the lab reaches it, so it needs no password.
        command.args(["--save", "", "--protected-mode", "no", "--dir"]).arg(host.folder("redis"));
        let process = Process::start(host, "redis", command);
        process.wait_for_line("Ready to accept connections");
        Some(Redis { port, process })
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Runs `redis-cli` on `host` against `address`, as in `ask(&a, address, &["SET", "k", "v"])`.
    pub fn ask(host: &Host, address: SocketAddr, arguments: &[&str]) -> Output {
        let mut command = host.command("redis-cli");
        command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
        command.args(arguments);
        process::run(command, b"", PATIENCE)
    }
}
