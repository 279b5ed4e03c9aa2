//! Networks: who gets in with which password, who learns of whom, and who is put out.

use hive_tests::{
    lab::Lab,
    node::{Node, Options},
    process::{Output, PATIENCE},
    tcp,
    view::{column, row, wait_for_row, wait_until_all_see_all},
};
use serde_json::Value;
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
};

const GARDEN: &str = "garden:correct horse";

fn started(lab: &Lab, name: &str, options: Options) -> Node {
    Node::start(&lab.host(name), options.name(name))
}

fn member(lab: &Lab, name: &str) -> Node {
    started(lab, name, Options::member(GARDEN).admin("admin:pw"))
}

fn register(at: &Node, other: &Node, network: &str) -> Output {
    at.ctl(&["register", "--b64", &other.base64(), "--network", network])
}

/// A network of a node as `networks` lists it.
fn network(node: &Node, name: &str) -> Value {
    let networks = node.json(&["networks"]);
    row(&networks, "name", name).unwrap_or_else(|| panic!("no network {name} in {networks}")).clone()
}

fn known_names(node: &Node) -> Vec<String> {
    column(&node.json(&["nodes"]), "node_name")
}

/// Gives a node another password of the garden.
fn rotate(node: &Node, password: &str, grace: &str) {
    let arguments = ["networks", "rotate", "--name", "garden", "--grace", grace, "--password-stdin"];
    node.ctl_with_stdin("", &arguments, password.as_bytes()).success();
}

#[test]
fn one_registration_joins_both_sides_and_their_members() {
    let lab = Lab::new();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| member(&lab, name));
    a.register(&b, "garden");
    d.register(&c, "garden");
    wait_until_all_see_all(&[&a, &b]);
    wait_until_all_see_all(&[&c, &d]);
    assert_eq!(known_names(&a), ["a", "b"], "two islands before");
    let document = b.json(&["register", "--b64", &c.base64(), "--network", "garden"]);
    assert_eq!((&document["node_name"], &document["network"]), (&"c".into(), &"garden".into()), "{document}");
    wait_until_all_see_all(&[&a, &b, &c, &d]);
    let here = network(&a, "garden");
    assert_eq!((&here["members"], &here["online"]), (&4.into(), &4.into()), "{here}");
}

#[test]
fn a_wrong_password_is_refused_counted_and_without_effect() {
    let lab = Lab::new();
    let a = member(&lab, "a");
    let b = started(&lab, "b", Options::member("garden:battery staple"));
    let told = register(&a, &b, "garden").failure(1);
    assert!(told.contains("error: the other node did not accept the network password"), "{told}");
    assert!(told.contains("hint: "), "{told}");
    assert_eq!(network(&b, "garden")["refused_joins"], 1);
    assert_eq!(network(&a, "garden")["refused_joins"], 0);
    for node in [&a, &b] {
        assert_eq!(known_names(node), [node.name()]);
        assert_eq!(node.json(&["status"])["connections"]["direct"], 0);
    }
    // The right password helps at once, and at either side.
    rotate(&b, "correct horse", "0s");
    register(&b, &a, "garden").success();
    wait_until_all_see_all(&[&a, &b]);
}

#[test]
fn a_node_that_does_not_answer_is_unreachable() {
    let lab = Lab::new();
    let (a, mut b) = (member(&lab, "a"), member(&lab, "b"));
    let identity = b.base64();
    b.stop();
    let told = a.ctl(&["register", "--b64", &identity, "--network", "garden"]).failure(4);
    assert!(told.contains("error: b cannot be reached: ") && told.contains("refused"), "{told}");
    let told = a.ctl(&["id", "--node", "b"]).failure(4);
    assert!(told.contains("hint: "), "a name that nobody bears: {told}");
    assert_eq!(known_names(&a), ["a"]);
}

#[test]
fn a_host_that_is_gone_is_unreachable() {
    let Some(lab) = Lab::namespaces("a_host_that_is_gone_is_unreachable") else { return };
    let (a, b) = (member(&lab, "a"), member(&lab, "b"));
    let identity = b.base64();
    b.host().unplug();
    let told = a.ctl(&["register", "--b64", &identity, "--network", "garden"]).failure(4);
    assert!(told.contains("error: b ") && told.contains("hint: check that it runs"), "{told}");
}

#[test]
fn an_unknown_network_is_told_at_once() {
    let lab = Lab::new();
    let (a, b) = (member(&lab, "a"), member(&lab, "b"));
    let told = register(&a, &b, "shed").failure(2);
    assert!(told.contains("error: this node is not in network shed"), "{told}");
    assert!(told.contains("hint: join it with `hivectl networks join --name shed`"), "{told}");
    let told = a.ctl(&["register", "--b64", &a.base64(), "--network", "garden"]).failure(2);
    assert!(told.contains("that is this node itself"), "{told}");
}

#[test]
fn a_network_only_the_caller_is_in_looks_like_a_wrong_password() {
    let lab = Lab::new();
    let (a, b) = (member(&lab, "a"), started(&lab, "b", Options::member("shed:correct horse")));
    let told = register(&a, &b, "garden").failure(1);
    assert!(told.contains("did not accept the network password"), "{told}");
    assert_eq!(column(&b.json(&["networks"]), "name"), ["shed"]);
}

#[test]
fn two_networks_of_one_node_never_mix() {
    let lab = Lab::new();
    // The same password on purpose: the name alone has to keep them apart.
    let (red, blue) = ("red:correct horse", "blue:correct horse");
    let both = || Options::member(red).network(blue);
    let (a, d) = (started(&lab, "a", both()), started(&lab, "d", both()));
    let (b, c) = (started(&lab, "b", Options::member(red)), started(&lab, "c", Options::member(blue)));
    a.register(&b, "red");
    a.register(&c, "blue");
    a.register(&d, "red");
    a.wait_until_sees(&[&b, &c, &d]);
    wait_until_all_see_all(&[&b, &d]);
    // What travels now travels through tables that have room for a mistake.
    a.ctl(&["rename", "middle"]).success();
    for other in [&b, &c, &d] {
        wait_for_row(other, "the new name", &a.peer_id(), |row| row["node_name"] == "middle");
    }
    assert_eq!(column(&b.json(&["nodes"]), "network"), ["red"; 3]);
    assert_eq!(known_names(&b), ["b", "d", "middle"]);
    assert_eq!(column(&c.json(&["nodes"]), "network"), ["blue"; 2]);
    assert_eq!(known_names(&c), ["c", "middle"], "d is a member of blue that nobody has registered there");
    assert_eq!(network(&c, "blue")["members"], 2);
    let told = b.ctl(&["register", "--b64", &c.base64(), "--network", "red"]).failure(1);
    assert!(told.contains("did not accept the network password"), "{told}");
}

#[test]
fn who_leaves_is_forgotten_by_all_and_may_come_back() {
    let lab = Lab::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| member(&lab, name));
    a.register(&b, "garden");
    a.register(&c, "garden");
    wait_until_all_see_all(&[&a, &b, &c]);
    c.ctl(&["networks", "leave", "--name", "garden"]).success();
    assert_eq!(c.json(&["networks"]), serde_json::json!([]));
    for node in [&a, &b] {
        node.wait_for_json("c is gone", PATIENCE, &["nodes"], |nodes| column(nodes, "node_name") == ["a", "b"]);
    }
    c.ctl_with_stdin("", &["networks", "join", "--name", "garden", "--password-stdin"], b"correct horse\n").success();
    register(&c, &b, "garden").success();
    wait_until_all_see_all(&[&a, &b, &c]);
}

/// After a restart with equal tables hardly anything is written before the farewell.
#[test]
fn a_farewell_arrives_on_a_connection_that_has_been_silent() {
    let lab = Lab::new();
    let (mut a, mut b) = (member(&lab, "a"), member(&lab, "b"));
    a.register(&b, "garden");
    wait_until_all_see_all(&[&a, &b]);
    a.stop();
    b.restart();
    a.start_again();
    b.wait_for_json("the password is proven", PATIENCE, &["nodes"], |nodes| {
        let to_a = nodes.as_array().into_iter().flatten().find(|row| row["node_name"] == "a");
        to_a.is_some_and(|row| row["path"] == "direct")
    });
    b.ctl(&["networks", "leave", "--name", "garden"]).success();
    a.wait_for_json("b is gone", PATIENCE, &["nodes"], |nodes| column(nodes, "node_name") == ["a"]);
}

#[test]
fn both_passwords_are_good_during_the_grace() {
    let lab = Lab::new();
    let (a, mut b) = (member(&lab, "a"), member(&lab, "b"));
    a.register(&b, "garden");
    wait_until_all_see_all(&[&a, &b]);
    rotate(&a, "new moon", "1h");
    assert!(network(&a, "garden")["old_password_until"].is_string(), "{}", network(&a, "garden"));
    b.restart();
    wait_until_all_see_all(&[&a, &b]);
    a.wait_for_json("who is late is named", PATIENCE, &["status"], |status| {
        let problems = column(&status["problems"], "what");
        problems.contains(&"still on the old password of network garden: b".to_owned())
    });
    let (old, new) = (member(&lab, "old"), started(&lab, "new", Options::member("garden:new moon")));
    a.register(&old, "garden");
    new.register(&a, "garden");
    wait_until_all_see_all(&[&a, &b, &old]);
    a.wait_until_sees(&[&new]);
}

#[test]
fn after_the_grace_the_old_password_is_worth_nothing() {
    let lab = Lab::new();
    let [a, b, late] = ["a", "b", "late"].map(|name| member(&lab, name));
    a.register(&b, "garden");
    a.register(&late, "garden");
    wait_until_all_see_all(&[&a, &b, &late]);
    for node in [&a, &b] {
        rotate(node, "new moon", "2s");
    }
    let id = late.peer_id();
    for node in [&a, &b] {
        wait_for_row(node, "the late one is out", &id, |row| row["online"] == false && row["path"] == "none");
        assert_eq!(network(node, "garden")["old_password_until"], Value::Null);
    }
    wait_until_all_see_all(&[&a, &b]);
    let told = register(&late, &a, "garden").failure(1);
    assert!(told.contains("did not accept the network password"), "{told}");
    rotate(&late, "new moon", "0s");
    register(&late, &a, "garden").success();
    wait_until_all_see_all(&[&a, &b, &late]);
}

/// A unit file, or a credentials file, still has the password from before.
#[test]
fn a_restart_with_the_old_password_does_not_undo_a_rotation() {
    let lab = Lab::new();
    let [mut a, intruder] = ["a", "intruder"].map(|name| member(&lab, name));
    rotate(&a, "new moon", "0s");
    a.restart();
    let told = register(&intruder, &a, "garden").failure(1);
    assert!(told.contains("did not accept the network password"), "{told}");
    rotate(&intruder, "new moon", "0s");
    register(&intruder, &a, "garden").success();
}

/// A port of `a` behind which an echo server beside `b` answers.
fn tunnel(a: &Node, b: &Node, server: &tcp::Server) -> (std::net::SocketAddr, String) {
    let port = a.host().free_port();
    let (from, to) = (format!("{}:{port}", a.name()), format!("{}:{}", b.name(), server.port()));
    let made = a.json(&["forward", "--from", &from, "--to", &to]);
    ((Ipv4Addr::LOCALHOST, port).into(), made["egress"]["id"].to_string())
}

fn talks(stream: &mut TcpStream) -> bool {
    let mut back = [0; 5];
    stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut back)).is_ok() && &back == b"hello"
}

#[test]
fn a_ban_ends_connections_and_streams_at_once() {
    let lab = Lab::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| member(&lab, name));
    a.register(&b, "garden");
    a.register(&c, "garden");
    wait_until_all_see_all(&[&a, &b, &c]);
    let server = tcp::Server::start_at(b.host(), (Ipv4Addr::LOCALHOST, 0).into(), echo);
    let (door, _) = tunnel(&a, &b, &server);
    let mut open = a.host().connect(door).unwrap();
    assert!(talks(&mut open));
    open.set_read_timeout(Some(PATIENCE)).unwrap();
    b.ctl(&["networks", "ban", "--node", &a.peer_id()]).success();
    let ended = open.read(&mut [0]);
    assert!(matches!(ended, Ok(0)) || ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    server.wait_until_idle(PATIENCE);
    b.wait_for_json("no connection is left but that to c", PATIENCE, &["status"], |status| {
        status["connections"]["direct"] == 1
    });
    assert!(!known_names(&b).contains(&"a".to_owned()));
    assert_eq!(network(&b, "garden")["banned"], serde_json::json!([a.peer_id()]));
    let told = register(&a, &b, "garden").failure(1);
    assert!(told.contains("did not accept the network password"), "{told}");
    assert_eq!(server.accepted(), 1);
    wait_until_all_see_all(&[&b, &c]);
    b.ctl(&["networks", "unban", "--node", &a.peer_id()]).success();
    register(&a, &b, "garden").success();
    wait_until_all_see_all(&[&a, &b, &c]);
    hive_tests::wait::wait_until("the tunnel serves again", PATIENCE, || {
        a.host().connect(door).is_ok_and(|mut stream| talks(&mut stream))
    });
}

fn echo(mut stream: TcpStream) {
    let Ok(mut reader) = stream.try_clone() else { return };
    let _ = std::io::copy(&mut reader, &mut stream);
}
