//! The libp2p swarm of a node: what behaviours it has, and how its events read to the core.

pub mod addresses;
pub mod registry;

use std::time::Duration;

use futures::channel::mpsc;
use hive_protocol::{CONTROL_PROTOCOL, JOIN_PROTOCOL, NodeId, PEERS_PROTOCOL, PUNCH_PROTOCOL, TUNNEL_PROTOCOL};
use hive_transport::{
    autonat::{DIAL_BACK, DIAL_REQUEST},
    board, bulk, limits, relay, streams, tls,
};
use libp2p::{
    Multiaddr, StreamProtocol, Swarm, TransportError, identify,
    identity::Keypair,
    ping,
    swarm::{
        ConnectionId, DialError, NetworkBehaviour,
        dial_opts::{DialOpts, PeerCondition, WithPeerIdWithAddresses},
    },
};
use registry::Registry;

/// How often a round trip is measured on each connection. Dead paths are noticed by the kernel's keep-alive, so this may
/// be rare. Each costs some ten wake-ups at both ends: with ten peers and once a minute that was most of what an idle
/// agent did.
const PING_INTERVAL: Duration = Duration::from_secs(600);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Accepted sockets that wait for the bulk plane; it takes them at once.
const BULK_SOCKETS: usize = 64;

/// What a node does on every connection. `registry` stands first so that it knows a connection before anybody else.
#[derive(NetworkBehaviour)]
pub struct Behaviour {
    registry: registry::Behaviour,
    limits: limits::Behaviour,
    streams: streams::Behaviour,
    /// Carries members' connections; must stand behind `streams`.
    pub relay: relay::Server,
    circuits: relay::client::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// A swarm with the handles that other tasks hold on it.
pub struct Net {
    /// The swarm; only the node's loop polls it.
    pub swarm: Swarm<Behaviour>,
    /// What other tasks use it by.
    pub handles: Handles,
    /// Streams that peers open.
    pub incoming: mpsc::Receiver<streams::Incoming>,
    /// Takes the channels of the bulk plane that peers dial.
    pub acceptor: bulk::Acceptor,
}

/// Handles on a swarm.
#[derive(Clone)]
pub struct Handles {
    /// Opens streams and admits connections.
    pub streams: streams::Control,
    /// Which connection is which.
    pub registry: Registry,
    /// This node's certificate for the bulk plane.
    pub tls: tls::Config,
}

impl Net {
    /// Builds the swarm of the node with this key.
    pub fn new(key: &Keypair, version: &str) -> Result<Self, hive_transport::Error> {
        let (streams, control, incoming) = streams::new(protocols(), streams::Limits::default());
        let registry = Registry::default();
        let identify = identify::Config::new("/hive/1".to_owned(), key.public())
            .with_agent_version(format!("hive-agent/{version}"))
            .with_interval(Duration::from_secs(3600))
            .with_hide_listen_addrs(true);
        let local = key.public().to_peer_id();
        let (circuits_transport, circuits) = relay::client::new(local);
        let behaviour = Behaviour {
            registry: registry::Behaviour(registry.clone()),
            limits: limits::Behaviour::new(limits::Limits::default(), control.clone()),
            streams,
            relay: relay::Server::new(local, relay::Limits::of_board(board::memory()), control.clone()),
            circuits,
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT)),
        };
        let (bulk, sockets) = smol::channel::bounded(BULK_SOCKETS);
        let options = hive_transport::Options { bulk: Some(bulk), ..Default::default() };
        let transport = hive_transport::transport_beside(circuits_transport, key, &options)?;
        let swarm = hive_transport::swarm_over(transport, local, behaviour);
        let tls = tls::Config::new(key).and_then(|tls| tls.for_bulk()).map_err(hive_transport::Error::from)?;
        let acceptor = bulk::Acceptor::new(tls.clone(), sockets, bulk::Limits::default());
        Ok(Self { swarm, handles: Handles { streams: control, registry, tls }, incoming, acceptor })
    }
}

fn protocols() -> [streams::Protocol; 7] {
    let (member, stranger) = (streams::Protocol::for_members, streams::Protocol::for_strangers);
    [
        stranger(StreamProtocol::new(JOIN_PROTOCOL)),
        stranger(StreamProtocol::new(CONTROL_PROTOCOL)),
        member(StreamProtocol::new(PEERS_PROTOCOL)),
        member(StreamProtocol::new(PUNCH_PROTOCOL)),
        member(StreamProtocol::new(DIAL_REQUEST)),
        // Proven by a number that only who was asked knows: whoever dials back has joined nothing on that connection.
        stranger(StreamProtocol::new(DIAL_BACK)),
        member(StreamProtocol::new(TUNNEL_PROTOCOL)),
    ]
}

/// How a dial began: its connection's id, or why it failed at once.
pub type Dialling = Result<ConnectionId, DialError>;

/// Starts a dial that demands `peer`'s key at every address.
pub fn dial(swarm: &mut Swarm<Behaviour>, peer: NodeId, addresses: Vec<Multiaddr>) -> Dialling {
    start(swarm, demanding(peer, addresses).build())
}

/// The same from another port than the one listened on: what lets in only answers lets this not in.
pub fn dial_back(swarm: &mut Swarm<Behaviour>, peer: NodeId, address: Multiaddr) -> Dialling {
    start(swarm, demanding(peer, vec![address]).allocate_new_port().build())
}

/// The same through a hole that the other end punches at this moment; one of the two takes the listener's part.
pub fn punch(swarm: &mut Swarm<Behaviour>, peer: NodeId, addresses: Vec<Multiaddr>, part: Part) -> Dialling {
    let options = demanding(peer, addresses);
    start(swarm, if part == Part::Listener { options.override_role().build() } else { options.build() })
}

/// What an end of a punched connection does in the handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Speaks first.
    Dialler,
    /// Answers.
    Listener,
}

impl Part {
    /// The part of an end that speaks first, or not.
    pub fn of(speaks_first: bool) -> Self {
        if speaks_first { Self::Dialler } else { Self::Listener }
    }
}

fn demanding(peer: NodeId, addresses: Vec<Multiaddr>) -> WithPeerIdWithAddresses {
    // The core decides when a second connection to a connected peer is wanted.
    DialOpts::peer_id(peer.to_peer_id()).condition(PeerCondition::Always).addresses(addresses)
}

fn start(swarm: &mut Swarm<Behaviour>, options: DialOpts) -> Dialling {
    let id = options.connection_id();
    swarm.dial(options).map(|()| id)
}

/// Why a dial failed, in a sentence for people.
pub fn dial_reason(error: &DialError) -> String {
    match error {
        DialError::WrongPeerId { obtained, address } => format!("another node ({obtained}) answers at {address}"),
        DialError::Transport(attempts) => {
            let reasons: Vec<String> =
                attempts.iter().take(3).map(|(at, e)| format!("{at}: {}", transport_reason(e))).collect();
            reasons.join("; ")
        }
        DialError::NoAddresses => "no address is known".to_owned(),
        DialError::LocalPeerId { .. } => "the address is this node's own".to_owned(),
        other => other.to_string(),
    }
}

fn transport_reason(error: &TransportError<std::io::Error>) -> String {
    match error {
        TransportError::MultiaddrNotSupported(_) => "no transport for this kind of address".to_owned(),
        TransportError::Other(error) => innermost(error),
    }
}

/// The last cause of an error chain: "connection refused" says more than what it passed through.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
