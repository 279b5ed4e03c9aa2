//! From a connection to a member: asking for joins, taking them, and closing what belongs nowhere.

use std::time::Duration;

use hive_protocol::{NetworkName, NodeId, password::Secret, peer::JoinRefusal};

use crate::{
    ConnId, Core, Now, Output,
    connections::{Ask, Connection, Proof},
    path::GATHER,
    reach::ip,
    register,
};

/// How long the side that was dialled leaves it to the dialler to ask.
const DIALLER_FIRST: Duration = Duration::from_secs(2);
/// How long a node that is asked to try later waits.
const LATER: Duration = Duration::from_secs(30);
/// How long the side that asked leaves it to the other to compare tables first: only that one knows that both joined.
const OTHER_COMPARES: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;

impl Core {
    pub(crate) fn connected(&mut self, conn: ConnId, mut connection: Connection, now: Now) {
        let (peer, dialled, relayed) = (connection.peer, connection.dialled, connection.relayed);
        connection.local = ip(&connection.address).filter(|_| !relayed).and_then(|ip| self.own.only_ip_like(&ip));
        self.connections.insert(conn, connection);
        if peer == self.own.id {
            self.close(conn, "connected to itself");
            return;
        }
        self.path.connected(&peer, dialled, relayed, now.mono);
        self.tables.values_mut().for_each(|table| table.set_lost(&peer, false));
        self.touch(&peer, true, now);
        for network in self.shared_networks(&peer) {
            self.plan_join(conn, &network, now);
        }
        for network in self.registrations.networks(&peer) {
            self.connections.ask(conn, &network, now.mono);
        }
    }

    pub(crate) fn disconnected(&mut self, conn: ConnId, now: Now) {
        let Some(gone) = self.connections.remove(conn) else { return };
        let peer = gone.peer;
        self.routes_changed |= !gone.joined.is_empty();
        self.touch(&peer, true, now);
        self.path.review_at(now.mono + GATHER);
        if !gone.relayed && !gone.joined.is_empty() {
            // The router before this node may have begun anew, or a firewall been closed.
            self.probes.hint(now.mono);
        }
        if self.connections.is_connected(&peer) {
            self.upgrades.restart(&peer);
            self.restart_punches(now, |c| c.peer == peer);
            return;
        }
        if gone.spare_since.is_none() {
            self.tables.values_mut().for_each(|table| table.set_lost(&peer, true));
        }
        self.registrations.of(&peer).for_each(|registration| registration.dialled = false);
        self.path.lost(peer, &gone, now.mono, &mut self.dice);
    }

    pub(crate) fn circuit_failed(&mut self, peer: NodeId, reason: String, now: Now) {
        self.path.circuit_failed(peer, reason, now.mono, &mut self.dice);
    }

    pub(crate) fn dial_failed(&mut self, peer: NodeId, reason: String, now: Now) {
        let networks = self.registrations.networks(&peer);
        let tried: Vec<_> = self.registrations.of(&peer).map(|r| (r.dialled, r.identity.name.clone())).collect();
        for (network, (dialled, name)) in networks.iter().zip(tried) {
            if dialled && !self.connections.is_connected(&peer) {
                let failed = self.registrations.fail(network, &peer, register::unreachable(&name, &reason));
                failed.into_iter().for_each(|output| self.out.push(output));
            }
        }
        if !self.connections.is_connected(&peer) {
            self.tables.values_mut().for_each(|table| table.set_lost(&peer, true));
        }
        self.path.dial_failed(peer, reason, now.mono, &mut self.dice);
    }

    pub(crate) fn joined(&mut self, conn: ConnId, network: &NetworkName, secret: &Secret, now: Now) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let peer = connection.peer;
        let Some(room) = self.networks.get_mut(network).filter(|n| !n.banned.contains(&peer)) else { return };
        let Some(proof) = room.proof(secret, now.wall) else { return self.joined_too_late(conn, network) };
        room.taken_in(&peer);
        let asked = connection.asks.remove(network) == Some(Ask::Running);
        let before = connection.joined.insert(network.clone(), proof);
        let early = connection.take_early(network);
        self.routes_changed |= connection.heard(now.mono) | (before != Some(proof));
        if before.is_none() {
            let wait = if asked { OTHER_COMPARES } else { Duration::ZERO };
            connection.compare_at.insert(network.clone(), now.mono + wait);
            self.path.joined(&peer);
            self.path.review_at(now.mono + GATHER);
            self.arrived(conn, now);
        }
        self.registrations.joined(network, &peer, now.mono);
        self.complete_registration(network, &peer);
        early.into_iter().for_each(|message| self.synced(conn, message, now));
    }

    /// The password that was proven ended while the proof was on its way.
    fn joined_too_late(&mut self, conn: ConnId, network: &NetworkName) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.asks.remove(network);
        if connection.joined.is_empty() && !connection.is_held() {
            self.close(conn, "joined by a password that has ended");
        }
    }

    /// A connection has joined a network: it may prove how this node is reached, or be worth a hole punch. What joins
    /// nothing, as a dial back does, tells nothing.
    fn arrived(&mut self, conn: ConnId, now: Now) {
        self.probes.somebody_came(now.mono);
        let Some(connection) = self.connections.get(conn) else { return };
        let (peer, address, unasked) = (connection.peer, connection.address.clone(), !connection.dialled);
        let relayed = connection.relayed;
        if let Some(ip) = ip(&address).filter(|_| !relayed) {
            self.met.met(peer, ip);
        }
        if !unasked {
            self.connections.compare_on_others(&peer, conn, now.mono + OTHER_COMPARES);
        } else if relayed || !self.reach.is_punching(&peer, now.mono) {
            self.routes_changed |= self.connections.supersede(conn, now.mono);
        }
        if relayed && unasked {
            // It has just failed to dial this node directly, or was slow to.
            self.probes.hint(now.mono);
        }
        if relayed {
            self.restart_punches(now, |c| c.peer == peer);
        } else {
            self.weigh_arrival(peer, &address, unasked, now);
        }
    }

    /// Gives up paths on which nothing was heard in time since their peer dialled again.
    pub(crate) fn end_doubts(&mut self, now: Now) {
        for (peer, direct) in self.connections.end_doubts(now.mono) {
            self.routes_changed = true;
            if direct {
                self.restart_punches(now, |c| c.peer == peer);
            }
        }
    }

    pub(crate) fn join_failed(&mut self, conn: ConnId, network: &NetworkName, refusal: Option<JoinRefusal>, now: Now) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.asks.remove(network);
        let (peer, joined) = (connection.peer, connection.joined.contains_key(network));
        let failed = self.registrations.fail(network, &peer, register::refused(network, refusal));
        failed.into_iter().for_each(|output| self.out.push(output));
        if joined || !self.is_member(network, &peer) {
            return;
        }
        let Some(room) = self.networks.get_mut(network) else { return };
        let again = match refusal {
            Some(JoinRefusal::TryLater) => now.mono + self.dice.jitter(LATER),
            _ => room.turned_down(peer, now.mono, &mut self.dice),
        };
        self.connections.ask(conn, network, again);
    }

    pub(crate) fn join_refused(&mut self, network: &NetworkName, peer: NodeId, now: Now) {
        let outside = !self.connections.of(&peer).any(|(_, connection)| connection.joined.contains_key(network));
        if let Some(room) = self.networks.get_mut(network) {
            room.refused_here(peer, outside, now.mono);
        }
    }

    /// Plans to ask for a join, at the moment that suits this side of the connection and the peer's last answer.
    pub(crate) fn plan_join(&mut self, conn: ConnId, network: &NetworkName, now: Now) {
        let Some(connection) = self.connections.get(conn) else { return };
        let Some(room) = self.networks.get(network).filter(|n| !n.banned.contains(&connection.peer)) else { return };
        if connection.joined.get(network) == Some(&Proof::Current) {
            return;
        }
        let ours = if connection.dialled { now.mono } else { now.mono + DIALLER_FIRST };
        let at = room.turned_down_until(&connection.peer, now.mono).map_or(ours, |until| until.max(ours));
        self.connections.ask(conn, network, at);
    }

    /// Networks in whose tables a peer is a member that this node does not keep out.
    fn shared_networks(&self, peer: &NodeId) -> Vec<NetworkName> {
        self.networks.names().into_iter().filter(|network| self.is_member(network, peer)).collect()
    }

    pub(crate) fn is_member(&self, network: &NetworkName, node: &NodeId) -> bool {
        self.tables.get(network).is_some_and(|table| table.member(node).is_some())
            && !self.networks.is_banned(network, node)
    }

    pub(crate) fn ask_to_join(&mut self, now: Now) {
        for (conn, network) in self.connections.due_asks(now.mono) {
            self.out.push(Output::Join { conn, network });
        }
    }

    pub(crate) fn close_strangers(&mut self, now: Now) {
        for conn in self.connections.overdue(now.mono) {
            self.close(conn, "joined no network in time");
        }
    }

    pub(crate) fn close(&mut self, conn: ConnId, reason: &'static str) {
        if self.connections.close(conn) {
            self.out.push(Output::Close { conn, reason });
        }
    }

    /// Takes a network from the connections for which `which` holds, and closes those that have nothing left. The
    /// others are closed once idle: no message tells a peer that it was expelled, only its next join does.
    pub(crate) fn expel(
        &mut self,
        network: &NetworkName,
        reason: &'static str,
        now: Now,
        which: impl Fn(&Connection, Proof) -> bool,
    ) {
        let expelled = self.connections.expel(network, now.mono, which);
        self.routes_changed |= !expelled.is_empty();
        for conn in expelled {
            let Some(connection) = self.connections.get_mut(conn) else { continue };
            connection.doubtful = true;
            if connection.joined.is_empty() && !connection.is_held() {
                self.close(conn, reason);
            }
        }
        self.path.review_at(now.mono);
    }

    /// Connections that were joined by a password whose grace is over lose that network.
    pub(crate) fn end_old_passwords(&mut self, now: Now) {
        for network in self.networks.end_graces(now.wall, &mut self.out) {
            self.routes_changed = true;
            self.expel(&network, "joined by a password that has ended", now, |_, proof| proof == Proof::Old);
        }
    }

    pub(crate) fn complete_registration(&mut self, network: &NetworkName, peer: &NodeId) {
        let Some(table) = self.tables.get(network) else { return };
        let Some(entry) = table.member(peer) else { return };
        let members = crate::tables::count_members(&self.tables, network);
        let done = self.registrations.complete(network, peer, &entry.record().name, members);
        if let Some(output) = done {
            // Somebody asked for this node, and is told that it is stored.
            self.save(network, peer);
            self.out.push(output);
        }
    }
}
