//! Which connection is which: libp2p's connection ids beside the core's.
//!
//! A behaviour of its own, so that a connection has its entry before any of its streams can arrive. It also turns away
//! peers whose key is not Ed25519: they cannot be nodes.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use hive_core::ConnId;
use hive_protocol::NodeId;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm, dummy,
    },
};

use super::addresses;

/// What the registry knows of a connection.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The core's name for it.
    pub conn: ConnId,
    /// libp2p's name for it.
    pub id: ConnectionId,
    /// The peer, proven by the handshake.
    pub peer: NodeId,
    /// Where it is.
    pub address: Multiaddr,
    /// Whether this node dialled.
    pub dialled: bool,
}

impl Connection {
    /// Whether a relay carries it.
    pub fn relayed(&self) -> bool {
        is_relayed(&self.address)
    }

    /// The peer's IP address, unless a relay stands between.
    pub fn ip(&self) -> Option<std::net::IpAddr> {
        if self.relayed() { None } else { addresses::ip(&self.address) }
    }
}

/// Shared view of the live connections.
#[derive(Clone, Default)]
pub struct Registry(Arc<Inner>);

#[derive(Default)]
struct Inner {
    next: AtomicU64,
    live: RwLock<HashMap<ConnectionId, Connection>>,
}

impl Registry {
    /// The connection with this libp2p id.
    pub fn by_id(&self, id: ConnectionId) -> Option<Connection> {
        self.0.live.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// The connection with this core id.
    pub fn by_conn(&self, conn: ConnId) -> Option<Connection> {
        let live = self.0.live.read().unwrap_or_else(PoisonError::into_inner);
        live.values().find(|c| c.conn == conn).cloned()
    }

    /// The direct connection with the node at this address.
    pub fn at(&self, address: &Multiaddr) -> Option<NodeId> {
        let bare = without_peer(address);
        let live = self.0.live.read().unwrap_or_else(PoisonError::into_inner);
        live.values().find(|c| !c.relayed() && without_peer(&c.address) == bare).map(|c| c.peer)
    }

    /// Whether there is a direct connection with this node.
    pub fn is_direct(&self, peer: &NodeId) -> bool {
        self.any(|c| c.peer == *peer && !c.relayed())
    }

    /// Whether there is a direct connection with this node beside this one.
    pub fn is_direct_beside(&self, peer: &NodeId, id: ConnectionId) -> bool {
        self.any(|c| c.peer == *peer && !c.relayed() && c.id != id)
    }

    fn any(&self, which: impl Fn(&Connection) -> bool) -> bool {
        self.0.live.read().unwrap_or_else(PoisonError::into_inner).values().any(which)
    }

    fn add(&self, id: ConnectionId, peer: &PeerId, address: Multiaddr, dialled: bool) -> Result<(), ConnectionDenied> {
        let peer = NodeId::from_peer_id(peer).ok_or_else(|| ConnectionDenied::new(NotANode))?;
        let conn = ConnId(self.0.next.fetch_add(1, Ordering::Relaxed));
        let entry = Connection { conn, id, peer, address, dialled };
        self.0.live.write().unwrap_or_else(PoisonError::into_inner).insert(id, entry);
        Ok(())
    }

    /// Forgets a connection.
    pub fn remove(&self, id: ConnectionId) -> Option<Connection> {
        self.0.live.write().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    /// All live connections.
    pub fn conns(&self) -> Vec<ConnId> {
        let live = self.0.live.read().unwrap_or_else(PoisonError::into_inner);
        live.values().map(|c| c.conn).collect()
    }
}

/// The peer's key is of another kind than every node's.
#[derive(Debug, thiserror::Error)]
#[error("the peer's key is not an Ed25519 key")]
struct NotANode;

/// Keeps a [`Registry`] current.
pub struct Behaviour(pub Registry);

impl Behaviour {
    /// What comes in over a relay has the circuit in our own address. It names the relay only if this node dialled it.
    fn inbound_circuit(&self, local: &Multiaddr) -> Multiaddr {
        let way: Multiaddr = local.iter().take_while(|part| *part != Protocol::P2pCircuit).collect();
        let named = way.iter().any(|part| matches!(part, Protocol::P2p(_)));
        let relay = if named { None } else { self.0.at(&way) };
        let way = relay.map_or(way.clone(), |relay| way.with(Protocol::P2p(relay.to_peer_id())));
        way.with(Protocol::P2pCircuit)
    }
}

/// Whether an address leads through a relay.
pub fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

fn without_peer(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let address = if is_relayed(local) { self.inbound_circuit(local) } else { remote.clone() };
        self.0.add(id, &peer, address, false)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.0.add(id, &peer, address.clone(), true)?;
        Ok(dummy::ConnectionHandler)
    }

    /// Entries of connections that lived are removed by the node's loop, which still needs them to tell the core; here
    /// only those go that another behaviour denied after this one had listed them.
    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::DialFailure(failure) => drop(self.0.remove(failure.connection_id)),
            FromSwarm::ListenFailure(failure) => drop(self.0.remove(failure.connection_id)),
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
