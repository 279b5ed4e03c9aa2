//! Nodes behind NATs: over a relay at once, directly as soon as the NATs allow it.

use hive_tests::{
    lab::{Lab, Nat},
    node::Node,
    pair::{self, ADMIN, NETWORK, Pair},
    payload, tcp,
    wait::wait_until,
};
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(60);

/// Two nodes behind NATs, and a public one that both were told of.
struct Scene {
    public: Node,
    pair: Pair,
}

impl Scene {
    fn start(lab: &Lab, near: Nat, far: Nat) -> Scene {
        let public = Node::start(&lab.host("public"), pair::options());
        let node = |nat, name| Node::start(&lab.host_behind(nat, name).0, pair::options());
        let pair = Pair { near: node(near, "near"), far: node(far, "far") };
        pair.near.register(&public, NETWORK);
        pair.far.register(&public, NETWORK);
        pair.wait_until_connected();
        Scene { public, pair }
    }
}

/// The row of `peer` in what `node` knows.
fn row(nodes: &Value, peer: &str) -> Value {
    let mut rows = nodes.as_array().into_iter().flatten();
    rows.find(|row| row["peer_id"] == peer).cloned().unwrap_or_default()
}

fn wait_for_path(node: &Node, peer: &Node, path: &str) -> Value {
    let (id, what) = (peer.peer_id(), format!("{} is {path}", peer.name()));
    let nodes = node.wait_for_json(&what, SOON, &["nodes"], |nodes| row(nodes, &id)["path"] == path);
    row(&nodes, &id)
}

fn echoes(node: &Node, entrance: SocketAddr) -> bool {
    let Ok(mut stream) = node.host().connect(entrance) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut back = [0; 5];
    stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut back)).is_ok() && &back == b"hello"
}

#[test]
fn two_nodes_behind_nats_meet_over_a_relay_and_then_directly() {
    let test = "two_nodes_behind_nats_meet_over_a_relay_and_then_directly";
    let Some(lab) = Lab::namespaces(test) else { return };
    let start = Instant::now();
    let Scene { pair, .. } = &Scene::start(&lab, Nat::PortRestricted, Nat::PortRestricted);
    let server = tcp::Server::echo(pair.far.host(), 0);
    let tunnel = pair.tunnel(server.address());
    wait_until("an echo through the tunnel", SOON, || echoes(&pair.near, tunnel.entrance));
    eprintln!("first echo after {:?}", start.elapsed());
    let row = wait_for_path(&pair.near, &pair.far, "direct");
    eprintln!("direct after {:?}: {row}", start.elapsed());
    wait_for_path(&pair.far, &pair.near, "direct");
}

#[test]
fn symmetric_nats_stay_on_the_relay() {
    let Some(lab) = Lab::namespaces("symmetric_nats_stay_on_the_relay") else { return };
    let Scene { public, pair } = &Scene::start(&lab, Nat::Symmetric, Nat::Symmetric);
    let server = tcp::Server::echo(pair.far.host(), 0);
    let tunnel = pair.tunnel(server.address());
    wait_until("an echo through the tunnel", SOON, || echoes(&pair.near, tunnel.entrance));
    wait_for_path(&pair.near, &pair.far, "relayed");
    let has_relay = |status: &Value| status["relays"][0] == public.peer_id().as_str();
    pair.near.wait_for_json("a relay", SOON, &["status"], has_relay);
    public.wait_for_json("it is public", SOON, &["status"], |status| status["reachability"] == "public");
}

#[test]
fn a_node_behind_a_nat_is_operated_like_any_other() {
    let Some(lab) = Lab::namespaces("a_node_behind_a_nat_is_operated_like_any_other") else { return };
    let Scene { pair, .. } = &Scene::start(&lab, Nat::Symmetric, Nat::Symmetric);
    wait_for_path(&pair.near, &pair.far, "relayed");
    let far = |words: &[&str], stdin: &[u8]| pair.near.ctl_with_stdin(ADMIN, words, stdin);
    let content = payload::bytes(9, 3 << 20);
    let counted = far(&["exec", "--node", "far", "--", "sh", "-c", "wc -c; exit 5"], &content);
    assert_eq!((counted.status, counted.stdout.trim()), (Some(5), content.len().to_string().as_str()), "{counted:#?}");
    let shell = far(&["shell", "--node", "far"], b"echo $((6 * 7)); exit 4\n");
    assert_eq!((shell.status, shell.stdout.as_str()), (Some(4), "42\n"), "{shell:#?}");
    let (here, back) = (pair.near.host().folder("files").join("here"), pair.near.host().folder("files").join("back"));
    fs::write(&here, &content).unwrap();
    let there = format!("far:{}", pair.far.host().folder("place").join("there").display());
    far(&["cp", here.to_str().unwrap(), &there], b"").success();
    far(&["cp", &there, back.to_str().unwrap()], b"").success();
    assert!(fs::read(&back).unwrap() == content);
    assert!(pair.near.json(&["get-metrics", "--node", "far"])["memory"]["total_bytes"].is_u64());
    assert!(far(&["logs", "--node", "far"], b"").success().contains("hive-agent "));
    let same = far(&["--json", "update-node", "--node", "far"], b"").success();
    assert!(same.contains("unchanged"), "{same}");
}
