//! What a full table takes, and what it gives up for that.

use super::*;
use crate::testing::*;

fn made_up(n: usize) -> NodeId {
    NodeId::from_bytes(blake3::hash(&n.to_be_bytes()).into())
}

fn now() -> Now {
    Now { mono: secs(1_000_000), wall: Timestamp(START) }
}

/// A table of made-up nodes; the higher the number, the longer nothing was heard of it.
fn crowd(count: usize) -> Table {
    let mut table = Table::new(lab(), id(0));
    for n in 0..count {
        let signed = signed(1, &PeerRecord { node: made_up(n), ..said_by(1, 0) });
        let contact = Timestamp(START - n as u64);
        table.restore(signed, contact, now());
    }
    table
}

/// Offers the record of peer `n`, as the core does.
fn offer(table: &mut Table, n: u8, from: u8) -> (Offer, Vec<NodeId>) {
    let outcome = table.offer(&signed(n, &said_by(n, 5)), &id(from), false, now());
    (outcome, table.trim(&id(from)))
}

#[test]
fn a_full_table_takes_what_its_owner_says_in_person() {
    let mut table = crowd(MOST);
    assert_eq!(offer(&mut table, 7, 1), (Offer::Ignored, vec![]), "hearsay");
    assert_eq!(offer(&mut table, 7, 7), (Offer::Changed, vec![made_up(MOST - 1)]));
    assert!(table.get(&id(7)).is_some() && table.range(0, 0).count() == MOST);
}

#[test]
fn who_was_here_stays_when_others_must_go() {
    let mut table = crowd(MOST);
    table.touch(&made_up(MOST - 1), true, now());
    assert_eq!(offer(&mut table, 7, 7).1, [made_up(MOST - 2)]);
    assert_eq!(offer(&mut table, 8, 8).1, [made_up(MOST - 3)], "and so does the last who came");
}

#[test]
fn the_bytes_of_a_table_are_bounded() {
    let size = signed(1, &said_by(1, 0)).size();
    let count = 5000;
    let mut table = crowd(count);
    table.bytes = MOST_BYTES - size / 2;
    assert_eq!(offer(&mut table, 7, 1).0, Offer::Ignored, "hearsay");
    let (outcome, gone) = offer(&mut table, 7, 7);
    assert_eq!((outcome, gone), (Offer::Changed, vec![made_up(count - 1)]));
    assert!(table.bytes <= MOST_BYTES);
}

#[test]
fn the_bytes_are_counted() {
    let mut table = crowd(10);
    let sum = |table: &Table| table.range(0, 0).map(|(_, e)| e.signed.size()).sum::<usize>();
    assert_eq!(table.bytes, sum(&table));
    offer(&mut table, 7, 7);
    offer(&mut table, 8, 7);
    table.offer(&signed(7, &PeerRecord { addresses: vec![], ..said_by(7, 6) }), &id(7), false, now());
    table.remove(&made_up(3));
    assert_eq!(table.bytes, sum(&table));
    table.lapse(now().mono + LAPSE + secs(10));
    assert_eq!((table.bytes, sum(&table)), (0, 0));
}
