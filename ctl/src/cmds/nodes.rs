//! `nodes`: the peer table, and how each node in it is reached.

use std::time::SystemTime;

use hive_protocol::{Carrier, NetworkName, NodeInfo, PathKind, Timestamp};

use crate::{
    app::App,
    args::node_verb,
    client::Client,
    error::{Error, Result},
    format::{ago, round_trip},
    style::Style,
    table::{Cell, Table},
    watch::watch,
};

node_verb! {
    /// List the nodes of a node's networks, and how it reaches each.
    #[argh(
        subcommand,
        name = "nodes",
        help_triggers("-h", "--help", "help"),
        example = "{command_name}\n{command_name} --watch --node shed"
    )]
    pub struct Nodes {
        /// list them once, as without any option
        #[argh(switch)]
        pub ls: bool,
        /// show addresses and target triples as well
        #[argh(switch)]
        pub long: bool,
        /// show it again every second
        #[argh(switch)]
        pub watch: bool,
    }
}

/// Shows the table once or again and again.
pub async fn run(app: &App, args: &Nodes) -> Result<()> {
    let mut client = app.connect(&args.target()).await?;
    let only = only(&mut client, args).await?;
    watch(app.out, args.watch && !args.ls, async |screen| {
        let mut nodes = client.nodes().await?;
        nodes.retain(|row| only.as_ref().is_none_or(|network| row.network == *network));
        nodes.sort_by_key(rank);
        screen.show(&nodes, || app.out.table(&table(&nodes, args.long, Timestamp::from(SystemTime::now()))))
    })
    .await
}

/// The network whose members alone are shown: with --node, the option says where to look for that node instead.
async fn only(client: &mut Client, args: &Nodes) -> Result<Option<NetworkName>> {
    let Some(network) = args.network.clone().filter(|_| args.node.is_none()) else { return Ok(None) };
    if client.networks().await?.iter().any(|known| known.name == network) {
        return Ok(Some(network));
    }
    Err(Error::usage(format!("{} is not in network {network}", client.name))
        .hint("`hivectl networks` lists those it is in"))
}

/// The answering node first, then who is there, then the others; each group by network and name.
fn rank(node: &NodeInfo) -> (bool, bool, String, String, String) {
    let (network, name, id) = (node.network.to_string(), node.node_name.to_string(), node.peer_id.to_string());
    (node.path != PathKind::This, !node.online, network, name, id)
}

fn table(nodes: &[NodeInfo], long: bool, now: Timestamp) -> Table {
    let mut header = vec!["peer_id", "node_name", "latest_contact", "path", "rtt", "network", "version"];
    if long {
        header.push("target");
    }
    let mut table = Table::new(&header);
    for node in nodes {
        table.row(cells(node, now).into_iter().chain(long.then(|| Cell::from(&node.target))));
        if let Some(why) = &node.why_relayed {
            table.note(1, Cell::new(relayed(node, why, nodes), Style::Dim));
        }
        for address in node.addresses.iter().filter(|_| long) {
            table.note(1, Cell::new(address.to_string(), Style::Dim));
        }
    }
    table
}

fn cells(node: &NodeInfo, now: Timestamp) -> [Cell; 7] {
    let contact = if node.path == PathKind::This { "now".to_owned() } else { ago(node.latest_contact, now) };
    [
        node.peer_id.to_string().into(),
        node.node_name.to_string().into(),
        contact.into(),
        path(node),
        node.rtt_ms.map(round_trip).unwrap_or_default().into(),
        node.network.to_string().into(),
        (&node.version).into(),
    ]
}

/// By which node a path is relayed, and why it is not direct.
fn relayed(node: &NodeInfo, why: &str, nodes: &[NodeInfo]) -> String {
    let named = |id| nodes.iter().find(|other| other.peer_id == id).map(|other| other.node_name.to_string());
    let relay = node.relay.map(|id| named(id).unwrap_or_else(|| id.to_string()));
    relay.map_or_else(|| why.to_owned(), |relay| format!("over {relay}: {why}"))
}

/// How it is reached, in a word or two; a node without a path is either idle or away.
fn path(node: &NodeInfo) -> Cell {
    let over = match node.transport {
        Some(Carrier::Tcp) => " tcp",
        Some(Carrier::Quic) => " quic",
        None => "",
    };
    match node.path {
        PathKind::This => "self".into(),
        PathKind::Direct => Cell::new(format!("direct{over}"), Style::Good),
        PathKind::Relayed => Cell::new(format!("relayed{over}"), Style::Fair),
        PathKind::None if node.online => Cell::new("idle", Style::Dim),
        PathKind::None => Cell::new("offline", Style::Bad),
    }
}

#[cfg(test)]
mod tests {
    use hive_protocol::NodeId;

    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn node(id: u8, name: &str, path: PathKind, online: bool) -> NodeInfo {
        NodeInfo {
            peer_id: NodeId::from_bytes([id; 32]),
            node_name: name.parse().unwrap(),
            network: "home".parse().unwrap(),
            latest_contact: Timestamp(NOW.0 - 12_000),
            online,
            path,
            transport: (path == PathKind::Direct).then_some(Carrier::Tcp),
            rtt_ms: (path == PathKind::Direct).then_some(0.42),
            addresses: vec!["/ip4/192.0.2.7/tcp/4180".parse().unwrap()],
            version: "0.1.0".into(),
            target: "x86_64-unknown-linux-gnu".into(),
            relay: None,
            why_relayed: None,
        }
    }

    #[test]
    fn the_table_begins_with_who_and_when() {
        let mut nodes = [
            node(3, "attic", PathKind::None, false),
            node(2, "shed", PathKind::Direct, true),
            node(1, "laptop", PathKind::This, true),
            node(4, "board", PathKind::None, true),
        ];
        nodes.sort_by_key(rank);
        let [me, board, shed, attic] = nodes.each_ref().map(|n| n.peer_id.to_string());
        let gap = " ".repeat(me.len() - "peer_id".len());
        let expected = format!(
            "peer_id{gap}  node_name  latest_contact  path        rtt      network  version\n\
             {me}  laptop     now             self        -        home     0.1.0\n\
             {board}  board      12 s ago        idle        -        home     0.1.0\n\
             {shed}  shed       12 s ago        direct tcp  0.42 ms  home     0.1.0\n\
             {attic}  attic      12 s ago        offline     -        home     0.1.0\n"
        );
        assert_eq!(table(&nodes, false, NOW).render(false), expected);
    }

    #[test]
    fn the_long_form_adds_addresses_and_target() {
        let text = table(&[node(2, "shed", PathKind::Direct, true)], true, NOW).render(false);
        assert!(text.lines().nth(1).unwrap().ends_with("0.1.0    x86_64-unknown-linux-gnu"), "{text}");
        assert_eq!(text.lines().nth(2).unwrap().trim(), "/ip4/192.0.2.7/tcp/4180");
    }

    #[test]
    fn json_has_the_keys_of_the_contract() {
        let value = serde_json::to_value(node(2, "shed", PathKind::Direct, true)).unwrap();
        for key in ["peer_id", "node_name", "network", "rtt_ms", "addresses", "version", "target"] {
            assert!(!value[key].is_null(), "{key}");
        }
        assert_eq!(
            (&value["path"], &value["transport"], &value["online"]),
            (&"direct".into(), &"tcp".into(), &true.into())
        );
        assert_eq!(value["latest_contact"], "1970-01-12T13:46:28.000Z");
    }
}
