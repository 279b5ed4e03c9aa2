//! Two tables in talk, without a network between them.

use std::collections::{BTreeSet, VecDeque};

use hive_protocol::{NodeId, PeerRecord, frame, peer::PeerMessage};

use super::*;
use crate::{Now, testing::*};

/// A made-up node: its record is not signed by anybody, since the tables here trust their store.
fn made_up(n: u32, seq: u64) -> PeerRecord {
    let node = NodeId::from_bytes(blake3::hash(&n.to_be_bytes()).into());
    PeerRecord { node, ..said_by(1, seq) }
}

fn put(table: &mut Table, record: PeerRecord) {
    let now = Now { mono: secs(1), wall: record.issued };
    table.restore(SignedRecord::sign(&record, &key(1)), now.wall, now);
}

fn table(records: impl IntoIterator<Item = (u32, u64)>) -> Table {
    let mut table = Table::new(lab(), id(0));
    records.into_iter().for_each(|(n, seq)| put(&mut table, made_up(n, seq)));
    table
}

/// What it cost until both fell silent.
#[derive(Debug, Default)]
struct Cost {
    messages: usize,
    records: usize,
    bytes: usize,
}

/// Lets `a` compare with `b`, as the core does, until nothing more is said.
fn talk(a: &mut Table, b: &mut Table) -> Cost {
    let mut cost = Cost::default();
    let mut under_way = VecDeque::from([(false, root(a))]);
    while let Some((to_a, message)) = under_way.pop_front() {
        let frame = PeerMessage { network: lab(), body: message.clone() };
        cost.bytes += frame::encode(&frame, frame::PEER_MAX).expect("it fits its frame").len();
        cost.messages += 1;
        let here = if to_a { &mut *a } else { &mut *b };
        let answer = match message {
            SyncMessage::Compare { ranges } => compare(here, &ranges).unwrap(),
            SyncMessage::Want { nodes } => serve(here, &nodes).unwrap(),
            SyncMessage::Records { records } => {
                cost.records += records.len();
                records.iter().for_each(|signed| put(here, signed.read().unwrap()));
                Answer::default()
            }
        };
        under_way.extend(answer.messages.into_iter().map(|message| (!to_a, message)));
        if answer.more {
            under_way.push_back((!to_a, root(here)));
        }
    }
    cost
}

fn holds(table: &Table) -> BTreeSet<(NodeId, u64)> {
    table.range(0, 0).map(|(node, entry)| (*node, entry.head().seq)).collect()
}

#[test]
fn equal_tables_cost_one_message() {
    let (mut a, mut b) = (table((0..500).map(|n| (n, 1))), table((0..500).map(|n| (n, 1))));
    let cost = talk(&mut a, &mut b);
    assert_eq!((cost.messages, cost.records), (1, 0));
    assert!(cost.bytes < 100, "{cost:?}");
}

#[test]
fn only_what_differs_travels() {
    let mut a = table((0..500).map(|n| (n, if n == 77 { 9 } else { 1 })));
    let mut b = table((0..500).filter(|n| *n != 400).map(|n| (n, if n == 123 { 9 } else { 1 })));
    let cost = talk(&mut a, &mut b);
    assert_eq!(holds(&a), holds(&b));
    assert_eq!(holds(&a).len(), 500);
    assert_eq!(cost.records, 3, "two that were newer, one that was missing");
    assert!(cost.bytes < 16 * 1024, "{cost:?}");
}

#[test]
fn a_newcomer_learns_a_large_table() {
    let (mut a, mut b) = (table([(9999, 1)]), table((0..2000).map(|n| (n, 1))));
    talk(&mut a, &mut b);
    assert_eq!(holds(&a), holds(&b));
    assert_eq!(holds(&a).len(), 2001);
}

#[test]
fn two_halves_become_one_from_either_side() {
    let (mut a, mut b) = (table((0..700).map(|n| (n, 1))), table((300..1000).map(|n| (n, 2))));
    talk(&mut b, &mut a);
    assert_eq!(holds(&a), holds(&b));
    assert_eq!(holds(&a).len(), 1000);
}

#[test]
fn an_answer_is_bounded() {
    let large = table((0..3000).map(|n| (n, 1)));
    let nothing = Range { prefix: 0, depth: 0, content: RangeContent::List { entries: Vec::new() } };
    let answer = compare(&large, std::slice::from_ref(&nothing)).unwrap();
    assert!(answer.more && answer.messages.len() <= RECORDS / MAX_RECORDS);
    let greedy = vec![0; MAX_ENTRIES + 1];
    assert_eq!(serve(&large, &greedy).err(), Some(Improper));
    assert_eq!(compare(&large, &vec![nothing; MAX_RANGES + 1]).err(), Some(Improper));
}

#[test]
fn a_list_speaks_of_its_own_range_alone() {
    let ours = table([(1, 5)]);
    let held = ours.range(0, 0).next().unwrap().0.short();
    let outside = Entry { node: held ^ (1 << 63), seq: 9 };
    let prefix = held & (0xf << 60);
    let list = Range { prefix, depth: 1, content: RangeContent::List { entries: vec![outside] } };
    let answer = compare(&ours, &[list]).unwrap();
    assert!(matches!(answer.messages[..], [SyncMessage::Records { .. }]), "ours is sent, theirs is not wanted");
}

#[test]
fn ranges_that_overlap_are_improper() {
    let table = Table::new(lab(), id(0));
    let range = |prefix, depth| digest(&table, prefix, depth);
    let nibble = |n: u64| n << 60;
    assert!(compare(&table, &[range(nibble(1), 1), range(nibble(2), 1), range(nibble(0xf), 1)]).is_ok());
    for overlapping in [
        [range(0, 0), range(0, 0)],
        [range(nibble(1), 1), range(nibble(1), 1)],
        [range(nibble(1), 1), range(nibble(1) | 1 << 56, 2)],
        [range(nibble(2), 1), range(nibble(1), 1)],
        [range(7, 16), range(7, 16)],
    ] {
        assert!(compare(&table, &overlapping).is_err());
    }
}
