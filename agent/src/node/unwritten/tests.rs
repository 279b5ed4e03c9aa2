//! What is left to write after much was said.

use hive_core::StoredNetwork;
use hive_protocol::{PeerRecord, SignedRecord, Timestamp, password::Secret};
use libp2p::identity::ed25519::Keypair;

use super::*;

fn network(n: u8) -> NetworkName {
    format!("net{n}").parse().unwrap()
}

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn joined(n: u8) -> Change {
    let secret = Secret::from_bytes([n; 32]);
    Change::Network(StoredNetwork { name: network(n), secret, previous: None, banned: Vec::new() })
}

fn signed(n: u8) -> SignedRecord {
    let record = PeerRecord {
        network: network(n),
        node: node(n),
        seq: 1,
        issued: Timestamp(1),
        name: "shed".parse().unwrap(),
        addresses: Vec::new(),
        version: "0.1.0".into(),
        target: "test".into(),
        relay: false,
        left: false,
    };
    SignedRecord::sign(&record, &Keypair::generate())
}

fn record(record: &SignedRecord, contact: u64) -> Change {
    Change::Record { network: network(1), node: node(1), record: record.clone(), contact: Timestamp(contact) }
}

fn contact(contact: u64) -> Change {
    Change::Contact { network: network(1), node: node(1), contact: Timestamp(contact) }
}

fn gone() -> Change {
    Change::RecordGone { network: network(1), node: node(1) }
}

fn left(changes: impl IntoIterator<Item = Change>) -> Vec<Change> {
    let mut unwritten = Unwritten::default();
    changes.into_iter().for_each(|change| unwritten.add(change));
    unwritten.changes()
}

#[test]
fn a_later_change_of_a_row_replaces_the_earlier_one() {
    let (old, new) = (signed(1), signed(1));
    assert_eq!(left([record(&old, 1), record(&new, 2)]), [record(&new, 2)]);
    assert_eq!(left([record(&old, 1), gone()]), [gone()]);
    assert_eq!(left([gone(), record(&new, 2)]), [record(&new, 2)]);
    assert_eq!(left((1..1000).map(Change::NextProxy)), [Change::NextProxy(999)]);
    assert_eq!(left([Change::SessionGone([1; 32]), Change::SessionGone([2; 32])]).len(), 2, "two rows");
}

#[test]
fn a_contact_changes_the_record_it_belongs_to() {
    let signed = signed(1);
    assert_eq!(left([record(&signed, 1), contact(7)]), [record(&signed, 7)]);
    assert_eq!(left([contact(7), contact(8)]), [contact(8)]);
    assert_eq!(left([contact(7), record(&signed, 8)]), [record(&signed, 8)]);
    assert_eq!(left([gone(), contact(7)]), [gone()]);
}

#[test]
fn a_network_that_is_left_takes_its_records_along() {
    let signed = signed(1);
    let farewell = Change::NetworkGone(network(1));
    let all = [joined(1), joined(2), record(&signed, 1), farewell.clone()];
    assert_eq!(left(all), [farewell.clone(), joined(2)]);
    let again = [record(&signed, 1), farewell.clone(), joined(1), contact(3), record(&signed, 4)];
    assert_eq!(left(again), [farewell, joined(1), record(&signed, 4)], "what it held before is still to be removed");
}
