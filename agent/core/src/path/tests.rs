//! The graph that everybody's choice of neighbours makes together.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

/// Bytes of a pushed record of usual size, with its frame.
const PUSH: usize = 200;

/// Everybody's connections in a network of this size in which all are up.
fn connections(size: usize) -> Vec<BTreeSet<usize>> {
    let mut rng = StdRng::seed_from_u64(size as u64);
    let ids: BTreeSet<NodeId> = (0..size).map(|_| NodeId::from_bytes(rng.random())).collect();
    let index: BTreeMap<NodeId, usize> = ids.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    let all: Vec<Candidate> = ids.iter().map(|node| Candidate { node: *node, connected: false, up: true }).collect();
    let network: NetworkName = "large".parse().unwrap();
    let mut dice = Dice::new([7; 32]);
    let mut connections = vec![BTreeSet::new(); size];
    let mut others = all[1..].to_vec();
    for me in 0..size {
        for other in Paths::default().neighbours(&network, &all[me].node, &others, &mut dice) {
            let other = index[&other];
            connections[me].insert(other);
            connections[other].insert(me);
        }
        // Those before me, then those behind the next.
        if let Some(place) = others.get_mut(me) {
            *place = all[me];
        }
    }
    connections
}

/// Pushes one change from the first node as `tables` does, to all but where it came from; the rounds until everybody has
/// it, and the messages.
fn flood(connections: &[BTreeSet<usize>]) -> (usize, usize) {
    let (mut reached, mut rounds, mut messages) = (BTreeSet::from([0]), 0, 0);
    let mut news: Vec<(usize, Option<usize>)> = vec![(0, None)];
    while !news.is_empty() {
        let pushed = news.iter().flat_map(|(node, from)| connections[*node].iter().map(move |to| (*node, *to, *from)));
        let pushed: Vec<_> = pushed.filter(|(_, to, from)| Some(*to) != *from).collect();
        messages += pushed.len();
        news = pushed.into_iter().filter(|(_, to, _)| reached.insert(*to)).map(|(by, to, _)| (to, Some(by))).collect();
        rounds += usize::from(!news.is_empty());
    }
    assert_eq!(reached.len(), connections.len(), "the network is in one piece");
    (rounds, messages)
}

fn reaches_all_in_few_rounds(size: usize) {
    let connections = connections(size);
    let (rounds, messages) = flood(&connections);
    let bytes = messages * PUSH / size;
    let most = connections.iter().map(BTreeSet::len).max().unwrap_or_default();
    println!("{size} nodes: one change in {rounds} rounds, {bytes} bytes a node; at most {most} connections");
    assert!(rounds <= 10 && bytes <= 4096, "{rounds} rounds, {bytes} bytes");
}

#[test]
fn one_change_reaches_a_thousand_in_few_rounds() {
    reaches_all_in_few_rounds(1000);
}

#[test]
#[ignore = "a hundred million candidates: tests/scale"]
fn one_change_reaches_ten_thousand_in_few_rounds() {
    reaches_all_in_few_rounds(10_000);
}
