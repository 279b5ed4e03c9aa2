//! What people want to know: tables, networks, paths, and what is wrong in words they can act on.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use hive_protocol::{
    Carrier, NetworkInfo, NetworkName, NodeId, NodeInfo, NodeName, PathKind, PathRule, ProxySpec,
    message::{Failure, FailureCode},
    password::Secret,
};
use multiaddr::Multiaddr;

use crate::{Admin, ConnId, Core, Now, Routes, connections::Connection, membership, peers::Entry};

#[cfg(test)]
mod tests;

/// A connection as the core knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Whose it is.
    pub peer: NodeId,
    /// Networks joined on it.
    pub networks: BTreeSet<NetworkName>,
    /// Whether a relay carries it.
    pub relayed: bool,
    /// The last measured round trip.
    pub rtt: Option<Duration>,
}

impl Core {
    /// This node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.own.id
    }

    /// This node's name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.own.name
    }

    /// Where this node can be dialled, as it tells others.
    #[must_use]
    pub fn addresses(&self) -> &[Multiaddr] {
        &self.own.addresses
    }

    /// One row per network and member, this node among them; by network, then by name.
    #[must_use]
    pub fn nodes(&self, now: Now) -> Vec<NodeInfo> {
        let mut rows = Vec::new();
        for (network, table) in &self.tables {
            let start = rows.len();
            rows.extend(table.members().map(|(node, entry)| self.row(network, node, entry, now)));
            rows[start..].sort_by(|a: &NodeInfo, b| (&a.node_name, a.peer_id).cmp(&(&b.node_name, b.peer_id)));
        }
        rows
    }

    fn row(&self, network: &NetworkName, node: &NodeId, entry: &Entry, now: Now) -> NodeInfo {
        let (path, transport, rtt_ms) = self.path(network, node, PathRule::Any);
        let latest_contact = if *node == self.own.id { now.wall } else { entry.contact };
        let record = entry.record();
        NodeInfo {
            peer_id: *node,
            node_name: if *node == self.own.id { self.own.name.clone() } else { record.name },
            network: network.clone(),
            latest_contact,
            online: self.is_online(node, entry, now),
            path,
            transport,
            rtt_ms,
            addresses: record.addresses,
            version: record.version,
            target: record.target,
            relay: self.relayed_by(node),
            why_relayed: self.why_relayed(node),
        }
    }

    pub(crate) fn is_online(&self, node: &NodeId, entry: &Entry, now: Now) -> bool {
        *node == self.own.id || self.connections.is_connected(node) || entry.is_fresh(now.mono)
    }

    /// Where a member says it can be reached.
    #[must_use]
    pub fn addresses_of(&self, peer: &NodeId) -> Vec<Multiaddr> {
        let entries = self.tables.values().filter_map(|table| table.member(peer));
        entries.flat_map(|entry| entry.record().addresses).collect()
    }

    /// The networks of this node, by name.
    #[must_use]
    pub fn networks(&self, now: Now) -> Vec<NetworkInfo> {
        let info = |(name, network): (&NetworkName, &membership::Network)| {
            let members = || self.tables.get(name).into_iter().flat_map(crate::peers::Table::members);
            let online = members().filter(|(node, entry)| self.is_online(node, entry, now)).count();
            NetworkInfo {
                name: name.clone(),
                members: count(members().count()),
                online: count(online),
                refused_joins: network.refused_joins,
                old_password_until: network.old_until().filter(|until| *until > now.wall),
                banned: network.banned.iter().copied().collect(),
            }
        };
        self.networks.iter().map(info).collect()
    }

    /// The node that is meant by a peer id or a name, within one network or all.
    ///
    /// # Errors
    ///
    /// This node is not in that network, nobody is known by that name, or several are; the failure lists their ids.
    pub fn resolve(&self, who: &str, network: Option<&NetworkName>) -> Result<NodeId, Failure> {
        if let Ok(node) = who.parse::<NodeId>() {
            return Ok(node);
        }
        if let Some(unknown) = network.filter(|name| self.networks.get(name).is_none()) {
            return Err(membership::not_a_member(unknown));
        }
        let tables = self.tables.iter().filter(|(name, _)| network.is_none_or(|n| n == *name));
        let members = tables.flat_map(|(_, table)| table.members());
        let called = |node: &NodeId, entry: &Entry| match *node == self.own.id {
            // Its record follows a new name a moment later.
            true => self.own.name.as_str() == who,
            false => entry.record().name.as_str() == who,
        };
        let named = members.filter(|(node, entry)| called(node, entry)).map(|(node, _)| *node);
        let named: BTreeSet<_> = named.chain((self.own.name.as_str() == who).then_some(self.own.id)).collect();
        let mut named = named.into_iter();
        match (named.next(), named.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(nobody(who)),
            (Some(one), Some(two)) => Err(ambiguous(who, [one, two].into_iter().chain(named))),
        }
    }

    /// A node's name, from whichever table knows it.
    #[must_use]
    pub fn node_name(&self, node: &NodeId) -> Option<NodeName> {
        if *node == self.own.id {
            return Some(self.own.name.clone());
        }
        self.tables.values().find_map(|table| Some(table.member(node)?.record().name))
    }

    /// A connection that is up.
    #[must_use]
    pub fn connection(&self, conn: ConnId) -> Option<ConnectionInfo> {
        let connection = self.connections.get(conn)?;
        Some(ConnectionInfo {
            peer: connection.peer,
            networks: connection.networks(),
            relayed: connection.relayed,
            rtt: connection.rtt,
        })
    }

    /// How a member of a network is reached now by paths that the rule allows, over what, and the round trip in
    /// milliseconds. A connection on which the network's password is not proven yet leads nowhere.
    #[must_use]
    pub fn path(
        &self,
        network: &NetworkName,
        node: &NodeId,
        rule: PathRule,
    ) -> (PathKind, Option<Carrier>, Option<f64>) {
        if *node == self.own.id {
            return (PathKind::This, None, None);
        }
        let conn = self.routes.path(network, node, rule);
        let Some(connection) = conn.and_then(|conn| self.connections.get(conn)) else {
            return (PathKind::None, None, None);
        };
        let kind = if connection.relayed { PathKind::Relayed } else { PathKind::Direct };
        (kind, Some(carrier(connection)), connection.rtt.map(milliseconds))
    }

    /// The relays through which this node can be reached.
    #[must_use]
    pub fn relays(&self) -> Vec<NodeId> {
        self.relays.granted().copied().collect()
    }

    /// Whether this node relays for members.
    #[must_use]
    pub fn is_relaying(&self) -> bool {
        self.own.relay
    }

    /// The proxies, by number.
    pub fn proxies(&self) -> impl Iterator<Item = &ProxySpec> {
        self.proxies.all()
    }

    /// Whether a new egress with a host name would share the port of one that listens there now.
    #[must_use]
    pub fn shares_port(&self, bind: IpAddr, port: u16) -> bool {
        self.proxies.shares_port(bind, port)
    }

    /// The admin account, if there is one.
    #[must_use]
    pub fn admin(&self) -> Option<&Admin> {
        self.sessions.admin()
    }

    /// The present routes; [`crate::Output::RoutesChanged`] announces new ones.
    #[must_use]
    pub fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.routes)
    }

    /// Secrets by which to join a peer, or to judge its proof: the current one, then the previous one while it is
    /// accepted. None for an unknown network or a node that is kept out.
    #[must_use]
    pub fn join_secrets(&self, network: &NetworkName, peer: &NodeId, now: Now) -> Vec<Secret> {
        self.networks.get(network).map_or_else(Vec::new, |room| room.secrets(peer, now.wall))
    }
}

fn carrier(connection: &Connection) -> Carrier {
    if connection.is_quic() { Carrier::Quic } else { Carrier::Tcp }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn nobody(who: &str) -> Failure {
    let shown: String = who.chars().filter(|c| !c.is_control()).take(80).collect();
    Failure::new(FailureCode::Unreachable, format!("no node is known by the name or id {shown}"))
        .hint("`hivectl nodes` lists those that are known")
}

fn ambiguous(who: &str, ids: impl Iterator<Item = NodeId>) -> Failure {
    let ids: Vec<_> = ids.map(|id| id.to_string()).collect();
    Failure::new(FailureCode::Usage, format!("several nodes are named {who}: {}", ids.join(", ")))
        .hint("name it by its id")
}

/// Whole microseconds, in milliseconds: as exact as a clock and as short to print.
fn milliseconds(rtt: Duration) -> f64 {
    (rtt.as_secs_f64() * 1e6).round() / 1e3
}
