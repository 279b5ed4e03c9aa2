//! Tunnels between two nodes: set up in every way that the command line has, carrying bytes and endings faithfully,
//! saying what is wrong.

use hive_tests::{
    lab::Lab,
    node::Node,
    pair::{self, NETWORK, Pair, Tunnel, wait_for_proxy},
    payload,
    process::{PATIENCE, Process, Signal},
    tcp,
    traffic::{self, Ending, Plan},
    wait::wait_until,
};
use serde_json::json;
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
};

/// A connection from a node's host, with patience.
fn dial(node: &Node, to: SocketAddr) -> TcpStream {
    let stream = node.host().connect(to).expect("a connection to a port of this node");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends some bytes and reads them back.
fn exchange(mut stream: &TcpStream, seed: u64) -> io::Result<()> {
    let (sent, mut back) = (payload::bytes(seed, 1000), vec![0; 1000]);
    stream.write_all(&sent)?;
    stream.read_exact(&mut back)?;
    if back == sent { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
}

/// Sees how a connection ends on which nobody sends.
fn ending(mut stream: &TcpStream) -> Result<usize, io::ErrorKind> {
    stream.read(&mut [0; 1]).map_err(|error| error.kind())
}

#[test]
fn both_sides_by_hand() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let server = tcp::Server::echo(pair.far.host(), 0);
    let (port, target) = (pair.near.host().free_port(), server.port());
    let (near_id, far_id) = (pair.near.peer_id(), pair.far.peer_id());

    let far_side = ["proxy", "--node", "far", "--direction", "ingress", "--origin", &format!("{near_id}:{port}")];
    let options = ["--port", &target.to_string(), "--host", &pair.far.host().ipv4().to_string()];
    let ingress = pair.near.json(&[&far_side[..], &options].concat())["id"].as_u64().expect("a number");
    let options = ["--target", &format!("far:{target}"), "--port", &port.to_string(), "--network", NETWORK];
    let near_side = pair.near.json(&[&["proxy", "--direction", "egress"][..], &options].concat());
    let egress = near_side["id"].as_u64().expect("a number");

    let stream = dial(&pair.near, ([127, 0, 0, 1], port).into());
    exchange(&stream, 1).unwrap();
    let counted = |node: &Node, id| wait_for_proxy(node, id, "all bytes are counted", |row| row["bytes_out"] == 1000);
    let (from, to) = (counted(&pair.near, egress), counted(&pair.far, ingress));
    let common = |row: &serde_json::Value| {
        let keys = ["kind", "network", "tls", "key_prefix", "enabled", "temporary", "state", "path", "streams"];
        let keys = keys.iter().chain(&["bytes_in", "bytes_out", "last_error"]);
        keys.map(|key| row[key].clone()).collect::<Vec<_>>()
    };
    let expected = json!(["tcp", NETWORK, false, null, true, false, "connected", "direct", 1, 1000, 1000, null]);
    assert_eq!((json!(common(&from)), json!(common(&to))), (expected.clone(), expected));
    let ends = |row: &serde_json::Value| json!([row["direction"], row["port"], row["peer_id"], row["peer_port"]]);
    assert_eq!(ends(&from), json!(["egress", port, far_id, target]));
    assert_eq!(ends(&to), json!(["ingress", target, near_id, port]));
    assert_eq!(from["bind"], "127.0.0.1");
}

#[test]
fn forward_takes_the_first_side_back_when_the_second_fails() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let taken = tcp::Server::start_at(pair.near.host(), ([127, 0, 0, 1], 0).into(), drop);
    let (from, to) = (format!("near:{}", taken.port()), "far:4711");
    let told = pair.near.ctl(&["forward", "--from", &from, "--to", to]).failure(1);
    assert!(told.contains("error: ") && told.contains("taken") && told.contains("hint: "), "{told}");
    for node in ["near", "far"] {
        assert_eq!(pair.near.json(&["proxy", "ls", "--node", node]), json!([]), "{node} keeps nothing");
    }
}

#[test]
fn what_would_act_on_the_wrong_node_is_not_hinted_at() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let from = format!("near:{}", pair.near.host().free_port());
    let forward = ["forward", "--from", &from, "--to", "far:4711"];
    pair.near.ctl(&forward).success();
    let told = pair.near.ctl(&forward).failure(1);
    assert!(told.contains("hint: remove it first with `hivectl proxy rm 1 --node far`"), "{told}");
    let leave = ["networks", "leave", "--name", NETWORK, "--node", "far"];
    let told = pair.near.ctl(&leave).failure(2);
    assert!(told.contains("error: 1 proxy of network") && told.contains("--yes"), "it would cut its own way: {told}");
    assert_eq!(pair.near.json(&["proxy", "ls", "--node", "far"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn an_egress_on_a_port_that_is_taken_is_refused() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let taken = tcp::Server::start_at(pair.near.host(), ([127, 0, 0, 1], 0).into(), drop);
    let port = taken.port().to_string();
    let egress = ["proxy", "--direction", "egress", "--target", "far:80", "--port", &port];
    let told = pair.near.ctl(&egress).failure(1);
    assert!(told.contains(&format!("127.0.0.1:{port}")) && told.contains("taken"), "{told}");
    drop(taken);
    pair.near.ctl(&egress).success();
    let told = pair.near.ctl(&egress).failure(1);
    assert!(told.contains("taken") && told.contains("proxy ls"), "its own proxies take ports, too: {told}");
}

#[test]
fn connect_carries_standard_input_and_output() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let server = tcp::Server::start(pair.far.host(), 0, |mut stream| {
        // The answer comes only after the end of the question: a half-close that is lost would hang here.
        let mut question = Vec::new();
        if stream.read_to_end(&mut question).is_ok() {
            let _ = stream.write_all(format!("{} bytes", question.len()).as_bytes());
        }
    });
    let host = pair.far.host().ipv4().to_string();
    let port = server.port().to_string();
    let question = payload::bytes(1, 300_000);
    for arguments in [&[&format!("far:{port}")[..]][..], &["far", "--port", &port]] {
        let arguments = [&["connect"], arguments, &["--host", &host]].concat();
        let answer = pair.near.ctl_with_stdin(pair::ADMIN, &arguments, &question).success();
        assert_eq!(answer, "300000 bytes", "{arguments:?}");
    }
    assert_eq!(server.accepted(), 2);
}

#[test]
fn connections_end_as_applications_end_them() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let server = traffic::Server::start(pair.far.host(), 0);
    let tunnel = pair.tunnel(server.address());
    for ending in Ending::ALL {
        let plan = Plan::sequential(15).most_bytes(100_000).endings(&[ending]);
        traffic::exercise(pair.near.host(), tunnel.entrance, &server, &plan);
    }
}

#[test]
fn a_dead_target_is_told_and_the_error_goes_when_it_is_back() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let address = pair.far.host().at(pair.far.host().free_port());
    let tunnel = pair.tunnel(address);
    assert_eq!(ending(&dial(&pair.near, tunnel.entrance)), Err(io::ErrorKind::ConnectionReset));
    for (node, id) in [(&pair.near, tunnel.egress), (&pair.far, tunnel.ingress)] {
        let told = wait_for_proxy(node, id, "the error is told", |row| !row["last_error"].is_null());
        assert!(told["last_error"].as_str().unwrap().contains(&address.to_string()), "{told}");
        let status = node.json(&["status"]);
        let problems = status["problems"].as_array().unwrap();
        let found = problems.iter().find(|problem| problem["what"].as_str().unwrap().contains("target"));
        assert!(found.is_some_and(|problem| problem["hint"].as_str().is_some()), "{status}");
    }
    let _server = tcp::Server::echo(pair.far.host(), address.port());
    exchange(&dial(&pair.near, tunnel.entrance), 1).unwrap();
    for (node, id) in [(&pair.near, tunnel.egress), (&pair.far, tunnel.ingress)] {
        wait_for_proxy(node, id, "the error is gone", |row| row["last_error"].is_null());
        assert_eq!(node.json(&["status"])["problems"], json!([]));
    }
}

#[test]
fn temporary_proxies_end_with_the_command_that_made_them() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let server = tcp::Server::echo(pair.far.host(), 0);
    let tunnel = pair.tunnel(server.address());
    pair.near.ctl(&["proxy", "rm", &tunnel.egress.to_string()]).success();
    let (target, port) = (format!("far:{}", server.port()), tunnel.entrance.port().to_string());
    let bind = tunnel.entrance.ip().to_string();
    let egress = ["proxy", "--direction", "egress", "--target", &target, "--port", &port, "--bind", &bind];
    for signal in [Signal::TERM, Signal::KILL] {
        let command = pair.near.ctl_command(pair::ADMIN, &[&egress[..], &["--temporary"]].concat());
        let mut session = Process::start(pair.near.host(), "temporary", command);
        session.wait_for_line("until this command ends");
        assert_eq!(pair.near.json(&["proxy", "ls"])[0]["temporary"], true);
        let stream = dial(&pair.near, tunnel.entrance);
        exchange(&stream, 1).unwrap();
        session.signal(signal);
        session.wait();
        assert_eq!(ending(&stream), Err(io::ErrorKind::ConnectionReset), "the stream ends with {signal:?}");
        pair.near.wait_for_json("it is gone", PATIENCE, &["proxy", "ls"], |proxies| *proxies == json!([]));
        wait_until("the port is free again", PATIENCE, || pair.near.host().connect(tunnel.entrance).is_err());
    }
}

/// A tunnel with one connection that is in use, as the client and the target see it.
struct Live {
    client: TcpStream,
    target: std::sync::mpsc::Receiver<Result<usize, io::ErrorKind>>,
    _server: tcp::Server,
}

impl Live {
    /// Makes the connection; the target tells how it ended there.
    fn begin(pair: &Pair) -> (Tunnel, Live) {
        let (tell, target) = std::sync::mpsc::sync_channel(8);
        let server = tcp::Server::start(pair.far.host(), 0, move |mut stream| {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {
                let _ = tell.send(ending(&stream));
            }
        });
        let tunnel = pair.tunnel(server.address());
        let mut client = dial(&pair.near, tunnel.entrance);
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        (tunnel, Live { client, target, _server: server })
    }

    /// Both applications must see that the connection was cut off, and not an end that looks regular.
    fn assert_cut(self, why: &str) {
        assert_eq!(ending(&self.client), Err(io::ErrorKind::ConnectionReset), "the client, by {why}");
        let target = self.target.recv_timeout(PATIENCE);
        assert_eq!(target, Ok(Err(io::ErrorKind::ConnectionReset)), "the target, by {why}");
    }
}

#[test]
fn removing_or_pausing_a_proxy_cuts_its_streams() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    for verb in ["disable", "rm"] {
        for near in [true, false] {
            let (tunnel, live) = Live::begin(&pair);
            let (node, id) = if near { ("near", tunnel.egress) } else { ("far", tunnel.ingress) };
            pair.near.ctl(&["proxy", verb, &id.to_string(), "--node", node]).success();
            live.assert_cut(&format!("{verb} at the {node} node"));
            if near {
                wait_until("the port is closed", PATIENCE, || pair.near.host().connect(tunnel.entrance).is_err());
            } else {
                assert!(exchange(&dial(&pair.near, tunnel.entrance), 1).is_err(), "{verb}: new streams are refused");
            }
        }
    }
}

#[test]
fn a_paused_proxy_serves_again() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let server = tcp::Server::echo(pair.far.host(), 0);
    let tunnel = pair.tunnel(server.address());
    for (node, id) in [("near", tunnel.egress), ("far", tunnel.ingress)] {
        for verb in ["disable", "enable"] {
            pair.near.ctl(&["proxy", verb, &id.to_string(), "--node", node]).success();
        }
        // An egress takes its port a moment after it was told to.
        wait_until("it serves again", PATIENCE, || {
            let stream = pair.near.host().connect(tunnel.entrance);
            stream.is_ok_and(|stream| exchange(&stream, 1).is_ok())
        });
    }
}

#[test]
fn banning_a_node_cuts_its_streams() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let (_, live) = Live::begin(&pair);
    pair.far.ctl(&["networks", "ban", "--node", &pair.near.peer_id(), "--network", NETWORK]).success();
    live.assert_cut("a ban");
}

#[test]
fn leaving_the_network_cuts_streams() {
    for leaver in ["near", "far"] {
        let lab = Lab::new();
        let pair = Pair::start(&lab);
        let (_, live) = Live::begin(&pair);
        let node = if leaver == "near" { &pair.near } else { &pair.far };
        node.ctl(&["networks", "leave", "--name", NETWORK]).success();
        live.assert_cut(&format!("the leaving of {leaver}"));
    }
}

#[test]
fn an_ingress_admits_one_port_of_one_peer_in_one_network() {
    let lab = Lab::new();
    let options = || pair::options().network("attic:another password");
    let near = Node::start(&lab.host("near"), options());
    let far = Node::start(&lab.host("far"), options());
    let other = Node::start(&lab.host("other"), options());
    for node in [&near, &other] {
        for network in [NETWORK, "attic"] {
            node.register(&far, network);
        }
        node.wait_until_sees(&[&far]);
    }
    let server = tcp::Server::echo(far.host(), 0);
    let (port, host) = (near.host().free_port(), far.host().ipv4().to_string());
    let (origin, target) = (format!("{}:{port}", near.peer_id()), format!("{}:{}", far.peer_id(), server.port()));
    let target_port = server.port().to_string();
    let ingress = ["proxy", "--direction", "ingress", "--origin", &origin, "--port", &target_port, "--host", &host];
    far.ctl(&[&ingress[..], &["--network", NETWORK]].concat()).success();

    let add = |node: &Node, port: u16, network: &str| {
        let (port, bind) = (port.to_string(), node.host().ipv4().to_string());
        let egress = ["proxy", "--direction", "egress", "--target", &target, "--port", &port, "--bind", &bind];
        let added = node.json(&[&egress[..], &["--network", network]].concat());
        added["id"].as_u64().expect("a number")
    };
    let assert_refused = |node: &Node, port: u16, network: &str| {
        let id = add(node, port, network);
        assert!(exchange(&dial(node, node.host().at(port)), 1).is_err(), "port {port} in {network}");
        let told = wait_for_proxy(node, id, "the refusal is told", |row| !row["last_error"].is_null());
        assert!(told["last_error"].as_str().unwrap().contains("no enabled ingress"), "{told}");
        node.ctl(&["proxy", "rm", &id.to_string()]).success();
    };
    assert_refused(&near, port, "attic");
    assert_refused(&near, near.host().free_port(), NETWORK);
    assert_refused(&other, port, NETWORK);
    assert_eq!(server.accepted(), 0);
    add(&near, port, NETWORK);
    exchange(&dial(&near, near.host().at(port)), 1).unwrap();
    assert_eq!(server.accepted(), 1);
}
