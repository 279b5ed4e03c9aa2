//! What is wrong on this node, each with what to do about it.

use std::{collections::BTreeSet, time::Duration};

use hive_protocol::{NetworkName, NodeId, PathRule, Problem, Reachability, Remote};

use crate::{Core, Now, connections::Proof, membership::Network, met::is_ordinary_port, reach::is_relayed};

/// A relayed path of this age will not become direct by itself soon.
const SETTLED: Duration = Duration::from_secs(90);

fn problem(what: String, hint: impl Into<String>) -> Problem {
    Problem { what, hint: hint.into() }
}

impl Core {
    /// What is wrong now, worst first.
    #[must_use]
    pub fn problems(&self, now: Now) -> Vec<Problem> {
        let mut found = Vec::new();
        if self.networks.iter().next().is_none() {
            let hint = "join or create one with `hivectl networks join --name NAME`";
            found.push(problem("this node is in no network".into(), hint));
        }
        found.extend(self.unreachable());
        found.extend(self.undialled());
        found.extend(self.oddly_placed());
        found.extend(self.offline_proxy_peers());
        found.extend(self.relayed_proxy_peers(now));
        for (name, network) in self.networks.iter() {
            found.extend(self.alone(name));
            found.extend(self.refused_by(name, network));
            found.extend(self.refused_here(name, network, now));
            found.extend(self.old_passwords(name, network));
        }
        found.extend(self.clocks());
        found
    }

    /// Nobody can dial this node, and no relay holds a reservation for it.
    fn unreachable(&self) -> Option<Problem> {
        let alone = self.reachability() == Reachability::Private && self.relays().is_empty();
        let hint = "forward a port to this node (TCP and UDP) and name it with --announce, or run a member that can be \
                    reached from outside: it relays by itself unless started with --relay never";
        alone
            .then(|| problem("a router keeps others from dialling this node, and no member relays for it".into(), hint))
    }

    /// Members tried a public address of this node in vain.
    fn undialled(&self) -> Option<Problem> {
        let addresses: Vec<String> = self.unreached().iter().map(ToString::to_string).collect();
        let hint = "open that port (TCP and UDP) in the firewall or router before this node, or leave out --announce if it \
                    is named there";
        let what = || format!("other nodes cannot dial this one at {}", shorten(&addresses));
        (!addresses.is_empty()).then(|| problem(what(), hint))
    }

    /// Addresses at which others dial nobody.
    fn oddly_placed(&self) -> Option<Problem> {
        let odd = self.own.direct().iter().filter(|address| !is_ordinary_port(address));
        let odd: Vec<String> = odd.map(ToString::to_string).collect();
        let hint = "listen on a port from 1024 on, or on 80 or 443: a member could name other services' ports, too";
        let what = || format!("other nodes do not dial the port of {}", shorten(&odd));
        (!odd.is_empty()).then(|| problem(what(), hint))
    }

    fn called(&self, node: &NodeId) -> String {
        self.node_name(node).map_or_else(|| node.to_string(), |name| name.to_string())
    }

    fn offline_proxy_peers(&self) -> Vec<Problem> {
        let enabled = self.proxies.enabled().filter_map(|spec| Some((spec.remote.as_ref()?, spec.paths())));
        let needed: BTreeSet<_> = enabled.map(|(remote, paths)| (&remote.node, &remote.network, paths)).collect();
        let lacking = needed.into_iter().filter_map(|(node, network, paths)| self.lacking(node, network, paths));
        lacking.collect()
    }

    /// What keeps a proxy from its peer.
    fn lacking(&self, node: &NodeId, network: &NetworkName, paths: PathRule) -> Option<Problem> {
        let has = |paths| self.routes.path(network, node, paths).is_some();
        // A path over a relay is made when somebody waits for it.
        if has(paths) || (paths == PathRule::Relay && has(PathRule::Any) && self.has_circuit(node)) {
            return None;
        }
        if !has(PathRule::Any) {
            return Some(self.offline(node, network));
        }
        let hint = match paths {
            PathRule::Relay => "a node that can be dialled needs no relay: add the proxy without --path relay",
            _ => {
                "forward a port (TCP and UDP) to either node and name it there with --announce, or add the proxy \
                 without --path direct"
            }
        };
        Some(problem(format!("a proxy has {}", self.why_no_path(node, paths)), hint))
    }

    /// Peers of proxies that have been reached over a relay alone for longer than hole punches and dials take.
    fn relayed_proxy_peers(&self, now: Now) -> Vec<Problem> {
        let enabled = self.proxies.enabled().filter(|spec| spec.paths() == PathRule::Any);
        let peers: BTreeSet<_> = enabled.filter_map(|spec| Some(spec.remote.as_ref()?.node)).collect();
        let settled = |node: &NodeId| {
            let best = self.connections.best(node);
            best.is_some_and(|(_, c)| c.relayed && !c.joined.is_empty() && c.since + SETTLED <= now.mono)
        };
        let told = |node: NodeId| {
            let (who, why) = (self.called(&node), self.why_relayed(&node)?);
            let hint = "it works, slower: for a direct path switch on PCP or NAT-PMP in the router of either node, or \
                        forward a port (TCP and UDP) to it and name that with --announce";
            Some(problem(format!("a proxy reaches {who} over a relay only: {why}"), hint))
        };
        peers.into_iter().filter(settled).filter_map(told).collect()
    }

    fn has_circuit(&self, node: &NodeId) -> bool {
        self.addresses_of(node).iter().any(is_relayed)
    }

    /// Why a connected peer has no path that a proxy may take, in words that begin with `no`.
    #[must_use]
    pub fn no_path(&self, remote: &Remote, paths: PathRule) -> String {
        if paths == PathRule::Any || !self.connections.is_connected(&remote.node) {
            return format!("no path to {}", self.called(&remote.node));
        }
        self.why_no_path(&remote.node, paths)
    }

    fn why_no_path(&self, node: &NodeId, paths: PathRule) -> String {
        let who = self.called(node);
        match paths {
            PathRule::Any => format!("no path to {who}"),
            PathRule::Relay if self.has_circuit(node) => format!("no path to {who} over a relay yet"),
            PathRule::Relay => format!("no path to {who} over a relay, since no relay holds a reservation for it"),
            PathRule::Direct => {
                let why = self.why_relayed(node).unwrap_or_else(|| "not tried yet".into());
                format!("no direct path to {who}, which is reached over a relay: {why}")
            }
        }
    }

    fn offline(&self, node: &NodeId, network: &NetworkName) -> Problem {
        let who = self.called(node);
        if self.networks.is_banned(network, node) {
            let hint = format!("let it in again with `hivectl networks unban --node {node}`, or remove the proxy");
            return problem(format!("a proxy needs {who}, which is kept out of network {network}"), hint);
        }
        if self.connections.is_connected(node) {
            let hint = format!("check that both nodes have the same password of network {network}");
            return problem(format!("a proxy needs {who}, which is connected but has not joined {network}"), hint);
        }
        match self.path.last_error(node) {
            Some(error) => {
                let hint = "check that it runs and can be reached; this node keeps trying";
                problem(format!("a proxy needs {who}, which cannot be reached: {error}"), hint)
            }
            None => {
                let hint = "check that it runs; if it is new here, add it with `hivectl register --b64 IDENTITY --network NAME`";
                problem(format!("a proxy needs {who}, which is not connected"), hint)
            }
        }
    }

    fn alone(&self, name: &NetworkName) -> Option<Problem> {
        let others = self.tables.get(name)?.members().filter(|(node, _)| **node != self.own.id).count();
        let hint = format!(
            "run `hivectl id --base64` on another node and `hivectl register --b64 IDENTITY --network {name}` here"
        );
        (others == 0).then(|| problem(format!("nobody else is known in network {name}"), hint))
    }

    fn refused_by(&self, name: &NetworkName, network: &Network) -> Option<Problem> {
        let refusing: Vec<_> =
            network.refusing().filter(|node| self.is_member(name, node)).map(|node| self.called(node)).collect();
        let hint = format!(
            "if the password was changed there, change it here with `hivectl networks rotate --name {name}`; \
             else that node may ban this one"
        );
        (!refusing.is_empty()).then(|| problem(format!("not let in to network {name} by {}", shorten(&refusing)), hint))
    }

    fn refused_here(&self, name: &NetworkName, network: &Network, now: Now) -> Option<Problem> {
        let (nodes, counts): (Vec<_>, Vec<_>) =
            network.refused_lately(now.mono).map(|(node, count)| (self.called(node), count)).unzip();
        let what = || {
            let count: u64 = counts.iter().sum();
            format!("joins to network {name} refused here in the last hour: {count}, by {}", shorten(&nodes))
        };
        let hint = "if one is a node of yours, give it this network's password";
        (!nodes.is_empty()).then(|| problem(what(), hint))
    }

    fn old_passwords(&self, name: &NetworkName, network: &Network) -> Option<Problem> {
        network.old_until()?;
        let old = self.connections.iter().filter(|(_, c)| c.joined.get(name) == Some(&Proof::Old));
        let old: BTreeSet<_> = old.map(|(_, c)| self.called(&c.peer)).collect();
        let old: Vec<_> = old.into_iter().collect();
        let hint = format!("run `hivectl networks rotate --name {name}` there before the grace time is over");
        (!old.is_empty())
            .then(|| problem(format!("still on the old password of network {name}: {}", shorten(&old)), hint))
    }

    fn clocks(&self) -> Option<Problem> {
        let mut ahead = BTreeSet::new();
        let mut others = BTreeSet::new();
        for (node, entry) in self.tables.values().flat_map(crate::peers::Table::members) {
            if *node != self.own.id {
                others.insert(node);
                ahead.extend(entry.clock_ahead.then_some(node));
            }
        }
        if ahead.is_empty() {
            return None;
        }
        if ahead.len() * 2 > others.len() && others.len() > 1 {
            return Some(problem("this node's clock is behind that of most others".into(), "set the clock"));
        }
        let names: Vec<_> = ahead.into_iter().map(|node| self.called(node)).collect();
        Some(problem(format!("clocks ahead of this node's: {}", shorten(&names)), "set the clock there, or here"))
    }
}

/// A few names, and how many more there are.
fn shorten(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
