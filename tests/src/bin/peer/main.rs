//! A libp2p node for tests: hive's transports, and none of what makes a member. It is the other end where hive is to work
//! with another implementation, and the stranger whom hive must turn away. Each command prints one line of JSON.
//!
//! It knows no password and reaches into no agent: what it can do, anybody on the wire can.

#![forbid(unsafe_code)]

mod crowd;
mod dial;
mod knock;
mod serve;

use argh::FromArgs;
use futures::StreamExt;
use hive_protocol::{CONTROL_PROTOCOL, JOIN_PROTOCOL, PEERS_PROTOCOL, PUNCH_PROTOCOL, TUNNEL_PROTOCOL};
use hive_transport::{
    Options, Security, relay,
    streams::{self, Control},
    swarm_over, transport_beside,
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, identify,
    identity::Keypair,
    multiaddr::Protocol,
    ping,
    swarm::{ConnectionId, NetworkBehaviour, SwarmEvent},
};
use serde_json::Value;
use std::{error::Error, time::Duration};

/// A libp2p node without a password, for tests.
#[derive(FromArgs)]
struct Arguments {
    /// what is offered and accepted on TCP: tls, noise or any (default: any)
    #[argh(option, default = "Security::TlsAndNoise", from_str_fn(security))]
    security: Security,
    #[argh(subcommand)]
    what: What,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum What {
    Dial(dial::Dial),
    Reserve(serve::Reserve),
    Serve(serve::Serve),
    Knock(knock::Knock),
    Crowd(crowd::Crowd),
}

type Failure = Box<dyn Error + Send + Sync>;

/// Every stream protocol of hive.
const PROTOCOLS: [&str; 5] = [JOIN_PROTOCOL, CONTROL_PROTOCOL, PEERS_PROTOCOL, PUNCH_PROTOCOL, TUNNEL_PROTOCOL];

fn main() -> Result<(), Failure> {
    let Arguments { security, what } = argh::from_env();
    smol::block_on(async {
        match what {
            What::Dial(dial) => dial.run(Peer::new(security)?).await,
            What::Reserve(reserve) => reserve.run(Peer::new(security)?).await,
            What::Serve(serve) => serve.run(Peer::new(security)?).await,
            What::Knock(knock) => knock.run(Peer::new(security)?).await,
            What::Crowd(crowd) => crowd.run(security).await,
        }
    })
}

fn security(name: &str) -> Result<Security, String> {
    match name {
        "any" => Ok(Security::TlsAndNoise),
        "tls" => Ok(Security::Tls),
        "noise" => Ok(Security::Noise),
        _ => Err(format!("tls, noise or any, not {name}")),
    }
}

/// What a peer does on every connection.
#[derive(NetworkBehaviour)]
struct Behaviour {
    streams: streams::Behaviour,
    /// Must stand behind `streams`.
    relay: relay::Server,
    circuits: relay::client::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

type Event = SwarmEvent<BehaviourEvent>;

/// A node with a key of its own.
struct Peer {
    swarm: Swarm<Behaviour>,
    control: Control,
}

impl Peer {
    fn new(security: Security) -> Result<Peer, Failure> {
        let key = Keypair::generate_ed25519();
        let local = key.public().to_peer_id();
        let protocols = PROTOCOLS.map(|name| streams::Protocol::for_strangers(StreamProtocol::new(name)));
        let (streams, control, _) =
            streams::new(protocols.map(streams::Protocol::outbound_only), streams::Limits::default());
        let (circuits_transport, circuits) = relay::client::new(local);
        let behaviour = Behaviour {
            streams,
            relay: relay::Server::new(local, relay::Limits::default(), control.clone()),
            circuits,
            identify: identify::Behaviour::new(identify::Config::new("/hive-peer/1".to_owned(), key.public())),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_millis(200))),
        };
        let options = Options { security, ..Options::default() };
        let transport = transport_beside(circuits_transport, &key, &options)?;
        Ok(Peer { swarm: swarm_over(transport, local, behaviour), control })
    }

    fn id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    async fn event(&mut self) -> Event {
        self.swarm.select_next_some().await
    }

    /// Waits until the dial of an address has succeeded or failed.
    async fn connect(&mut self, address: &Multiaddr) -> Result<ConnectionId, Failure> {
        self.swarm.dial(address.clone())?;
        let wanted = target(address);
        loop {
            match self.event().await {
                SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. }
                    if wanted.is_none_or(|wanted| wanted == peer_id) =>
                {
                    return Ok(connection_id);
                }
                SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.into()),
                _ => {}
            }
        }
    }
}

/// Whose address it is, where it says so.
fn target(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// Prints a line for whoever started this.
fn say(line: &Value) {
    println!("{line}");
}
