//! A relay serves admitted connections and nobody else.
#![allow(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use hive_transport::{
    Options, relay,
    streams::{self, Control},
    swarm_over, transport_beside,
};
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::transport::ListenerId,
    identity::Keypair,
    multiaddr::Protocol,
    ping,
    relay::Event::ReservationReqAccepted as Granted,
    swarm::{NetworkBehaviour, SwarmEvent},
};

/// Far beyond what any step takes.
const LONG: Duration = Duration::from_secs(60);
/// Between pings.
const OFTEN: Duration = Duration::from_millis(50);

#[derive(NetworkBehaviour)]
struct Behaviour {
    streams: streams::Behaviour,
    relay: relay::Server,
    circuits: relay::client::Behaviour,
    ping: ping::Behaviour,
}

struct Node {
    swarm: Swarm<Behaviour>,
    control: Control,
}

impl Node {
    fn new() -> Node {
        let identity = Keypair::generate_ed25519();
        let local = identity.public().to_peer_id();
        let (streams, control, _) = streams::new([], streams::Limits::default());
        let (transport, circuits) = relay::client::new(local);
        let relay = relay::Server::new(local, relay::Limits::default(), control.clone());
        let transport = transport_beside(transport, &identity, &Options::default()).unwrap();
        let ping = ping::Behaviour::new(ping::Config::new().with_interval(OFTEN));
        let behaviour = Behaviour { streams, relay, circuits, ping };
        Node { swarm: swarm_over(transport, local, behaviour), control }
    }

    fn id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    /// Listens on loopback and knows itself to be reachable there.
    async fn listen(&mut self) -> Multiaddr {
        self.swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        loop {
            if let SwarmEvent::NewListenAddr { address, .. } = self.swarm.select_next_some().await {
                self.swarm.add_external_address(address.clone());
                return address;
            }
        }
    }

    /// Does all that can be done at once.
    fn settle(&mut self) {
        while self.swarm.next().now_or_never().is_some() {}
    }

    fn reserve(&mut self, relay: PeerId, at: &Multiaddr) -> ListenerId {
        let circuit = at.clone().with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
        self.swarm.listen_on(circuit).unwrap()
    }
}

/// Connects the client; the relay admits it if told to.
async fn connect(relay: &mut Node, client: &mut Node, at: &Multiaddr, admit: bool) {
    client.swarm.dial(at.clone()).unwrap();
    let (mut here, mut there) = (false, false);
    while !(here && there) {
        futures::select! {
            event = relay.swarm.select_next_some() => {
                if let SwarmEvent::ConnectionEstablished { connection_id, .. } = event {
                    here = true;
                    assert!(!admit || relay.control.admit(connection_id));
                }
            }
            event = client.swarm.select_next_some() => {
                there |= matches!(event, SwarmEvent::ConnectionEstablished { .. });
            }
        }
    }
}

/// Whether the relay grants what the client asks for.
async fn is_granted(relay: &mut Node, client: &mut Node, asked: ListenerId) -> bool {
    loop {
        futures::select! {
            _ = relay.swarm.select_next_some() => {}
            event = client.swarm.select_next_some() => match event {
                SwarmEvent::Behaviour(BehaviourEvent::Circuits(
                    relay::client::Event::ReservationReqAccepted { .. },
                )) => return true,
                SwarmEvent::ListenerClosed { listener_id, .. } if listener_id == asked => return false,
                _ => {}
            },
        }
    }
}

fn granted(serving: bool, admit: bool) -> bool {
    let scene = async {
        let (mut relay, mut client) = (Node::new(), Node::new());
        relay.swarm.behaviour().relay.serve(serving);
        let at = relay.listen().await;
        connect(&mut relay, &mut client, &at, admit).await;
        let asked = client.reserve(relay.id(), &at);
        is_granted(&mut relay, &mut client, asked).await
    };
    smol::block_on(in_time(scene))
}

async fn in_time<T>(scene: impl Future<Output = T>) -> T {
    let late = async {
        async_io::Timer::after(LONG).await;
        panic!("nothing was decided")
    };
    smol::future::or(scene, late).await
}

#[test]
fn a_member_gets_a_reservation() {
    assert!(granted(true, true));
}

#[test]
fn a_stranger_gets_none() {
    assert!(!granted(true, false));
}

#[test]
fn a_node_that_does_not_serve_gives_none_to_members() {
    assert!(!granted(false, true));
}

/// The request is under way when the client gives up, and granted when it has.
#[test]
fn a_grant_that_nobody_waits_for_any_more_does_no_harm() {
    let scene = async {
        let (mut relay, mut client) = (Node::new(), Node::new());
        relay.swarm.behaviour().relay.serve(true);
        let at = relay.listen().await;
        connect(&mut relay, &mut client, &at, true).await;
        let given_up = client.reserve(relay.id(), &at);
        client.settle();
        assert!(client.swarm.remove_listener(given_up));
        client.settle();
        grants(&mut relay, &mut client).await;
        // Once something else of the relay came to the client, the grant did.
        ping_pong(&mut relay, &mut client).await;
        let asked = client.reserve(relay.id(), &at);
        assert!(is_granted(&mut relay, &mut client, asked).await);
    };
    smol::block_on(in_time(scene));
}

/// Runs both until the relay has granted something.
async fn grants(relay: &mut Node, client: &mut Node) {
    loop {
        futures::select! {
            event = relay.swarm.select_next_some() => {
                if let SwarmEvent::Behaviour(BehaviourEvent::Relay(Granted { .. })) = event {
                    return;
                }
            }
            _ = client.swarm.select_next_some() => {}
        }
    }
}

/// A message there and back on the connection.
async fn ping_pong(relay: &mut Node, client: &mut Node) {
    loop {
        futures::select! {
            _ = relay.swarm.select_next_some() => {}
            event = client.swarm.select_next_some() => {
                if let SwarmEvent::Behaviour(BehaviourEvent::Ping(ping)) = event {
                    assert!(ping.result.is_ok());
                    return;
                }
            }
        }
    }
}
