//! Tunnels: local TCP connections carried to a peer and back, in the format of [`hive_protocol::tunnel`].
//!
//! [`listen`] and [`accept`] take connections at an egress, [`ingress`] those that peers open; [`tls`] ends TLS at either
//! side, [`sni`] tells proxies on one port apart. [`pump`] moves bytes between a local socket and a [`carrier`], [`pool`]
//! keeps carriers of the bulk plane ready, [`waiting`] finds the streams that come back on another, [`past`] remembers
//! those that were, [`lookout`] finds the way back
//! for those whose peer fell silent. This module keeps count of what is live, so that a right that is taken away ends the streams that
//! used it, at once.

pub mod accept;
mod alert;
pub mod broken;
pub mod carrier;
pub mod copy;
mod counters;
pub mod ingress;
pub mod listen;
pub mod lookout;
pub mod memory;
mod pair;
mod past;
pub mod pool;
pub mod pump;
mod sni;
pub mod tls;
pub mod waiting;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use async_io::Timer;
use event_listener::Event;
use hive_core::{ConnId, Epoch, Routes, Standing};
use hive_protocol::{Direction, NetworkName, NodeId, PathRule, ProxyId, ProxySpec, TunnelCounts};
use smol::channel::{self, Receiver, Sender};

pub use counters::{Cause, Counted, Counters, Failed};

use crate::{exec, watched::Watched};

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
    /// Streams that each member has opened here and that have not left.
    opened: BTreeMap<NodeId, usize>,
    counters: BTreeMap<ProxyId, Arc<Counters>>,
    /// Bytes in and out of proxies that are no more.
    gone: (u64, u64),
}

struct Live {
    proxy: ProxyId,
    /// Whose membership gives the right, by which connection, and by which of the network's passwords.
    member: Option<(NetworkName, NodeId)>,
    conn: Option<ConnId>,
    epoch: Epoch,
    /// For how long the right outlives that connection, and since when it does.
    grace: Duration,
    absent: Option<Instant>,
    /// Told when that connection goes: what else goes over the same path is in doubt.
    doubt: Sender<()>,
    /// Dropped to end the stream.
    _end: Sender<()>,
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

    /// Enters a stream whose right `conn` gives; none if the right was taken away meanwhile. Whoever holds the entry must
    /// stop when [`Entry::ended`] says so.
    pub fn enter(
        self: &Arc<Self>,
        spec: &ProxySpec,
        conn: Option<ConnId>,
        grace: Duration,
        routes: &Watched<Routes>,
    ) -> Option<Entry> {
        let (end, ended) = channel::bounded(1);
        let (doubt, doubted) = channel::bounded(1);
        let counters = self.counters(spec.id);
        counters.open.fetch_add(1, Ordering::Relaxed);
        counters.total.fetch_add(1, Ordering::Relaxed);
        let mut inner = lock(&self.inner);
        let key = inner.next;
        inner.next += 1;
        let member = spec.remote.as_ref().map(|remote| (remote.network.clone(), remote.node));
        let mut live = Live { proxy: spec.id, member, conn, epoch: 0, grace, absent: None, doubt, _end: end };
        live.note_epoch(&routes.get());
        inner.live.insert(key, live);
        let opener = spec.remote.as_ref().filter(|_| spec.direction == Direction::Ingress).map(|remote| remote.node);
        if let Some(opener) = opener {
            *inner.opened.entry(opener).or_default() += 1;
        }
        drop(inner);
        let entry = Entry { key, opener, counters, ended, doubted, tunnels: self.clone() };
        // Routes that change from now on find the entry; they may have changed before there was one.
        self.stays(key, &routes.get()).then_some(entry)
    }

    /// Whether the routes allow one stream; else it is struck out.
    fn stays(self: &Arc<Self>, key: u64, routes: &Routes) -> bool {
        let now = Instant::now();
        let mut inner = lock(&self.inner);
        let Some(live) = inner.live.get_mut(&key) else { return false };
        let (stays, began) = (live.follow(routes, now), live.began_absence(now));
        if !stays {
            inner.live.remove(&key);
        }
        drop(inner);
        began.into_iter().for_each(|grace| self.end_absent_after(grace));
        stays
    }

    /// Ends every stream that the routes no longer allow. One whose connection is gone takes its right from another
    /// connection of the same member, now or within its grace.
    pub fn enforce(self: &Arc<Self>, routes: &Routes) {
        let now = Instant::now();
        let mut graces = BTreeSet::new();
        let mut inner = lock(&self.inner);
        let Inner { live, ending, .. } = &mut *inner;
        live.retain(|key, live| {
            let conn = live.conn;
            let keep = live.follow(routes, now);
            if keep {
                graces.extend(live.began_absence(now));
            } else {
                ending.insert(*key, conn);
            }
            keep
        });
        drop(inner);
        graces.into_iter().for_each(|grace| self.end_absent_after(grace));
    }

    /// Looks once more after this grace, of which proxies have few different ones.
    fn end_absent_after(self: &Arc<Self>, grace: Duration) {
        let tunnels = self.clone();
        exec::spawn(async move {
            Timer::after(grace).await;
            tunnels.end_absent();
        })
        .detach();
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

    /// How many of them a member has opened.
    pub fn opened_by(&self, member: &NodeId) -> usize {
        lock(&self.inner).opened.get(member).copied().unwrap_or_default()
    }
}

impl Inner {
    /// A stream that this member opened has left.
    fn closed(&mut self, member: &NodeId) {
        if let Some(open) = self.opened.get_mut(member) {
            *open -= 1;
            if *open == 0 {
                self.opened.remove(member);
            }
        }
    }

    fn is_ending_on(&self, conn: ConnId) -> bool {
        self.ending.values().any(|on| *on == Some(conn))
    }
}

impl Live {
    /// Finds its right in new routes; false if it has none.
    fn follow(&mut self, routes: &Routes, now: Instant) -> bool {
        match routes.standing(self.proxy, self.conn, self.epoch) {
            Standing::Held => self.absent = None,
            Standing::Revoked => return false,
            Standing::Absent => {
                if self.absent.is_none() {
                    // Nobody listens at an ingress, or one doubt is told already.
                    let _ = self.doubt.try_send(());
                }
                match self.member.as_ref().and_then(|(network, node)| routes.path(network, node, PathRule::Any)) {
                    Some(conn) => (self.conn, self.absent) = (Some(conn), None),
                    None => self.absent = self.absent.or(Some(now)),
                }
            }
        }
        if self.absent.is_none() {
            self.note_epoch(routes);
        }
        self.absent.is_none() || !self.grace.is_zero()
    }

    /// Notes by which password its connection gives the right.
    fn note_epoch(&mut self, routes: &Routes) {
        if let (Some((network, _)), Some(conn)) = (&self.member, self.conn) {
            self.epoch = routes.epoch(network, conn);
        }
    }

    /// For how long it may be without its right, if it is since `now`.
    fn began_absence(&self, now: Instant) -> Option<Duration> {
        self.absent.filter(|since| *since == now).map(|_| self.grace)
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
    /// Who opened it, if not this node.
    opener: Option<NodeId>,
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

    /// Forgets a doubt of before: it was of another carrier than the one that was just found.
    pub fn settle_doubt(&self) {
        // Room for one doubt.
        let _ = self.doubted.try_recv();
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
        self.opener.iter().for_each(|member| inner.closed(member));
        self.tunnels.left.notify(usize::MAX);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
