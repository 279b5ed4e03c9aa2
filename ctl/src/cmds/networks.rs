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
    format::{counted, duration, until},
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
        example = "{command_name}\n{command_name} join --name home\n{command_name} --node shed ban --node attic"
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
        /// do not ask, and do not hesitate to cut the way to the node
        #[argh(switch)]
        pub yes: bool,
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
    /// how long the old password is still accepted, like 90s, 30m or 24h (default: 24h)
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
    example = "{command_name} --node attic --network home",
    note = "The node acted on stands before the verb: hivectl networks --node shed ban --node attic"
)]
pub struct Ban {
    /// the node to keep out, by peer id or name
    #[argh(option, arg_name = "id|name")]
    pub node: String,
    /// the network (default: every network the node acted on is in now)
    #[argh(option, arg_name = "name")]
    pub network: Option<NetworkName>,
    /// do not ask
    #[argh(switch)]
    pub yes: bool,
}

/// Let a banned node in again.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "unban", help_triggers("-h", "--help", "help"), example = "{command_name} --node 12D3KooW…")]
pub struct Unban {
    /// peer id of the node to let in, as `networks ls` shows it, or its name
    #[argh(option, arg_name = "id|name")]
    pub node: String,
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
        Some(NetworksVerb::Ban(args)) => ban(app, &outer, args).await,
        Some(NetworksVerb::Unban(args)) => unban(app, &outer, args).await,
    }
}

async fn list(app: &App, target: &Target) -> Result<()> {
    let networks = app.connect(target).await?.networks().await?;
    app.out.show(&networks, || app.out.table(&table(&networks, Timestamp::from(SystemTime::now()))))
}

async fn join(app: &App, args: &Join, outer: Target) -> Result<()> {
    let mut client = changed_node(app, &args.node, &args.user, args.password_stdin, outer).await?;
    let password = password(args.password_stdin, asked_to_join(&mut client, &args.name)).await?.to_string();
    prompt::warn_if_weak(app.out, &password);
    client.done(Request::NetworkJoin { network: args.name.clone(), password }).await?;
    app.out.done(&json!({ "name": args.name }), || format!("{} is now in network {}", client.name, args.name))
}

/// A slip of the keys would make another network of the same name, so what is new to the node is asked for twice.
async fn asked_to_join(client: &mut Client, name: &NetworkName) -> Result<Option<Password>> {
    let question = format!("Password of network {name}: ");
    match client.networks().await?.iter().any(|known| known.name == *name) {
        true => prompt::ask(&question).await,
        false => prompt::ask_new(&question).await,
    }
}

async fn leave(app: &App, args: &Leave, outer: Target) -> Result<()> {
    let target = args.target().or(outer);
    let mut client = app.connect(&target).await?;
    if !args.yes {
        let loss = Loss::of(app, &mut client, &target, &args.name).await?;
        loss.accepted(app, &client, &args.name).await?;
    }
    client.done(Request::NetworkLeave { network: args.name.clone() }).await?;
    app.out.done(&json!({ "name": args.name }), || format!("{} has left network {}", client.name, args.name))
}

async fn rotate(app: &App, args: &Rotate, outer: Target) -> Result<()> {
    let mut client = changed_node(app, &args.node, &args.user, args.password_stdin, outer).await?;
    let question = format!("New password of network {}: ", args.name);
    let password = password(args.password_stdin, prompt::ask_new(&question)).await?.to_string();
    prompt::warn_if_weak(app.out, &password);
    let grace_s = args.grace.as_secs();
    client.done(Request::NetworkRotate { network: args.name.clone(), password, grace_s }).await?;
    app.out.done(&json!({ "name": args.name, "grace_s": grace_s }), || {
        let grace = duration(Duration::from_secs(grace_s));
        format!("{} has a new password for {}, the old one is accepted for {grace}", client.name, args.name)
    })
}

/// What goes with a network that a node leaves.
#[derive(Debug, Default, PartialEq, Eq)]
struct Loss {
    proxies: usize,
    /// Whether this command reaches the node by that network alone.
    way_in: bool,
}

impl Loss {
    async fn of(app: &App, client: &mut Client, target: &Target, network: &NetworkName) -> Result<Self> {
        let in_it = client.networks().await?.iter().any(|known| known.name == *network);
        if !in_it {
            return Ok(Self::default());
        }
        let proxies = client.proxies().await?.iter().filter(|proxy| proxy.network.as_ref() == Some(network)).count();
        let way_in = target.node.is_some() && !reached_otherwise(app, client, network).await;
        Ok(Self { proxies, way_in })
    }

    /// A person decides. A script on the node itself is warned; one elsewhere has to say that it means it.
    async fn accepted(&self, app: &App, client: &Client, network: &NetworkName) -> Result<()> {
        let Some(told) = self.told(client.name.as_str(), network) else { return Ok(()) };
        match prompt::confirm(format!("{told}. Leave?")).await? {
            Some(true) => Ok(()),
            Some(false) => Err(Error::failed(format!("{} stays in network {network}", client.name))),
            None if self.way_in => Err(Error::usage(told).hint("say --yes if that is meant")),
            None => {
                app.out.warn(&told);
                Ok(())
            }
        }
    }

    fn told(&self, node: &str, network: &NetworkName) -> Option<String> {
        let proxies = counted(self.proxies as u64, "proxy").replace("proxys", "proxies");
        match (self.proxies, self.way_in) {
            (0, false) => None,
            (0, true) => Some(format!("network {network} is the way by which {node} is reached from here")),
            (_, false) => Some(format!("{proxies} of network {network} at {node} will be gone")),
            (_, true) => Some(format!(
                "{proxies} of network {network} at {node} will be gone, and the way by which it is reached from here"
            )),
        }
    }
}

/// Whether the local agent shares another network with the node, or is that node. Where it does not say, it may not.
async fn reached_otherwise(app: &App, client: &Client, network: &NetworkName) -> bool {
    if app.is_direct() {
        return true;
    }
    let Ok(mut local) = app.greet(&Target::default()).await else { return false };
    if local.node == client.node {
        return true;
    }
    let rows = if local.authorised { local.nodes().await.unwrap_or_default() } else { Vec::new() };
    rows.iter().any(|row| row.peer_id == client.node && row.network != *network)
}

async fn ban(app: &App, target: &Target, args: &Ban) -> Result<()> {
    let mut client = app.connect(target).await?;
    let node = named(&mut client, &args.node, args.network.as_ref()).await?;
    if target.node.is_some() && !args.yes && is_local_agent(app, node).await {
        let told = format!("{node} is the node that this command comes from: it loses its way to {}", client.name);
        match prompt::confirm(format!("{told}. Ban it?")).await? {
            Some(false) => return Err(Error::failed("nobody was banned")),
            Some(true) => {}
            None => app.out.warn(&told),
        }
    }
    client.done(Request::Ban { network: args.network.clone(), node, banned: true }).await?;
    app.out.done(&json!({ "peer_id": node, "network": args.network, "banned": true }), || {
        format!("{} {}", client.name, ban_done(node, args.network.as_ref(), true))
    })
}

async fn is_local_agent(app: &App, node: NodeId) -> bool {
    !app.is_direct() && app.greet(&Target::default()).await.is_ok_and(|local| local.node == node)
}

async fn unban(app: &App, target: &Target, args: &Unban) -> Result<()> {
    let mut client = app.connect(target).await?;
    let node = named(&mut client, &args.node, args.network.as_ref()).await?;
    let meant = |known: &NetworkInfo| args.network.as_ref().is_none_or(|name| *name == known.name);
    let was_banned = client.networks().await?.iter().any(|known| meant(known) && known.banned.contains(&node));
    client.done(Request::Ban { network: args.network.clone(), node, banned: false }).await?;
    app.out.done(&json!({ "peer_id": node, "network": args.network, "banned": false }), || match was_banned {
        true => format!("{} {}", client.name, ban_done(node, args.network.as_ref(), false)),
        false => format!("{} did not keep {node} out: nothing has changed", client.name),
    })
}

/// The node that is meant by a peer id, or by a name in the table of the node acted on.
async fn named(client: &mut Client, who: &str, network: Option<&NetworkName>) -> Result<NodeId> {
    if let Ok(node) = who.parse() {
        return Ok(node);
    }
    let rows = client.nodes().await?;
    let rows = rows.iter().filter(|row| row.node_name.as_str() == who && network.is_none_or(|n| *n == row.network));
    let mut ids: Vec<NodeId> = rows.map(|row| row.peer_id).collect();
    ids.sort();
    ids.dedup();
    match ids.as_slice() {
        [one] => Ok(*one),
        [] => Err(Error::usage(format!("{} knows no node {who}", client.name)).hint(
            client
                .place
                .complete("`hivectl nodes` lists those it knows, `hivectl networks ls` the ids of those it keeps out"),
        )),
        several => {
            let ids: Vec<_> = several.iter().map(NodeId::to_string).collect();
            Err(Error::usage(format!("several nodes are named {who}: {}", ids.join(", "))).hint("name it by its id"))
        }
    }
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
    if let Some(password) = prompt::from_env(PASSWORD_VARIABLE)? {
        return Ok(password);
    }
    asked.await?.ok_or_else(|| {
        Error::usage("the network's password is needed, and there is no terminal to ask on")
            .hint(format!("set {PASSWORD_VARIABLE}, or use --password-stdin"))
    })
}

/// With a unit: nobody means two seconds by a plain `2`.
fn parse_grace(text: &str) -> Result<Duration, String> {
    let with_unit = || "give a duration with its unit, like 24h, 30m or 90s".to_owned();
    humantime::parse_duration(text).map_err(|_| with_unit())
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
    fn who_leaves_is_told_what_goes() {
        let home = "home".parse().unwrap();
        assert_eq!(Loss::default().told("shed", &home), None);
        let proxies = Loss { proxies: 2, way_in: true }.told("shed", &home).unwrap();
        assert!(proxies.starts_with("2 proxies of network home at shed will be gone, and the way"), "{proxies}");
        let one = Loss { proxies: 1, way_in: false }.told("shed", &home).unwrap();
        assert_eq!(one, "1 proxy of network home at shed will be gone");
    }

    #[test]
    fn grace_is_a_duration() {
        assert_eq!(parse_grace("24h"), Ok(DEFAULT_GRACE));
        assert_eq!(parse_grace("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_grace("0s"), Ok(Duration::ZERO));
        assert!(parse_grace("soon").is_err() && parse_grace("2").is_err(), "a number without a unit says too little");
    }
}
