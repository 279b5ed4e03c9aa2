use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
};

use hive_core::{Admin, StoredSession};
use hive_protocol::{
    Direction, PeerRecord, ProxyKind, Remote, SignedRecord, Timestamp,
    password::{PasswordHashed, Secret},
};
use libp2p::identity::ed25519;

use super::*;

/// A folder that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hive-store-{name}-{}", std::process::id()));
        fs::remove_dir_all(&path).ok();
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn name() -> NodeName {
    "node".parse().unwrap()
}

fn network(text: &str) -> StoredNetwork {
    StoredNetwork {
        name: text.parse().unwrap(),
        secret: Secret::from_bytes([1; 32]),
        previous: Some((Secret::from_bytes([2; 32]), Timestamp(9))),
        banned: vec![NodeId::from_bytes([3; 32])],
    }
}

fn record(network: &str) -> Change {
    let key = ed25519::Keypair::generate();
    let record = PeerRecord {
        network: network.parse().unwrap(),
        node: NodeId::from(&key.public()),
        seq: 1,
        issued: Timestamp(1),
        name: name(),
        addresses: vec![],
        version: "1".into(),
        target: "t".into(),
        relay: false,
        left: false,
    };
    let signed = SignedRecord::sign(&record, &key);
    Change::Record { network: record.network, node: record.node, record: signed, contact: Timestamp(4) }
}

fn proxy() -> ProxySpec {
    let node = NodeId::from_bytes([5; 32]);
    ProxySpec {
        id: 7,
        direction: Direction::Egress,
        kind: ProxyKind::Tcp,
        port: 8080,
        bind: hive_protocol::DEFAULT_BIND,
        host: "127.0.0.1".into(),
        remote: Some(Remote { network: "lab".parse().unwrap(), node, port: 80 }),
        enabled: true,
        temporary: false,
        resume: None,
        key_prefix: None,
        sni: None,
        ssh: None,
        path_rule: None,
    }
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let scratch = Scratch::new("reopen");
    let admin = Admin { user: "admin".into(), password: PasswordHashed::new("p", [0; 16]).unwrap() };
    let session = StoredSession {
        key: [8; 32],
        user: "admin".into(),
        created: Timestamp(1),
        expires: Timestamp(2),
        last_used: Timestamp(1),
    };
    let changes = [
        Change::Name("other".parse().unwrap()),
        Change::Network(network("lab")),
        record("lab"),
        Change::Proxy(proxy()),
        Change::NextProxy(8),
        Change::Admin(admin.clone()),
        Change::Session(session.clone()),
    ];
    Store::open(scratch.path()).unwrap().commit(&changes).unwrap();

    let (stored, skipped) = Store::open(scratch.path()).unwrap().load(name()).unwrap();
    assert_eq!(skipped, []);
    assert_eq!(stored.name.as_str(), "other");
    assert_eq!(stored.networks, [network("lab")]);
    assert_eq!((stored.records.len(), stored.records[0].1), (1, Timestamp(4)));
    assert_eq!((stored.proxies, stored.next_proxy), (vec![proxy()], 8));
    assert_eq!(stored.admin, Some(admin));
    assert_eq!(stored.sessions, [session]);
}

#[test]
fn a_network_takes_only_its_own_records_along() {
    let scratch = Scratch::new("gone");
    let store = Store::open(scratch.path()).unwrap();
    store.commit(&[Change::Network(network("lab")), Change::Network(network("lab2"))]).unwrap();
    store.commit(&[record("lab"), record("lab2"), Change::NetworkGone("lab".parse().unwrap())]).unwrap();
    let (stored, _) = store.load(name()).unwrap();
    assert_eq!(stored.networks, [network("lab2")]);
    assert_eq!(stored.records.len(), 1);
}

#[test]
fn one_damaged_entry_is_named_and_passed_over() {
    let scratch = Scratch::new("damaged");
    let store = Store::open(scratch.path()).unwrap();
    store.commit(&[Change::Network(network("lab"))]).unwrap();
    let mut txn = store.env.write_txn().unwrap();
    store.networks.put(&mut txn, b"bad", b"\xff\xff").unwrap();
    txn.commit().unwrap();
    let (stored, skipped) = store.load(name()).unwrap();
    assert_eq!(stored.networks.len(), 1);
    assert_eq!(skipped.len(), 1);
    assert_eq!(skipped[0].what, "network bad");
}

#[test]
fn an_emptied_file_is_no_new_state() {
    let scratch = Scratch::new("emptied");
    drop(Store::open(scratch.path()).unwrap());
    assert!(Store::open(scratch.path()).unwrap().is_new().unwrap());
    fs::write(scratch.path().join(DATA_FILE), b"").unwrap();
    assert!(matches!(Store::open(scratch.path()), Err(StoreError::Incomplete { .. })));
}

#[test]
fn state_without_its_identity_is_not_new() {
    for change in [Change::Network(network("lab")), Change::Name(name()), Change::Proxy(proxy())] {
        let scratch = Scratch::new("without");
        let store = Store::open(scratch.path()).unwrap();
        store.commit(&[change]).unwrap();
        let identity = crate::agent::identity(scratch.path(), &store);
        assert!(matches!(identity, Err(crate::agent::Error::Store(StoreError::Incomplete { .. }))));
    }
}

#[test]
fn a_second_agent_is_kept_out() {
    let scratch = Scratch::new("second");
    let _first = Store::open(scratch.path()).unwrap();
    assert!(matches!(Store::open(scratch.path()), Err(StoreError::Folder(FolderError::Locked { .. }))));
}

#[test]
fn a_folder_open_to_others_is_refused() {
    let scratch = Scratch::new("open");
    fs::create_dir(scratch.path()).unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(Store::open(scratch.path()), Err(StoreError::Folder(FolderError::Open { mode: 0o755, .. }))));
}

#[test]
fn state_of_a_newer_agent_is_left_alone() {
    let scratch = Scratch::new("newer");
    Store::open(scratch.path()).unwrap().put("schema", &(SCHEMA + 1)).unwrap();
    assert!(matches!(Store::open(scratch.path()), Err(StoreError::Newer { found, .. }) if found == SCHEMA + 1));
}

/// 32-bit boards, too, outlive 2038 and 2106, and carry more than 4 GiB.
#[test]
fn times_and_numbers_beyond_32_bits_are_kept() {
    let scratch = Scratch::new("wide");
    let late = Timestamp(u64::from(u32::MAX) + 7);
    let session = StoredSession { key: [8; 32], user: "admin".into(), created: late, expires: late, last_used: late };
    let next = u64::from(u32::MAX) + 9;
    Store::open(scratch.path()).unwrap().commit(&[Change::Session(session.clone()), Change::NextProxy(next)]).unwrap();
    let (stored, skipped) = Store::open(scratch.path()).unwrap().load(name()).unwrap();
    assert_eq!((stored.sessions, stored.next_proxy, skipped), (vec![session], next, vec![]));
}

/// Threads take turns by a lock of ours, not by LMDB's: without it a reader would meet pages that a writer uses again.
#[test]
fn threads_read_whole_states_while_others_write() {
    let scratch = Scratch::new("threads");
    let store = Store::open(scratch.path()).unwrap();
    let (first, second) = (network("first"), network("second"));
    let both = |round: u64| {
        let of = |network: &StoredNetwork| {
            let previous = Some((Secret::from_bytes([9; 32]), Timestamp(round)));
            Change::Network(StoredNetwork { previous, ..network.clone() })
        };
        [of(&first), of(&second), record("first"), Change::NetworkGone("first".parse().unwrap()), of(&first)]
    };
    store.commit(&both(0)).unwrap();
    let rounds = |networks: &[StoredNetwork]| -> Vec<u64> {
        networks.iter().filter_map(|network| network.previous.as_ref()).map(|(_, round)| round.0).collect()
    };
    thread::scope(|scope| {
        let writers = [1, 2].map(|writer| {
            let store = &store;
            let both = &both;
            scope.spawn(move || (0..60).for_each(|round| store.commit(&both(writer * 1000 + round)).unwrap()))
        });
        while !writers.iter().all(thread::ScopedJoinHandle::is_finished) {
            let (stored, skipped) = store.load(name()).unwrap();
            let seen = rounds(&stored.networks);
            assert_eq!((skipped, seen.len(), seen.first()), (vec![], 2, seen.last()));
        }
    });
}
