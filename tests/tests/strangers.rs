//! Strangers: real libp2p nodes that know no password. Each gets what a login or a join needs, for ten seconds; five
//! hundred get no more than one, and members do not notice them.

use hive_protocol::{CONTROL_PROTOCOL, JOIN_PROTOCOL};
use hive_tests::{
    lab::{Host, Lab, Nat},
    node::Node,
    notice,
    pair::{self, NETWORK, Pair},
    payload,
    process::{self, PATIENCE},
    tcp,
    wait::wait_until,
};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

/// How long a stranger may stay, in seconds.
const STAY: f64 = 10.0;
const CROWD: u64 = 500;

/// The node's first address, with its peer id.
fn address(node: &Node) -> String {
    let identity = node.json(&["id"]);
    let address = identity["addresses"][0].as_str().expect("an address");
    format!("{address}/p2p/{}", node.peer_id())
}

/// What `hive-peer` prints.
fn peer(host: &Host, arguments: &[&str], within: Duration) -> Value {
    let mut command = host.command(process::helper("hive-peer"));
    command.args(arguments);
    let printed = process::run(command, b"", within).success();
    serde_json::from_str(&printed).expect("a line of JSON")
}

#[test]
fn a_stranger_may_join_or_log_in_and_nothing_else() {
    let Some(lab) = Lab::namespaces("a_stranger_may_join_or_log_in_and_nothing_else") else { return };
    let relay = Node::start(&lab.host("relay"), pair::options());
    let member = Node::start(&lab.host_behind(Nat::PortRestricted, "member").0, pair::options());
    member.register(&relay, NETWORK);
    let held = |status: &Value| status["relays"][0] == relay.peer_id().as_str();
    member.wait_for_json("its reservation", PATIENCE, &["status"], held);
    let arguments = ["knock", "--member", &member.peer_id(), &address(&relay)];
    let told = peer(&lab.host("stranger"), &arguments, PATIENCE);
    assert_eq!(told["streams"], json!([CONTROL_PROTOCOL, JOIN_PROTOCOL]), "{told}");
    assert_eq!((&told["reserved"], &told["carried"]), (&json!(false), &json!(false)), "{told}");
    assert!(told["closed_after"].as_f64().is_some_and(|after| after >= STAY), "{told}");
}

#[test]
fn a_crowd_of_strangers_is_turned_away_and_members_go_on() {
    // On loopback one machine has as many addresses as the crowd likes.
    let lab = Lab::loopback();
    let pair = Pair::start(&lab);
    let server = tcp::Server::echo(pair.far.host(), 0);
    let tunnel = pair.tunnel(server.address());
    let dial = || pair.near.host().connect(tunnel.entrance).expect("the egress listens");
    let living = dial();
    exchange(&living, 0);
    let before = pair.far.usage().fds;
    let over = AtomicBool::new(false);
    let (told, exchanges) = thread::scope(|scope| {
        let exchanging = scope.spawn(|| {
            let mut count = 0;
            while !over.load(SeqCst) {
                exchange(&living, count);
                exchange(&dial(), count);
                count += 1;
            }
            count
        });
        let arguments = ["crowd", "--count", &CROWD.to_string(), &address(&pair.far)];
        let told = peer(pair.far.host(), &arguments, 2 * PATIENCE);
        over.store(true, SeqCst);
        (told, exchanging.join().expect("every exchange succeeds"))
    });
    notice::say(&format!("STRANGERS: {CROWD} at once: {told}; meanwhile {exchanges} exchanges in a tunnel"));
    let count = |key: &str| told[key].as_u64().unwrap_or_default();
    assert_eq!(count("stayed") + count("turned_away"), CROWD, "{told}");
    // One that finds all places taken may be let in for the moment until that shows.
    assert!(count("stayed") > 0 && told["longest"].as_f64().is_some_and(|stay| stay >= STAY), "{told}");
    assert!(exchanges > 0, "a member was served beside the crowd");
    wait_until("the crowd is gone", PATIENCE, || pair.far.usage().fds <= before);
}

/// Sends some bytes through a tunnel and reads them back.
fn exchange(mut stream: &TcpStream, seed: u64) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let (sent, mut back) = (payload::bytes(seed, 1000), vec![0; 1000]);
    stream.write_all(&sent).and_then(|()| stream.read_exact(&mut back)).expect("an echo");
    assert!(back == sent, "other bytes came back");
}
