//! One stranger who tries everything at a node: reservation, circuit, each stream protocol; and how long it may stay.

use crate::{BehaviourEvent, Failure, PROTOCOLS, Peer, say};
use argh::FromArgs;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt, stream::FuturesUnordered};
use hive_transport::{relay, streams::Control};
use libp2p::{
    Multiaddr, StreamProtocol,
    multiaddr::Protocol,
    swarm::{ConnectionId, SwarmEvent, dial_opts::DialOpts},
};
use serde_json::json;
use std::{io, time::Instant};

/// Tries everything that a stranger may try at a node, and stays until it is closed.
#[derive(FromArgs)]
#[argh(subcommand, name = "knock")]
pub struct Knock {
    /// a member's peer id, to be reached through the node
    #[argh(option)]
    member: libp2p::PeerId,
    /// the node's address, with /p2p/PEER at its end
    #[argh(positional)]
    address: Multiaddr,
}

impl Knock {
    pub async fn run(self, mut peer: Peer) -> Result<(), Failure> {
        let began = Instant::now();
        let connection = peer.connect(&self.address).await?;
        let mut streams: FuturesUnordered<_> =
            PROTOCOLS.map(|name| tried(peer.control.clone(), connection, name)).into_iter().collect();
        let circuit = self.address.with(Protocol::P2pCircuit);
        let reservation = peer.swarm.listen_on(circuit.clone())?;
        let through = DialOpts::peer_id(self.member).addresses(vec![circuit.with(Protocol::P2p(self.member))]).build();
        let dialled = through.connection_id();
        peer.swarm.dial(through)?;
        let (mut reserved, mut carried, mut closed) = (None, None, None);
        let mut open = Vec::new();
        while closed.is_none() || reserved.is_none() || carried.is_none() || !streams.is_empty() {
            futures::select! {
                stream = streams.select_next_some() => open.extend(stream),
                event = peer.event().fuse() => match event {
                    SwarmEvent::Behaviour(BehaviourEvent::Circuits(
                        relay::client::Event::ReservationReqAccepted { .. },
                    )) => reserved = Some(true),
                    SwarmEvent::ListenerClosed { listener_id, .. } if listener_id == reservation => {
                        reserved = Some(false);
                    }
                    SwarmEvent::ConnectionEstablished { connection_id, .. } if connection_id == dialled => {
                        carried = Some(true);
                    }
                    SwarmEvent::OutgoingConnectionError { connection_id, .. } if connection_id == dialled => {
                        carried = Some(false);
                    }
                    SwarmEvent::ConnectionClosed { connection_id, .. } if connection_id == connection => {
                        closed = Some(began.elapsed().as_secs_f64());
                    }
                    _ => {}
                },
            }
        }
        open.sort_unstable();
        say(&json!({ "streams": open, "reserved": reserved, "carried": carried, "closed_after": closed }));
        Ok(())
    }
}

/// The protocol's name, if a stream for it was not refused. It says nothing there and waits for the stream's end.
async fn tried(control: Control, connection: ConnectionId, name: &'static str) -> Option<&'static str> {
    let mut stream = control.open_on(connection, StreamProtocol::new(name)).await.ok()?;
    let waiting = async {
        stream.flush().await?;
        stream.read(&mut [0]).await
    };
    let refused = waiting.await.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    (!refused).then_some(name)
}
