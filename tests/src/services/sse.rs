//! The slow HTTP server of this workspace, `sse-server`: it streams as a language model does.

use crate::{
    lab::Host,
    process::{self, Process},
};
use std::net::SocketAddr;

/// A running `sse-server`; see its help for what it answers.
pub struct Sse {
    address: SocketAddr,
    process: Process,
}

impl Sse {
    /// Starts one on a free port of the host's IPv4 address.
    pub fn start(host: &Host) -> Sse {
        Sse::start_at(host, host.at(0))
    }

    /// Starts one on this address; port 0 is any.
    pub fn start_at(host: &Host, address: SocketAddr) -> Sse {
        let mut command = host.command(process::helper("sse-server"));
        command.args(["--listen", &address.to_string()]);
        let process = Process::start(host, "sse-server", command);
        let line = process.wait_for_line("listening on ");
        let address = line.rsplit(' ').next().and_then(|address| address.parse().ok());
        Sse { address: address.expect("an address at the end of the line"), process }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The server's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
