//! What this is all for: https from nodes behind NATs, through a public node that opens nothing.

use hive_tests::{
    acme::World,
    capture::{Capture, holds, memory_holds},
    lab::Nat,
    node::Node,
    pebble::Behaviour,
    services::{Sse, http2, websocket},
    tls::{self, Client},
};
use std::{
    io::{Read, Write},
    iter,
};

/// What nobody on the way may see.
const SECRET: &[u8] = b"the key is under the blue flowerpot, third from the left; ";
/// Looks into the memory of the nodes while bytes flow.
const LOOKS: usize = 6;

#[test]
fn two_nodes_behind_nats_share_a_public_port() {
    let Some(world) = World::start("two_nodes_behind_nats_share_a_public_port", &Behaviour::default()) else { return };
    let ((first, _one), (second, _two)) =
        (world.lab.host_behind(Nat::PortRestricted, "one"), world.lab.host_behind(Nat::Symmetric, "two"));
    let (old, new) = (Sse::start(&first), http2(&second));
    let homes = [(&first, "one.example", old.port()), (&second, "two.example", new.port())];
    let _nodes = homes.map(|(host, name, port)| {
        let home = world.home(host, Some(name), port);
        world.ca.lead(name, world.gate.host().ipv4());
        world.obtain(&home, "tls-alpn-01", &[name]).success();
        home
    });
    let client = world.lab.host("client");
    assert_eq!(world.curl(&client, "one.example", &["https://one.example/health"]).success(), "ok\n");
    let version = ["--http2", "--output", "/dev/null", "--write-out", "%{http_version} %{http_code}"];
    let with = |url: &'static str| version.into_iter().chain([url]).collect::<Vec<_>>();
    assert_eq!(world.curl(&client, "one.example", &with("https://one.example/health")).success(), "1.1 200");
    assert_eq!(world.curl(&client, "two.example", &with("https://two.example/")).success(), "2 200");
    let refused = world.curl(&client, "three.example", &["https://three.example/"]).failure(35);
    assert!(refused.contains("unrecognized name"), "{refused}");
    assert_eq!(world.gate.ctl(&["keys", "--names"]).success(), "", "nothing is kept on the public node");
}

#[test]
fn the_public_node_never_holds_the_plaintext() {
    let Some(world) = World::start("the_public_node_never_holds_the_plaintext", &Behaviour::default()) else { return };
    let (host, _router) = world.lab.host_behind(Nat::PortRestricted, "home");
    let server = websocket::websocket(&host);
    let home = world.home(&host, Some("home.example"), server.port());
    world.ca.lead("home.example", world.gate.host().ipv4());

    let captures = [world.gate.host(), &host].map(Capture::start);
    world.obtain(&home, "tls-alpn-01", &["home.example"]).success();
    let client = Client::trusting(&world.ca.root(), &["http/1.1"]);
    let mut stream = client.connect(&world.lab.host("client"), world.gate.host().at(443), "home.example").unwrap();
    websocket::upgrade(&mut stream);
    let seen = look_while_bytes_flow(&mut stream, [&world.gate, &home]);
    let [public, private] = captures.map(Capture::stop);

    // Where the bytes may be seen, they are: else these looks would prove nothing.
    assert!(seen[1] && holds(&private, SECRET), "the private node and its network hold them");
    assert!(holds(&public, b"home.example"), "the name, which travels in the clear, is in the public node's traffic");
    assert!(!seen[0] && !holds(&public, SECRET), "the public node and its network never do");
    let stored = world.gate.state();
    assert!(!holds(&std::fs::read(stored.join("data.mdb")).unwrap(), b"PRIVATE KEY"), "nor a key, on disk");
}

/// Sends the secret to and fro, and says which node ever had it in its memory.
fn look_while_bytes_flow(stream: &mut tls::Stream, nodes: [&Node; 2]) -> [bool; 2] {
    let message: Vec<u8> = iter::repeat_n(SECRET, 500).flatten().copied().collect();
    let mut seen = [false; 2];
    for _ in 0..LOOKS {
        let mut back = vec![0; message.len()];
        stream.write_all(&message).unwrap();
        // Half of the answer is on its way while we look.
        let (first, second) = back.split_at_mut(message.len() / 2);
        stream.read_exact(first).unwrap();
        for (seen, node) in seen.iter_mut().zip(nodes) {
            *seen |= memory_holds(node.process(), SECRET);
        }
        stream.read_exact(second).unwrap();
        assert!(back == message);
    }
    seen
}
