//! The verbs, one noun a file: each takes its arguments, makes one typed call or a few, and prints the answer.

pub mod completions;
pub mod connect;
pub mod cp;
pub mod exec;
pub mod forward;
pub mod id;
pub mod keys;
pub mod login;
pub mod logs;
pub mod metrics;
pub mod networks;
pub mod node;
pub mod nodes;
pub mod proxy;
pub mod register;
pub mod sessions;
pub mod ssh;
pub mod status;
pub mod tls;
pub mod update;

use std::str::FromStr;

use hive_protocol::NodeName;

use crate::{
    app::App,
    args::Verb,
    error::{Error, Result},
};

/// Runs a verb.
pub async fn run(app: &App, verb: Verb) -> Result<()> {
    match verb {
        Verb::Login(args) => login::login(app, &args).await,
        Verb::Logout(args) => login::logout(app, &args).await,
        Verb::Sessions(args) => sessions::run(app, &args).await,
        Verb::Id(args) => id::run(app, &args).await,
        Verb::Register(args) => register::run(app, &args).await,
        Verb::Networks(args) => networks::run(app, &args).await,
        Verb::Nodes(args) => nodes::run(app, &args).await,
        Verb::Status(args) => status::run(app, &args).await,
        Verb::Proxy(args) => proxy::run(app, &args).await,
        Verb::Forward(args) => forward::run(app, &args).await,
        Verb::Connect(args) => connect::run(app, &args).await,
        Verb::Tls(args) => tls::run(app, &args).await,
        Verb::Keys(args) => keys::run(app, &args).await,
        Verb::CreateKey(args) => keys::create(app, &args).await,
        Verb::GetMetrics(args) => metrics::run(app, &args).await,
        Verb::Logs(args) => logs::run(app, &args).await,
        Verb::UpdateNode(args) => update::run(app, &args).await,
        Verb::Shell(args) => exec::shell(app, &args).await,
        Verb::Exec(args) => exec::exec(app, &args).await,
        Verb::Cp(args) => cp::run(app, &args).await,
        Verb::Rename(args) => node::rename(app, &args).await,
        Verb::Listen(args) => node::listen(app, &args).await,
        Verb::Completions(args) => completions::run(app, &args),
    }
}

/// A port of a node, written `NODE:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Peer id or name.
    pub node: String,
    /// Port, never 0.
    pub port: u16,
}

impl Endpoint {
    /// The node as a target names it: none for the local node, which may be written `self` or `local`.
    pub fn target_node(&self) -> Option<String> {
        (!is_local(&self.node)).then(|| self.node.clone())
    }
}

/// Whether `node` means the node that reads the request.
pub fn is_local(node: &str) -> bool {
    NodeName::LOCAL.contains(&node)
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (node, port) = text.rsplit_once(':').ok_or("expected NODE:PORT")?;
        if node.is_empty() || node.contains(':') {
            return Err("expected NODE:PORT, with a peer id or a name for NODE".to_owned());
        }
        Ok(Self { node: node.to_owned(), port: parse_port(port)? })
    }
}

/// A port that can be connected to, for argh.
pub fn parse_port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| "a port is a number from 1 to 65535".to_owned())
}

/// An option that a command cannot do without.
fn required<T>(value: Option<T>, option: &str) -> Result<T> {
    value.ok_or_else(|| Error::usage(format!("{option} is needed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_node_and_a_port() {
        let endpoint: Endpoint = "shed:8080".parse().unwrap();
        assert_eq!(endpoint, Endpoint { node: "shed".into(), port: 8080 });
        assert_eq!(endpoint.target_node().as_deref(), Some("shed"));
        assert_eq!("self:1".parse::<Endpoint>().unwrap().target_node(), None);
        for bad in ["shed", "shed:", ":80", "shed:0", "shed:65536", "::1:80", "shed:http"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
