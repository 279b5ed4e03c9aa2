//! What a node shows of itself: the core's knowledge joined with what the tunnels count.

use std::collections::BTreeMap;

use hive_core::Core;
use hive_protocol::{
    ConnectionCounts, Direction, NodeId, NodeName, PathKind, Problem, ProxyInfo, ProxyKind, ProxySpec, ProxyState,
    SshHost, StatusInfo, message::Failure,
};

use crate::{
    BUILD, acme,
    node::{Handle, now},
    tunnel::{Cause, Counted, Failed},
};

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
            let Some(remote) = &spec.remote else { return Known { spec, path: PathKind::None, name: None } };
            let (path, name) = (core.path(&remote.network, &remote.node, spec.paths()).0, core.node_name(&remote.node));
            Known { spec, path, name }
        };
        specs.into_iter().map(with_peer).collect::<Vec<_>>()
    };
    let known = node.ask(known).await?;
    let info = |known: Known| {
        let ssh = node.ssh.host().filter(|_| known.spec.kind == ProxyKind::Ssh);
        info(&counted(&node, &known.spec), known, ssh)
    };
    Ok(known.into_iter().map(info).collect())
}

/// What the tunnels count, and the error that nobody counts: a certificate that is not there.
fn counted(node: &Handle, spec: &ProxySpec) -> Counted {
    let counted = node.tunnels.counted(spec.id);
    let lacking = spec.key_prefix.as_ref().filter(|prefix| node.keys.certificate(prefix).is_none());
    let text = lacking.map(|prefix| format!("there is no certificate {prefix} with its key yet"));
    let error = text.map(|text| Failed { cause: Cause::Certificate, text, at: None });
    Counted { last_error: error.or(counted.last_error), ..counted }
}

fn info(counted: &Counted, Known { spec, path, name }: Known, ssh: Option<SshHost>) -> ProxyInfo {
    let (remote, paths) = (spec.remote.as_ref(), spec.paths());
    ProxyInfo {
        state: state(&spec, path, counted),
        last_error: error(counted),
        id: spec.id,
        direction: spec.direction,
        kind: spec.kind,
        port: spec.port,
        bind: spec.bind,
        host: spec.host,
        peer_id: remote.map(|remote| remote.node),
        peer_name: name,
        peer_port: remote.map(|remote| remote.port),
        network: remote.map(|remote| remote.network.clone()),
        tls: spec.key_prefix.is_some(),
        key_prefix: spec.key_prefix.as_ref().map(ToString::to_string),
        sni: spec.sni,
        enabled: spec.enabled,
        temporary: spec.temporary,
        path,
        streams: counted.open,
        streams_total: counted.total,
        bytes_in: counted.bytes_in,
        bytes_out: counted.bytes_out,
        ssh,
        path_rule: remote.map(|_| paths),
    }
}

fn error(counted: &Counted) -> Option<String> {
    counted.listener_error.clone().or_else(|| counted.last_error.as_ref().map(|failed| failed.text.clone()))
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
    let (reachability, relays) = node.ask(|core, _| (core.reachability(), core.relays())).await?;
    problems.extend(own_problems(node.clone()).await?);
    Ok(StatusInfo {
        peer_id: node.id,
        node_name,
        version: BUILD.version.to_owned(),
        uptime_s: node.started.elapsed().as_secs(),
        reachability,
        relays,
        connections,
        tunnels: node.tunnels.totals(),
        listening: node.listening.get().iter().take(hive_protocol::record::MAX_ADDRESSES).cloned().collect(),
        problems,
        port_mapping: node.port_mapping.get().as_ref().clone(),
    })
}

/// Members by path; one that is a member of several networks counts once.
fn connections(core: &Core, now: hive_core::Now) -> ConnectionCounts {
    let reached = core.nodes(now).into_iter().filter(|row| row.path != PathKind::None);
    let paths: BTreeMap<NodeId, PathKind> = reached.map(|row| (row.peer_id, row.path)).collect();
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
    let specs = node.ask(|core, _| core.proxies().cloned().collect::<Vec<_>>()).await?;
    // Who disabled a proxy knows that it does not work.
    let enabled = specs.iter().filter(|spec| spec.enabled);
    let failing = enabled.filter_map(|spec| failing(spec, &counted(&node, spec)));
    let served = specs.iter().filter_map(|spec| spec.key_prefix.clone()).collect();
    let renewals = acme::problems(&node.acme, &node.keys, &served, now().wall);
    Ok(store.into_iter().chain(deaf).chain(renewals).chain(failing).collect())
}

fn failing(spec: &ProxySpec, counted: &Counted) -> Option<Problem> {
    let what = format!("proxy {}: {}{}", spec.id, error(counted)?, when(counted));
    let hint = match (&counted.listener_error, &counted.last_error) {
        (None, Some(failed)) if failed.cause == Cause::Certificate => certificate_hint(spec),
        (None, Some(failed)) => hint(spec.direction, failed.cause).into(),
        _ => "free the port, or remove the proxy and choose another port".into(),
    };
    Some(Problem { what, hint })
}

/// When a connection failed, where it is that: the service may be back since, and nobody has asked for it.
fn when(counted: &Counted) -> String {
    let at = counted.last_error.as_ref().filter(|_| counted.listener_error.is_none()).and_then(|failed| failed.at);
    let seconds = at.map_or(0, |at| at.elapsed().as_secs());
    match seconds {
        0..10 => String::new(),
        10..120 => format!(" ({seconds} s ago)"),
        120..7200 => format!(" ({} min ago)", seconds / 60),
        _ => format!(" ({} h ago)", seconds / 3600),
    }
}

fn certificate_hint(spec: &ProxySpec) -> String {
    let prefix = spec.key_prefix.as_ref().map_or("PREFIX", |prefix| prefix.as_str());
    format!(
        "obtain one with `hivectl tls --hostname HOST --key-prefix {prefix} --challenge tls-alpn-01`, or store it with \
         `hivectl create-key`"
    )
}

fn hint(direction: Direction, cause: Cause) -> &'static str {
    match (direction, cause) {
        (_, Cause::Certificate) => "store a certificate with its key",
        (_, Cause::Path) => "look at the other node: is it online?",
        (_, Cause::NoRule) => "look at the other node: has it the matching ingress, and is that enabled?",
        (Direction::Egress, Cause::Target | Cause::Name) => {
            "look at the other node: is the service behind its ingress running?"
        }
        (Direction::Ingress, Cause::Target) => "is the service behind this ingress running?",
        (Direction::Ingress, Cause::Name) => "is the host of this ingress (--host) written as this machine knows it?",
        (_, Cause::Busy) => "the other node carries as many connections as it can: end some, or try later",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_egress_whose_target_refuses_is_not_said_to_be_offline() {
        let refused = Counted {
            last_error: Some(Failed { cause: Cause::Target, text: "refused by the peer: closed".to_owned(), at: None }),
            ..Counted::default()
        };
        assert!(hint(Direction::Egress, Cause::Target).contains("service"));
        assert!(hint(Direction::Egress, Cause::Path).contains("online"));
        assert_eq!(error(&refused).as_deref(), Some("refused by the peer: closed"));
        assert_eq!(when(&refused), "", "what is so now has no age");
    }
}
