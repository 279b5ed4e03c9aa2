//! Networks of a thousand nodes and more: what one change, a cut through the middle, a reconnect and a newcomer cost.
//!
//! The nodes begin with what they stored, a whole table each, so that their number and not the verification of a million
//! signatures is what takes time. `tests/scale` runs it with more.

use std::{env, fs, time::Duration};

use hive_core::{ConnId, StoredNetwork};
use hive_protocol::{NodeId, PeerRecord, SignedRecord, Timestamp};

use crate::world::{Meter, NetworkName, World, secret};

/// Changes on each side of the cut.
const CHANGES: usize = 2;
/// From one node to the next.
const ROUND: Duration = Duration::from_millis(30);
/// Gossip rounds in which a change must have reached everybody, and bytes for each node.
const ROUNDS: u32 = 10;
const BYTES: u64 = 4096;
/// What the comparison of identical tables may cost when a connection comes back.
const RECONNECT: u64 = 200;

fn network() -> NetworkName {
    "scale".parse().unwrap()
}

#[test]
fn a_thousand_nodes_stay_in_step() {
    in_step(1000);
}

#[test]
#[ignore = "takes memory and minutes: tests/scale"]
fn many_nodes_stay_in_step() {
    in_step(env::var("HIVE_SIM_NODES").ok().and_then(|count| count.parse().ok()).unwrap_or(2000));
}

fn in_step(count: usize) {
    let before = resident();
    let mut world = known_to_all(count);
    let each = resident().saturating_sub(before) / count as u64;
    println!("{count} nodes: {each} bytes of memory a node, {} a record", each / count as u64);
    world.run(Duration::from_secs(20));
    report(&mut world, "they start and find neighbours", count);
    one_change(&mut world, count);
    reconnect(&mut world);
    cut_in_half(&mut world, count);
    newcomer(&mut world, count);
}

/// So many nodes, each of which has stored everybody's record.
fn known_to_all(count: usize) -> World {
    let mut world = World::new(1, 0);
    world.disks = false;
    world.latency = Some(ROUND);
    (0..count).for_each(|node| world.add(node));
    let records: Vec<(SignedRecord, Timestamp)> = (0..count).map(|node| record(&world, node)).collect();
    for node in 0..count {
        keep_network(&mut world, node);
        world.nodes[node].disk.records = records.clone();
        world.start(node);
        world.nodes[node].disk.records = Vec::new();
    }
    world
}

fn keep_network(world: &mut World, node: usize) {
    let network = StoredNetwork { name: network(), secret: secret("right"), previous: None, banned: Vec::new() };
    world.nodes[node].disk.networks = vec![network];
}

/// What a node says of itself when it starts, said before.
fn record(world: &World, node: usize) -> (SignedRecord, Timestamp) {
    let (it, now) = (&world.nodes[node], world.now(node).wall);
    let said = PeerRecord {
        network: network(),
        node: it.id,
        seq: now.0,
        issued: now,
        name: it.disk.name.clone(),
        addresses: vec![it.address.clone()],
        version: "0.1.0".into(),
        target: "simulated".into(),
        relay: false,
        left: false,
    };
    (SignedRecord::sign(&said, &it.key), now)
}

fn one_change(world: &mut World, count: usize) {
    world.rename(0);
    let took = until_known(world, &[0]);
    let (rounds, reached) = (world.meter.hops.values().max().copied().unwrap_or_default(), world.meter.hops.len());
    let bytes = report(world, &format!("one change, {took:?}, {rounds} rounds"), count);
    assert!(reached + 1 >= count && rounds <= ROUNDS, "{reached} of {count} in {rounds} rounds");
    assert!(bytes <= BYTES, "{bytes} bytes a node");
}

/// Some connections are lost and others made for them; nothing has changed meanwhile.
fn reconnect(world: &mut World) {
    let lost: Vec<ConnId> = world.ends.keys().take(20).copied().collect();
    let newest = *world.ends.keys().last().unwrap();
    lost.into_iter().for_each(|conn| world.cut(conn, Duration::ZERO));
    world.run(Duration::from_secs(10));
    // Both ends of a connection begin with one comparison each, at most.
    let again = world.ends.iter().filter(|(conn, end)| **conn > newest && **conn < end.other);
    let sent = |conn: &ConnId| world.meter.sent.get(conn).copied().unwrap_or_default();
    let bytes: Vec<u64> = again.map(|(conn, end)| sent(conn) + sent(&end.other)).collect();
    let most = bytes.iter().max().copied().unwrap_or_default();
    println!("  {} connections made again between identical tables: at most {most} bytes each", bytes.len());
    assert!((1..RECONNECT).contains(&most), "{bytes:?}");
    world.meter = Meter::default();
}

/// Half of the nodes lose the other half, both go on changing, then they meet again.
fn cut_in_half(world: &mut World, count: usize) {
    world.part();
    world.run(Duration::from_secs(30));
    report(world, "a cut in half", count);
    let changed: Vec<usize> = (0..2 * CHANGES).map(|at| at * count / (2 * CHANGES)).collect();
    changed.iter().for_each(|node| world.rename(*node));
    world.run(Duration::from_secs(10));
    report(world, &format!("{} changes in the halves", changed.len()), count);
    world.unpart();
    let took = until_known(world, &changed);
    report(world, &format!("they meet again, {took:?}"), count);
}

/// Somebody with an empty table joins by way of one member.
fn newcomer(world: &mut World, count: usize) {
    world.add(count);
    keep_network(world, count);
    world.start(count);
    world.register(count, 0, &network());
    let (begun, id) = (world.time, world.id(count));
    while (0..count).any(|node| !knows(world, node, &id) || !knows(world, count, &world.id(node))) {
        world.run(Duration::from_secs(1));
        assert!(world.time - begun < Duration::from_secs(1200), "the newcomer does not get the table");
    }
    let took = world.time - begun;
    report(world, &format!("a newcomer, {took:?}"), 1);
}

fn knows(world: &World, node: usize, other: &NodeId) -> bool {
    world.core(node).node_name(other).is_some()
}

/// Lets time pass until everybody has the present names of some nodes.
fn until_known(world: &mut World, changed: &[usize]) -> Duration {
    let begun = world.time;
    let names: Vec<_> = changed.iter().map(|node| (world.id(*node), world.name_in_use(*node))).collect();
    let is_known =
        |world: &World, node| names.iter().all(|(id, name)| world.core(node).node_name(id).as_ref() == Some(name));
    while let Some(without) = (0..world.len()).find(|node| !is_known(world, *node)) {
        world.run(Duration::from_millis(50));
        assert!(world.time - begun < Duration::from_secs(600), "node {without} does not hear of it");
    }
    world.time - begun
}

/// Says what travelled since the last report; returns the bytes for each node.
fn report(world: &mut World, what: &str, nodes: usize) -> u64 {
    let Meter { messages, bytes, .. } = std::mem::take(&mut world.meter);
    let each = bytes / nodes as u64;
    println!("  {what}: {messages} messages, {bytes} bytes, {each} a node");
    each
}

/// Bytes of memory that this process holds.
fn resident() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4096
}
