//! hive and another implementation of libp2p, js-libp2p, at the two ends of one connection: TCP with TLS, TCP with Noise,
//! and QUIC; identify, ping, and relays. `tests/js/peer.mjs` is the other implementation, `hive-peer` (`tests/src/bin/peer`)
//! is hive's transport without an agent, where a stranger to an agent could not go.

use hive_tests::{
    lab::{Host, Lab},
    node::{Node, Options},
    notice,
    process::{self, PATIENCE, Process},
};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// What is proposed on TCP, and the part of an address that says over what to connect. QUIC needs no proposal.
const WAYS: [(&str, &str); 3] = [("tls", "/tcp/"), ("noise", "/tcp/"), ("tls", "/quic-v1")];
/// What js-libp2p says a connection of each way is secured by.
const SECURED: [&str; 3] = ["/tls/1.0.0", "/noise", "native"];

/// Dials before a test fails.
const ATTEMPTS: usize = 3;

/// Who speaks.
#[derive(Clone, Copy, Debug)]
enum Speaker {
    Hive,
    Js,
}

/// One machine with both implementations.
struct Scene {
    host: Host,
    js: PathBuf,
    lab: Lab,
}

impl Scene {
    fn new(test: &str) -> Option<Scene> {
        let Some(js) = std::env::var_os("HIVE_JS_LIBP2P") else {
            notice::left_out(
                test,
                "needs js-libp2p: run tests/js-libp2p, and name the folder it prints in HIVE_JS_LIBP2P",
            );
            return None;
        };
        let lab = Lab::loopback();
        Some(Scene { host: lab.host("both"), js: js.into(), lab })
    }

    fn command(&self, who: Speaker, what: &str, security: &str) -> Command {
        match who {
            Speaker::Hive => {
                let mut command = self.host.command(process::helper("hive-peer"));
                command.args(["--security", security, what]);
                command
            }
            Speaker::Js => {
                let mut command = self.host.command(Path::new("node"));
                command.arg(self.js.join("peer.mjs")).args([what, security]);
                command
            }
        }
    }

    /// What a dial prints when it has identified and pinged the peer at an address. On a busy machine js-libp2p now and then
    /// loses the first bytes of a stream, so it may be dialled again.
    fn dial(&self, who: Speaker, security: &str, address: &str) -> Value {
        let attempts = (0..ATTEMPTS).map(|_| {
            let mut command = self.command(who, "dial", security);
            command.arg(address);
            process::run(command, b"", PATIENCE)
        });
        let mut attempts = attempts.inspect(|told| eprintln!("{who:?} by {security} to {address}: {told:?}"));
        let told = attempts.find(|told| told.status == Some(0)).expect("a dial that succeeds");
        serde_json::from_str(&told.stdout).expect("a line of JSON")
    }

    /// A peer that is dialled, and what it printed when it was ready.
    fn start(&self, who: Speaker, what: &str, security: &str, address: Option<&str>) -> (Process, Value) {
        let mut command = self.command(who, what, security);
        command.args(address);
        let peer = Process::start(&self.host, &format!("{who:?}-{what}"), command);
        let line = peer.wait_for_line("{");
        (peer, serde_json::from_str(&line).expect("a line of JSON"))
    }
}

/// The address of what a peer printed that goes this way.
fn address<'a>(ready: &'a Value, way: &str) -> &'a str {
    let mut addresses = ready["listening"].as_array().into_iter().flatten().filter_map(Value::as_str);
    addresses.find(|address| address.contains(way)).unwrap_or_else(|| panic!("no address with {way} in {ready}"))
}

fn protocols(answer: &Value) -> Vec<&str> {
    answer["protocols"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn expect_pings(answer: &Value, peer: &Value) {
    assert_eq!(answer["peer"], *peer, "{answer}");
    assert!(answer["pings"].as_array().is_some_and(|pings| pings.len() == 3), "{answer}");
}

fn expect_answer(answer: &Value, peer: &Value, agent: &str) {
    expect_pings(answer, peer);
    assert!(answer["agentVersion"].as_str().is_some_and(|version| version.starts_with(agent)), "{answer}");
    assert!(protocols(answer).contains(&"/ipfs/ping/1.0.0"), "{answer}");
}

/// An agent that would relay, as a stranger sees it.
#[test]
fn js_libp2p_reaches_an_agent_and_gets_no_reservation() {
    let Some(scene) = Scene::new("js_libp2p_reaches_an_agent_and_gets_no_reservation") else { return };
    let host = scene.lab.host("agent");
    let [tcp, quic] = ["tcp/0", "udp/0/quic-v1"].map(|end| format!("/ip4/{}/{end}", host.ipv4()));
    let options = Options::member("garden:under the blue pot").listen(&tcp).listen(&quic);
    let agent = Node::start(&host, options.argument("--relay").argument("always"));
    let identity = agent.json(&["id"]);
    for ((security, way), secured) in WAYS.into_iter().zip(SECURED) {
        let mut addresses = identity["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let at = addresses.find(|address| address.contains(way)).expect("an address of each kind");
        let address = format!("{at}/p2p/{}", agent.peer_id());
        let answer = scene.dial(Speaker::Js, security, &address);
        expect_answer(&answer, &identity["peer_id"], "hive-agent/");
        assert_eq!(answer["security"], secured, "{answer}");
        let offered = protocols(&answer);
        assert!(offered.contains(&"/hive/join/1") && !offered.contains(&"/hive/tunnel/1"), "{answer}");
        let (_, reserved) = scene.start(Speaker::Js, "reserve", security, Some(&address));
        assert!(!reserved["refused"].is_null(), "a stranger was let in: {reserved}");
    }
}

#[test]
fn hives_transport_reaches_js_libp2p() {
    let Some(scene) = Scene::new("hives_transport_reaches_js_libp2p") else { return };
    for (security, way) in WAYS {
        let (_js, ready) = scene.start(Speaker::Js, "serve", security, None);
        let answer = scene.dial(Speaker::Hive, security, address(&ready, way));
        expect_answer(&answer, &ready["peer"], "js-libp2p/");
    }
}

/// Each implementation relays for the other, and is reached through the other's relay.
#[test]
fn circuits_pass_between_implementations() {
    use Speaker::{Hive, Js};
    let Some(scene) = Scene::new("circuits_pass_between_implementations") else { return };
    for (security, way) in WAYS {
        for (relay, target, dialler) in [(Js, Hive, Hive), (Hive, Js, Hive), (Hive, Hive, Js)] {
            // Where hive relays, js-libp2p's proposal decides on the way to the relay; within the circuit it is Noise.
            let hives = if matches!(relay, Js) { security } else { "noise" };
            let proposed = |who| if matches!(who, Js) { security } else { hives };
            let (_relay, at) = scene.start(relay, "serve", if matches!(relay, Js) { security } else { "any" }, None);
            let relay_at = address(&at, way);
            let (_target, reserved) = scene.start(target, "reserve", proposed(target), Some(relay_at));
            assert!(address(&reserved, "/p2p-circuit").contains(relay_at.split('/').next_back().expect("a peer id")));
            let circuit = format!("{relay_at}/p2p-circuit/p2p/{}", reserved["peer"].as_str().expect("a peer id"));
            let answer = scene.dial(dialler, proposed(dialler), &circuit);
            match (target, dialler) {
                (_, Js) => expect_pings(&answer, &reserved["peer"]),
                (Js, _) => expect_answer(&answer, &reserved["peer"], "js-libp2p/"),
                (Hive, _) => expect_answer(&answer, &reserved["peer"], "rust-libp2p/"),
            }
        }
    }
}
