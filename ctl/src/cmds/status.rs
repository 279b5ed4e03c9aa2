//! `status`: a node at a glance, problems and what to do about them at the end.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use hive_protocol::{MappingProtocol, NodeId, NodeName, PortMapping, Reachability, StatusInfo};

use crate::{
    app::App,
    args::node_verb,
    client::Client,
    error::Result,
    format::{bytes, clean, duration},
    style::{Style, paint},
    watch::watch,
};

node_verb! {
    /// Show a node at a glance: reachability, connections, traffic, and what is wrong.
    #[argh(
        subcommand,
        name = "status",
        help_triggers("-h", "--help", "help"),
        example = "{command_name}\n{command_name} --watch --node shed"
    )]
    pub struct Status {
        /// show it again every second
        #[argh(switch)]
        pub watch: bool,
    }
}

/// Shows the status once or again and again.
pub async fn run(app: &App, args: &Status) -> Result<()> {
    let mut client = app.connect(&args.target()).await?;
    watch(app.out, args.watch, async |screen| {
        let status = client.status().await?;
        let names = names(&mut client, &status).await?;
        screen.show(&status, || text(&status, &names, app.out.colour))
    })
    .await
}

/// The names of the relays, which the status has by their ids alone.
async fn names(client: &mut Client, status: &StatusInfo) -> Result<BTreeMap<NodeId, NodeName>> {
    let rows = if status.relays.is_empty() { Vec::new() } else { client.nodes().await? };
    Ok(rows.into_iter().map(|row| (row.peer_id, row.node_name)).collect())
}

fn text(status: &StatusInfo, names: &BTreeMap<NodeId, NodeName>, colour: bool) -> String {
    let mut text = String::new();
    for (label, value) in facts(status, names, colour) {
        let label = paint(&format!("{label:<14}"), Style::Dim, colour).into_owned();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{label}{value}");
    }
    text + &problems(status, colour)
}

fn facts(s: &StatusInfo, names: &BTreeMap<NodeId, NodeName>, colour: bool) -> Vec<(&'static str, String)> {
    let (connections, tunnels) = (s.connections, s.tunnels);
    let mut facts = vec![
        ("node", format!("{} ({})", s.node_name, s.peer_id)),
        ("version", format!("{}, up {}", clean(&s.version), duration(Duration::from_secs(s.uptime_s)))),
        ("reachability", reachability(s, colour)),
    ];
    list(&mut facts, "listening", &s.listening);
    if let Some(mapping) = &s.port_mapping {
        facts.push(("port mapping", port_mapping(mapping)));
    }
    let named = |id: &NodeId| names.get(id).map_or_else(|| id.to_string(), |name| format!("{name} ({id})"));
    list(&mut facts, "relays", &s.relays.iter().map(named).collect::<Vec<_>>());
    facts.push(("connections", format!("{} direct, {} relayed", connections.direct, connections.relayed)));
    let (inwards, outwards) = (bytes(tunnels.bytes_in), bytes(tunnels.bytes_out));
    facts.push(("tunnels", format!("{} active, {inwards} in, {outwards} out", tunnels.active)));
    facts
}

/// What the router maps, or why it maps nothing.
fn port_mapping(mapping: &PortMapping) -> String {
    let addresses: Vec<String> = mapping.addresses.iter().map(ToString::to_string).collect();
    let by = match mapping.protocol {
        Some(MappingProtocol::Pcp) => format!("router {}, PCP", mapping.gateway),
        Some(MappingProtocol::NatPmp) => format!("router {}, NAT-PMP", mapping.gateway),
        None => format!("router {}", mapping.gateway),
    };
    match (&mapping.problem, addresses.as_slice()) {
        (Some(problem), []) => format!("none ({by}: {})", clean(problem)),
        (_, []) => format!("asked ({by})"),
        (_, some) => format!("{} ({by})", some.join(", ")),
    }
}

/// One line a value, the label on the first.
fn list<T: ToString>(facts: &mut Vec<(&'static str, String)>, label: &'static str, values: &[T]) {
    if values.is_empty() {
        facts.push((label, "none".to_owned()));
    }
    for (i, value) in values.iter().enumerate() {
        facts.push((if i == 0 { label } else { "" }, value.to_string()));
    }
}

fn reachability(status: &StatusInfo, colour: bool) -> String {
    let (text, style) = match status.reachability {
        Reachability::Public => ("public", Style::Good),
        Reachability::Private if status.relays.is_empty() => ("private: no relay makes it reachable yet", Style::Bad),
        Reachability::Private => ("private: others reach it over the relays below", Style::Fair),
        Reachability::Unknown => ("unknown: not dialled from the public network yet, which alone tells", Style::Plain),
    };
    paint(text, style, colour).into_owned()
}

fn problems(status: &StatusInfo, colour: bool) -> String {
    let (problem, hint) = (paint("problem:", Style::Bad, colour), paint("   hint:", Style::Fair, colour));
    let shown = status.problems.iter();
    shown.map(|p| format!("\n{problem} {}\n{hint} {}\n", clean(&p.what), clean(&p.hint))).collect()
}

#[cfg(test)]
mod tests {
    use hive_protocol::{ConnectionCounts, NodeId, Problem, TunnelCounts};

    use super::*;

    fn sample() -> StatusInfo {
        StatusInfo {
            peer_id: NodeId::from_bytes([1; 32]),
            node_name: "shed".parse().unwrap(),
            version: "0.1.0".into(),
            uptime_s: 11_520,
            reachability: Reachability::Private,
            relays: Vec::new(),
            connections: ConnectionCounts { direct: 3, relayed: 1 },
            tunnels: TunnelCounts { active: 2, bytes_in: 1 << 20, bytes_out: 0 },
            listening: ["/ip4/0.0.0.0/tcp/4180", "/ip6/::/tcp/4180"].map(|a| a.parse().unwrap()).to_vec(),
            problems: vec![Problem { what: "port 80 is taken".into(), hint: "choose another".into() }],
            port_mapping: None,
        }
    }

    #[test]
    fn the_block_ends_with_what_is_wrong() {
        let expected = format!(
            "node          shed ({})\n\
             version       0.1.0, up 3 h 12 min\n\
             reachability  private: no relay makes it reachable yet\n\
             listening     /ip4/0.0.0.0/tcp/4180\n              /ip6/::/tcp/4180\n\
             relays        none\n\
             connections   3 direct, 1 relayed\n\
             tunnels       2 active, 1.0 MiB in, 0 B out\n\
             \n\
             problem: port 80 is taken\n   hint: choose another\n",
            NodeId::from_bytes([1; 32])
        );
        assert_eq!(text(&sample(), &BTreeMap::new(), false), expected);
        let relay = NodeId::from_bytes([2; 32]);
        let relayed = StatusInfo { relays: vec![relay], ..sample() };
        let text = text(&relayed, &BTreeMap::from([(relay, "gate".parse().unwrap())]), false);
        assert!(text.contains(&format!("relays        gate ({relay})\n")), "{text}");
    }

    #[test]
    fn a_mapped_port_is_shown_with_who_maps_it_or_why_not() {
        let mapping = |addresses: &[&str], problem: Option<&str>| PortMapping {
            gateway: "192.168.1.1".parse().unwrap(),
            protocol: Some(MappingProtocol::NatPmp),
            addresses: addresses.iter().map(|at| at.parse().unwrap()).collect(),
            problem: problem.map(str::to_owned),
        };
        let mapped = port_mapping(&mapping(&["/ip4/203.0.113.9/tcp/4180"], None));
        assert_eq!(mapped, "/ip4/203.0.113.9/tcp/4180 (router 192.168.1.1, NAT-PMP)");
        let refused = port_mapping(&mapping(&[], Some("it has no port left")));
        assert_eq!(refused, "none (router 192.168.1.1, NAT-PMP: it has no port left)");
    }

    #[test]
    fn json_has_the_keys_of_the_contract() {
        let value = serde_json::to_value(sample()).unwrap();
        assert_eq!(value["reachability"], "private");
        assert_eq!(value["connections"]["direct"], 3);
        assert_eq!(value["tunnels"]["bytes_in"], 1 << 20);
        assert_eq!(value["problems"][0]["hint"], "choose another");
        assert!(value["uptime_s"].is_u64() && value["relays"].is_array());
    }
}
