//! How many connections this node keeps, and from whom.
//!
//! A [`Behaviour`] that refuses connections beyond its bounds, before their handshake where the swarm asks that
//! early, so that a refusal costs next to nothing. Connections that [`streams`](crate::streams) knows as admitted
//! do not count as strangers'. Where a member is or was lately, the bounds on all strangers together do not hold: a crowd
//! keeps no member from coming back. Elsewhere prefixes share the places: one that has most gives one up to one with
//! less, so a crowd from a few addresses keeps out nobody who comes from another. No other connection is closed here.

mod known;
mod rate;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};

use crate::streams::{Admission, Control};
use known::Known;
use rate::Rates;

/// Who gives up a place came within this time. Whoever has stayed for longer without being a member is kept for a reason
/// that is not known here, such as a person who has logged in.
const MAY_GIVE_WAY: Duration = Duration::from_secs(10);

/// Bounds on connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections in all; those that we open are refused only above this.
    pub established: usize,
    /// Connections from outside that have not finished their handshake. libp2p lets nobody but their transport end
    /// these, so no newcomer can take the place of a silent one: there are many places, and few for each prefix.
    pub pending_inbound: usize,
    /// The same from one IPv4 address or one IPv6 /56, the least that a customer gets (RFC 6177).
    pub pending_per_prefix: usize,
    /// Connections with one peer: two while both ends dial, more while a path changes.
    pub per_peer: usize,
    /// Connections from outside that have finished their handshake and are not admitted.
    pub strangers: usize,
    /// The same from one prefix, with those pending.
    pub strangers_per_prefix: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            established: 1024,
            pending_inbound: 512,
            pending_per_prefix: 8,
            per_peer: 8,
            strangers: 256,
            strangers_per_prefix: 32,
        }
    }
}

/// Which bound a connection met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// [`Limits::established`]
    #[error("too many connections")]
    Established,
    /// [`Limits::pending_inbound`]
    #[error("too many connections in their handshake")]
    Pending,
    /// [`Limits::pending_per_prefix`]
    #[error("too many connections from this address in their handshake")]
    PendingPrefix,
    /// [`Limits::per_peer`]
    #[error("too many connections with this peer")]
    Peer,
    /// [`Limits::strangers`]
    #[error("too many connections that belong to no network")]
    Strangers,
    /// [`Limits::strangers_per_prefix`]
    #[error("too many connections from this address that belong to no network")]
    Prefix,
    /// Handshakes of strangers, here or in all, in a time.
    #[error("too many handshakes in a short time")]
    Rate,
}

/// The part of the limits that lives in the swarm. It reports no events.
pub struct Behaviour {
    limits: Limits,
    control: Control,
    pending: HashMap<ConnectionId, Prefix>,
    established: HashMap<ConnectionId, Established>,
    peers: HashMap<PeerId, usize>,
    /// Pending and established connections from outside, admitted or not.
    inbound: HashMap<Prefix, HashSet<ConnectionId>>,
    known: Known,
    rates: Rates,
    /// Told to give way and not closed yet; of these the swarm has yet to be told of the last.
    leaving: HashSet<ConnectionId>,
    untold: VecDeque<(PeerId, ConnectionId)>,
}

struct Established {
    peer: PeerId,
    prefix: Prefix,
    is_inbound: bool,
    since: Instant,
    admission: Admission,
}

impl Behaviour {
    /// Limits that take from `control` which connections are admitted.
    pub fn new(limits: Limits, control: Control) -> Self {
        Self {
            limits,
            control,
            pending: HashMap::new(),
            established: HashMap::new(),
            peers: HashMap::new(),
            inbound: HashMap::new(),
            known: Known::default(),
            rates: Rates::new(),
            leaving: HashSet::new(),
            untold: VecDeque::new(),
        }
    }

    fn check_inbound(&mut self, prefix: Prefix, now: Instant) -> Result<(), Exceeded> {
        within(self.established.len() + self.pending.len(), self.limits.established, Exceeded::Established)?;
        self.check_prefix(prefix)?;
        if self.is_known(prefix) {
            return Ok(());
        }
        within(self.pending.len(), self.limits.pending_inbound, Exceeded::Pending)?;
        self.check_strangers(prefix)?;
        // Who comes through a relay was let in there, as a member.
        if prefix == Prefix::Elsewhere { Ok(()) } else { self.rates.take(prefix, now) }
    }

    /// Whether a member is there, or was lately.
    fn is_known(&self, prefix: Prefix) -> bool {
        let admitted = |held: &Established| held.prefix == prefix && held.admission.is_admitted();
        self.known.contains(prefix) || self.established.values().any(admitted)
    }

    fn check_prefix(&self, prefix: Prefix) -> Result<(), Exceeded> {
        let Some(ids) = self.inbound.get(&prefix) else { return Ok(()) };
        let pending = ids.iter().filter(|id| self.pending.contains_key(id)).count();
        within(pending, self.limits.pending_per_prefix, Exceeded::PendingPrefix)?;
        within(self.strangers(ids.iter()), self.limits.strangers_per_prefix, Exceeded::Prefix)
    }

    /// Asked before the handshake, to refuse early, and after it, since all those pending may end at once.
    fn check_strangers(&self, prefix: Prefix) -> Result<(), Exceeded> {
        let full = self.strangers_present().count() >= self.limits.strangers;
        if full && self.who_gives_way(prefix).is_none() { Err(Exceeded::Strangers) } else { Ok(()) }
    }

    /// Takes a place for a stranger of this prefix.
    fn make_room(&mut self, prefix: Prefix) -> Result<(), Exceeded> {
        if self.is_known(prefix) || self.strangers_present().count() < self.limits.strangers {
            return Ok(());
        }
        let (peer, connection) = self.who_gives_way(prefix).ok_or(Exceeded::Strangers)?;
        self.leaving.insert(connection);
        self.untold.push_back((peer, connection));
        Ok(())
    }

    /// Strangers from where no member is, whose handshake is done and who may stay.
    fn strangers_present(&self) -> impl Iterator<Item = (&ConnectionId, &Established)> {
        let admitted = self.established.values().filter(|held| held.admission.is_admitted());
        let members: HashSet<Prefix> = admitted.map(|held| held.prefix).collect();
        self.established.iter().filter(move |(id, held)| {
            let spared = members.contains(&held.prefix) || self.known.contains(held.prefix);
            held.is_inbound && !spared && !self.leaving.contains(id)
        })
    }

    /// The oldest stranger of the prefix that has most of them, if one of this prefix is to have its place.
    fn who_gives_way(&self, prefix: Prefix) -> Option<(PeerId, ConnectionId)> {
        let strangers: Vec<_> = self.strangers_present().collect();
        let mut counts = HashMap::<Prefix, usize>::new();
        strangers.iter().for_each(|(_, held)| *counts.entry(held.prefix).or_default() += 1);
        let here = counts.get(&prefix).copied().unwrap_or_default();
        let (most, _) = counts.into_iter().filter(|(_, count)| *count > here + 1).max_by_key(|(_, count)| *count)?;
        let may_go = |held: &Established| held.prefix == most && held.since.elapsed() < MAY_GIVE_WAY;
        let oldest = strangers.into_iter().filter(|(_, held)| may_go(held)).min_by_key(|(id, _)| **id);
        oldest.map(|(id, held)| (held.peer, *id))
    }

    /// How many are not admitted, which none of those pending is.
    fn strangers<'a>(&self, ids: impl Iterator<Item = &'a ConnectionId> + Clone) -> usize {
        ids.clone().count() - self.control.count_admitted(ids)
    }

    fn check_peer(&self, peer: &PeerId) -> Result<(), Exceeded> {
        within(self.peers.get(peer).copied().unwrap_or(0), self.limits.per_peer, Exceeded::Peer)
    }

    fn establish(&mut self, connection: ConnectionId, peer: PeerId, endpoint: &ConnectedPoint) {
        self.pending.remove(&connection);
        let held = Established {
            peer,
            prefix: Prefix::of(endpoint.get_remote_address()),
            is_inbound: endpoint.is_listener(),
            since: Instant::now(),
            admission: self.control.admission(connection),
        };
        self.established.insert(connection, held);
        *self.peers.entry(peer).or_default() += 1;
    }

    fn close(&mut self, connection: ConnectionId) {
        let Some(Established { peer, prefix, is_inbound, admission, .. }) = self.established.remove(&connection) else {
            return;
        };
        self.leaving.remove(&connection);
        if admission.is_admitted() && prefix != Prefix::Elsewhere {
            self.known.note(prefix);
        }
        if let Some(count) = self.peers.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.peers.remove(&peer);
            }
        }
        if is_inbound {
            self.forget_inbound(connection, prefix);
        }
    }

    fn give_up(&mut self, connection: ConnectionId) {
        if let Some(prefix) = self.pending.remove(&connection) {
            self.forget_inbound(connection, prefix);
        }
    }

    fn forget_inbound(&mut self, connection: ConnectionId, prefix: Prefix) {
        if let Some(ids) = self.inbound.get_mut(&prefix) {
            ids.remove(&connection);
            if ids.is_empty() {
                self.inbound.remove(&prefix);
            }
        }
    }
}

fn within(count: usize, limit: usize, exceeded: Exceeded) -> Result<(), Exceeded> {
    if count < limit { Ok(()) } else { Err(exceeded) }
}

/// Where connections come from, as coarse as one customer's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prefix {
    /// All of it.
    V4(Ipv4Addr),
    /// The first 56 bits.
    V6([u8; 7]),
    /// Through a relay: the address says nothing about the peer.
    Elsewhere,
}

impl Prefix {
    fn of(remote: &Multiaddr) -> Self {
        let mut parts = remote.iter();
        let ip = match parts.next() {
            Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
            Some(Protocol::Ip6(ip)) => IpAddr::V6(ip),
            _ => return Self::Elsewhere,
        };
        if parts.any(|part| part == Protocol::P2pCircuit) {
            return Self::Elsewhere;
        }
        Self::from(ip)
    }
}

impl From<IpAddr> for Prefix {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f, g])
            }
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let prefix = Prefix::of(remote);
        self.check_inbound(prefix, Instant::now()).map_err(ConnectionDenied::new)?;
        self.pending.insert(connection, prefix);
        self.inbound.entry(prefix).or_default().insert(connection);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let prefix = Prefix::of(remote);
        self.check_peer(&peer).and_then(|()| self.make_room(prefix)).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        within(self.established.len(), self.limits.established, Exceeded::Established)
            .and_then(|()| peer.map_or(Ok(()), |peer| self.check_peer(&peer)))
            .map_err(ConnectionDenied::new)?;
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check_peer(&peer).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => {
                self.establish(event.connection_id, event.peer_id, event.endpoint);
            }
            FromSwarm::ConnectionClosed(event) => self.close(event.connection_id),
            FromSwarm::ListenFailure(event) => self.give_up(event.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let Some((peer_id, connection)) = self.untold.pop_front() else { return Poll::Pending };
        log::debug!("a stranger gives up its place to one from another address");
        Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(connection) })
    }
}

#[cfg(test)]
mod tests;
