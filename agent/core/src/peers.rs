//! The signed peer table of one network: which record of a node holds, when it was last heard of, when it lapses.
//!
//! A record is taken only if its owner signed it for this network and it is newer than the one held. The table never
//! makes a record; it passes on what owners said, byte for byte.

use std::time::Duration;

use hive_protocol::{NetworkName, NodeId, PeerRecord, SignedRecord, Timestamp, record::Head};

use crate::{Change, Now};

/// Most records of one table.
pub(crate) const MOST: usize = 20_000;
/// Most bytes of the signed records of one table: twice what [`MOST`] usual ones take.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// A record, or a tombstone, that was not renewed for this long is forgotten.
pub(crate) const LAPSE: Duration = Duration::from_secs(7 * 24 * 3600);
/// A node whose record was renewed within this time counts as up, unless it is known to be gone.
const FRESH: Duration = Duration::from_secs(65 * 60);
/// How far the stored time of contact may lag behind while nothing else changes.
const CONTACT_LAG: Duration = Duration::from_secs(15 * 60);
/// How far ahead of ours another clock may be before it is worth a word.
const CLOCK_AHEAD: Duration = Duration::from_secs(5 * 60);

/// One node's record and what is known of the node. There may be thousands: it is small, and what the record says is
/// decoded when it is asked for.
pub(crate) struct Entry {
    /// Readable: nothing else is entered.
    pub signed: SignedRecord,
    /// Last heard of, directly or by its record.
    pub contact: Timestamp,
    /// Whether its clock was ahead of ours when its record came.
    pub clock_ahead: bool,
    /// When its record was heard, on the monotonic clock, in milliseconds; before the start if negative.
    heard: i64,
    /// A dial failed or a connection was lost since its record was heard.
    lost: bool,
    /// Whether the node was connected to this one since the start, or sent its record itself.
    met: bool,
    dirty: Dirty,
    saved_contact: Timestamp,
}

/// What of an entry is not stored yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Dirty {
    Clean,
    Contact,
    Record,
}

/// What became of a record that was offered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Taken: it says something new.
    Changed,
    /// Taken: the owner only said it again.
    Renewed,
    /// Our own, newer than we remember: with this sequence number.
    Mine(u64),
    /// Not taken, and nobody's fault: known, older, banned, lapsed, or there is no room for it.
    Ignored,
    /// Not taken: no correct member passes this on.
    Bad,
}

/// The table of one network.
pub(crate) struct Table {
    network: NetworkName,
    me: NodeId,
    /// In the order of their nodes' ids.
    entries: Vec<Entry>,
    /// Size of all signed records.
    bytes: usize,
}

#[cfg(test)]
mod tests;

impl Table {
    pub fn new(network: NetworkName, me: NodeId) -> Self {
        Self { network, me, entries: Vec::new(), bytes: 0 }
    }

    /// Takes a record from the store, where only verified ones are.
    pub fn restore(&mut self, signed: SignedRecord, contact: Timestamp, now: Now) {
        let heard = millis(now.mono) - millis(contact.age(now.wall));
        if let Some(entry) = Entry::new(signed, contact, heard) {
            self.insert(Entry { dirty: Dirty::Clean, ..entry });
        }
    }

    /// Offers a record that `from` sent.
    pub fn offer(&mut self, signed: &SignedRecord, from: &NodeId, banned: bool, now: Now) -> Offer {
        let Ok(record) = signed.read() else { return Offer::Bad };
        if record.network != self.network {
            return Offer::Bad;
        }
        if banned || !self.is_news(&record, from, now) || !self.has_room(&record.node, signed.size(), from) {
            return Offer::Ignored;
        }
        if signed.verify().is_err() {
            return Offer::Bad;
        }
        if record.node == self.me {
            return Offer::Mine(record.seq);
        }
        self.take(signed.clone(), &record, from, now)
    }

    /// Whether a record is newer than what is known. Costs nothing, so it is asked before the signature is checked.
    fn is_news(&self, record: &PeerRecord, from: &NodeId, now: Now) -> bool {
        match self.get(&record.node) {
            Some(held) => held.head().seq < record.seq,
            None => record.node == *from || record.issued.age(now.wall) < LAPSE,
        }
    }

    /// Whether there is room for a record. For what a node says in person, and for what is said of a node that was here,
    /// room is made by [`Table::trim`]; hearsay of others must do with what is left. What is said of this node is heard.
    fn has_room(&self, node: &NodeId, size: usize, from: &NodeId) -> bool {
        let held = self.get(node);
        let known = node == from || *node == self.me || held.is_some_and(|entry| entry.met);
        let more = size.saturating_sub(held.map_or(0, |entry| entry.signed.size()));
        known || ((held.is_some() || self.entries.len() < MOST) && (more == 0 || self.bytes + more <= MOST_BYTES))
    }

    /// Gives up records until the table is within its limits: those of nodes that were never here first, of these the
    /// stalest. Never this node's own, nor that of `spared`, for which the room is made.
    pub fn trim(&mut self, spared: &NodeId) -> Vec<NodeId> {
        let mut gone = Vec::new();
        while self.entries.len() > MOST || self.bytes > MOST_BYTES {
            let others = self.all().filter(|(node, _)| **node != self.me && *node != spared);
            let Some(stalest) = others.min_by_key(|(_, e)| (e.met, e.heard)).map(|(node, _)| *node) else { break };
            self.remove(&stalest);
            gone.push(stalest);
        }
        gone
    }

    fn insert(&mut self, entry: Entry) {
        self.bytes += entry.signed.size();
        match self.find(&entry.head().node) {
            Ok(at) => self.bytes -= std::mem::replace(&mut self.entries[at], entry).signed.size(),
            Err(at) => {
                if self.entries.len() == self.entries.capacity() {
                    // By an eighth: doubled, a large table would hold as much again for nothing.
                    self.entries.reserve_exact(self.entries.len() / 8 + 8);
                }
                self.entries.insert(at, entry);
            }
        }
    }

    /// Where a node's entry is, or would be.
    fn find(&self, node: &NodeId) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.head().node.cmp(node))
    }

    fn take(&mut self, signed: SignedRecord, record: &PeerRecord, from: &NodeId, now: Now) -> Offer {
        let held = self.get(&record.node);
        let met = record.node == *from || held.is_some_and(|h| h.met);
        let age = Some(record.issued.age(now.wall)).filter(|age| record.node != *from && *age < LAPSE);
        let age = age.unwrap_or_default();
        let contact = Timestamp(now.wall.0.saturating_sub(age.as_millis() as u64));
        let clock_ahead = now.wall.age(record.issued) > CLOCK_AHEAD;
        let changed = held.is_none_or(|h| !says_the_same(&h.record(), record));
        let contact = held.map_or(contact, |h| h.contact.max(contact).min(now.wall));
        let Some(entry) = Entry::new(signed, contact, millis(now.mono) - millis(age)) else { return Offer::Bad };
        self.insert(Entry { clock_ahead, met, ..entry });
        if changed { Offer::Changed } else { Offer::Renewed }
    }

    /// Puts this node's own record.
    pub fn put_own(&mut self, signed: SignedRecord, now: Now) {
        Entry::new(signed, now.wall, millis(now.mono)).into_iter().for_each(|entry| self.insert(entry));
    }

    pub fn get(&self, node: &NodeId) -> Option<&Entry> {
        self.find(node).ok().map(|at| &self.entries[at])
    }

    fn get_mut(&mut self, node: &NodeId) -> Option<&mut Entry> {
        self.find(node).ok().map(|at| &mut self.entries[at])
    }

    fn all(&self) -> impl Iterator<Item = (&NodeId, &Entry)> {
        self.entries.iter().map(Entry::by_node)
    }

    /// The record of a node that belongs to the network now.
    pub fn member(&self, node: &NodeId) -> Option<&Entry> {
        self.get(node).filter(|e| !e.head().left)
    }

    /// The entries whose ids begin with the first `depth` nibbles of `prefix`.
    pub fn range(&self, prefix: u64, depth: u8) -> impl Iterator<Item = (&NodeId, &Entry)> {
        let (low, high) = bounds(prefix, depth);
        let from = self.entries.partition_point(|entry| entry.head().node < low);
        let to = self.entries.partition_point(|entry| entry.head().node <= high);
        self.entries[from..to.max(from)].iter().map(Entry::by_node)
    }

    /// Nodes that belong to the network now, this one among them.
    pub fn members(&self) -> impl Iterator<Item = (&NodeId, &Entry)> {
        self.all().filter(|(_, e)| !e.head().left)
    }

    pub fn remove(&mut self, node: &NodeId) -> bool {
        let Ok(at) = self.find(node) else { return false };
        self.bytes -= self.entries.remove(at).signed.size();
        true
    }

    /// Notes a sign of life. `weighty` ones are stored with the next flush, others only when the stored time is old.
    /// True if there is something to flush.
    pub fn touch(&mut self, node: &NodeId, weighty: bool, now: Now) -> bool {
        let Some(entry) = self.get_mut(node) else { return false };
        entry.contact = now.wall;
        entry.met = true;
        if weighty || entry.saved_contact.age(now.wall) > CONTACT_LAG {
            entry.dirty = entry.dirty.max(Dirty::Contact);
        }
        entry.dirty != Dirty::Clean
    }

    /// Notes that a node could not be reached, or that it can be.
    pub fn set_lost(&mut self, node: &NodeId, lost: bool) {
        if let Some(entry) = self.get_mut(node) {
            entry.lost = lost;
        }
    }

    /// What is to be stored of one node, at once.
    pub fn save(&mut self, node: &NodeId) -> Option<Change> {
        let network = self.network.clone();
        self.get_mut(node).and_then(|entry| entry.save(network))
    }

    /// What is to be stored of all nodes.
    pub fn flush(&mut self) -> Vec<Change> {
        let network = &self.network;
        self.entries.iter_mut().filter_map(|entry| entry.save(network.clone())).collect()
    }

    /// Forgets the records that were not renewed in time, never our own.
    pub fn lapse(&mut self, now: Duration) -> Vec<NodeId> {
        let oldest = millis(now) - millis(LAPSE);
        let is_lapsed = |entry: &mut Entry| entry.heard <= oldest && entry.head().node != self.me;
        let lapsed: Vec<_> = self.entries.extract_if(.., is_lapsed).collect();
        self.bytes -= lapsed.iter().map(|entry| entry.signed.size()).sum::<usize>();
        lapsed.iter().map(|entry| entry.head().node).collect()
    }
}

impl Entry {
    /// None if the record cannot be read.
    fn new(signed: SignedRecord, contact: Timestamp, heard: i64) -> Option<Self> {
        signed.head()?;
        Some(Self {
            signed,
            contact,
            clock_ahead: false,
            heard,
            lost: false,
            met: false,
            dirty: Dirty::Record,
            saved_contact: contact,
        })
    }

    pub fn head(&self) -> &Head {
        self.signed.head().unwrap_or_else(|| unreachable!("only what can be read is entered"))
    }

    /// All that the record says, decoded anew.
    pub fn record(&self) -> PeerRecord {
        self.signed.read().unwrap_or_else(|_| unreachable!("only what can be read is entered"))
    }

    fn by_node(&self) -> (&NodeId, &Self) {
        (&self.head().node, self)
    }

    /// Whether its record alone makes the node count as up.
    pub fn is_fresh(&self, now: Duration) -> bool {
        !self.lost && millis(now) - self.heard < millis(FRESH)
    }

    fn save(&mut self, network: NetworkName) -> Option<Change> {
        let (node, contact) = (self.head().node, self.contact);
        let change = match self.dirty {
            Dirty::Clean => return None,
            Dirty::Contact => Change::Contact { network, node, contact },
            Dirty::Record => Change::Record { network, node, record: self.signed.clone(), contact },
        };
        self.dirty = Dirty::Clean;
        self.saved_contact = contact;
        Some(change)
    }
}

/// Whether two records differ only in when they were made.
pub(crate) fn says_the_same(a: &PeerRecord, b: &PeerRecord) -> bool {
    let said = |r: &PeerRecord| PeerRecord { seq: 0, issued: Timestamp(0), ..r.clone() };
    said(a) == said(b)
}

/// The first and the last id of a range.
fn bounds(prefix: u64, depth: u8) -> (NodeId, NodeId) {
    let rest = u64::MAX.checked_shr(u32::from(depth) * 4).unwrap_or(0);
    let (mut low, mut high) = ([0; 32], [0xff; 32]);
    low[..8].copy_from_slice(&(prefix & !rest).to_be_bytes());
    high[..8].copy_from_slice(&(prefix | rest).to_be_bytes());
    (NodeId::from_bytes(low), NodeId::from_bytes(high))
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 4)
}
