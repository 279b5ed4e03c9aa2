//! What must hold, at every moment or once things are quiet.

use std::{collections::BTreeSet, time::Duration};

use hive_protocol::NodeId;

use crate::world::{NetworkName, World};

/// Holds at every moment: nobody who is kept out, or a stranger, has any part in a network.
pub fn always(world: &World) {
    for node in (0..world.len()).filter(|node| world.is_up(*node)) {
        tables_hold_members_only(world, node);
        the_banned_are_out(world, node);
    }
}

fn tables_hold_members_only(world: &World, node: usize) {
    for row in world.core(node).nodes(world.now(node)) {
        let known = world.index(&row.peer_id);
        let member = world.ever[&row.network].contains(&known);
        assert!(member || known == node, "node {node} lists {known}, a stranger to {}", row.network);
    }
}

fn the_banned_are_out(world: &World, node: usize) {
    for conn in world.conns(node) {
        let Some(connection) = world.core(node).connection(conn) else { continue };
        let peer = world.index(&connection.peer);
        for network in connection.networks {
            let member = world.ever[&network].contains(&peer) && world.ever[&network].contains(&node);
            assert!(member, "node {node} and {peer} joined {network} without its password");
            assert!(!world.bans.contains(&(node, peer, network)), "node {node} let in {peer}, whom it keeps out");
        }
    }
}

/// Every member's table becomes what is true, within `limit`.
pub fn converges(world: &mut World, limit: Duration) {
    const STEP: Duration = Duration::from_secs(5);
    let mut waited = Duration::ZERO;
    while let Some(difference) = difference(world) {
        assert!(waited < limit, "after {waited:?}: {difference}");
        world.run(STEP);
        always(world);
        waited += STEP;
    }
}

fn difference(world: &World) -> Option<String> {
    let networks: Vec<_> = world.members.keys().cloned().collect();
    networks.iter().find_map(|network| {
        let members = world.members[network].iter().filter(|node| world.is_up(**node));
        members.into_iter().find_map(|node| wrong_table(world, network, *node))
    })
}

fn wrong_table(world: &World, network: &NetworkName, node: usize) -> Option<String> {
    let rows = world.core(node).nodes(world.now(node)).into_iter().filter(|row| row.network == *network);
    let held: BTreeSet<_> = rows.map(|r| (r.peer_id, r.node_name, r.addresses)).collect();
    let truth = |other: &usize| (world.id(*other), world.name(*other), vec![world.address(*other).clone()]);
    let seen = world.members[network].iter().filter(|other| !world.bans.contains(&(node, **other, network.clone())));
    let truth: BTreeSet<_> = seen.map(truth).collect();
    let describe = |(id, name, _): &(NodeId, _, _)| format!("{} ({name})", world.index(id));
    let missing: Vec<_> = truth.difference(&held).map(describe).collect();
    let wrong: Vec<_> = held.difference(&truth).map(describe).collect();
    let lists = format!("node {node} in {network} lacks {missing:?} and holds {wrong:?}");
    (held != truth).then_some(lists)
}

pub fn registrations_succeeded(world: &World) {
    for node in 0..world.len() {
        assert!(!world.registered(node).contains(&false), "a registration of node {node} failed");
    }
}

/// A member has a handful of connections in a network, not a mesh.
pub fn degree_is_small(world: &World, most: f64) {
    for (network, members) in &world.members {
        let ends: usize = members.iter().map(|node| world.joined(*node, network)).sum();
        let average = ends as f64 / members.len() as f64;
        assert!((3.0..=most).contains(&average), "{average:.1} connections a member of {network} on average");
    }
}

/// How many connections a node has on average, whatever they are for.
pub fn connections(world: &World) -> f64 {
    let ends: usize = (0..world.len()).map(|node| world.conns(node).count()).sum();
    ends as f64 / world.len() as f64
}
