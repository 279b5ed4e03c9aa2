//! The peer tables at work: own records, records of others, comparisons, lapses, flushes.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use hive_protocol::{
    NetworkName, NodeId, SignedRecord, Timestamp,
    peer::{MAX_RECORDS, PeerMessage, SyncMessage},
};
use multiaddr::Multiaddr;

use crate::{
    Change, ConnId, Core, Now, Output,
    connections::Connection,
    own::Own,
    path::GATHER,
    peers::{self, Offer, Table},
    reach::public_ip,
    sync::{self, Answer, Improper},
};

/// How often contact times and renewed records are stored at most.
const FLUSH: Duration = Duration::from_secs(60);
/// How often records of others that say something new are stored at most: a crash loses only what members say again.
pub(crate) const SAVE: Duration = Duration::from_secs(1);
/// Pause before a comparison that did not fit into one answer goes on.
const GO_ON: Duration = Duration::from_millis(250);
/// Improper messages after which a connection is closed.
const STRIKES: u32 = 3;

#[cfg(test)]
mod tests;

/// Members of a network, this node among them.
pub(crate) fn count_members(tables: &BTreeMap<NetworkName, Table>, network: &NetworkName) -> u32 {
    let count = tables.get(network).map_or(0, |table| table.members().count());
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Core {
    pub(crate) fn restore_tables(&mut self, records: Vec<(SignedRecord, Timestamp)>, now: Now) {
        for network in self.networks.names() {
            self.open_table(&network, now);
        }
        for (signed, contact) in records {
            let Ok(record) = signed.read() else { continue };
            let Some(table) = self.tables.get_mut(&record.network) else { continue };
            if record.node == self.own.id {
                self.own.set_addresses(record.addresses);
            }
            table.restore(signed, contact, now);
        }
        if self.networks.names().iter().any(|network| self.is_own_stale(network)) {
            self.own.changed(now.mono);
        }
    }

    pub(crate) fn open_table(&mut self, network: &NetworkName, now: Now) {
        self.tables.insert(network.clone(), Table::new(network.clone(), self.own.id));
        self.gossip_at.insert(network.clone(), now.mono + self.dice.millis(60_000, 90_000));
    }

    /// Whether the record held of this node says something else than it would say now.
    fn is_own_stale(&self, network: &NetworkName) -> bool {
        let Some(held) = self.tables.get(network).and_then(|t| t.get(&self.own.id)) else { return true };
        let fresh = self.own.record(network, held.head().seq, false, self.clock.now());
        !peers::says_the_same(&held.record(), &fresh)
    }

    pub(crate) fn addresses_changed(&mut self, addresses: Vec<Multiaddr>, now: Now) {
        let before = self.own.direct().to_vec();
        let differs = self.own.set_addresses(addresses);
        if differs {
            self.moved(&before, now);
            let own = &self.own;
            self.connections.locate(|remote| own.only_ip_like(remote));
        }
        if differs && before.is_empty() {
            self.own.located(now.mono);
        } else if self.networks.names().iter().any(|network| self.is_own_stale(network)) {
            self.own.changed(now.mono);
        }
        if differs {
            self.path.retry_all(now.mono);
            self.met.forgive();
            self.upgrades.restart_all();
        }
    }

    /// What was proven of the old addresses holds only while one of that family remains that others can dial.
    fn moved(&mut self, before: &[Multiaddr], now: Now) {
        for v4 in [true, false] {
            let alike = |address: &Multiaddr| public_ip(address).is_some_and(|ip| ip.is_ipv4() == v4);
            if !before.iter().any(|address| alike(address) && self.own.direct().contains(address)) {
                self.reach.forget(v4);
            }
        }
        self.probes.restart();
        self.reach_changed(now);
        self.restart_punches(now, |_| true);
    }

    /// Closes the connections that left from an address of this machine which is gone: no packet on them arrives any more,
    /// and nobody would notice for a while.
    pub(crate) fn address_gone(&mut self, address: &IpAddr) {
        let is_stranded = |c: &Connection| c.local.as_ref() == Some(address);
        let stranded: Vec<_> = self.connections.iter().filter(|(_, c)| is_stranded(c)).map(|(conn, _)| conn).collect();
        stranded.into_iter().for_each(|conn| self.close(conn, "its local address is gone"));
    }

    pub(crate) fn issue_due(&mut self, now: Now) {
        let changed = self.own.is_issue_due(now.mono);
        if changed || self.own.is_refresh_due(now.mono, &mut self.dice) {
            for network in self.networks.names() {
                self.issue(&network, 0, now);
            }
        }
    }

    /// Makes a new record of this node, with a sequence number above `above`, and tells every member connected.
    pub(crate) fn issue(&mut self, network: &NetworkName, above: u64, now: Now) {
        let Some(table) = self.tables.get_mut(network) else { return };
        let held = table.get(&self.own.id).map_or(0, |e| e.head().seq);
        let record = self.own.record(network, next_seq(held.max(above), now), false, now);
        let signed = self.own.sign(&record);
        table.put_own(signed.clone(), now);
        table.save(&self.own.id).into_iter().for_each(|change| self.out.persist(change));
        self.push(network, vec![signed], None);
    }

    /// A last record of this node for a network: it has left.
    pub(crate) fn tombstone(own: &Own, table: &Table, network: &NetworkName, now: Now) -> SignedRecord {
        let held = table.get(&own.id).map_or(0, |e| e.head().seq);
        own.sign(&own.record(network, next_seq(held, now), true, now))
    }

    /// Sends records to every connection that has joined the network, except where they came from.
    pub(crate) fn push(&mut self, network: &NetworkName, records: Vec<SignedRecord>, except: Option<ConnId>) {
        for conn in self.connections.joined(network).into_iter().filter(|conn| Some(*conn) != except) {
            for body in sync::pack_records(records.clone()) {
                self.send(conn, network, body);
            }
        }
    }

    fn send(&mut self, conn: ConnId, network: &NetworkName, body: SyncMessage) {
        let message = PeerMessage { network: network.clone(), body };
        self.out.push(Output::Send { conn, message });
    }

    pub(crate) fn synced(&mut self, conn: ConnId, message: PeerMessage, now: Now) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if !connection.joined.contains_key(&message.network) {
            connection.keep_early(message);
            return;
        }
        let peer = connection.peer;
        self.routes_changed |= connection.heard(now.mono);
        let is_compare = matches!(message.body, SyncMessage::Compare { .. });
        if is_compare {
            connection.compare_at.remove(&message.network);
        }
        self.touch(&peer, false, now);
        if is_compare && self.compare_later(conn, &message.network, now) {
            return;
        }
        let PeerMessage { network, body } = message;
        let handled = match body {
            SyncMessage::Compare { ranges } => self.answer(conn, &network, |t| sync::compare(t, &ranges), now),
            SyncMessage::Want { nodes } => self.answer(conn, &network, |t| sync::serve(t, &nodes), now),
            SyncMessage::Records { records } => self.take_records(conn, &peer, &network, &records, now),
        };
        if handled == Err(Improper) {
            self.strike(conn);
        }
    }

    fn answer(
        &mut self,
        conn: ConnId,
        network: &NetworkName,
        ask: impl Fn(&Table) -> Result<Answer, Improper>,
        now: Now,
    ) -> Result<(), Improper> {
        let Some(table) = self.tables.get(network) else { return Ok(()) };
        let answer = ask(table)?;
        answer.messages.into_iter().for_each(|body| self.send(conn, network, body));
        if answer.more
            && let Some(connection) = self.connections.get_mut(conn)
        {
            connection.compare_at.insert(network.clone(), now.mono + GO_ON);
        }
        Ok(())
    }

    /// Puts a comparison off while it would only bring more new nodes than the peer may introduce. True if it did.
    fn compare_later(&mut self, conn: ConnId, network: &NetworkName, now: Now) -> bool {
        let Some(connection) = self.connections.get_mut(conn) else { return false };
        let Some(at) = self.newcomers.wait(&connection.peer, now.mono) else { return false };
        connection.compare_at.insert(network.clone(), at);
        true
    }

    fn strike(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.strikes += 1;
        if connection.strikes >= STRIKES {
            self.close(conn, "sends improper messages");
        }
    }

    fn take_records(
        &mut self,
        conn: ConnId,
        from: &NodeId,
        network: &NetworkName,
        records: &[SignedRecord],
        now: Now,
    ) -> Result<(), Improper> {
        if records.len() > MAX_RECORDS {
            return Err(Improper);
        }
        let mut news = Vec::new();
        let mut outcome = Ok(());
        for signed in records {
            match self.take_record(conn, from, network, signed, now) {
                Ok(true) => news.push(signed.clone()),
                Ok(false) => {}
                Err(Improper) => outcome = Err(Improper),
            }
        }
        if !news.is_empty() {
            self.push(network, news, Some(conn));
            self.complete_registration(network, from);
        }
        outcome
    }

    /// Takes one record if it is news; true if others should hear of it.
    fn take_record(
        &mut self,
        conn: ConnId,
        from: &NodeId,
        network: &NetworkName,
        signed: &SignedRecord,
        now: Now,
    ) -> Result<bool, Improper> {
        let Some(table) = self.tables.get_mut(network) else { return Ok(false) };
        let Some(node) = signed.head().map(|head| head.node) else { return Err(Improper) };
        let introduced = node != *from && table.get(&node).is_none();
        if introduced && !self.newcomers.has_room(from, now.mono) {
            self.compare_later(conn, network, now);
            return Ok(false);
        }
        let before = table.get(&node).map(|entry| entry.record().addresses).unwrap_or_default();
        match table.offer(signed, from, self.networks.is_banned(network, &node), now) {
            Offer::Bad => return Err(Improper),
            Offer::Ignored => return Ok(false),
            Offer::Mine(seq) => {
                self.issue(network, seq, now);
                return Ok(false);
            }
            Offer::Renewed => self.flush_soon(now),
            Offer::Changed => {
                if introduced {
                    self.newcomers.count(from, now.mono);
                }
                self.unsaved.insert((network.clone(), node));
                self.relocated(network, &node, &before);
                self.learned(network, node, now);
            }
        }
        if !self.connections.is_connected(&node) {
            self.path.spoke(&node, now.mono);
        }
        self.give_up_stale(network, &node);
        Ok(true)
    }

    /// Forgets what a table has no room for, now that it took the record of `spared`.
    fn give_up_stale(&mut self, network: &NetworkName, spared: &NodeId) {
        let gone = self.tables.get_mut(network).map(|table| table.trim(spared)).unwrap_or_default();
        for node in gone {
            self.out.persist(Change::RecordGone { network: network.clone(), node });
        }
    }

    /// A member may have moved: paths to where it was are the worse ones.
    fn relocated(&mut self, network: &NetworkName, node: &NodeId, before: &[Multiaddr]) {
        let Some(entry) = self.tables.get(network).and_then(|table| table.get(node)) else { return };
        let after = entry.record().addresses;
        // The same in another order is no move.
        if after.len() != before.len() || after.iter().any(|address| !before.contains(address)) {
            self.connections.leave_behind(node, before, &after);
            self.upgrades.restart(node);
            self.routes_changed = true;
        }
    }

    /// A record says something new: the node came, moved, changed its name, or left.
    fn learned(&mut self, network: &NetworkName, node: NodeId, now: Now) {
        self.path.review_at(now.mono + GATHER);
        if !self.is_member(network, &node) {
            // Not closed at once: the node's own last words may still be under way. It joins nothing, so it goes in 10 s.
            self.routes_changed |= !self.connections.expel(network, now.mono, |c, _| c.peer == node).is_empty();
            return;
        }
        let conns: Vec<_> = self.connections.of(&node).map(|(conn, _)| conn).collect();
        conns.into_iter().for_each(|conn| self.plan_join(conn, network, now));
    }

    pub(crate) fn compare_due(&mut self, now: Now) {
        let mut due = self.connections.due_compares(now.mono);
        for (network, at) in &mut self.gossip_at {
            if *at > now.mono {
                continue;
            }
            *at = now.mono + self.dice.millis(60_000, 90_000);
            let partner = self.dice.pick(&self.connections.joined(network));
            due.extend(partner.map(|conn| (conn, network.clone())));
        }
        for (conn, network) in due {
            if let Some(root) = self.tables.get(&network).map(sync::root) {
                self.send(conn, &network, root);
            }
        }
    }

    /// Notes a sign of life of a peer.
    pub(crate) fn touch(&mut self, peer: &NodeId, weighty: bool, now: Now) {
        let dirty = self.tables.values_mut().fold(false, |dirty, table| table.touch(peer, weighty, now) | dirty);
        if dirty {
            self.flush_soon(now);
        }
    }

    fn flush_soon(&mut self, now: Now) {
        self.flush_at.get_or_insert(now.mono.max(self.flushed + FLUSH));
    }

    /// When records of others that say something new are to be stored.
    pub(crate) fn next_save(&self) -> Option<Duration> {
        (!self.unsaved.is_empty()).then_some(self.saved + SAVE)
    }

    /// Stores the records that said something new: at once if it was quiet, else together.
    pub(crate) fn save_due(&mut self, now: Now) {
        if self.next_save().is_none_or(|at| at > now.mono) {
            return;
        }
        self.saved = now.mono;
        for (network, node) in std::mem::take(&mut self.unsaved) {
            self.save(&network, &node);
        }
    }

    /// Stores what is new of one node, now.
    pub(crate) fn save(&mut self, network: &NetworkName, node: &NodeId) {
        let change = self.tables.get_mut(network).and_then(|table| table.save(node));
        change.into_iter().for_each(|change| self.out.persist(change));
    }

    pub(crate) fn flush_due(&mut self, now: Now) {
        if self.flush_at.take_if(|at| *at <= now.mono).is_some() {
            self.flushed = now.mono;
            let changes = self.tables.values_mut().flat_map(Table::flush);
            changes.for_each(|change| self.out.persist(change));
        }
    }

    pub(crate) fn lapse(&mut self, now: Now) {
        for (network, table) in &mut self.tables {
            for node in table.lapse(now.mono) {
                self.out.persist(Change::RecordGone { network: network.clone(), node });
            }
        }
        let tables = &self.tables;
        self.met.keep(|peer| tables.values().any(|table| table.get(peer).is_some()));
    }

    /// Forgets a node's record, because it is kept out.
    pub(crate) fn drop_record(&mut self, network: &NetworkName, node: NodeId) {
        if self.tables.get_mut(network).is_some_and(|table| table.remove(&node)) {
            self.out.persist(Change::RecordGone { network: network.clone(), node });
        }
    }

    pub(crate) fn round_trip(&mut self, conn: ConnId, rtt: Duration, now: Now) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.rtt = Some(rtt);
        let peer = connection.peer;
        self.touch(&peer, false, now);
    }
}

/// Later than every number before, and the wall clock's milliseconds where that is possible.
fn next_seq(last: u64, now: Now) -> u64 {
    last.saturating_add(1).max(now.wall.0)
}
