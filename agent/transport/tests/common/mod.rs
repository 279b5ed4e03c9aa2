//! Nodes for the tests of this crate: a swarm with streams and limits on loopback, driven by a task of its own.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt, channel::mpsc};
use hive_transport::{
    Options, limits,
    streams::{self, Control, Incoming, Protocol, Stream},
    swarm,
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm,
    identity::Keypair,
    swarm::{ConnectionId, NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
};
use smol::channel::{Receiver, Sender};

pub const MEMBER: StreamProtocol = StreamProtocol::new("/test/member");
pub const STRANGER: StreamProtocol = StreamProtocol::new("/test/stranger");
/// Far beyond what any step takes; a test that hangs fails here.
pub const LONG: Duration = Duration::from_secs(60);

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    limits: limits::Behaviour,
    streams: streams::Behaviour,
}

pub type Event = SwarmEvent<BehaviourEvent>;

#[derive(Default, Clone)]
pub struct Setup {
    pub options: Options,
    pub limits: limits::Limits,
    pub streams: streams::Limits,
}

enum Command {
    Listen(Multiaddr),
    Dial(DialOpts),
    Close(ConnectionId),
}

pub struct Node {
    pub id: PeerId,
    pub control: Control,
    events: Receiver<Event>,
    commands: Sender<Command>,
}

impl Node {
    pub fn start(setup: Setup) -> (Self, mpsc::Receiver<Incoming>) {
        let identity = Keypair::generate_ed25519();
        let protocols = [Protocol::for_members(MEMBER), Protocol::for_strangers(STRANGER)];
        let (streams, control, incoming) = streams::new(protocols, setup.streams);
        let limits = limits::Behaviour::new(setup.limits, control.clone());
        let swarm = swarm(&identity, &setup.options, Behaviour { limits, streams }).unwrap();
        let (event_sender, events) = smol::channel::bounded(4096);
        let (commands, command_receiver) = smol::channel::bounded(16);
        smol::spawn(drive(swarm, event_sender, command_receiver)).detach();
        (Self { id: identity.public().to_peer_id(), control, events, commands }, incoming)
    }

    pub async fn listen(&self, addr: &str) -> Multiaddr {
        self.commands.send(Command::Listen(addr.parse().unwrap())).await.unwrap();
        self.wait(|event| match event {
            SwarmEvent::NewListenAddr { address, .. } => Some(address),
            _ => None,
        })
        .await
    }

    pub async fn dial(&self, opts: impl Into<DialOpts>) {
        self.commands.send(Command::Dial(opts.into())).await.unwrap();
    }

    pub async fn close(&self, connection: ConnectionId) {
        self.commands.send(Command::Close(connection)).await.unwrap();
    }

    /// The first event from now on that `wanted` answers.
    pub async fn wait<T>(&self, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        within(async {
            loop {
                if let Some(found) = wanted(self.events.recv().await.unwrap()) {
                    return found;
                }
            }
        })
        .await
    }

    pub async fn connected(&self) -> (ConnectionId, Multiaddr) {
        self.wait(|event| match event {
            SwarmEvent::ConnectionEstablished { connection_id, endpoint, .. } => {
                Some((connection_id, endpoint.get_remote_address().clone()))
            }
            _ => None,
        })
        .await
    }
}

async fn drive(mut swarm: Swarm<Behaviour>, events: Sender<Event>, commands: Receiver<Command>) {
    let mut commands = Box::pin(commands);
    loop {
        futures::select! {
            event = swarm.select_next_some() => drop(events.try_send(event)),
            command = commands.next().fuse() => match command {
                None => return,
                Some(Command::Listen(addr)) => drop(swarm.listen_on(addr).unwrap()),
                Some(Command::Dial(opts)) => drop(swarm.dial(opts)),
                Some(Command::Close(connection)) => drop(swarm.close_connection(connection)),
            }
        }
    }
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    let late = async {
        smol::Timer::after(LONG).await;
        panic!("nothing happened in {LONG:?}")
    };
    smol::future::or(future, late).await
}

/// Two connected nodes, the first dialled the second; the connection at each.
pub struct Pair {
    pub a: Node,
    pub b: Node,
    pub at_a: ConnectionId,
    pub at_b: ConnectionId,
    pub incoming_a: mpsc::Receiver<Incoming>,
    pub incoming_b: mpsc::Receiver<Incoming>,
}

impl Pair {
    pub async fn connect(setup: Setup) -> Self {
        Self::over(setup.clone(), setup, "/ip4/127.0.0.1/tcp/0").await
    }

    pub async fn over(setup_a: Setup, setup_b: Setup, addr: &str) -> Self {
        let (a, incoming_a) = Node::start(setup_a);
        let (b, incoming_b) = Node::start(setup_b);
        let addr = b.listen(addr).await;
        a.dial(DialOpts::peer_id(b.id).addresses(vec![addr]).build()).await;
        let (at_a, _) = a.connected().await;
        let (at_b, _) = b.connected().await;
        Self { a, b, at_a, at_b, incoming_a, incoming_b }
    }

    pub async fn admitted(setup: Setup) -> Self {
        let pair = Self::connect(setup).await;
        assert!(pair.a.control.admit(pair.at_a) && pair.b.control.admit(pair.at_b));
        pair
    }
}

/// Sends back what comes in, on every stream.
pub async fn echo(mut incoming: mpsc::Receiver<Incoming>) {
    while let Some(Incoming { stream, .. }) = incoming.next().await {
        smol::spawn(echo_one(stream)).detach();
    }
}

async fn echo_one(stream: Stream) {
    let (mut reader, mut writer) = stream.split();
    if futures::io::copy(&mut reader, &mut writer).await.is_ok() {
        drop(writer.close().await);
    }
}

/// Sends `bytes`, closes, and reads all that comes back.
pub async fn round_trip(mut stream: Stream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(bytes).await?;
    stream.close().await?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await?;
    Ok(back)
}
