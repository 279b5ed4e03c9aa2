//! Networks of a thousand nodes and more: what one change, a cut through the middle, a reconnect, a newcomer and a cold
//! start cost.
//!
//! The nodes begin with what they stored, a whole table each, so that their number and not the verification of a million
//! signatures is what takes time; only a cold start begins with nothing. The bytes of a record are one allocation in
//! this process, however many tables hold it: what a table costs a node that shares with nobody is measured by itself.
//! `tests/scale` runs it with more nodes and writes the figures down.

use std::{env, fs, time::Duration};

use hive_core::{Config, ConnId, Core, Now, RelayMode, Stored, StoredNetwork};
use hive_protocol::{NodeId, PeerRecord, SignedRecord, Timestamp, frame};

use crate::{
    sheet::Sheet,
    world::{NetworkName, World, secret},
};

/// Changes on each side of the cut.
const CHANGES: usize = 2;
/// From one node to the next.
const ROUND: Duration = Duration::from_millis(30);
/// Gossip rounds in which a change must have reached everybody, and bytes for each node.
const ROUNDS: u32 = 10;
const BYTES: u64 = 4096;
/// What the comparison of identical tables may cost when a connection comes back.
const RECONNECT: u64 = 200;
/// In which every node must know every other.
const LONGEST: Duration = Duration::from_secs(1200);

fn network() -> NetworkName {
    "scale".parse().unwrap()
}

#[test]
fn a_thousand_nodes_stay_in_step() {
    in_step(1000, &mut Sheet::default());
}

#[test]
fn two_hundred_find_each_other_from_nothing() {
    cold_start(200, &mut Sheet::default());
}

#[test]
#[ignore = "takes memory and minutes: tests/scale"]
fn many_nodes_stay_in_step() {
    let mut sheet = Sheet::default();
    let counts =
        |name| env::var(name).unwrap_or_default().split(',').filter_map(|n| n.parse().ok()).collect::<Vec<_>>();
    alone(&counts("HIVE_SIM_NODES"), &mut sheet);
    counts("HIVE_SIM_NODES").into_iter().for_each(|count| in_step(count, &mut sheet));
    counts("HIVE_SIM_COLD").into_iter().for_each(|count| cold_start(count, &mut sheet));
    env::var("HIVE_SIM_JSON").into_iter().for_each(|path| fs::write(path, sheet.json()).unwrap());
}

fn in_step(count: usize, sheet: &mut Sheet) {
    sheet.begin(count);
    let before = resident();
    let mut world = known_to_all(count);
    sheet.memory("a simulated node that shares records", resident().saturating_sub(before) / count as u64);
    world.run(Duration::from_secs(20));
    sheet.take(&mut world, "they start and find neighbours", None);
    sheet.memory("a simulated node with its connections", resident().saturating_sub(before) / count as u64);
    one_change(&mut world, sheet);
    reconnect(&mut world, sheet);
    cut_in_half(&mut world, sheet);
    newcomer(&mut world, sheet);
}

/// The memory of a node that shares records with nobody, for networks of these sizes. Measured before all else, and with
/// all of them kept: this process' memory does not shrink where something is freed, nor grow where it is used again.
fn alone(counts: &[usize], sheet: &mut Sheet) {
    const COPIES: usize = 8;
    let mut kept = Vec::new();
    for count in counts {
        sheet.begin(*count);
        let mut world = World::new(1, 0);
        (0..*count).for_each(|node| world.add(node));
        keep_network(&mut world, 0);
        let records = records(&world);
        let before = resident();
        kept.extend((0..COPIES).map(|_| with_copies(&world, &records)));
        sheet.memory("one node by itself", resident().saturating_sub(before) / COPIES as u64);
    }
    kept.iter().for_each(|(core, now)| assert!(counts.contains(&(core.networks(*now)[0].members as usize))));
}

/// A node that has these records from its own disk.
fn with_copies(world: &World, records: &[(SignedRecord, Timestamp)]) -> (Core, Now) {
    let copy = |(record, contact): &(SignedRecord, Timestamp)| {
        let bytes = frame::encode(record, frame::PEER_MAX).unwrap();
        (frame::decode(&bytes[4..]).unwrap(), *contact)
    };
    let node = &world.nodes[0];
    let stored = Stored { records: records.iter().map(copy).collect(), ..node.disk.clone() };
    let config =
        Config { key: node.key.clone(), version: "0.1.0".into(), target: "simulated".into(), relay: RelayMode::Auto };
    (Core::new(config, stored, [0; 32], world.now(0)), world.now(0))
}

/// So many nodes, each of which has stored everybody's record.
fn known_to_all(count: usize) -> World {
    let mut world = World::new(1, 0);
    world.disks = false;
    world.latency = Some(ROUND);
    (0..count).for_each(|node| world.add(node));
    let records = records(&world);
    for node in 0..count {
        keep_network(&mut world, node);
        world.nodes[node].disk.records = records.clone();
        world.start(node);
        world.nodes[node].disk.records = Vec::new();
    }
    world
}

/// Everybody's record, in the order in which a store gives them.
fn records(world: &World) -> Vec<(SignedRecord, Timestamp)> {
    let mut nodes: Vec<usize> = (0..world.len()).collect();
    nodes.sort_by_key(|node| world.id(*node));
    nodes.into_iter().map(|node| record(world, node)).collect()
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

fn one_change(world: &mut World, sheet: &mut Sheet) {
    world.rename(0);
    let took = until_known(world, &[0]);
    let (rounds, reached) = (world.meter.hops.values().max().copied().unwrap_or_default(), world.meter.hops.len());
    let bytes = sheet.take(world, &format!("one change, {rounds} rounds"), Some(took));
    assert!(reached + 1 >= world.len() && rounds <= ROUNDS, "{reached} reached in {rounds} rounds");
    assert!(bytes <= BYTES, "{bytes} bytes a node");
}

/// Some connections are lost and others made for them; nothing has changed meanwhile.
fn reconnect(world: &mut World, sheet: &mut Sheet) {
    let lost: Vec<ConnId> = world.ends.keys().take(20).copied().collect();
    let newest = *world.ends.keys().last().unwrap();
    lost.into_iter().for_each(|conn| world.cut(conn, Duration::ZERO));
    world.run(Duration::from_secs(10));
    // Both ends of a connection begin with one comparison each, at most.
    let again = world.ends.iter().filter(|(conn, end)| **conn > newest && **conn < end.other);
    let sent = |conn: &ConnId| world.meter.sent.get(conn).copied().unwrap_or_default();
    let bytes: Vec<u64> = again.map(|(conn, end)| sent(conn) + sent(&end.other)).collect();
    let most = bytes.iter().max().copied().unwrap_or_default();
    assert!((1..RECONNECT).contains(&most), "{bytes:?}");
    sheet.take(world, &format!("{} connections again, each at most {most} bytes", bytes.len()), None);
}

/// Half of the nodes lose the other half, both go on changing, then they meet again.
fn cut_in_half(world: &mut World, sheet: &mut Sheet) {
    world.part();
    world.run(Duration::from_secs(30));
    sheet.take(world, "a cut in half", None);
    let changed: Vec<usize> = (0..2 * CHANGES).map(|at| at * world.len() / (2 * CHANGES)).collect();
    changed.iter().for_each(|node| world.rename(*node));
    world.run(Duration::from_secs(10));
    sheet.take(world, &format!("{} changes in the halves", changed.len()), None);
    world.unpart();
    let took = until_known(world, &changed);
    sheet.take(world, "they meet again", Some(took));
}

/// Somebody with an empty table joins by way of one member.
fn newcomer(world: &mut World, sheet: &mut Sheet) {
    let (count, begun) = (world.len(), world.time);
    world.add(count);
    keep_network(world, count);
    world.start(count);
    world.register(count, 0, &network());
    let id = world.id(count);
    while (0..count).any(|node| !knows(world, node, &id) || !knows(world, count, &world.id(node))) {
        world.run(Duration::from_secs(1));
        assert!(world.time - begun < LONGEST, "the newcomer does not get the table");
    }
    let took = world.time - begun;
    sheet.take(world, "a newcomer", Some(took));
}

/// Everybody starts at once with an empty table; each was told of one other node.
fn cold_start(count: usize, sheet: &mut Sheet) {
    sheet.begin(count);
    let mut world = World::new(1, 0);
    world.disks = false;
    world.latency = Some(ROUND);
    (0..count).for_each(|node| world.add(node));
    (0..count).for_each(|node| keep_network(&mut world, node));
    (0..count).for_each(|node| world.start(node));
    for node in 1..count {
        let known = world.pick(0..node);
        world.register(node, known, &network());
    }
    let whole = |world: &World, node| world.core(node).networks(world.now(node))[0].members as usize == count;
    while let Some(node) = (0..count).find(|node| !whole(&world, *node)) {
        world.run(Duration::from_millis(500));
        assert!(world.time < LONGEST, "node {node} does not get the table");
    }
    let took = world.time;
    sheet.take(&mut world, "a cold start", Some(took));
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

/// Bytes of memory that this process holds.
fn resident() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4096
}
