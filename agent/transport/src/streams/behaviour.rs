//! Keeps the table of connections in step with the swarm and gives every connection its handler.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures::channel::mpsc;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
    },
};

use super::{
    Incoming, Shared,
    handler::Handler,
    table::{Entry, Link},
};

/// The part of [`streams`](super) that lives in the swarm. It reports no events.
pub struct Behaviour {
    shared: Arc<Shared>,
    incoming: mpsc::Sender<Incoming>,
}

impl Behaviour {
    pub(super) fn new(shared: Arc<Shared>, incoming: mpsc::Sender<Incoming>) -> Self {
        Self { shared, incoming }
    }

    fn handler(&self, connection: ConnectionId, peer: PeerId, remote: &Multiaddr) -> Handler {
        let link = Arc::<Link>::default();
        let (sender, requests) = async_channel::bounded(self.shared.limits.requests_per_connection.max(1));
        let relayed = remote.iter().any(|part| part == Protocol::P2pCircuit);
        let entry = Entry { peer, relayed, established: false, link: link.clone(), requests: sender };
        self.shared.table.insert(connection, entry);
        Handler::new((peer, connection), link, self.shared.clone(), requests, self.incoming.clone())
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // What comes in over a relay carries the circuit in our own address, not always in the remote's.
        let relayed = local.iter().any(|part| part == Protocol::P2pCircuit);
        Ok(self.handler(connection, peer, if relayed { local } else { remote }))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(connection, peer, remote))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let table = &self.shared.table;
        match event {
            FromSwarm::ConnectionEstablished(event) => table.establish(event.connection_id),
            FromSwarm::ConnectionClosed(event) => table.remove(event.connection_id),
            FromSwarm::DialFailure(event) => table.remove(event.connection_id),
            FromSwarm::ListenFailure(event) => table.remove(event.connection_id),
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
