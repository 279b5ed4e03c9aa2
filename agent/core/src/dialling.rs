//! Whom this node wants to be connected to, gathered from all rooms, and the dials and closings that follow.

use std::collections::BTreeMap;

use hive_protocol::{NetworkName, NodeId};
use multiaddr::Multiaddr;

use crate::{
    Core, Now, Output,
    path::{Candidate, Reason},
    peers::Table,
};

/// Most addresses of one dial.
const DIAL_ADDRESSES: usize = 32;

#[cfg(test)]
mod tests;

impl Core {
    pub(crate) fn wanted(&mut self, peer: NodeId, now: Now) {
        if peer != self.own.id && !self.connections.is_connected(&peer) {
            self.path.wish(peer, now.mono);
        }
    }

    pub(crate) fn review_paths(&mut self, now: Now) {
        if !self.path.is_review_due(now.mono) {
            return;
        }
        let wants = self.wants(now);
        let (tables, registrations) = (&self.tables, &mut self.registrations);
        let identities = registrations.addresses();
        let known = |peer: &NodeId| addresses_of(tables, identities.get(peer), peer);
        for (peer, addresses) in self.path.plan(&wants, &self.connections, known, now.mono) {
            registrations.of(&peer).for_each(|registration| registration.dialled = true);
            self.out.push(Output::Dial { peer, addresses });
        }
        for conn in self.path.spares(&self.own.id, &wants, &mut self.connections, now.mono) {
            self.out.push(Output::CloseIfIdle { conn });
        }
    }

    /// Everybody to be connected to, with the most urgent reason.
    fn wants(&mut self, now: Now) -> BTreeMap<NodeId, Reason> {
        let mut wants = BTreeMap::new();
        for network in self.networks.names() {
            let others = self.candidates(&network, now);
            let chosen = self.path.neighbours(&network, &self.own.id, &others, &mut self.dice);
            wants.extend(chosen.into_iter().map(|node| (node, Reason::Neighbour)));
        }
        wants.extend(self.path.wishes(now.mono).map(|peer| (*peer, Reason::Wish)));
        for spec in self.proxies.enabled() {
            let (network, node) = (&spec.remote.network, spec.remote.node);
            let Some(room) = self.networks.get(network).filter(|n| !n.banned.contains(&node)) else { continue };
            match room.turned_down_until(&node, now.mono) {
                Some(until) => self.path.review_at(until),
                None => drop(wants.insert(node, Reason::Proxy)),
            }
        }
        wants
    }

    /// The members of a network that could be neighbours: not kept out, not keeping us out, and to be found somewhere.
    fn candidates(&mut self, network: &NetworkName, now: Now) -> Vec<Candidate> {
        let (Some(table), Some(room)) = (self.tables.get(network), self.networks.get(network)) else {
            return Vec::new();
        };
        let mut candidates = Vec::new();
        for (node, entry) in table.members() {
            let connected = self.connections.is_connected(node);
            let findable = connected || !entry.record.addresses.is_empty();
            if *node == self.own.id || !findable || room.banned.contains(node) {
                continue;
            }
            if let Some(until) = room.turned_down_until(node, now.mono) {
                self.path.review_at(until);
                continue;
            }
            let up = connected || (entry.is_fresh(now.mono) && !self.path.is_resting(node));
            candidates.push(Candidate { node: *node, connected, up });
        }
        candidates
    }
}

/// Where a peer may be: as a person said, then as its records say.
fn addresses_of(
    tables: &BTreeMap<NetworkName, Table>,
    identity: Option<&Vec<Multiaddr>>,
    peer: &NodeId,
) -> Vec<Multiaddr> {
    let mut known: Vec<Multiaddr> = identity.cloned().unwrap_or_default();
    let recorded = tables.values().filter_map(|table| table.member(peer)).flat_map(|e| &e.record.addresses);
    for address in recorded {
        if known.len() < DIAL_ADDRESSES && !known.contains(address) {
            known.push(address.clone());
        }
    }
    known
}
