//! `forward`: both sides of a tunnel in one step, from anywhere.

use std::net::IpAddr;

use hive_protocol::{
    Direction, NodeId, PathRule, ProxyId, ProxyKind,
    message::{BindAddr, ProxyRequest, Request},
};
use serde_json::json;

use crate::{
    app::App,
    args::Target,
    client::Client,
    cmds::Endpoint,
    error::{Error, Result},
};

/// Open a port on one node that leads to a port of another: both sides of the tunnel in one step.
#[derive(argh::FromArgs, argh::ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "forward",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} --from self:8080 --to gpu:11434\n\
               {command_name} --from laptop:5432 --to shed:5432 --network home",
    note = "Credentials of both nodes are needed: log in at each first, or give a password that both have. `self` and \
            `local` stand for the local node."
)]
pub struct Forward {
    /// where connections are made: the egress listens on this port of this node
    #[argh(option, arg_name = "node:port")]
    pub from: Endpoint,
    /// where they end: the ingress connects to this port at this node
    #[argh(option, arg_name = "node:port")]
    pub to: Endpoint,
    /// host that the ingress connects to, as its node sees it (default: 127.0.0.1)
    #[argh(option)]
    pub host: Option<String>,
    /// address that the egress listens on (default: 127.0.0.1)
    #[argh(option, arg_name = "ip")]
    pub bind: Option<IpAddr>,
    /// paths that it may take: any (default), direct for never over a relay, or relay for nothing else
    #[argh(option, arg_name = "rule")]
    pub path: Option<PathRule>,
    /// network of both nodes, needed where they share several
    #[argh(option, arg_name = "name")]
    pub network: Option<hive_protocol::NetworkName>,
    /// user to log in as (environment: HIVE_USER; default: admin)
    #[argh(option, arg_name = "name")]
    pub user: Option<String>,
    /// read the password from standard input (environment: HIVE_PASSWORD)
    #[argh(switch)]
    pub password_stdin: bool,
}

/// Adds the ingress first: an egress without one would take connections only to drop them.
pub async fn run(app: &App, args: &Forward) -> Result<()> {
    let mut from = app.connect(&target(args, &args.from)).await?;
    let mut to = app.connect(&target(args, &args.to)).await?;
    let (from_id, to_id) = (from.identity().await?.node, to.identity().await?.node);
    if from_id == to_id {
        return Err(Error::usage("both ends are the same node, which needs no tunnel"));
    }
    let ingress = to.add_proxy(ingress(args, from_id)).await?;
    let egress = match from.add_proxy(egress(args, to_id)).await {
        Ok(id) => id,
        Err(error) => return Err(undone(&mut to, ingress, error).await),
    };
    let value = json!({ "egress": { "node": from_id, "id": egress }, "ingress": { "node": to_id, "id": ingress } });
    app.out.done(&value, || {
        let (from_port, to_port) = (args.from.port, args.to.port);
        format!(
            "port {from_port} of {} leads to port {to_port} of {}\negress   {egress} at {} ({from_id})\n\
             ingress  {ingress} at {} ({to_id})",
            from.name, to.name, from.name, to.name
        )
    })
}

fn target(args: &Forward, endpoint: &Endpoint) -> Target {
    let (network, user) = (args.network.clone(), args.user.clone());
    Target { node: endpoint.target_node(), network, user, password_stdin: args.password_stdin }
}

fn ingress(args: &Forward, from: NodeId) -> ProxyRequest {
    ProxyRequest {
        direction: Direction::Ingress,
        kind: ProxyKind::Tcp,
        port: args.to.port,
        peer: from.to_string(),
        peer_port: args.from.port,
        network: args.network.clone(),
        bind: None,
        host: args.host.clone(),
        temporary: false,
        resume: None,
        key_prefix: None,
        sni: None,
        ssh: None,
        path_rule: args.path,
    }
}

fn egress(args: &Forward, to: NodeId) -> ProxyRequest {
    ProxyRequest {
        direction: Direction::Egress,
        kind: ProxyKind::Tcp,
        port: args.from.port,
        peer: to.to_string(),
        peer_port: args.to.port,
        network: args.network.clone(),
        bind: args.bind.map(BindAddr),
        host: None,
        temporary: false,
        resume: None,
        key_prefix: None,
        sni: None,
        ssh: None,
        path_rule: args.path,
    }
}

/// Takes the first side back after the second failed; says so if that fails as well.
async fn undone(to: &mut Client, ingress: ProxyId, error: Error) -> Error {
    match to.done(Request::ProxyRemove { id: ingress }).await {
        Ok(()) => error,
        Err(undo) => error.hint(format!("proxy {ingress} at {} is left over, remove it: {}", to.name, undo.what)),
    }
}
