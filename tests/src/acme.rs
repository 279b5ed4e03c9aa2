//! A public node with a CA beside it, and nodes that it leads port 443 to: what the tests of certificates begin with.

use crate::{
    lab::{Host, Lab},
    node::Node,
    pair::{self, NETWORK},
    pebble::{Behaviour, Pebble},
    process::{self, PATIENCE},
};
use serde_json::Value;

/// A CA on a host of its own, and a node that the names of these tests lead to.
pub struct World {
    /// Where both are.
    pub lab: Lab,
    /// The CA, with its name server.
    pub ca: Pebble,
    /// The public node.
    pub gate: Node,
}

impl World {
    /// Starts both; `None` where a CA or namespaces cannot be had, said for `test`.
    pub fn start(test: &str, behaviour: &Behaviour) -> Option<World> {
        let lab = Lab::namespaces(test)?;
        let ca = Pebble::start(test, &lab.host("ca"), behaviour)?;
        let gate = Node::start(&lab.host("gate"), pair::options());
        Some(World { lab, ca, gate })
    }

    /// Starts a node on `host` that the gate leads port 443 to, for clients of `name` alone where one is given. TLS ends
    /// at that node, with the certificate `web`, and behind it is the host's `port`.
    pub fn home(&self, host: &Host, name: Option<&str>, port: u16) -> Node {
        let home = Node::start(host, pair::options());
        home.register(&self.gate, NETWORK);
        self.gate.wait_until_sees(&[&home]);
        home.wait_until_sees(&[&self.gate]);
        let (port, address) = (port.to_string(), host.ipv4().to_string());
        let ingress = ["proxy", "--direction", "ingress", "--origin", "gate:443", "--port", &port, "--host", &address];
        home.ctl(&[&ingress[..], &["--tls", "true", "--key-prefix", "web"]].concat()).success();
        let target = format!("{}:{port}", home.name());
        let egress = ["proxy", "--direction", "egress", "--target", &target, "--port", "443", "--bind", "0.0.0.0"];
        let sni = name.map_or_else(Vec::new, |name| vec!["--sni", name]);
        self.gate.ctl(&[&egress[..], &sni].concat()).success();
        home
    }

    /// The arguments that obtain the certificate `web` for these names.
    pub fn tls(&self, challenge: &str, names: &[&str]) -> Vec<String> {
        let (directory, file) = (self.ca.directory(), self.ca.ca_file().display().to_string());
        let fixed =
            ["tls", "--key-prefix", "web", "--challenge", challenge, "--directory", &directory, "--ca-file", &file];
        let names = names.iter().flat_map(|name| ["--hostname", name]);
        fixed.into_iter().chain(names).map(str::to_owned).collect()
    }

    /// Obtains it, with further arguments.
    pub fn obtain_with(&self, node: &Node, challenge: &str, names: &[&str], more: &[&str]) -> process::Output {
        let arguments = self.tls(challenge, names);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        node.ctl(&arguments)
    }

    /// Obtains it.
    pub fn obtain(&self, node: &Node, challenge: &str, names: &[&str]) -> process::Output {
        self.obtain_with(node, challenge, names, &[])
    }

    /// Runs curl on a host of this lab: it trusts the CA's root alone, and takes `name` to lead to the gate.
    pub fn curl(&self, from: &Host, name: &str, arguments: &[&str]) -> process::Output {
        let root = from.folder("trust").join(format!("{}.pem", from.name()));
        std::fs::write(&root, self.ca.root()).expect("a file in the lab's folder");
        let address = self.gate.host().ipv4();
        let mut command = from.command("curl");
        command.args(["--silent", "--show-error", "--noproxy", "*", "--cacert"]).arg(root);
        for port in [80, 443] {
            command.args(["--resolve", &format!("{name}:{port}:{address}")]);
        }
        command.args(arguments);
        process::run(command, b"", PATIENCE)
    }
}

/// The entry `web_cert.pem` of a node, as `keys --json` has it.
pub fn certificate(node: &Node) -> Option<Value> {
    let keys = node.json(&["keys"]);
    keys.as_array()?.iter().find(|key| key["key_name"] == "web_cert.pem").cloned()
}
