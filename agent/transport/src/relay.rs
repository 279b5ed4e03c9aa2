//! Relaying for members: circuits through a node that both ends can reach (libp2p specs, `relay/circuit-v2.md`).
//!
//! [`Server`] wraps libp2p's relay so that only admitted connections ([`crate::streams`]) are offered its protocol, and
//! only while this node serves. Members have no limit of time or bytes; what is bounded is memory: reservations and
//! circuits. [`client`] asks for them. This module never decides who is a member, nor whether this node should relay.
//!
//! libp2p's relay itself must never change its status: it would send the news to relayed connections too, whose handlers
//! panic on it. So it is switched on once, before the first connection, and the gate is here.

pub mod client;
mod gate;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    relay,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
    },
};

use crate::streams::Control;
use gate::Gate;

/// Longer than any process lives: circuits of members have no end of their own.
const NO_END: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Clients renew at three quarters of it.
const RESERVATION: Duration = Duration::from_secs(3600);

/// What a circuit takes when both of its ends are slow: two streams and two buffers.
const CIRCUIT_BYTES: u128 = 600 * 1024;
/// The part of a board's memory that circuits may take, and what bounds their number.
const PART: u128 = 6;
const CIRCUITS: (u128, u128) = (64, 256);

/// Bounds on what a relay holds for others.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Nodes that may be reached through this one.
    pub reservations: usize,
    /// Connections carried at once.
    pub circuits: usize,
    /// Connections carried for one node that dials.
    pub circuits_per_peer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { reservations: 256, circuits: 256, circuits_per_peer: 64 }
    }
}

impl Limits {
    /// Those of a board with so many bytes of memory: 64 circuits on one of 256 MiB.
    #[must_use]
    pub fn of_board(memory: u128) -> Self {
        let circuits = (memory / PART / CIRCUIT_BYTES).clamp(CIRCUITS.0, CIRCUITS.1);
        Self { circuits: usize::try_from(circuits).unwrap_or(usize::MAX), ..Self::default() }
    }
}

/// The serving side, as part of a swarm.
pub struct Server {
    inner: relay::Behaviour,
    control: Control,
    serving: Arc<AtomicBool>,
}

impl Server {
    /// A relay that does not serve yet. In the swarm's behaviour it must stand after [`crate::streams::Behaviour`].
    pub fn new(local: PeerId, limits: Limits, control: Control) -> Self {
        let config = relay::Config {
            max_reservations: limits.reservations,
            // A node has two connections with us while both ends dial, and reserves anew on the second.
            max_reservations_per_peer: 4,
            reservation_duration: RESERVATION,
            reservation_rate_limiters: Vec::new(),
            max_circuits: limits.circuits,
            max_circuits_per_peer: limits.circuits_per_peer,
            max_circuit_duration: NO_END,
            // Zero is no limit.
            max_circuit_bytes: 0,
            circuit_src_rate_limiters: Vec::new(),
        };
        let mut inner = relay::Behaviour::new(local, config);
        inner.set_status(Some(relay::Status::Enable));
        Self { inner, control, serving: Arc::default() }
    }

    /// Takes requests from now on, or refuses new ones; circuits that are open stay so.
    pub fn serve(&self, serving: bool) {
        self.serving.store(serving, Ordering::Release);
    }

    fn gate(&self, connection: ConnectionId, handler: THandler<relay::Behaviour>) -> THandler<Self> {
        Gate::new(handler, self.control.admission(connection), self.serving.clone())
    }
}

impl NetworkBehaviour for Server {
    type ConnectionHandler = Gate<THandler<relay::Behaviour>>;
    type ToSwarm = relay::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let handler = self.inner.handle_established_inbound_connection(connection, peer, local, remote)?;
        Ok(self.gate(connection, handler))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let handler = self.inner.handle_established_outbound_connection(connection, peer, remote, role, port_use)?;
        Ok(self.gate(connection, handler))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_of_256_mib_carries_64_circuits_and_a_server_more() {
        let circuits = |mib: u128| Limits::of_board(mib << 20).circuits;
        assert_eq!([circuits(64), circuits(256), circuits(512), circuits(65_536)], [64, 72, 145, 256]);
    }
}
