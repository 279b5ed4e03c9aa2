//! A node has its router lead public ports to it: with a real daemon of home routers, and a peer that no hole punch reaches.

use hive_tests::{
    lab::{Lab, Nat},
    node::Node,
    pair::{self, NETWORK, Pair},
    process::PATIENCE,
    services::{Miniupnpd, PUBLIC},
    tcp,
    wait::wait_until,
};
use serde_json::Value;
use std::{
    io::{Read, Write},
    net::SocketAddr,
    time::Duration,
};

fn echoes(node: &Node, entrance: SocketAddr) -> bool {
    let Ok(mut stream) = node.host().connect(entrance) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut back = [0; 5];
    stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut back)).is_ok() && &back == b"hello"
}

fn path(node: &Node, peer: &Node) -> Value {
    let (nodes, id) = (node.json(&["nodes"]), peer.peer_id());
    let mut rows = nodes.as_array().into_iter().flatten();
    rows.find(|row| row["peer_id"] == id.as_str()).map_or(Value::Null, |row| row["path"].clone())
}

#[test]
fn a_router_that_maps_ports_makes_a_node_public() {
    let test = "a_router_that_maps_ports_makes_a_node_public";
    let Some(lab) = Lab::namespaces(test) else { return };
    let [(near, near_router), (far, far_router)] =
        [("near", Nat::Symmetric), ("far", Nat::PortRestricted)].map(|(name, nat)| lab.host_behind(nat, name));
    let Some(daemon) = Miniupnpd::start(test, &far_router) else { return };
    let meeting = lab.host("public");
    [&meeting, near_router.outside()].into_iter().for_each(Miniupnpd::lead);
    // Behind these two routers a hole punch cannot succeed.
    assert!(!Nat::Symmetric.can_be_punched_to(Nat::PortRestricted));
    let public = Node::start(&meeting, pair::options());
    let mut pair = Pair { near: Node::start(&near, pair::options()), far: Node::start(&far, pair::options()) };
    pair.near.register(&public, NETWORK);
    pair.far.register(&public, NETWORK);
    pair.wait_until_connected();
    let mapped = pair.far.wait_for_json("ports are mapped", PATIENCE, &["status"], |status| {
        status["port_mapping"]["addresses"].as_array().is_some_and(|at| at.len() == 2)
    });
    assert_eq!(mapped["port_mapping"]["protocol"], "pcp", "{mapped}");
    assert!(mapped["port_mapping"]["addresses"][0].as_str().unwrap().contains(&PUBLIC.to_string()), "{mapped}");
    assert_eq!(daemon.mapped(), ["tcp 4180", "udp 4180"]);

    let server = tcp::Server::echo(&far, 0);
    let tunnel = pair.tunnel(server.address());
    wait_until("the pair is direct", PATIENCE, || path(&pair.near, &pair.far) == "direct");
    assert!(echoes(&pair.near, tunnel.entrance));
    pair.far.wait_for_json("it is public", PATIENCE, &["status"], |status| status["reachability"] == "public");

    // A router that starts anew says so, and is asked again.
    let daemon = daemon.restart();
    wait_until("ports are mapped again", PATIENCE, || daemon.mapped() == ["tcp 4180", "udp 4180"]);
    // What stops takes its mappings back.
    pair.far.stop();
    wait_until("nothing is mapped", PATIENCE, || daemon.mapped().is_empty());
}

#[test]
fn a_node_that_may_not_asks_for_nothing() {
    let test = "a_node_that_may_not_asks_for_nothing";
    let Some(lab) = Lab::namespaces(test) else { return };
    let (inside, router) = lab.host_behind(Nat::PortRestricted, "inside");
    let Some(daemon) = Miniupnpd::start(test, &router) else { return };
    let node = Node::start(&inside, pair::options().argument("--port-mapping").argument("never"));
    let other = Node::start(&router.host("other"), pair::options());
    // The one that may has had its answer.
    other.wait_for_json("ports are mapped", PATIENCE, &["status"], |status| {
        status["port_mapping"]["addresses"].as_array().is_some_and(|at| at.len() == 2)
    });
    assert!(node.json(&["status"])["port_mapping"].is_null());
    assert_eq!(daemon.mapped().len(), 2);
}
