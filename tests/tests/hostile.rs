//! A node and a peer that keeps to no rule but the transport's: what a stranger on the wire is told, and what it can hold.

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use hive_protocol::{
    CONTROL_PROTOCOL,
    frame::{self, CONTROL_MAX},
    message::{ClientMessage, Response, ServerMessage},
};
use hive_tests::{
    lab::Lab,
    node::{Node, Options},
};
use hive_transport::streams::{self, Control, Limits, Protocol, Stream};
use libp2p::{
    Multiaddr, StreamProtocol,
    identity::Keypair,
    swarm::{ConnectionId, SwarmEvent},
};

const CONTROL: StreamProtocol = StreamProtocol::new(CONTROL_PROTOCOL);
const GREETING: ClientMessage = ClientMessage::Hello { min: 1, max: 1, node: None, network: None };

/// A connection under a key of its own that has proven nothing.
struct Stranger {
    control: Control,
    connection: ConnectionId,
}

impl Stranger {
    fn connect(node: &Node) -> Stranger {
        let identity = node.json(&["id"]);
        let address: Multiaddr = identity["addresses"][0].as_str().unwrap().parse().unwrap();
        let (behaviour, control, _) =
            streams::new([Protocol::for_strangers(CONTROL).outbound_only()], Limits::default());
        let options = hive_transport::Options::default();
        let mut swarm = hive_transport::swarm(&Keypair::generate_ed25519(), &options, behaviour).unwrap();
        swarm.dial(address).unwrap();
        let connection = smol::block_on(async {
            loop {
                if let SwarmEvent::ConnectionEstablished { connection_id, .. } = swarm.select_next_some().await {
                    break connection_id;
                }
            }
        });
        smol::spawn(async move { while swarm.next().await.is_some() {} }).detach();
        Stranger { control, connection }
    }

    fn open(&self) -> Stream {
        smol::block_on(self.control.open_on(self.connection, CONTROL)).unwrap()
    }

    /// What the node answers to a greeting that names `who`.
    fn greet(&self, who: Option<&str>) -> ServerMessage {
        let hello = ClientMessage::Hello { min: 1, max: 1, node: who.map(str::to_owned), network: None };
        let mut stream = self.open();
        smol::block_on(async {
            say(&mut stream, &hello).await;
            hear(&mut stream).await
        })
    }
}

async fn say(stream: &mut Stream, message: &ClientMessage) {
    stream.write_all(&frame::encode(message, CONTROL_MAX).unwrap()).await.unwrap();
    stream.flush().await.unwrap();
}

async fn hear(stream: &mut Stream) -> ServerMessage {
    let mut prefix = [0; frame::PREFIX];
    stream.read_exact(&mut prefix).await.unwrap();
    let mut body = vec![0; frame::body_len(prefix, CONTROL_MAX).unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    frame::decode(&body).unwrap()
}

fn refusal(answer: ServerMessage) -> String {
    match answer {
        ServerMessage::Response(Response::Error(failure)) => failure.what,
        other => panic!("not refused: {other:?}"),
    }
}

fn member(lab: &Lab, name: &str) -> Node {
    let options = Options::member("garden:correct horse").admin("admin:battery staple");
    Node::start(&lab.host(name), options.name(name))
}

#[test]
fn a_stranger_does_not_learn_who_is_known_here() {
    // On loopback, so that this process reaches the node without a namespace of its own.
    let lab = Lab::loopback();
    let (shed, attic) = (member(&lab, "shed"), member(&lab, "attic"));
    shed.register(&attic, "garden");
    let stranger = Stranger::connect(&shed);
    let unknown = refusal(stranger.greet(Some("nobody")));
    for known in ["attic", &attic.peer_id()] {
        assert_eq!(refusal(stranger.greet(Some(known))), unknown, "{known} can be told from a name that nobody bears");
    }
    let own = Stranger::connect(&shed);
    assert!(matches!(own.greet(Some(&shed.peer_id())), ServerMessage::Welcome { .. }));
    assert!(matches!(own.greet(None), ServerMessage::Welcome { .. }));
}

#[test]
fn no_large_frame_is_taken_before_a_login() {
    let lab = Lab::loopback();
    let shed = member(&lab, "shed");
    let stranger = Stranger::connect(&shed);
    let mut stream = stranger.open();
    let told = smol::block_on(async {
        say(&mut stream, &GREETING).await;
        assert!(matches!(hear(&mut stream).await, ServerMessage::Welcome { .. }));
        stream.write_all(&(64u32 * 1024).to_be_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        refusal(hear(&mut stream).await)
    });
    assert!(told.contains("exceeds the limit"), "{told}");
}
