//! Changes that wait to be written: at most one for each row of the store, however long the disk is full.
//!
//! Pure bookkeeping; it never touches the store.

use std::collections::BTreeMap;

use hive_core::Change;
use hive_protocol::{NetworkName, NodeId, ProxyId};

#[cfg(test)]
mod tests;

/// The latest change of each row. A network that is gone comes before everything else said of it, so one that was left
/// and joined again loses its old records and keeps the new ones.
#[derive(Default)]
pub struct Unwritten(BTreeMap<Row, Change>);

/// What a change is about, in the order in which changes are written.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Row {
    NetworkGone(NetworkName),
    Network(NetworkName),
    Record(NetworkName, NodeId),
    Name,
    NextProxy,
    Proxy(ProxyId),
    Admin,
    Session([u8; 32]),
}

impl Unwritten {
    /// Adds a change; what it makes pointless is forgotten.
    pub fn add(&mut self, change: Change) {
        if let Change::NetworkGone(name) = &change {
            self.0.retain(|row, _| !row.is_of(name));
        }
        let row = Row::of(&change);
        match (self.0.get_mut(&row), change) {
            (Some(Change::Record { contact: held, .. }), Change::Contact { contact, .. }) => *held = contact,
            // The store passes over a contact of a record it does not hold.
            (Some(Change::RecordGone { .. }), Change::Contact { .. }) => {}
            (_, change) => drop(self.0.insert(row, change)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All of it, in the order in which it is to be written.
    pub fn changes(&self) -> Vec<Change> {
        self.0.values().cloned().collect()
    }

    /// Forgets all of it: it is written.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Row {
    fn of(change: &Change) -> Self {
        match change {
            Change::Name(_) => Self::Name,
            Change::Network(network) => Self::Network(network.name.clone()),
            Change::NetworkGone(name) => Self::NetworkGone(name.clone()),
            Change::Record { network, node, .. }
            | Change::Contact { network, node, .. }
            | Change::RecordGone { network, node } => Self::Record(network.clone(), *node),
            Change::Proxy(spec) => Self::Proxy(spec.id),
            Change::ProxyGone(id) => Self::Proxy(*id),
            Change::NextProxy(_) => Self::NextProxy,
            Change::Admin(_) => Self::Admin,
            Change::Session(session) => Self::Session(session.key),
            Change::SessionGone(key) => Self::Session(*key),
        }
    }

    /// Whether it is the row of a network, or of a record in it.
    fn is_of(&self, network: &NetworkName) -> bool {
        matches!(self, Self::Network(name) | Self::Record(name, _) if name == network)
    }
}
