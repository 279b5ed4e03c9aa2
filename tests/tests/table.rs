//! The peer table: what changes at one node reaches every member, and outlives a restart of all of them.

use hive_tests::{
    lab::Lab,
    node::{Node, Options},
    notice,
    process::PATIENCE,
    view::{row, wait_for_row, wait_until_all_see_all},
};
use serde_json::Value;
use std::{
    thread,
    time::{Duration, Instant},
};

/// What the agreement asks for; printed beside what was measured, and not asserted, as other programs run here, too.
const AGREED: Duration = Duration::from_secs(5);
/// Far above what a busy machine needs, far below the minute after which tables are compared anyway.
const BOUND: Duration = Duration::from_secs(30);

fn garden(lab: &Lab, count: usize) -> Vec<Node> {
    let options = || Options::member("garden:correct horse").admin("admin:pw");
    let nodes: Vec<Node> = (1..=count).map(|n| Node::start(&lab.host(&format!("n{n}")), options())).collect();
    for other in &nodes[1..] {
        other.register(&nodes[0], "garden");
    }
    wait_until_all_see_all(&nodes.iter().collect::<Vec<_>>());
    nodes
}

/// Measures how long `nodes` take, from now, to hold a row of the node `id` that pleases.
fn spread(what: &str, nodes: &[Node], id: &str, pleases: impl Fn(&Value) -> bool + Sync) {
    let start = Instant::now();
    let slowest = thread::scope(|scope| {
        let waits = nodes.iter().map(|node| {
            let pleases = &pleases;
            scope.spawn(move || {
                wait_for_row(node, what, id, pleases);
                start.elapsed()
            })
        });
        let waits: Vec<_> = waits.collect();
        waits.into_iter().map(|wait| wait.join().expect("every member learns of it")).max()
    });
    let slowest = slowest.expect("at least one node");
    notice::say(&format!("TIME: {what} at {} nodes: {} ms (agreed: {AGREED:?})", nodes.len(), slowest.as_millis()));
    assert!(slowest < BOUND, "{what} took {slowest:?}");
}

/// Whether one of a node's own addresses has this in it; those of relays that hold a reservation for it do not count.
fn lists(row: &Value, part: &str) -> bool {
    let all = row["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
    all.filter(|address| !address.contains("/p2p-circuit")).any(|address| address.contains(part))
}

#[test]
fn changes_at_run_time_reach_eight_nodes() {
    let Some(lab) = Lab::namespaces("changes_at_run_time_reach_eight_nodes") else { return };
    let nodes = garden(&lab, 8);
    let changed = &nodes[3];
    let id = changed.peer_id();
    changed.ctl(&["rename", "meadow"]).success();
    spread("a new name", &nodes, &id, |row| row["node_name"] == "meadow");
    changed.ctl(&["listen", "/ip4/0.0.0.0/tcp/4999"]).success();
    spread("a new port", &nodes, &id, |row| lists(row, "/tcp/4999") && !lists(row, "/tcp/4180"));
    let old = changed.host().ipv4();
    let fresh = changed.host().renumber();
    let (old, fresh) = (format!("/ip4/{old}/"), format!("/ip4/{fresh}/tcp/4999"));
    spread("a new address", &nodes, &id, |row| lists(row, &fresh) && !lists(row, &old));
    wait_until_all_see_all(&nodes.iter().collect::<Vec<_>>());
    for node in &nodes {
        wait_for_row(node, "a path to the moved node", &id, |row| row["path"] != "none");
    }
}

#[test]
fn the_table_outlives_a_restart_of_all() {
    let lab = Lab::new();
    let mut nodes = garden(&lab, 4);
    nodes[1].ctl(&["rename", "meadow"]).success();
    let id = nodes[1].peer_id();
    for node in &nodes {
        wait_for_row(node, "the new name", &id, |row| row["node_name"] == "meadow");
    }
    nodes.iter_mut().for_each(Node::stop);
    nodes[1].options_mut().name = "meadow".to_owned();
    nodes.iter_mut().rev().for_each(Node::start_again);
    wait_until_all_see_all(&nodes.iter().collect::<Vec<_>>());
    for node in &nodes {
        wait_for_row(node, "the name given before", &id, |row| row["node_name"] == "meadow");
    }
}

#[test]
fn a_node_is_shown_offline_and_online() {
    let lab = Lab::new();
    let mut nodes = garden(&lab, 3);
    let id = nodes[2].peer_id();
    let (a, b) = (&nodes[0], &nodes[1]);
    for node in [a, b] {
        wait_for_row(node, "it is there", &id, |row| row["path"] == "direct" && row["transport"] == "tcp");
    }
    let before = a.json(&["nodes"]);
    let contact = row(&before, "peer_id", &id).expect("a row")["latest_contact"].as_str().map(str::to_owned);
    nodes[2].kill9();
    for node in &nodes[..2] {
        wait_for_row(node, "it is gone", &id, |row| {
            row["online"] == false && row["path"] == "none" && row["transport"].is_null()
        });
    }
    let after = nodes[0].json(&["nodes"]);
    let gone = row(&after, "peer_id", &id).expect("its row stays");
    // RFC 3339 in UTC sorts as text.
    assert!(gone["latest_contact"].as_str().map(str::to_owned) >= contact, "{gone}");
    nodes[0].wait_for_json("two of three are online", PATIENCE, &["networks"], |networks| {
        networks[0]["members"] == 3 && networks[0]["online"] == 2
    });
    nodes[2].start_again();
    wait_until_all_see_all(&nodes.iter().collect::<Vec<_>>());
    for node in &nodes[..2] {
        wait_for_row(node, "it is back", &id, |row| row["path"] == "direct");
    }
}
