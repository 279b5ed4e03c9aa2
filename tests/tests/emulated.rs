//! Static programs of other processors under Debian's user-mode emulator: they join a network, carry tunnels to and from a
//! native node and each other with every byte checked, and are driven by their own `hivectl`.

use hive_tests::{
    lab::{Host, Lab},
    node::{Node, Options},
    notice,
    pair::{NETWORK, Pair, options},
    static_build::emulated,
    traffic::{self, Plan},
};

const AARCH64: &str = "aarch64-unknown-linux-musl";
const ARMV7: &str = "armv7-unknown-linux-musleabihf";
/// Emulated: slower than the machine by a factor of 10 and more.
const CONNECTIONS: u64 = 6;

#[test]
fn aarch64_and_a_native_node() {
    carry("aarch64_and_a_native_node", Some(AARCH64), None);
    carry("aarch64_and_a_native_node", None, Some(AARCH64));
}

#[test]
fn armv7_and_a_native_node() {
    carry("armv7_and_a_native_node", Some(ARMV7), None);
    carry("armv7_and_a_native_node", None, Some(ARMV7));
}

#[test]
fn aarch64_and_armv7() {
    carry("aarch64_and_armv7", Some(AARCH64), Some(ARMV7));
}

/// A tunnel from a node of the first target to one of the second; no target is a native node.
fn carry(test: &str, near: Option<&str>, far: Option<&str>) {
    let lab = Lab::new();
    let (near_host, far_host) = (lab.host("near"), lab.host("far"));
    let (Some(near), Some(far)) = (settings(test, &near_host, near), settings(test, &far_host, far)) else { return };
    let pair = Pair { near: Node::start(&near_host, near), far: Node::start(&far_host, far) };
    pair.near.register(&pair.far, NETWORK);
    pair.wait_until_connected();
    let server = traffic::Server::start(pair.far.host(), 0);
    let tunnel = pair.tunnel(server.address());
    traffic::exercise(&near_host, tunnel.entrance, &server, &Plan::sequential(CONNECTIONS));
    let status = pair.far.json(&["status"]);
    assert!(status["tunnels"]["bytes_in"].as_u64() > Some(0), "{status}");
}

/// How a node of a target is started, or a notice of what is missing.
fn settings(test: &str, host: &Host, target: Option<&str>) -> Option<Options> {
    let Some(target) = target else { return Some(options()) };
    let programs = emulated(host, target).map_err(|why| notice::left_out(test, &why)).ok()?;
    Some(options().programs(&programs))
}
