//! Whom this node wants to be connected to, gathered from all rooms, and the dials and closings that follow.

use std::collections::{BTreeMap, BTreeSet};

use hive_protocol::{NetworkName, NodeId, PathRule};
use multiaddr::Multiaddr;

use crate::{
    Core, Now, Output,
    connections::Connections,
    met::Sorted,
    path::{Candidate, Dial, Reason, Ways},
    peers::Table,
    reach::{is_relayed, relay_of},
    relays::circuit,
};

/// Most addresses of one dial.
const DIAL_ADDRESSES: usize = 32;

#[cfg(test)]
mod tests;

impl Core {
    /// Somebody local waits for a path of this kind to a peer.
    pub(crate) fn wanted(&mut self, peer: NodeId, paths: PathRule, now: Now) {
        if peer == self.own.id {
            return;
        }
        if !self.connections.is_connected(&peer) {
            self.path.wish(peer, now.mono);
        }
        match paths {
            PathRule::Any => {}
            PathRule::Relay => self.path.wish_relayed(peer, now.mono),
            PathRule::Direct if self.connections.has(&peer, false) => {}
            PathRule::Direct => {
                self.upgrade_now(peer, now);
                self.punch_now(&peer, now);
            }
        }
    }

    pub(crate) fn review_paths(&mut self, now: Now) {
        if !self.path.is_review_due(now.mono) {
            return;
        }
        self.review_relays(now);
        let wants = self.wants(now);
        self.upgrade_due(&wants, now);
        let identities = self.registrations.addresses();
        let (tables, connections, met, loopback) = (&self.tables, &self.connections, &self.met, self.own.is_local());
        let known = |peer: &NodeId| {
            let told = identities.get(peer).cloned().unwrap_or_default();
            let mut recorded = addresses_of(tables, None, peer);
            let relayed = over_relays(told.iter().chain(&recorded), connections);
            recorded.retain(|at| !told.contains(at));
            let Sorted { known, claimed } = met.sort(peer, recorded, loopback);
            let direct = told.into_iter().filter(|at| !is_relayed(at)).chain(known).collect();
            Ways { direct, claimed, claimed_at: met.claims_due(peer), relayed }
        };
        for Dial { peer, addresses, relayed, claimed } in self.path.plan(&wants, connections, known, now.mono) {
            if !relayed {
                self.registrations.of(&peer).for_each(|registration| registration.dialled = true);
            }
            if let Some(reason) = claimed {
                self.met.dialled_at_claims(peer, reason, now.mono);
            }
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
        for remote in self.proxies.enabled().filter_map(|spec| spec.remote.as_ref()) {
            let (network, node) = (&remote.network, remote.node);
            let Some(room) = self.networks.get(network).filter(|n| !n.banned.contains(&node)) else { continue };
            match room.turned_down_until(&node, now.mono) {
                Some(until) => self.path.review_at(until),
                None => drop(wants.insert(node, Reason::Proxy)),
            }
        }
        self.want_relays(&mut wants, now);
        wants
    }

    /// Relays are wanted to hold reservations, and to reach those who hold theirs with them.
    fn want_relays(&self, wants: &mut BTreeMap<NodeId, Reason>, now: Now) {
        let unreached = wants.keys().filter(|peer| {
            !self.connections.is_connected(peer) || self.path.wants_relayed(peer, &self.connections, now.mono)
        });
        let through = unreached.filter_map(|peer| {
            let relays: BTreeSet<NodeId> = addresses_of(&self.tables, None, peer)
                .iter()
                .filter_map(relay_of)
                .filter(|r| *r != self.own.id)
                .collect();
            let connected = relays.iter().any(|relay| self.connections.is_connected(relay));
            relays.into_iter().next().filter(|_| !connected)
        });
        let wanted: BTreeSet<NodeId> = through.chain(self.relays.wanted.iter().copied()).collect();
        for relay in wanted {
            let reason = wants.entry(relay).or_insert(Reason::Relay);
            *reason = (*reason).min(Reason::Relay);
        }
    }

    /// The members of a network that could be neighbours: not kept out, not keeping us out, and to be found somewhere.
    fn candidates(&mut self, network: &NetworkName, now: Now) -> Vec<Candidate> {
        let (Some(table), Some(room)) = (self.tables.get(network), self.networks.get(network)) else {
            return Vec::new();
        };
        let mut candidates = Vec::new();
        for (node, entry) in table.members() {
            let connected = self.connections.is_connected(node);
            let findable = connected || entry.head().dialable;
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

/// The ways over relays that are among a peer's addresses, where there is a direct connection to the relay that belongs to
/// a network.
fn over_relays<'a>(addresses: impl Iterator<Item = &'a Multiaddr>, connections: &Connections) -> Vec<Multiaddr> {
    let relays: BTreeSet<NodeId> = addresses.filter_map(relay_of).collect();
    let over = |relay: NodeId| {
        let mut ways = connections.of(&relay).filter(|(_, c)| !c.relayed && !c.joined.is_empty());
        ways.next().map(|(_, c)| circuit(&c.address, &relay))
    };
    relays.into_iter().filter_map(over).collect()
}

/// Where a peer may be: as a person said, then as its records say.
pub(crate) fn addresses_of(
    tables: &BTreeMap<NetworkName, Table>,
    identity: Option<&Vec<Multiaddr>>,
    peer: &NodeId,
) -> Vec<Multiaddr> {
    let mut known: Vec<Multiaddr> = identity.cloned().unwrap_or_default();
    let recorded = tables.values().filter_map(|table| table.member(peer)).flat_map(|e| e.record().addresses);
    for address in recorded {
        if known.len() < DIAL_ADDRESSES && !known.contains(&address) {
            known.push(address);
        }
    }
    known
}
