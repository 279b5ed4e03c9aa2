//! Channels of the bulk plane, dialled by this node and kept ready for the next stream to the same peer.
//!
//! A channel that has carried a stream to its end carries the next one: no handshake stands between an application and
//! its first byte. What is idle too long is closed. Where the bulk plane does not answer soon (a peer behind a NAT), the
//! stream goes another way, and a channel that comes late is for the next.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_io::Timer;
use hive_core::ConnId;
use hive_protocol::NodeId;
use hive_transport::{
    bulk::{self, Channel},
    tls,
};
use libp2p::{Multiaddr, multiaddr::Protocol};
use smol::{
    channel::{self, Sender},
    lock::Semaphore,
};

use crate::{exec, net::registry::Connection, node::Handle, time::within};

/// Channels kept ready for one peer.
const MOST_IDLE: usize = 64;
/// After this long an idle channel is closed; the other end waits longer.
const IDLE: Duration = Duration::from_secs(20);
/// Handshakes with one peer at once: more only wait for the same cores.
const DIALS: usize = 8;
/// For how long a stream waits for a new channel before it takes the libp2p connection, which is there.
const HEAD_START: Duration = Duration::from_millis(500);
/// The same where the bulk plane has just answered: it is busy, not away.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it counts as having just answered.
const LATELY: Duration = Duration::from_secs(10);
/// Where no channel came, libp2p streams serve for so long; twice as long after each further failure, up to a bound.
const REST: Duration = Duration::from_secs(30);
const LONGEST_REST: Duration = Duration::from_secs(15 * 60);
/// Addresses that are tried.
const MOST_ADDRESSES: usize = 4;

/// The channels of all peers.
pub struct Pool {
    tls: tls::Config,
    peers: Mutex<HashMap<NodeId, Arc<Peer>>>,
}

struct Peer {
    tls: tls::Config,
    state: Mutex<State>,
}

struct State {
    /// Places for dials. Those of a path that was given up keep theirs to themselves.
    dials: Arc<Semaphore>,
    idle: Vec<Idle>,
    /// Where it answered last.
    answers_at: Option<SocketAddr>,
    /// When it did.
    answered: Option<Instant>,
    /// For how long it was left alone last, and until when it is.
    rest: Option<(Duration, Instant)>,
    /// A task looks after what is idle.
    kept: bool,
}

impl Default for State {
    fn default() -> Self {
        let (idle, answers_at, answered, rest, kept) = Default::default();
        Self { dials: Arc::new(Semaphore::new(DIALS)), idle, answers_at, answered, rest, kept }
    }
}

/// A channel that waits for its next stream.
struct Idle {
    channel: Channel,
    since: Instant,
    /// The connection beside which it was made. Another one may have another path, and this one's be dead.
    beside: ConnId,
}

impl Pool {
    /// An empty pool that dials as the node of this certificate.
    pub fn new(tls: tls::Config) -> Self {
        Self { tls, peers: Mutex::default() }
    }

    /// A ready channel to the peer of a direct connection, or a new one; none where the bulk plane cannot reach it.
    pub async fn take(&self, node: &Handle, connection: &Connection) -> Option<Channel> {
        let peer = self.peer(connection.peer)?;
        if let Some(channel) = peer.ready(connection.conn) {
            return Some(channel);
        }
        if connection.relayed() || peer.is_resting() {
            return None;
        }
        let (sender, receiver) = channel::bounded(1);
        exec::spawn(peer.clone().provide(node.clone(), connection.clone(), sender)).detach();
        let patience = if peer.answered_lately() { PATIENCE } else { HEAD_START };
        let Some(found) = within(patience, receiver.recv()).await else {
            peer.leave_alone();
            return None;
        };
        // Closed: there is none.
        found.ok()
    }

    /// A new channel to a peer at this address, whatever is ready.
    ///
    /// # Errors
    /// If the peer does not answer there.
    pub async fn try_at(&self, peer: NodeId, at: SocketAddr) -> Result<Channel, bulk::Error> {
        bulk::connect(at, &self.tls.expecting(peer.to_peer_id())?).await
    }

    /// Keeps a channel that has ended its stream, for others beside the same connection.
    pub fn give(&self, to: &Connection, channel: Channel) {
        if let Some(peer) = self.peer(to.peer) {
            peer.keep(channel, to.conn);
        }
    }

    /// Keeps a channel that has just proven that the bulk plane answers there.
    pub fn proven(&self, to: &Connection, at: SocketAddr, channel: Channel) {
        if let Some(peer) = self.peer(to.peer) {
            let mut state = peer.state();
            // They went where what was stuck went.
            state.idle.clear();
            state.dials = Arc::new(Semaphore::new(DIALS));
            (state.answers_at, state.answered, state.rest) = (Some(at), Some(Instant::now()), None);
            drop(state);
            peer.keep(channel, to.conn);
        }
    }

    /// Closes the idle channels to a peer: its path is in doubt.
    pub fn clear(&self, peer: &NodeId) {
        let known = self.peers.lock().unwrap_or_else(PoisonError::into_inner).get(peer).cloned();
        if let Some(peer) = known {
            let mut state = peer.state();
            state.idle.clear();
            (state.answered, state.rest) = (None, None);
        }
    }

    /// Ends the rest of a peer's bulk plane: there is news that it may answer.
    pub fn revive(&self, peer: &NodeId) {
        let known = self.peers.lock().unwrap_or_else(PoisonError::into_inner).get(peer).cloned();
        if let Some(peer) = known {
            peer.state().rest = None;
        }
    }

    fn peer(&self, peer: NodeId) -> Option<Arc<Peer>> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = peers.get(&peer) {
            return Some(known.clone());
        }
        let tls = self.tls.expecting(peer.to_peer_id()).ok()?;
        let new = Arc::new(Peer { tls, state: Mutex::default() });
        peers.insert(peer, new.clone());
        Some(new)
    }
}

impl Peer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The channel that was used last beside this connection: the others may rest in peace.
    fn ready(&self, beside: ConnId) -> Option<Channel> {
        let mut state = self.state();
        while let Some(at) = state.idle.iter().rposition(|idle| idle.beside == beside) {
            let Idle { channel, .. } = state.idle.remove(at);
            if channel.is_live() {
                return Some(channel);
            }
        }
        None
    }

    fn is_resting(&self) -> bool {
        self.state().rest.is_some_and(|(_, until)| until > Instant::now())
    }

    fn answered_lately(&self) -> bool {
        self.state().answered.is_some_and(|at| at.elapsed() < LATELY)
    }

    fn leave_alone(&self) {
        let mut state = self.state();
        let (now, last) = (Instant::now(), state.rest);
        if last.is_none_or(|(_, until)| until <= now) {
            let rest = last.map_or(REST, |(rest, _)| LONGEST_REST.min(rest * 2));
            state.rest = Some((rest, now + rest));
        }
    }

    /// Finds a channel for whoever waits at `asked`, or the next who asks.
    async fn provide(self: Arc<Self>, node: Handle, connection: Connection, asked: Sender<Channel>) {
        let dials = self.state().dials.clone();
        let dialling = dials.acquire().await;
        let found = match self.ready(connection.conn) {
            Some(channel) => Some(channel),
            None => {
                let last = self.state().answers_at;
                self.dial(candidates(&node, &connection, last).await).await
            }
        };
        drop(dialling);
        let Some(channel) = found else { return };
        if let Err(late) = asked.try_send(channel) {
            self.keep(late.into_inner(), connection.conn);
        }
    }

    async fn dial(&self, candidates: Vec<SocketAddr>) -> Option<Channel> {
        let began = Instant::now();
        for at in candidates {
            match bulk::connect(at, &self.tls).await {
                Ok(channel) => {
                    let mut state = self.state();
                    (state.answers_at, state.answered, state.rest) = (Some(at), Some(Instant::now()), None);
                    return Some(channel);
                }
                Err(error) => log::debug!("no bulk channel to {at}: {error}"),
            }
        }
        let mut state = self.state();
        if state.answered.is_some_and(|at| at >= began) {
            // Elsewhere, meanwhile.
            return None;
        }
        (state.answers_at, state.answered) = (None, None);
        drop(state);
        self.leave_alone();
        None
    }

    fn keep(self: Arc<Self>, mut channel: Channel, beside: ConnId) {
        let mut state = self.state();
        if state.idle.len() >= MOST_IDLE {
            return channel.writer.close();
        }
        state.idle.push(Idle { channel, since: Instant::now(), beside });
        if !std::mem::replace(&mut state.kept, true) {
            exec::spawn(self.clone().close_idle()).detach();
        }
    }

    /// Closes what is idle too long, until nothing is left.
    async fn close_idle(self: Arc<Self>) {
        while {
            Timer::after(IDLE / 2).await;
            self.has_idle()
        } {}
    }

    /// Whether any channel is left that was not idle too long.
    fn has_idle(&self) -> bool {
        let mut state = self.state();
        state.idle.retain_mut(|Idle { channel, since, .. }| {
            let keep = since.elapsed() < IDLE && channel.is_live();
            if !keep {
                channel.writer.close();
            }
            keep
        });
        state.kept = !state.idle.is_empty();
        state.kept
    }
}

/// Where the bulk plane of a connection's peer may answer, the likeliest place first.
pub async fn candidates(node: &Handle, connection: &Connection, last: Option<SocketAddr>) -> Vec<SocketAddr> {
    let peer = connection.peer;
    let published = node.ask(move |core, _| core.addresses_of(&peer)).await.unwrap_or_default();
    let mut published: Vec<SocketAddr> = published.iter().filter_map(tcp_address).collect();
    let dialled = tcp_address(&connection.address).filter(|_| connection.dialled);
    // Where it answered last is no more than a memory once nobody says so any more.
    let mut found: Vec<SocketAddr> =
        last.into_iter().filter(|at| published.contains(at) || dialled == Some(*at)).collect();
    found.extend(dialled);
    // The address that the peer uses towards us is one that it can be reached at, if any is.
    let here = connection.ip().map(|ip: IpAddr| ip.to_canonical());
    // Elsewhere, a loopback address leads to oneself.
    published.retain(|at| !at.ip().is_loopback() || here.is_some_and(|ip| ip.is_loopback()));
    published.sort_by_key(|at| Some(at.ip().to_canonical()) != here);
    found.extend(published);
    let mut seen = Vec::new();
    found.retain(|at| {
        !seen.contains(at) && seen.len() < MOST_ADDRESSES && {
            seen.push(*at);
            true
        }
    });
    found
}

/// The socket address of a plain TCP multiaddress.
pub fn tcp_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let Protocol::Tcp(port) = parts.next()? else { return None };
    parts.all(|part| matches!(part, Protocol::P2p(_))).then(|| SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_tcp_addresses_can_carry_channels() {
        let at = |text: &str| tcp_address(&text.parse().unwrap());
        assert_eq!(at("/ip4/192.0.2.1/tcp/4180"), Some(([192, 0, 2, 1], 4180).into()));
        assert_eq!(at("/ip4/192.0.2.1/udp/4180/quic-v1"), None);
        assert_eq!(at("/dns4/example.org/tcp/4180"), None);
        assert_eq!(at("/ip4/192.0.2.1/tcp/4180/ws"), None);
    }
}
