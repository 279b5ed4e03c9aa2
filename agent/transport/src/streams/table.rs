//! The connections there are: whose, how good, admitted or not, and how to ask them for a stream.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_channel::Sender;
use futures::{channel::oneshot, task::AtomicWaker};
use libp2p::{PeerId, StreamProtocol, swarm::ConnectionId};

use super::{Stream, control::OpenError};

/// A caller waits for a stream.
#[derive(Debug)]
pub(super) struct Request {
    pub protocol: StreamProtocol,
    pub reply: oneshot::Sender<Result<Stream, OpenError>>,
}

/// What a connection's handler shares with the table.
#[derive(Debug, Default)]
pub(super) struct Link {
    admitted: AtomicBool,
    /// Streams alive or being opened, both directions.
    pub streams: AtomicUsize,
    /// Inbound streams alive that came in while this was a stranger's connection.
    pub streams_of_stranger: AtomicUsize,
    /// Wakes the handler when what it offers has changed.
    pub waker: AtomicWaker,
}

impl Link {
    pub(super) fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::Acquire)
    }

    pub(super) fn set_admitted(&self, admitted: bool) {
        self.admitted.store(admitted, Ordering::Release);
        self.waker.wake();
    }
}

/// A stream that counts in one of a link's counters until this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    link: Arc<Link>,
    counter: fn(&Link) -> &AtomicUsize,
}

impl Slot {
    /// `None` when `limit` are taken.
    pub(super) fn take(link: &Arc<Link>, counter: fn(&Link) -> &AtomicUsize, limit: usize) -> Option<Self> {
        let next = |taken: usize| (taken < limit).then_some(taken + 1);
        let taken = counter(link).fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        taken.is_ok().then(|| Self { link: link.clone(), counter })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        (self.counter)(&self.link).fetch_sub(1, Ordering::AcqRel);
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Entry {
    pub peer: PeerId,
    pub relayed: bool,
    /// Whether the swarm has it; before that another behaviour may still refuse it.
    pub established: bool,
    pub link: Arc<Link>,
    pub requests: Sender<Request>,
}

/// All connections, oldest first: the swarm counts their ids upwards.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<BTreeMap<ConnectionId, Entry>>);

impl Table {
    pub(super) fn insert(&self, connection: ConnectionId, entry: Entry) {
        self.lock().insert(connection, entry);
    }

    pub(super) fn establish(&self, connection: ConnectionId) {
        if let Some(entry) = self.lock().get_mut(&connection) {
            entry.established = true;
        }
    }

    pub(super) fn remove(&self, connection: ConnectionId) {
        self.lock().remove(&connection);
    }

    /// Whether the connection exists and now stands like this.
    pub(super) fn set_admitted(&self, connection: ConnectionId, admitted: bool) -> bool {
        let entries = self.lock();
        let entry = entries.get(&connection).filter(|entry| entry.established);
        entry.map(|entry| entry.link.set_admitted(admitted)).is_some()
    }

    pub(super) fn is_admitted(&self, connection: ConnectionId) -> bool {
        self.lock().get(&connection).is_some_and(|entry| entry.link.is_admitted())
    }

    /// What the table shares with the connection's handler.
    pub(super) fn link(&self, connection: ConnectionId) -> Option<Arc<Link>> {
        self.lock().get(&connection).map(|entry| entry.link.clone())
    }

    /// How many of these connections are admitted.
    pub(super) fn count_admitted<'a>(&self, connections: impl Iterator<Item = &'a ConnectionId>) -> usize {
        let entries = self.lock();
        connections.filter(|id| entries.get(id).is_some_and(|entry| entry.link.is_admitted())).count()
    }

    /// The connections to a peer, best first: direct before relayed, then the oldest. With `strangers` those not
    /// admitted count too, after the admitted ones.
    ///
    /// # Errors
    /// Whether there is none at all, or none admitted.
    pub(super) fn candidates(&self, peer: PeerId, strangers: bool) -> Result<Vec<ConnectionId>, OpenError> {
        let entries = self.lock();
        let all = || entries.iter().filter(|(_, entry)| entry.peer == peer && entry.established);
        let usable = all().filter(|(_, entry)| strangers || entry.link.is_admitted());
        let mut found: Vec<_> = usable.map(|(id, entry)| (entry.relayed, !entry.link.is_admitted(), *id)).collect();
        found.sort_unstable();
        match (found.is_empty(), all().next().is_some()) {
            (false, _) => Ok(found.into_iter().map(|(.., id)| id).collect()),
            (true, true) => Err(OpenError::NotAdmitted),
            (true, false) => Err(OpenError::NotConnected),
        }
    }

    /// Where to ask one connection for a stream.
    ///
    /// # Errors
    /// If there is no such connection, or it is a stranger's and `strangers` is not set.
    pub(super) fn requests(&self, connection: ConnectionId, strangers: bool) -> Result<Sender<Request>, OpenError> {
        let entries = self.lock();
        let entry = entries.get(&connection).filter(|entry| entry.established).ok_or(OpenError::NotConnected)?;
        if strangers || entry.link.is_admitted() { Ok(entry.requests.clone()) } else { Err(OpenError::NotAdmitted) }
    }

    /// A panic elsewhere leaves the map whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ConnectionId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(table: &Table, id: usize, peer: PeerId, relayed: bool) -> ConnectionId {
        let connection = ConnectionId::new_unchecked(id);
        let (requests, _) = async_channel::bounded(1);
        table.insert(connection, Entry { peer, relayed, established: true, link: Arc::default(), requests });
        connection
    }

    #[test]
    fn prefers_direct_then_old_connections() {
        let (table, peer) = (Table::default(), PeerId::random());
        let relayed = add(&table, 1, peer, true);
        let old = add(&table, 2, peer, false);
        let new = add(&table, 3, peer, false);
        add(&table, 4, PeerId::random(), false);
        assert_eq!(table.candidates(peer, true).unwrap(), [old, new, relayed]);
    }

    #[test]
    fn member_protocols_see_only_admitted_connections() {
        let (table, peer) = (Table::default(), PeerId::random());
        assert!(matches!(table.candidates(peer, false), Err(OpenError::NotConnected)));
        let first = add(&table, 1, peer, false);
        let second = add(&table, 2, peer, false);
        assert!(matches!(table.candidates(peer, false), Err(OpenError::NotAdmitted)));
        assert!(table.set_admitted(second, true));
        assert_eq!(table.candidates(peer, false).unwrap(), [second]);
        assert_eq!(table.candidates(peer, true).unwrap(), [second, first]);
        assert!(table.set_admitted(second, false));
        assert!(!table.is_admitted(second));
    }

    #[test]
    fn an_unknown_connection_cannot_be_admitted() {
        assert!(!Table::default().set_admitted(ConnectionId::new_unchecked(1), true));
    }

    #[test]
    fn slots_are_few_and_return() {
        let link = Arc::default();
        let take = || Slot::take(&link, |link| &link.streams, 2);
        let first = take();
        let second = take();
        assert!(first.is_some() && second.is_some() && take().is_none());
        drop(first);
        assert!(take().is_some());
    }
}
