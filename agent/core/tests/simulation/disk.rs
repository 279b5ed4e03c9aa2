//! What a node's store becomes, change by change.

use hive_core::{Change, Stored, StoredNetwork};
use hive_protocol::{NetworkName, SignedRecord};

/// Stores a change.
pub fn apply(disk: &mut Stored, change: Change) {
    let of = |record: &SignedRecord| record.read().map(|r| (r.network, r.node)).unwrap();
    match change {
        Change::Name(name) => disk.name = name,
        Change::Network(network) => {
            forget_network(&mut disk.networks, &network.name);
            disk.networks.push(network);
        }
        Change::NetworkGone(name) => {
            forget_network(&mut disk.networks, &name);
            disk.records.retain(|(record, _)| of(record).0 != name);
        }
        Change::Record { network, node, record, contact } => {
            disk.records.retain(|(held, _)| of(held) != (network.clone(), node));
            disk.records.push((record, contact));
        }
        Change::Contact { network, node, contact } => {
            let held = disk.records.iter_mut().find(|(held, _)| of(held) == (network.clone(), node));
            held.expect("a contact of a stored record").1 = contact;
        }
        Change::RecordGone { network, node } => disk.records.retain(|(held, _)| of(held) != (network.clone(), node)),
        Change::Proxy(_) | Change::NextProxy(_) | Change::ProxyGone(_) => {}
        Change::Admin(_) | Change::Session(_) | Change::SessionGone(_) => {}
    }
}

fn forget_network(networks: &mut Vec<StoredNetwork>, name: &NetworkName) {
    networks.retain(|network| network.name != *name);
}
