//! How many connections this node keeps, and from whom.
//!
//! A [`Behaviour`] that refuses connections beyond its bounds, before their handshake where the swarm asks that
//! early, so that a refusal costs next to nothing. Connections that [`streams`](crate::streams) knows as admitted
//! do not count as strangers'. It never closes a connection that it has let in.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm, dummy,
    },
};

use crate::streams::Control;

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
}

/// The part of the limits that lives in the swarm. It reports no events.
pub struct Behaviour {
    limits: Limits,
    control: Control,
    pending: HashMap<ConnectionId, Prefix>,
    /// With the prefix of those from outside.
    established: HashMap<ConnectionId, (PeerId, Option<Prefix>)>,
    peers: HashMap<PeerId, usize>,
    /// Pending and established connections from outside, admitted or not.
    inbound: HashMap<Prefix, HashSet<ConnectionId>>,
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
        }
    }

    fn check_inbound(&self, prefix: Prefix) -> Result<(), Exceeded> {
        within(self.pending.len(), self.limits.pending_inbound, Exceeded::Pending)?;
        within(self.established.len() + self.pending.len(), self.limits.established, Exceeded::Established)?;
        self.check_prefix(prefix)?;
        self.check_strangers()
    }

    fn check_prefix(&self, prefix: Prefix) -> Result<(), Exceeded> {
        let Some(ids) = self.inbound.get(&prefix) else { return Ok(()) };
        let pending = ids.iter().filter(|id| self.pending.contains_key(id)).count();
        within(pending, self.limits.pending_per_prefix, Exceeded::PendingPrefix)?;
        within(self.strangers(ids.iter()), self.limits.strangers_per_prefix, Exceeded::Prefix)
    }

    /// Asked before the handshake, to refuse early, and after it, since all those pending may end at once.
    fn check_strangers(&self) -> Result<(), Exceeded> {
        let strangers = self.strangers(self.inbound.values().flatten()).saturating_sub(self.pending.len());
        within(strangers, self.limits.strangers, Exceeded::Strangers)
    }

    /// How many are not admitted, which none of those pending is.
    fn strangers<'a>(&self, ids: impl Iterator<Item = &'a ConnectionId> + Clone) -> usize {
        ids.clone().count() - self.control.count_admitted(ids)
    }

    fn check_peer(&self, peer: &PeerId) -> Result<(), Exceeded> {
        within(self.peers.get(peer).copied().unwrap_or(0), self.limits.per_peer, Exceeded::Peer)
    }

    fn establish(&mut self, connection: ConnectionId, peer: PeerId) {
        let prefix = self.pending.remove(&connection);
        self.established.insert(connection, (peer, prefix));
        *self.peers.entry(peer).or_default() += 1;
    }

    fn close(&mut self, connection: ConnectionId) {
        let Some((peer, prefix)) = self.established.remove(&connection) else { return };
        if let Some(count) = self.peers.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.peers.remove(&peer);
            }
        }
        if let Some(prefix) = prefix {
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
        self.check_inbound(prefix).map_err(ConnectionDenied::new)?;
        self.pending.insert(connection, prefix);
        self.inbound.entry(prefix).or_default().insert(connection);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check_peer(&peer).and_then(|()| self.check_strangers()).map_err(ConnectionDenied::new)?;
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
            FromSwarm::ConnectionEstablished(event) => self.establish(event.connection_id, event.peer_id),
            FromSwarm::ConnectionClosed(event) => self.close(event.connection_id),
            FromSwarm::ListenFailure(event) => self.give_up(event.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(addr: &str) -> Prefix {
        Prefix::of(&addr.parse().unwrap())
    }

    #[test]
    fn one_customer_is_one_prefix() {
        assert_eq!(prefix("/ip6/2001:db8:0:1::1/tcp/1"), prefix("/ip6/2001:db8:0:ff::2/tcp/2"));
        assert_ne!(prefix("/ip6/2001:db8:0:100::1/tcp/1"), prefix("/ip6/2001:db8:0:200::1/tcp/1"));
        assert_eq!(prefix("/ip4/192.0.2.1/tcp/1"), prefix("/ip4/192.0.2.1/tcp/2"));
        assert_ne!(prefix("/ip4/192.0.2.1/tcp/1"), prefix("/ip4/192.0.2.2/tcp/1"));
        assert_eq!(prefix("/ip6/::ffff:192.0.2.1/tcp/1"), prefix("/ip4/192.0.2.1/tcp/1"));
    }

    /// The first connection that is refused, of those that stay in their handshake, each from where `from` says.
    fn first_refused(from: impl Fn(usize) -> String) -> usize {
        let (_, control, _) = crate::streams::new([], crate::streams::Limits::default());
        let mut limits = Behaviour::new(Limits::default(), control);
        let mut arrives = |number: usize| {
            let (id, local) = (ConnectionId::new_unchecked(number), Multiaddr::empty());
            limits.handle_pending_inbound_connection(id, &local, &from(number).parse().unwrap())
        };
        (0..1024).find(|number| arrives(*number).is_err()).unwrap()
    }

    #[test]
    fn a_few_addresses_that_stay_silent_keep_nobody_else_out() {
        assert_eq!(first_refused(|_| "/ip4/192.0.2.1/tcp/1".to_owned()), Limits::default().pending_per_prefix);
        let from_63_and_one = |n| format!("/ip4/192.0.2.{}/tcp/1", n / 8);
        assert_eq!(first_refused(from_63_and_one), Limits::default().pending_inbound);
    }

    #[test]
    fn a_relays_address_is_not_its_clients() {
        let relay = PeerId::random();
        assert_eq!(prefix(&format!("/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit")), Prefix::Elsewhere);
        assert_eq!(prefix(&format!("/p2p/{relay}")), Prefix::Elsewhere);
    }
}
