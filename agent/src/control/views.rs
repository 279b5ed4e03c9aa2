//! What a node shows of itself: the core's knowledge joined with what the tunnels count.

use std::collections::BTreeMap;

use hive_core::Core;
use hive_protocol::{
    ConnectionCounts, Direction, NodeId, NodeName, PathKind, Problem, ProxyInfo, ProxySpec, ProxyState, Reachability,
    StatusInfo, message::Failure,
};

use crate::{VERSION, node::Handle, tunnel::Counted};

/// A proxy and what the core knows of its peer.
struct Known {
    spec: ProxySpec,
    path: PathKind,
    name: Option<NodeName>,
}

/// All proxies with their live state.
pub(super) async fn proxies(node: Handle) -> Result<Vec<ProxyInfo>, Failure> {
    let known = |core: &mut Core, _| {
        let specs: Vec<ProxySpec> = core.proxies().cloned().collect();
        let with_peer = |spec: ProxySpec| {
            let peer = spec.remote.node;
            // A connection that has not joined the proxy's network is no path for it.
            let joined = core.routes().path(&spec.remote.network, &peer).is_some();
            let path = if joined { core.path(&peer).0 } else { PathKind::None };
            Known { spec, path, name: core.node_name(&peer) }
        };
        specs.into_iter().map(with_peer).collect::<Vec<_>>()
    };
    let known = node.ask(known).await?;
    Ok(known.into_iter().map(|known| info(&node.tunnels.counted(known.spec.id), known)).collect())
}

fn info(counted: &Counted, Known { spec, path, name }: Known) -> ProxyInfo {
    ProxyInfo {
        state: state(&spec, path, counted),
        last_error: counted.listener_error.clone().or_else(|| counted.last_error.clone()),
        id: spec.id,
        direction: spec.direction,
        kind: spec.kind,
        port: spec.port,
        bind: spec.bind,
        host: spec.host,
        peer_id: spec.remote.node,
        peer_name: name,
        peer_port: spec.remote.port,
        network: spec.remote.network,
        tls: false,
        key_prefix: None,
        enabled: spec.enabled,
        temporary: spec.temporary,
        path,
        streams: counted.open,
        streams_total: counted.total,
        bytes_in: counted.bytes_in,
        bytes_out: counted.bytes_out,
    }
}

fn state(spec: &ProxySpec, path: PathKind, counted: &Counted) -> ProxyState {
    let connected = matches!(path, PathKind::Direct | PathKind::Relayed);
    match (spec.enabled, &counted.listener_error, connected, spec.direction) {
        (false, ..) => ProxyState::Waiting,
        (true, Some(_), ..) => ProxyState::Failed,
        (true, None, true, _) => ProxyState::Connected,
        (true, None, false, Direction::Egress) => ProxyState::Listening,
        (true, None, false, Direction::Ingress) => ProxyState::Waiting,
    }
}

/// The node at a glance.
pub(super) async fn status(node: Handle) -> Result<StatusInfo, Failure> {
    let asked = |core: &mut Core, now| (core.name().clone(), core.problems(now), connections(core, now));
    let (node_name, mut problems, connections) = node.ask(asked).await?;
    problems.extend(own_problems(node.clone()).await?);
    Ok(StatusInfo {
        peer_id: node.id,
        node_name,
        version: VERSION.to_owned(),
        uptime_s: node.started.elapsed().as_secs(),
        reachability: Reachability::Unknown,
        relays: Vec::new(),
        connections,
        tunnels: node.tunnels.totals(),
        listening: node.listening.get().iter().take(hive_protocol::record::MAX_ADDRESSES).cloned().collect(),
        problems,
    })
}

/// Members by path; one that is a member of several networks counts once.
fn connections(core: &Core, now: hive_core::Now) -> ConnectionCounts {
    let paths: BTreeMap<NodeId, PathKind> = core.nodes(now).into_iter().map(|row| (row.peer_id, row.path)).collect();
    let count = |kind| paths.values().filter(|path| **path == kind).count().try_into().unwrap_or(u32::MAX);
    ConnectionCounts { direct: count(PathKind::Direct), relayed: count(PathKind::Relayed) }
}

/// What the core cannot know: the disk, the listeners, the targets.
async fn own_problems(node: Handle) -> Result<Vec<Problem>, Failure> {
    let store = node.store_problem().map(|what| Problem {
        what: format!("changes are not stored: {what}"),
        hint: "see to the disk of the state folder; what waits is written with the next change".into(),
    });
    let deaf = node.listening.get().is_empty().then(|| Problem {
        what: "this node listens on no address".into(),
        hint: "see the log, or choose an address with `hivectl listen`".into(),
    });
    let failing = proxies(node.clone()).await?.into_iter().filter_map(|proxy| {
        let what = format!("proxy {}: {}", proxy.id, proxy.last_error?);
        Some(Problem { what, hint: hint(proxy.direction, proxy.state).into() })
    });
    Ok(store.into_iter().chain(deaf).chain(failing).collect())
}

fn hint(direction: Direction, state: ProxyState) -> &'static str {
    match (direction, state) {
        (Direction::Egress, ProxyState::Failed) => "free the port, or remove the proxy and choose another port",
        (Direction::Egress, _) => "look at the other node: is it online, and has it the matching ingress?",
        (Direction::Ingress, _) => "is the service behind this ingress running?",
    }
}
