//! Tunnels: local TCP connections carried to a peer and back, in the format of [`hive_protocol::tunnel`].
//!
//! [`listen`] and [`accept`] take connections at an egress, [`ingress`] those that peers open; [`tls`] ends TLS at either
//! side, [`sni`] tells proxies on one port apart. [`pump`] moves bytes between a local socket and a [`carrier`], [`pool`]
//! keeps carriers of the bulk plane ready, [`waiting`] finds the streams that come back on another. This module keeps
//! count of what is live, so that a right that is taken away ends the streams that used it, at once.

pub mod accept;
mod alert;
pub mod broken;
pub mod carrier;
pub mod copy;
pub mod ingress;
pub mod listen;
pub mod memory;
mod pair;
pub mod pool;
pub mod pump;
mod sni;
pub mod tls;
pub mod waiting;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_io::Timer;
use event_listener::Event;
use hive_core::{ConnId, Routes, Standing};
use hive_protocol::{NetworkName, NodeId, ProxyId, ProxySpec, TunnelCounts};
use smol::channel::{self, Receiver, Sender};

use crate::exec;

/// Live streams and the counters of every proxy since the agent started.
#[derive(Default)]
pub struct Tunnels {
    inner: Mutex<Inner>,
    /// Rings when a stream has left its place.
    left: Event,
}

#[derive(Default)]
struct Inner {
    next: u64,
    live: BTreeMap<u64, Live>,
    /// Struck out, and not yet gone: the other end is being told. By the connection that gave them their right.
    ending: BTreeMap<u64, Option<ConnId>>,
    counters: BTreeMap<ProxyId, Arc<Counters>>,
    /// Bytes in and out of proxies that are no more.
    gone: (u64, u64),
}

struct Live {
    proxy: ProxyId,
    /// Whose membership gives the right, and by which connection.
    member: Option<(NetworkName, NodeId)>,
    conn: Option<ConnId>,
    /// For how long the right outlives that connection, and since when it does.
    grace: Duration,
    absent: Option<Instant>,
    /// Told when that connection goes: what else goes over the same path is in doubt.
    doubt: Sender<()>,
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
    pub fn enter(self: &Arc<Self>, spec: &ProxySpec, conn: Option<ConnId>, grace: Duration) -> Entry {
        let (end, ended) = channel::bounded(1);
        let (doubt, doubted) = channel::bounded(1);
        let counters = self.counters(spec.id);
        counters.open.fetch_add(1, Ordering::Relaxed);
        counters.total.fetch_add(1, Ordering::Relaxed);
        let mut inner = lock(&self.inner);
        let key = inner.next;
        inner.next += 1;
        let member = spec.remote.as_ref().map(|remote| (remote.network.clone(), remote.node));
        inner.live.insert(key, Live { proxy: spec.id, member, conn, grace, absent: None, doubt, _end: end });
        Entry { key, counters, ended, doubted, tunnels: self.clone() }
    }

    /// Ends every stream that the routes no longer allow. One whose connection is gone takes its right from another
    /// connection of the same member, now or within its grace.
    pub fn enforce(self: &Arc<Self>, routes: &Routes) {
        let now = Instant::now();
        let mut absent = None;
        let mut inner = lock(&self.inner);
        let Inner { live, ending, .. } = &mut *inner;
        live.retain(|key, live| {
            let conn = live.conn;
            let keep = live.follow(routes, now);
            if !keep {
                ending.insert(*key, conn);
            }
            absent = absent.max(live.absent.filter(|since| *since == now).map(|_| live.grace));
            keep
        });
        drop(inner);
        if let Some(grace) = absent {
            let tunnels = self.clone();
            exec::spawn(async move {
                Timer::after(grace).await;
                tunnels.end_absent();
            })
            .detach();
        }
    }

    /// Ends the streams whose right has been absent for their grace.
    fn end_absent(&self) {
        lock(&self.inner).live.retain(|_, live| live.absent.is_none_or(|since| since.elapsed() < live.grace));
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
        self.wait_until(|inner| inner.live.is_empty()).await;
    }

    /// Whether streams that had their right from a connection still tell the other end that they end.
    pub fn is_ending_on(&self, conn: ConnId) -> bool {
        lock(&self.inner).is_ending_on(conn)
    }

    /// Waits until they have.
    pub async fn ended_on(&self, conn: ConnId) {
        self.wait_until(|inner| !inner.is_ending_on(conn)).await;
    }

    async fn wait_until(&self, reached: impl Fn(&Inner) -> bool) {
        loop {
            let left = self.left.listen();
            if reached(&lock(&self.inner)) {
                return;
            }
            left.await;
        }
    }

    /// How many streams there are.
    pub fn streams(&self) -> usize {
        lock(&self.inner).live.len()
    }
}

impl Inner {
    fn is_ending_on(&self, conn: ConnId) -> bool {
        self.ending.values().any(|on| *on == Some(conn))
    }
}

impl Live {
    /// Finds its right in new routes; false if it has none.
    fn follow(&mut self, routes: &Routes, now: Instant) -> bool {
        match routes.standing(self.proxy, self.conn) {
            Standing::Held => self.absent = None,
            Standing::Revoked => return false,
            Standing::Absent => {
                if self.absent.is_none() {
                    // Nobody listens at an ingress, or one doubt is told already.
                    let _ = self.doubt.try_send(());
                }
                match self.member.as_ref().and_then(|(network, node)| routes.path(network, node)) {
                    Some(conn) => (self.conn, self.absent) = (Some(conn), None),
                    None => self.absent = self.absent.or(Some(now)),
                }
            }
        }
        self.absent.is_none() || !self.grace.is_zero()
    }
}

/// Makes closing the socket send RST instead of FIN (SO_LINGER with zero seconds, `socket(7)`).
pub fn abort(socket: &impl AsFd) {
    if let Err(e) = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO)) {
        log::debug!("cannot abort a connection: {e}");
    }
}

/// A live stream's place in the count; leaving it ends the place.
pub struct Entry {
    key: u64,
    /// The proxy's counters.
    pub counters: Arc<Counters>,
    ended: Receiver<()>,
    doubted: Receiver<()>,
    tunnels: Arc<Tunnels>,
}

impl Entry {
    /// Waits until the stream has lost its right.
    pub async fn ended(&self) {
        // Nobody ever sends: the channel closes when the entry is struck out.
        let _ = self.ended.recv().await;
    }

    /// Waits until the connection that gives the stream its right is gone; the stream's carrier may be dead, too.
    pub async fn doubted(&self) {
        if self.doubted.recv().await.is_err() {
            // Struck out: `ended` says so.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
        let mut inner = lock(&self.tunnels.inner);
        inner.live.remove(&self.key);
        inner.ending.remove(&self.key);
        self.tunnels.left.notify(usize::MAX);
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
