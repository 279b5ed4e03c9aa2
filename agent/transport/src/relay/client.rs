//! The asking side of a relay: libp2p's, kept from a panic that a relay could bring about.
//!
//! libp2p's client (libp2p-relay 0.22) forgets a reservation when its listener closes, but not the request that is under
//! way for it; it panics when the relay grants that one afterwards. A relay that takes its time would end the process.
//! So a grant on a connection whose reservation was given up is kept from it until the next one is asked for there.

use std::{
    collections::{BTreeSet, VecDeque},
    task::{Context, Poll, Waker},
};

pub use libp2p::relay::client::{Event, Transport};
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    relay::client,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};

/// What the behaviour tells the swarm to do.
type Action = ToSwarm<Event, THandlerInEvent<client::Behaviour>>;

/// The asking side, as part of a swarm.
pub struct Behaviour {
    inner: client::Behaviour,
    /// Connections whose reservation was given up: a grant there is one that nobody waits for.
    given_up: BTreeSet<ConnectionId>,
    /// What the inner one said while it was looked at.
    said: VecDeque<Action>,
}

/// The transport for circuits and the behaviour that goes with it.
#[must_use]
pub fn new(local: PeerId) -> (Transport, Behaviour) {
    let (transport, inner) = client::new(local);
    (transport, Behaviour { inner, given_up: BTreeSet::new(), said: VecDeque::new() })
}

impl Behaviour {
    /// Learns from what the inner one tells its handlers where it holds a reservation. The messages have no public
    /// names; how they are printed is the only thing to know them by, which the test of this crate would see change.
    fn follow(&mut self, action: &Action) {
        let ToSwarm::NotifyHandler { handler: NotifyHandler::One(connection), event, .. } = action else { return };
        match format!("{event:?}").as_str() {
            "Left(In::Reserve)" => drop(self.given_up.remove(connection)),
            "Left(In::ResetReservation)" => drop(self.given_up.insert(*connection)),
            _ => {}
        }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Action> {
        let polled = self.inner.poll(cx);
        if let Poll::Ready(action) = &polled {
            self.follow(action);
        }
        polled
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = THandler<client::Behaviour>;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(connection, peer, remote, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(closed) = &event {
            self.given_up.remove(&closed.connection_id);
        }
        let closes_listener = matches!(event, FromSwarm::ListenerClosed(_));
        self.inner.on_swarm_event(event);
        if closes_listener {
            // Before a handler is heard again. The swarm polls after every event, so no waker is needed.
            let mut cx = Context::from_waker(Waker::noop());
            while let Poll::Ready(action) = self.poll_inner(&mut cx) {
                self.said.push_back(action);
            }
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<client::Behaviour>,
    ) {
        if !self.given_up.contains(&connection) {
            self.inner.on_connection_handler_event(peer, connection, event);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        match self.said.pop_front() {
            Some(action) => Poll::Ready(action),
            None => self.poll_inner(cx),
        }
    }
}
