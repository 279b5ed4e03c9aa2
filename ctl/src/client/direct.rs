//! The way to a node without a local agent: a libp2p connection of our own, under a key that lives as long as this
//! process. The node sees a stranger, who can only log in.

use std::{
    error::Error as _,
    io::{
        self,
        ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof},
    },
};

use futures::StreamExt;
use hive_protocol::{CONTROL_PROTOCOL, NodeId};
use hive_transport::{
    Options,
    streams::{self, Behaviour, Control, Limits, Protocol},
    swarm,
};
use libp2p::{
    PeerId, StreamProtocol, Swarm,
    core::upgrade::NegotiationError,
    identity::Keypair,
    multiaddr::Protocol as Part,
    swarm::{ConnectionId, DialError, SwarmEvent, dial_opts::DialOpts},
};
use multiaddr::Multiaddr;

use super::Carrier;
use crate::error::{Error, Result};

const CONTROL: StreamProtocol = StreamProtocol::new(CONTROL_PROTOCOL);

/// Connects to `address`, which ends in the node's peer id, and opens a control stream there.
pub async fn dial(address: &Multiaddr) -> Result<(Box<dyn Carrier>, NodeId)> {
    let (peer, node) = destination(address)?;
    let (mut swarm, control) = swarm_of_our_own()?;
    let opts = DialOpts::peer_id(peer).addresses(vec![address.clone()]).build();
    swarm.dial(opts).map_err(|e| unreachable(address, &e))?;
    let connection = established(&mut swarm, address).await?;
    // The connection lives as long as its swarm is driven: to the end of the process.
    smol::spawn(async move { while swarm.next().await.is_some() {} }).detach();
    let stream = control.open_on(connection, CONTROL).await;
    let stream = stream.map_err(|e| Error::unreachable(format!("{address} gives no control stream: {e}")))?;
    Ok((Box::new(stream), node))
}

/// The node that has to answer at an address.
fn destination(address: &Multiaddr) -> Result<(PeerId, NodeId)> {
    let last = match address.iter().last() {
        Some(Part::P2p(peer)) => NodeId::from_peer_id(&peer).map(|node| (peer, node)),
        _ => None,
    };
    last.ok_or_else(|| {
        Error::usage(format!("--direct {address} does not end in /p2p/ID"))
            .hint("`hivectl id` on that node prints its addresses and its peer id")
    })
}

fn swarm_of_our_own() -> Result<(Swarm<Behaviour>, Control)> {
    let (behaviour, control, _) = streams::new([Protocol::for_strangers(CONTROL).outbound_only()], Limits::default());
    let swarm = swarm(&Keypair::generate_ed25519(), &Options::default(), behaviour);
    Ok((swarm.map_err(|e| Error::failed(format!("cannot set up connections: {e}")))?, control))
}

async fn established(swarm: &mut Swarm<Behaviour>, address: &Multiaddr) -> Result<ConnectionId> {
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { connection_id, .. } => return Ok(connection_id),
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(unreachable(address, &error)),
            _ => {}
        }
    }
}

fn unreachable(address: &Multiaddr, error: &DialError) -> Error {
    let why = match error {
        DialError::WrongPeerId { obtained, .. } => format!("another node answered, {obtained}"),
        DialError::Transport(attempts) => attempts.last().map_or_else(String::new, |(_, e)| causes(e)),
        error => causes(error),
    };
    let unreachable = Error::unreachable(format!("cannot connect to {address}: {why}"));
    if broke_off(error) {
        return unreachable.hint("the node did not answer the handshake: it may be busy or no hive node");
    }
    unreachable
}

/// Whether something took the connection and did not shake hands: no hive node, or one that has no place for us.
fn broke_off(error: &DialError) -> bool {
    let DialError::Transport(attempts) = error else { return false };
    let mut next = attempts.last().and_then(|(_, error)| error.source());
    while let Some(error) = next {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if error.is::<NegotiationError>() || matches!(kind, Some(BrokenPipe | ConnectionReset | UnexpectedEof)) {
            return true;
        }
        next = error.source();
    }
    false
}

/// An error with all its causes, each once: some of libp2p's outer errors say nothing themselves.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let more = error.to_string();
        if !text.contains(&more) {
            text = if text.is_empty() { more } else { format!("{text}: {more}") };
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    fn dialled(address: &str) -> Error {
        match smol::block_on(dial(&address.parse().unwrap())) {
            Ok(_) => panic!("{address} answered"),
            Err(error) => error,
        }
    }

    #[test]
    fn an_address_without_a_peer_id_is_a_usage_error() {
        assert_eq!(dialled("/ip4/127.0.0.1/tcp/4180").status, Status::Usage);
    }

    #[test]
    fn a_closed_port_is_an_unreachable_node() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = dialled(&format!("/ip4/127.0.0.1/tcp/{free}/p2p/{}", NodeId::from_bytes([7; 32])));
        assert_eq!(error.status, Status::Unreachable);
        assert!(error.what.contains("refused"), "{}", error.what);
    }

    #[test]
    fn a_handshake_that_is_broken_off_names_what_may_be_the_cause() {
        let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = busy.local_addr().unwrap().port();
        std::thread::spawn(move || busy.incoming().for_each(drop));
        let error = dialled(&format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", NodeId::from_bytes([7; 32])));
        assert_eq!(error.status, Status::Unreachable);
        assert!(error.hint.is_some_and(|hint| hint.contains("busy")), "{}", error.what);
    }

    #[test]
    fn a_node_is_reached_under_its_own_peer_id_alone() {
        let (address, node) = smol::block_on(listening());
        let full = |id: &NodeId| format!("{address}/p2p/{id}").parse().unwrap();
        assert_eq!(smol::block_on(dial(&full(&node))).map(|(_, reached)| reached), Ok(node));
        let wrong = smol::block_on(dial(&full(&NodeId::from_bytes([7; 32])))).map(|_| ());
        assert!(wrong.is_err_and(|e| e.status == Status::Unreachable));
    }

    /// A node that accepts control streams.
    async fn listening() -> (Multiaddr, NodeId) {
        let identity = Keypair::generate_ed25519();
        let (behaviour, _, incoming) = streams::new([Protocol::for_strangers(CONTROL)], Limits::default());
        let mut swarm = swarm(&identity, &Options::default(), behaviour).unwrap();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        smol::spawn(async move { while swarm.next().await.is_some() {} }).detach();
        smol::spawn(incoming.for_each(|_| std::future::ready(()))).detach();
        (address, NodeId::from_peer_id(&identity.public().to_peer_id()).unwrap())
    }
}
