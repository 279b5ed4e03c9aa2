//! Members check for each other whether their public addresses can be dialled (AutoNAT v2).

use hive_tests::{
    lab::{Host, Lab, Nat},
    node::Node,
    pair::{self, NETWORK},
    process::PATIENCE,
};
use serde_json::Value;

/// A firewall that lets nobody in who was not written to first.
const WALL: &str = "table inet wall {
    chain input { type filter hook input priority 0; policy drop;
        ct state established,related accept
        iif lo accept
        meta l4proto icmpv6 accept
        meta l4proto tcp reject with tcp reset
    }
}";

fn is_reachability(wanted: &str) -> impl Fn(&Value) -> bool {
    move |status| status["reachability"] == wanted
}

/// Gives a host these rules.
fn nft(host: &Host, rules: &str) {
    let done = host.command("nft").arg(rules).output().expect("nft");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Whether a status has a problem with this address.
fn tells(status: &Value, address: &str) -> bool {
    let mut problems = status["problems"].as_array().into_iter().flatten();
    problems.any(|problem| problem["what"].as_str().is_some_and(|what| what.contains(address)))
}

#[test]
fn a_node_that_only_dials_learns_that_it_can_be_dialled() {
    let Some(lab) = Lab::namespaces("a_node_that_only_dials_learns_that_it_can_be_dialled") else { return };
    let [asked, asks] = ["asked", "asks"].map(|name| Node::start(&lab.host(name), pair::options()));
    asks.register(&asked, NETWORK);
    asks.wait_for_json("it is public", PATIENCE, &["status"], is_reachability("public"));
}

#[test]
fn a_firewall_is_noticed_and_told_until_it_is_opened() {
    let Some(lab) = Lab::namespaces("a_firewall_is_noticed_and_told_until_it_is_opened") else { return };
    let (host, member) = (lab.host("walled"), Node::start(&lab.host("member"), pair::options()));
    nft(&host, &WALL.replace("meta l4proto tcp reject with tcp reset", ""));
    // Over IPv4 alone, so that there is one address to be tried for each transport.
    let node = Node::start(&host, pair::options().listen("/ip4/0.0.0.0/tcp/4180"));
    node.register(&member, NETWORK);
    let status = node.wait_for_json("it is private", PATIENCE, &["status"], is_reachability("private"));
    let address = format!("/ip4/{}/tcp/4180", host.ipv4());
    assert!(tells(&status, &address), "{status}");
    nft(&host, "flush ruleset");
    // Something changed here, for all the node knows: it tries again at once.
    host.renumber();
    let status = node.wait_for_json("it is public", PATIENCE, &["status"], is_reachability("public"));
    assert!(!tells(&status, &address), "{status}");
}

#[test]
fn a_firewall_that_is_closed_later_makes_a_public_node_ask_for_relays() {
    let Some(lab) = Lab::namespaces("a_firewall_that_is_closed_later_makes_a_public_node_ask_for_relays") else {
        return;
    };
    // One address each: every one that was proven has to fail before the node takes its word back.
    let options = pair::options().listen("/ip4/0.0.0.0/tcp/4180");
    let host = lab.host("walled");
    let node = Node::start(&host, options.clone());
    let mut members = ["one", "two"].map(|name| Node::start(&lab.host(name), options.clone()));
    for member in &members {
        member.register(&node, NETWORK);
        node.register(member, NETWORK);
    }
    for node in members.iter().chain([&node]) {
        node.wait_for_json("it is public", PATIENCE, &["status"], is_reachability("public"));
    }
    nft(&host, WALL);
    // It shows when something happens; without, the next regular try would.
    members[0].restart();
    let closed = |status: &Value| {
        let held = status["relays"].as_array().map_or(0, Vec::len);
        status["reachability"] == "private" && held > 0
    };
    let status = node.wait_for_json("it is private and holds relays", PATIENCE * 2, &["status"], closed);
    assert!(tells(&status, &format!("/ip4/{}/tcp/4180", host.ipv4())), "{status}");
}

#[test]
fn an_announced_address_that_leads_nowhere_is_told() {
    let Some(lab) = Lab::namespaces("an_announced_address_that_leads_nowhere_is_told") else { return };
    let member = Node::start(&lab.host("member"), pair::options());
    let (inside, router) = lab.host_behind(Nat::PortRestricted, "inside");
    let announced = format!("/ip4/{}/tcp/4180", router.outside().ipv4());
    let node = Node::start(&inside, pair::options().argument("--announce").argument(&announced));
    node.register(&member, NETWORK);
    let told = |status: &Value| status["problems"].to_string().contains(&announced);
    node.wait_for_json("the wrong address is told", PATIENCE, &["status"], told);
    router.forward_port(4180, &inside);
    // A router that forwards from now on tells nobody; whoever does it by hand restarts the agent, or waits.
    let mut node = node;
    node.restart();
    node.wait_for_json("it is public", PATIENCE, &["status"], is_reachability("public"));
}
