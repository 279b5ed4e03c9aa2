//! The side that is dialled: on addresses of its own, where it relays for everybody, or through a relay.

use crate::{Failure, Peer, say};
use argh::FromArgs;
use libp2p::{Multiaddr, multiaddr::Protocol, swarm::SwarmEvent};
use serde_json::json;

/// Listens on TCP and QUIC of 127.0.0.1, answers identify and pings, and relays for everybody, until it is killed.
#[derive(FromArgs)]
#[argh(subcommand, name = "serve")]
pub struct Serve {}

/// Reserves at a relay and answers identify and pings there, until it is killed.
#[derive(FromArgs)]
#[argh(subcommand, name = "reserve")]
pub struct Reserve {
    /// the relay's address, with /p2p/PEER at its end
    #[argh(positional)]
    relay: Multiaddr,
}

const LISTEN: [&str; 2] = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"];

impl Serve {
    pub async fn run(self, mut peer: Peer) -> Result<(), Failure> {
        for address in LISTEN {
            peer.swarm.listen_on(address.parse()?)?;
        }
        peer.swarm.behaviour().relay.serve(true);
        let mut listening = Vec::new();
        while listening.len() < LISTEN.len() {
            if let SwarmEvent::NewListenAddr { address, .. } = peer.event().await {
                // A relay grants reservations only at addresses that it believes to be reachable at.
                peer.swarm.add_external_address(address.clone());
                listening.push(address);
            }
        }
        answer(peer, listening).await
    }
}

/// How often a relay that refuses is asked again.
const TRIES: u32 = 10;

impl Reserve {
    pub async fn run(self, mut peer: Peer) -> Result<(), Failure> {
        let circuit = self.relay.with(Protocol::P2pCircuit);
        let mut asked = peer.swarm.listen_on(circuit.clone())?;
        let mut again = TRIES;
        loop {
            match peer.event().await {
                SwarmEvent::NewListenAddr { address, .. } => return answer(peer, vec![address]).await,
                // A relay that has just been reached may not have admitted this node yet.
                SwarmEvent::ListenerClosed { listener_id, .. } if listener_id == asked && again > 0 => {
                    again -= 1;
                    asked = peer.swarm.listen_on(circuit.clone())?;
                }
                SwarmEvent::ListenerClosed { listener_id, reason, .. } if listener_id == asked => {
                    say(&json!({ "refused": format!("{reason:?}") }));
                    return Ok(());
                }
                _ => {}
            }
        }
    }
}

/// Tells where it listens, then serves whoever comes.
async fn answer(mut peer: Peer, listening: Vec<Multiaddr>) -> Result<(), Failure> {
    let me = peer.id();
    let with_me = |address: &Multiaddr| address.clone().with_p2p(me).unwrap_or_else(|other| other).to_string();
    say(&json!({ "peer": me.to_string(), "listening": listening.iter().map(with_me).collect::<Vec<_>>() }));
    loop {
        if let SwarmEvent::ConnectionEstablished { connection_id, .. } = peer.event().await {
            peer.control.admit(connection_id);
        }
    }
}
