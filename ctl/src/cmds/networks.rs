//! `networks`: the networks of a node, their passwords, and who is kept out of them.

use std::time::{Duration, SystemTime};

use argh::{ArgsInfo, FromArgs};
use hive_protocol::{NetworkInfo, NetworkName, NodeId, Timestamp, message::Request};
use serde_json::json;

use crate::{
    app::App,
    args::{Target, node_verb},
    client::Client,
    error::{Error, Result},
    format::{duration, until},
    prompt::{self, Password},
    style::Style,
    table::{Cell, Table},
};

const PASSWORD_VARIABLE: &str = "HIVE_NETWORK_PASSWORD";

node_verb! {
    /// List the networks of a node, join or leave one, change its password, keep a node out.
    #[argh(
        subcommand,
        name = "networks",
        help_triggers("-h", "--help", "help"),
        example = "{command_name}\n{command_name} join --name home\n{command_name} --node shed ban --node 12D3KooW…"
    )]
    pub struct Networks {
        /// list them if no verb is given
        #[argh(subcommand)]
        pub verb: Option<NetworksVerb>,
    }
}

/// What to do with networks.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum NetworksVerb {
    /// List.
    Ls(Ls),
    /// Join or create.
    Join(Join),
    /// Leave.
    Leave(Leave),
    /// Change the password.
    Rotate(Rotate),
    /// Keep a node out.
    Ban(Ban),
    /// Let it in again.
    Unban(Unban),
}

node_verb! {
    /// List the networks of a node.
    #[argh(subcommand, name = "ls", help_triggers("-h", "--help", "help"), example = "{command_name} --node shed")]
    pub struct Ls {}
}

/// Join a network, or create it: a network is its name and its password.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "join", help_triggers("-h", "--help", "help"), example = "{command_name} --name home")]
pub struct Join {
    /// name of the network
    #[argh(option, arg_name = "name")]
    pub name: NetworkName,
    /// read the network's password from standard input (environment: HIVE_NETWORK_PASSWORD)
    #[argh(switch)]
    pub password_stdin: bool,
    /// node that shall join, by peer id or name (default: the local agent)
    #[argh(option, arg_name = "id|name")]
    pub node: Option<String>,
    /// user to log in as (environment: HIVE_USER; default: admin)
    #[argh(option, arg_name = "name")]
    pub user: Option<String>,
}

node_verb! {
    /// Leave a network and forget its password, its members and its tunnels.
    #[argh(subcommand, name = "leave", help_triggers("-h", "--help", "help"), example = "{command_name} --name home")]
    pub struct Leave {
        /// name of the network
        #[argh(option, arg_name = "name")]
        pub name: NetworkName,
    }
}

/// Change a network's password on a node; the old one is accepted beside it for a while.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "rotate",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} --name home --grace 2h",
    note = "Every member has to be told: run it on each before the grace time is over."
)]
pub struct Rotate {
    /// name of the network
    #[argh(option, arg_name = "name")]
    pub name: NetworkName,
    /// how long the old password is still accepted, like 90s, 30min or 2h (default: 24h)
    #[argh(option, arg_name = "duration", default = "DEFAULT_GRACE", from_str_fn(parse_grace))]
    pub grace: Duration,
    /// read the new password from standard input (environment: HIVE_NETWORK_PASSWORD)
    #[argh(switch)]
    pub password_stdin: bool,
    /// node that shall take the new password, by peer id or name (default: the local agent)
    #[argh(option, arg_name = "id|name")]
    pub node: Option<String>,
    /// user to log in as (environment: HIVE_USER; default: admin)
    #[argh(option, arg_name = "name")]
    pub user: Option<String>,
}

const DEFAULT_GRACE: Duration = Duration::from_secs(24 * 3600);

/// Keep a node out of a network, on the node acted on. Its streams end at once.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "ban",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} --node 12D3KooW… --network home",
    note = "The node acted on stands before the verb: hivectl networks --node shed ban --node ID"
)]
pub struct Ban {
    /// peer id of the node to keep out
    #[argh(option, arg_name = "id")]
    pub node: NodeId,
    /// the network (default: every network the node acted on is in now)
    #[argh(option, arg_name = "name")]
    pub network: Option<NetworkName>,
}

/// Let a banned node in again.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "unban", help_triggers("-h", "--help", "help"), example = "{command_name} --node 12D3KooW…")]
pub struct Unban {
    /// peer id of the node to let in
    #[argh(option, arg_name = "id")]
    pub node: NodeId,
    /// the network (default: every network the node acted on is in now)
    #[argh(option, arg_name = "name")]
    pub network: Option<NetworkName>,
}

/// Lists networks or changes one.
pub async fn run(app: &App, args: &Networks) -> Result<()> {
    let outer = args.target();
    match &args.verb {
        None => list(app, &outer).await,
        Some(NetworksVerb::Ls(ls)) => list(app, &ls.target().or(outer)).await,
        Some(NetworksVerb::Join(join)) => self::join(app, join, outer).await,
        Some(NetworksVerb::Leave(leave)) => self::leave(app, leave, outer).await,
        Some(NetworksVerb::Rotate(rotate)) => self::rotate(app, rotate, outer).await,
        Some(NetworksVerb::Ban(Ban { node, network })) => ban(app, &outer, *node, network.clone(), true).await,
        Some(NetworksVerb::Unban(Unban { node, network })) => ban(app, &outer, *node, network.clone(), false).await,
    }
}

async fn list(app: &App, target: &Target) -> Result<()> {
    let networks = app.connect(target).await?.networks().await?;
    app.out.show(&networks, || app.out.table(&table(&networks, Timestamp::from(SystemTime::now()))))
}

async fn join(app: &App, args: &Join, outer: Target) -> Result<()> {
    let mut client = changed_node(app, &args.node, &args.user, args.password_stdin, outer).await?;
    let question = format!("Password of network {}: ", args.name);
    let password = password(args.password_stdin, prompt::ask(&question)).await?.to_string();
    client.done(Request::NetworkJoin { network: args.name.clone(), password }).await?;
    app.out.done(&json!({ "name": args.name }), || format!("{} is now in network {}", client.name, args.name))
}

async fn leave(app: &App, args: &Leave, outer: Target) -> Result<()> {
    let mut client = app.connect(&args.target().or(outer)).await?;
    client.done(Request::NetworkLeave { network: args.name.clone() }).await?;
    app.out.done(&json!({ "name": args.name }), || format!("{} has left network {}", client.name, args.name))
}

async fn rotate(app: &App, args: &Rotate, outer: Target) -> Result<()> {
    let mut client = changed_node(app, &args.node, &args.user, args.password_stdin, outer).await?;
    let question = format!("New password of network {}: ", args.name);
    let password = password(args.password_stdin, prompt::ask_new(&question)).await?.to_string();
    let grace_s = args.grace.as_secs();
    client.done(Request::NetworkRotate { network: args.name.clone(), password, grace_s }).await?;
    app.out.done(&json!({ "name": args.name, "grace_s": grace_s }), || {
        let grace = duration(Duration::from_secs(grace_s));
        format!("{} has a new password for {}, the old one is accepted for {grace}", client.name, args.name)
    })
}

async fn ban(app: &App, target: &Target, node: NodeId, network: Option<NetworkName>, banned: bool) -> Result<()> {
    let mut client = app.connect(target).await?;
    client.done(Request::Ban { network: network.clone(), node, banned }).await?;
    app.out.done(&json!({ "peer_id": node, "network": network, "banned": banned }), || {
        format!("{} {}", client.name, ban_done(node, network.as_ref(), banned))
    })
}

/// What a node does from now on. A ban belongs to a network: one joined later has none.
fn ban_done(node: NodeId, network: Option<&NetworkName>, banned: bool) -> String {
    let place = network.map_or_else(|| "every network it is in now".to_owned(), |n| format!("network {n}"));
    let (verb, way) = if banned { ("keeps", "out of") } else { ("lets", "into") };
    format!("{verb} {node} {way} {place}")
}

/// The node whose network is changed. Standard input holds the network's password then, not the node's.
async fn changed_node(
    app: &App,
    node: &Option<String>,
    user: &Option<String>,
    stdin_taken: bool,
    outer: Target,
) -> Result<Client> {
    if stdin_taken && outer.password_stdin {
        return Err(Error::usage("standard input can hold one password only")
            .hint("log in first with `hivectl login`, or set HIVE_PASSWORD"));
    }
    let inner = Target { node: node.clone(), user: user.clone(), ..Target::default() };
    app.connect(&inner.or(outer)).await
}

async fn password(from_stdin: bool, asked: impl Future<Output = Result<Option<Password>>>) -> Result<Password> {
    if from_stdin {
        return prompt::from_stdin();
    }
    if let Some(password) = prompt::from_env(PASSWORD_VARIABLE) {
        return Ok(password);
    }
    asked.await?.ok_or_else(|| {
        Error::usage("the network's password is needed, and there is no terminal to ask on")
            .hint(format!("set {PASSWORD_VARIABLE}, or use --password-stdin"))
    })
}

/// A plain number counts seconds.
fn parse_grace(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map(Duration::from_secs).ok();
    seconds.or_else(|| humantime::parse_duration(text).ok()).ok_or_else(|| "expected a duration like 24h".to_owned())
}

fn table(networks: &[NetworkInfo], now: Timestamp) -> Table {
    let mut table = Table::new(&["name", "members", "online", "refused_joins", "old_password"]);
    for n in networks {
        let old_password = n.old_password_until.filter(|end| *end > now).map(|end| format!("ends {}", until(end, now)));
        let counts = [n.members.to_string(), n.online.to_string(), n.refused_joins.to_string()];
        let [members, online, refused] = counts.map(Cell::from);
        table.row([n.name.to_string().into(), members, online, refused, old_password.unwrap_or_default().into()]);
        for node in &n.banned {
            table.note(1, Cell::new(format!("banned: {node}"), Style::Bad));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_promises_nothing_for_networks_joined_later() {
        let (node, home) = (NodeId::from_bytes([3; 32]), "home".parse().unwrap());
        assert_eq!(ban_done(node, None, true), format!("keeps {node} out of every network it is in now"));
        assert_eq!(ban_done(node, Some(&home), false), format!("lets {node} into network home"));
    }

    #[test]
    fn the_table_shows_rotation_and_bans() {
        let now = Timestamp(1_000_000);
        let banned = NodeId::from_bytes([3; 32]);
        let home = NetworkInfo {
            name: "home".parse().unwrap(),
            members: 12,
            online: 9,
            refused_joins: 3,
            old_password_until: Some(Timestamp(now.0 + 7_200_000)),
            banned: vec![banned],
        };
        let lab = NetworkInfo {
            name: "laboratory".parse().unwrap(),
            old_password_until: None,
            banned: Vec::new(),
            ..home.clone()
        };
        let expected = format!(
            "name        members  online  refused_joins  old_password\n\
             home        12       9       3              ends in 2 h\n            banned: {banned}\n\
             laboratory  12       9       3              -\n"
        );
        assert_eq!(table(&[home, lab], now).render(false), expected);
    }

    #[test]
    fn grace_is_a_duration() {
        assert_eq!(parse_grace("24h"), Ok(DEFAULT_GRACE));
        assert_eq!(parse_grace("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_grace("0s"), Ok(Duration::ZERO));
        assert!(parse_grace("soon").is_err());
    }
}
