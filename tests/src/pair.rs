//! Two nodes of one network that see each other, and tunnels from the first to the second: what most tests and the
//! benchmark begin with.

use crate::{
    lab::Lab,
    node::{Node, Options},
    process::PATIENCE,
};
use serde_json::Value;
use std::net::SocketAddr;

/// The network of both.
pub const NETWORK: &str = "garden";
/// Its password.
pub const PASSWORD: &str = "under the blue pot";
/// The admin account of both, `USER:PASSWORD`.
pub const ADMIN: &str = "admin:battery staple";

/// The nodes `near`, where connections are made, and `far`, where they end.
pub struct Pair {
    /// The node with the egress.
    pub near: Node,
    /// The node with the ingress.
    pub far: Node,
}

/// Both sides of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Where the near node listens.
    pub entrance: SocketAddr,
    /// The number of the near node's proxy.
    pub egress: u64,
    /// The number of the far node's proxy.
    pub ingress: u64,
}

impl Pair {
    /// Starts both on hosts of their own and registers one at the other.
    pub fn start(lab: &Lab) -> Pair {
        Pair::start_with(lab, ["near", "far"], options)
    }

    /// The same with names and options of one's own.
    pub fn start_with(lab: &Lab, names: [&str; 2], options: impl Fn() -> Options) -> Pair {
        let [near, far] = names.map(|name| Node::start(&lab.host(name), options()));
        near.register(&far, NETWORK);
        let pair = Pair { near, far };
        pair.wait_until_connected();
        pair
    }

    /// Leads a free port of the near node to an address that the far node reaches.
    pub fn tunnel(&self, target: SocketAddr) -> Tunnel {
        let port = self.near.host().free_port();
        let (from, to) = (format!("{}:{port}", self.near.name()), format!("{}:{}", self.far.name(), target.port()));
        // On a lab of loopback only the host's address is this lab's own.
        let (bind, host) = (self.near.host().ipv4().to_string(), target.ip().to_string());
        let made = self.near.json(&["forward", "--from", &from, "--to", &to, "--bind", &bind, "--host", &host]);
        let number = |side: &str| made[side]["id"].as_u64().unwrap_or_else(|| panic!("no number of {side} in {made}"));
        Tunnel { entrance: self.near.host().at(port), egress: number("egress"), ingress: number("ingress") }
    }

    /// The same, of connections that end with the path under them; returns its entrance.
    pub fn brief_tunnel(&self, target: SocketAddr) -> SocketAddr {
        let entrance = self.near.host().at(self.near.host().free_port());
        let (from, to) = (entrance.port().to_string(), target.port().to_string());
        let (bind, host) = (entrance.ip().to_string(), target.ip().to_string());
        let (origin, target) = (format!("near:{from}"), format!("far:{to}"));
        let ingress = ["proxy", "--direction", "ingress", "--origin", &origin, "--port", &to, "--host", &host];
        self.far.ctl(&ingress).success();
        let egress = ["proxy", "--direction", "egress", "--target", &target, "--port", &from, "--bind", &bind];
        self.near.ctl(&[&egress[..], &["--resume", "0"]].concat()).success();
        entrance
    }

    /// Waits until each has the other in its table as online.
    ///
    /// # Panics
    /// Once [`PATIENCE`] has passed.
    pub fn wait_until_connected(&self) {
        self.near.wait_until_sees(&[&self.far]);
        self.far.wait_until_sees(&[&self.near]);
    }
}

/// How both nodes of a [`Pair`] are started, and any further node of their network.
pub fn options() -> Options {
    Options::member(&format!("{NETWORK}:{PASSWORD}")).admin(ADMIN)
}

/// A proxy of a node, as `proxy ls --json` has it.
///
/// # Panics
/// When there is none of this number.
pub fn proxy(node: &Node, id: u64) -> Value {
    let proxies = node.json(&["proxy", "ls"]);
    row(&proxies, id).unwrap_or_else(|| panic!("no proxy {id} in {proxies}")).clone()
}

/// Waits until a proxy of a node is listed and pleases, and returns it.
///
/// # Panics
/// Once [`PATIENCE`] has passed, saying `what` did not happen.
pub fn wait_for_proxy(node: &Node, id: u64, what: &str, pleases: impl Fn(&Value) -> bool) -> Value {
    let pleases = |proxies: &Value| row(proxies, id).is_some_and(&pleases);
    let proxies = node.wait_for_json(what, PATIENCE, &["proxy", "ls"], pleases);
    row(&proxies, id).cloned().unwrap_or_default()
}

fn row(proxies: &Value, id: u64) -> Option<&Value> {
    proxies.as_array()?.iter().find(|proxy| proxy["id"] == id)
}
