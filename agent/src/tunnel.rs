//! Tunnels: local TCP connections carried to a peer and back, in the format of [`hive_protocol::tunnel`].
//!
//! [`listen`] and [`accept`] take connections at an egress, [`ingress`] those that peers open, [`copy`] moves bytes
//! between a local socket and a carrier, [`carrier`] reads and writes frames; [`tls`] ends TLS at either side, [`sni`]
//! tells proxies on one port apart. This module keeps count of what is live, so that a right
//! that is taken away ends the streams that used it, at once.

pub mod accept;
pub mod buffers;
pub mod carrier;
pub mod copy;
pub mod ingress;
pub mod listen;
mod pair;
mod sni;
pub mod tls;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use event_listener::Event;
use hive_core::{ConnId, Routes};
use hive_protocol::{ProxyId, TunnelCounts};
use smol::channel::{self, Receiver, Sender};

/// Live streams and the counters of every proxy since the agent started.
#[derive(Default)]
pub struct Tunnels {
    inner: Mutex<Inner>,
    /// Rings when the last stream has ended.
    empty: Event,
}

#[derive(Default)]
struct Inner {
    next: u64,
    live: BTreeMap<u64, Live>,
    counters: BTreeMap<ProxyId, Arc<Counters>>,
    /// Bytes in and out of proxies that are no more.
    gone: (u64, u64),
}

struct Live {
    proxy: ProxyId,
    /// None where the stream ends at this node.
    conn: Option<ConnId>,
    /// Dropped to end the stream.
    _end: Sender<()>,
}

/// What a proxy has carried.
#[derive(Default)]
pub struct Counters {
    open: AtomicU32,
    total: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    last_error: Mutex<Option<Failed>>,
    listener_error: Mutex<Option<String>>,
}

/// Why a connection failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// What to do about it.
    pub cause: Cause,
    /// In words.
    pub text: String,
}

/// Kinds of failure, each with another remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// There is no path to the peer, or it broke.
    Path,
    /// The peer has no ingress for this.
    NoRule,
    /// The target of the ingress does not accept connections.
    Target,
    /// The peer carries as much as it can.
    Busy,
    /// There is no certificate to end TLS with.
    Certificate,
}

/// A proxy's counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Connections open.
    pub open: u32,
    /// Connections since the agent started.
    pub total: u64,
    /// Bytes from the peer.
    pub bytes_in: u64,
    /// Bytes to the peer.
    pub bytes_out: u64,
    /// Last failure of a connection, cleared by a success.
    pub last_error: Option<Failed>,
    /// Why the egress cannot listen.
    pub listener_error: Option<String>,
}

impl Counters {
    /// Bytes came from the peer.
    pub fn received(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes went to the peer.
    pub fn sent(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A connection failed.
    pub fn failed(&self, cause: Cause, why: impl Into<String>) {
        *lock(&self.last_error) = Some(Failed { cause, text: why.into() });
    }

    /// A connection was made.
    pub fn succeeded(&self) {
        *lock(&self.last_error) = None;
    }

    /// Whether the egress listens, or why not.
    pub fn listening(&self, problem: Option<String>) {
        *lock(&self.listener_error) = problem;
    }

    fn counted(&self) -> Counted {
        Counted {
            open: self.open.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            last_error: lock(&self.last_error).clone(),
            listener_error: lock(&self.listener_error).clone(),
        }
    }
}

impl Tunnels {
    /// The counters of a proxy.
    pub fn counters(&self, proxy: ProxyId) -> Arc<Counters> {
        lock(&self.inner).counters.entry(proxy).or_default().clone()
    }

    /// The counters of a proxy as they stand.
    pub fn counted(&self, proxy: ProxyId) -> Counted {
        lock(&self.inner).counters.get(&proxy).map(|counters| counters.counted()).unwrap_or_default()
    }

    /// All proxies together, those removed meanwhile too.
    pub fn totals(&self) -> TunnelCounts {
        let inner = lock(&self.inner);
        let (bytes_in, bytes_out) = inner.gone;
        let mut totals = TunnelCounts { active: 0, bytes_in, bytes_out };
        for counted in inner.counters.values().map(|counters| counters.counted()) {
            totals.active += counted.open;
            totals.bytes_in += counted.bytes_in;
            totals.bytes_out += counted.bytes_out;
        }
        totals
    }

    /// Enters a stream. Whoever holds the entry must stop when [`Entry::ended`] says so.
    pub fn enter(self: &Arc<Self>, proxy: ProxyId, conn: Option<ConnId>) -> Entry {
        let (end, ended) = channel::bounded(1);
        let counters = self.counters(proxy);
        counters.open.fetch_add(1, Ordering::Relaxed);
        counters.total.fetch_add(1, Ordering::Relaxed);
        let mut inner = lock(&self.inner);
        let key = inner.next;
        inner.next += 1;
        inner.live.insert(key, Live { proxy, conn, _end: end });
        Entry { key, counters, ended, tunnels: self.clone() }
    }

    /// Ends every stream that the routes no longer allow.
    pub fn enforce(&self, routes: &Routes) {
        lock(&self.inner).live.retain(|_, live| routes.allows(live.proxy, live.conn));
    }

    /// Forgets the counters of every proxy but these; what the others carried stays in the totals.
    pub fn keep_only(&self, proxies: &BTreeSet<ProxyId>) {
        let mut inner = lock(&self.inner);
        let removed: Vec<ProxyId> = inner.counters.keys().filter(|id| !proxies.contains(id)).copied().collect();
        for counters in removed.iter().filter_map(|id| inner.counters.remove(id)).collect::<Vec<_>>() {
            let counted = counters.counted();
            inner.gone.0 += counted.bytes_in;
            inner.gone.1 += counted.bytes_out;
        }
    }

    /// How many streams use a connection.
    pub fn streams_on(&self, conn: ConnId) -> usize {
        lock(&self.inner).live.values().filter(|live| live.conn == Some(conn)).count()
    }

    /// Waits until no stream is left.
    pub async fn drained(&self) {
        loop {
            let empty = self.empty.listen();
            if self.streams() == 0 {
                return;
            }
            empty.await;
        }
    }

    /// How many streams there are.
    pub fn streams(&self) -> usize {
        lock(&self.inner).live.len()
    }
}

/// A live stream's place in the count; leaving it ends the place.
pub struct Entry {
    key: u64,
    /// The proxy's counters.
    pub counters: Arc<Counters>,
    ended: Receiver<()>,
    tunnels: Arc<Tunnels>,
}

impl Entry {
    /// Waits until the stream has lost its right.
    pub async fn ended(&self) {
        // Nobody ever sends: the channel closes when the entry is struck out.
        let _ = self.ended.recv().await;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
        let mut inner = lock(&self.tunnels.inner);
        inner.live.remove(&self.key);
        if inner.live.is_empty() {
            self.tunnels.empty.notify(usize::MAX);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_removed_proxy_carried_stays_in_the_totals() {
        let tunnels = Tunnels::default();
        tunnels.counters(1).received(10);
        tunnels.counters(2).sent(5);
        tunnels.keep_only(&BTreeSet::from([2]));
        assert_eq!(tunnels.counted(1), Counted::default());
        assert_eq!(tunnels.totals(), TunnelCounts { active: 0, bytes_in: 10, bytes_out: 5 });
    }
}
