//! What members tell each other, what is stored, and what is forgotten.

use std::collections::VecDeque;

use hive_protocol::{PathRule, PeerRecord, peer::Range, peer::RangeContent};

use libp2p_identity::ed25519;

use super::*;
use crate::{Event, newcomers, testing::*};

fn contacts(bench: &Bench) -> usize {
    bench.changes().iter().filter(|c| matches!(c, Change::Contact { .. })).count()
}

#[test]
fn an_interface_flap_is_one_record() {
    let mut bench = Bench::new();
    let conn = bench.member(1);
    for n in [4, 5, 4, 6] {
        bench.tell(Event::Addresses(vec![address(n)]));
        assert!(bench.records_sent().is_empty());
        bench.advance(millis(20));
    }
    bench.pass(secs(1));
    let sent = bench.records_sent();
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].0, &sent[0].1.addresses), (conn, &vec![address(6)]));
}

#[test]
fn the_first_addresses_are_said_at_once() {
    let mut bench = Bench::with(nothing_stored());
    bench.core.join_network(&lab(), secret(1), bench.now).unwrap();
    let conn = bench.member(1);
    bench.tell(Event::Addresses(vec![address(0)]));
    let sent = bench.records_sent();
    assert_eq!(sent.last().map(|(to, record)| (*to, &record.addresses)), Some((conn, &vec![address(0)])));
}

#[test]
fn a_connection_from_an_address_that_is_gone_is_closed() {
    let mut bench = Bench::new();
    let (direct, relayed) = (bench.member(1), bench.connect_over(2, true, true));
    bench.tell(Event::Addresses(vec![address(0), address(8)]));
    assert!(bench.closes().is_empty());
    let either = bench.member(3);
    bench.tell(Event::Addresses(vec![address(8)]));
    assert!(bench.closes().is_empty(), "a listener may have gone, the address not");
    bench.tell(Event::AddressGone([192, 0, 2, 0].into()));
    assert_eq!(bench.closes(), [direct], "not {relayed:?}, nor {either:?}, which may have left from the other");
}

#[test]
fn a_connection_made_before_its_address_was_told_ends_with_it() {
    let mut bench = Bench::new();
    bench.tell(Event::Addresses(vec![]));
    let hasty = bench.member(1);
    bench.tell(Event::Addresses(vec![address(7)]));
    assert!(bench.closes().is_empty());
    bench.tell(Event::AddressGone([192, 0, 2, 7].into()));
    assert_eq!(bench.closes(), [hasty]);
}

#[test]
fn a_path_to_where_a_member_is_goes_before_one_to_where_it_was() {
    let mut bench = Bench::new();
    let old = bench.member(1);
    let at = |place: &str| PeerRecord { addresses: vec![place.parse().unwrap()], ..said_by(1, 5) };
    bench.hear_record(old, signed(1, &at("/ip4/10.0.0.1/tcp/4180")));
    bench.pass(secs(1));
    let (new, address) = (ConnId(99), "/ip4/10.0.0.77/tcp/4180".parse().unwrap());
    bench.tell(Event::Connected { conn: new, peer: id(1), dialled: false, relayed: false, address });
    bench.tell(Event::Joined { conn: new, network: lab(), secret: secret(1) });
    assert_eq!(bench.core.routes().path(&lab(), &id(1), PathRule::Any), Some(old));
    bench.hear_record(new, signed(1, &PeerRecord { seq: START + 6, ..at("/ip4/10.0.0.77/tcp/4180") }));
    assert_eq!(bench.core.routes().path(&lab(), &id(1), PathRule::Any), Some(new));
}

/// What `count` nodes that nobody knows say of themselves, from the `first` on.
fn strangers(first: u32, count: u32) -> Vec<SignedRecord> {
    let stranger = |n: u32| {
        let seed = *blake3::hash(&n.to_be_bytes()).as_bytes();
        let key = ed25519::Keypair::from(ed25519::SecretKey::try_from_bytes(seed).unwrap());
        SignedRecord::sign(&PeerRecord { node: NodeId::from(&key.public()), ..said_by(1, 5) }, &key)
    };
    (first..first + count).map(stranger).collect()
}

fn hear_all(bench: &mut Bench, conn: ConnId, records: &[SignedRecord]) {
    for records in records.chunks(MAX_RECORDS) {
        bench.hear(conn, SyncMessage::Records { records: records.to_vec() });
    }
}

fn compares(bench: &Bench, conn: ConnId) -> usize {
    bench.sent().iter().filter(|(to, m)| *to == conn && matches!(m, SyncMessage::Compare { .. })).count()
}

fn stored(bench: &Bench) -> usize {
    bench.changes().iter().filter(|c| matches!(c, Change::Record { .. })).count()
}

#[test]
fn one_peer_introduces_new_nodes_at_a_limited_rate() {
    let mut bench = Bench::new();
    let (flood, other) = (bench.member(1), bench.member(2));
    let crowd = strangers(0, newcomers::BURST + 100);
    hear_all(&mut bench, flood, &crowd);
    bench.tell(Event::Disconnected { conn: flood });
    let flood = bench.member(1);
    hear_all(&mut bench, flood, &crowd);
    let known = 1 + newcomers::BURST as usize;
    assert_eq!(bench.names().len(), known);
    bench.hear_of(other, 7, 5);
    bench.hear_of(flood, 1, 5);
    assert_eq!(bench.names().len(), known + 2, "others, and the node itself, are heard");
    bench.hear(flood, sync::root(&Table::new(lab(), id(1))));
    assert!(bench.sent().is_empty(), "no use in comparing now");
    bench.pass(secs(6));
    assert!(compares(&bench, flood) > 0, "the rest is asked for later");
    hear_all(&mut bench, flood, &crowd);
    assert_eq!(bench.names().len(), known + 2 + 100);
    bench.pass(secs(1));
    assert!(bench.closes().is_empty(), "it did nothing wrong");
}

/// Answers what the core sent as a member with this table would; returns the number of records sent, and whether the
/// member would compare again soon.
fn answer_as(theirs: &Table, bench: &mut Bench, conn: ConnId) -> (usize, bool) {
    let (mut records, mut more) = (0, false);
    let mut heard = VecDeque::from(bench.sent());
    while let Some((_, message)) = heard.pop_front() {
        let answer = match message {
            SyncMessage::Compare { ranges } => sync::compare(theirs, &ranges).unwrap(),
            SyncMessage::Want { nodes } => sync::serve(theirs, &nodes).unwrap(),
            SyncMessage::Records { .. } => continue,
        };
        more |= answer.more;
        for body in answer.messages {
            records += if let SyncMessage::Records { records } = &body { records.len() } else { 0 };
            bench.hear(conn, body);
            heard.extend(bench.sent());
        }
    }
    (records, more)
}

#[test]
fn a_newcomer_learns_ten_thousand_nodes_from_one_member() {
    let mut bench = Bench::new();
    let crowd = strangers(0, 10_000);
    let mut theirs = Table::new(lab(), id(1));
    crowd.iter().for_each(|r| theirs.restore(r.clone(), Timestamp(START), bench.now));
    let conn = bench.member(1);
    let (mut sent, mut rounds) = (0, 0);
    while bench.core.tables[&lab()].range(0, 0).count() <= crowd.len() {
        let (records, more) = answer_as(&theirs, &mut bench, conn);
        sent += records;
        bench.pass(GO_ON);
        if more {
            let before = std::mem::take(&mut bench.said);
            bench.hear(conn, sync::root(&theirs));
            bench.said.splice(0..0, before);
        }
        rounds += 1;
        assert!(rounds < 4 * 180, "not within three minutes");
    }
    assert!(sent < 3 * crowd.len(), "{sent} records sent");
    assert!(bench.closes().is_empty());
}

#[test]
fn records_of_others_are_stored_once_a_second() {
    let mut bench = Bench::new();
    let conn = bench.member(1);
    bench.hear_of(conn, 4, 5);
    assert_eq!(stored(&bench), 1, "at once if it was quiet");
    for n in 5..10 {
        bench.hear_of(conn, n, 5);
        assert_eq!(stored(&bench), 0);
    }
    bench.pass(millis(1001));
    assert_eq!(stored(&bench), 5);
}

#[test]
fn a_new_name_reaches_members_and_the_store() {
    let mut bench = Bench::new();
    bench.member(1);
    bench.core.rename("attic".parse().unwrap(), bench.now);
    bench.listen();
    assert!(bench.changes().contains(&Change::Name("attic".parse().unwrap())));
    bench.pass(secs(1));
    assert_eq!(bench.records_sent()[0].1.name.as_str(), "attic");
    assert!(bench.changes().iter().any(|c| matches!(c, Change::Record { .. })));
}

#[test]
fn numbers_grow_even_when_the_clock_goes_back() {
    let mut bench = Bench::new();
    bench.member(1);
    bench.core.rename("attic".parse().unwrap(), bench.now);
    bench.pass(secs(1));
    let first = bench.records_sent()[0].1.seq;
    bench.now.wall.0 -= 3_600_000;
    bench.core.rename("cellar".parse().unwrap(), bench.now);
    bench.pass(secs(1));
    assert_eq!(bench.records_sent().last().unwrap().1.seq, first + 1);
}

#[test]
fn an_unchanged_record_is_renewed_within_half_an_hour() {
    let mut bench = Bench::new();
    bench.member(1);
    bench.pass(secs(20 * 60));
    assert!(bench.records_sent().is_empty());
    bench.pass(secs(11 * 60));
    assert_eq!(bench.records_sent().len(), 1);
}

#[test]
fn a_node_restored_from_a_backup_overtakes_its_own_record() {
    let mut bench = Bench::new();
    let conn = bench.member(1);
    let mut later = said_by(0, 90_000_000);
    later.name = "from-the-future".parse().unwrap();
    bench.hear_record(conn, signed(0, &later));
    let sent = bench.records_sent();
    assert_eq!((sent[0].0, sent[0].1.seq, sent[0].1.name.as_str()), (conn, later.seq + 1, "bench"));
    assert_eq!(bench.names(), ["bench"]);
}

#[test]
fn a_forged_record_of_this_node_changes_nothing() {
    let mut bench = Bench::new();
    let conn = bench.member(1);
    let mut forged = said_by(0, 0);
    forged.seq = u64::MAX;
    bench.hear_record(conn, signed(1, &forged));
    assert!(bench.records_sent().is_empty());
}

#[test]
fn news_goes_to_everybody_but_its_source_once() {
    let mut bench = Bench::new();
    let [a, b, c] = [1, 2, 3].map(|n| bench.member(n));
    bench.hear_of(a, 7, 5);
    let to: Vec<_> = bench.records_sent().into_iter().map(|(conn, _)| conn).collect();
    assert_eq!(to, [b, c]);
    bench.hear_of(b, 7, 5);
    assert!(bench.records_sent().is_empty(), "known: the flood ends");
    bench.hear_of(b, 7, 4);
    assert!(bench.records_sent().is_empty(), "older");
    assert_eq!(bench.names(), ["bench", "peer7"]);
}

#[test]
fn a_record_for_another_network_or_by_another_key_is_improper() {
    let mut bench = Bench::new();
    let conn = bench.member(1);
    let elsewhere = PeerRecord { network: "other".parse().unwrap(), ..said_by(7, 5) };
    bench.hear_record(conn, signed(7, &elsewhere));
    bench.hear_record(conn, signed(1, &said_by(7, 5)));
    assert_eq!((bench.names(), bench.closes()), (vec!["bench".to_owned()], vec![]));
    let crowd = vec![signed(7, &said_by(7, 5)); MAX_RECORDS + 1];
    bench.hear(conn, SyncMessage::Records { records: crowd });
    assert_eq!(bench.closes(), [conn], "the third time");
}

#[test]
fn improper_ranges_are_counted_and_not_answered() {
    let mut bench = Bench::new();
    let conn = bench.member(1);
    let content = RangeContent::Digest { fingerprint: [0; 16], count: 0 };
    for (prefix, depth) in [(1, 0), (0, 17), (1 << 60, 0)] {
        bench.hear(conn, SyncMessage::Compare { ranges: vec![Range { prefix, depth, content: content.clone() }] });
        assert!(bench.sent().is_empty());
    }
    assert_eq!(bench.closes(), [conn]);
}

#[test]
fn what_is_said_of_a_network_not_joined_is_not_heard() {
    let mut bench = Bench::new();
    bench.core.join_network(&"other".parse().unwrap(), secret(3), bench.now).unwrap();
    let conn = bench.member(1);
    let record = PeerRecord { network: "other".parse().unwrap(), ..said_by(1, 5) };
    let body = SyncMessage::Records { records: vec![signed(1, &record)] };
    bench.tell(Event::Sync { conn, message: PeerMessage { network: "other".parse().unwrap(), body } });
    assert_eq!(bench.core.networks(bench.now)[1].members, 1);
}

#[test]
fn who_leaves_is_gone_from_table_and_connections() {
    let mut bench = Bench::new();
    let (a, b) = (bench.member(1), bench.member(2));
    bench.hear_of(a, 1, 5);
    bench.hear_record(a, signed(1, &PeerRecord { left: true, ..said_by(1, 6) }));
    assert_eq!(bench.names(), ["bench"]);
    assert!(!bench.core.routes().is_member(a));
    assert_eq!(bench.records_sent()[0].0, b, "others hear of it");
    bench.hear_of(b, 1, 5);
    assert_eq!(bench.names(), ["bench"], "an older record does not bring it back");
    bench.pass(secs(11));
    assert_eq!(bench.closes(), [a]);
}

#[test]
fn leaving_says_goodbye_and_forgets() {
    let mut bench = Bench::new();
    let conn = bench.member(1);
    bench.core.leave_network(&lab(), bench.now).unwrap();
    bench.listen();
    let sent = bench.records_sent();
    assert_eq!((sent[0].0, sent[0].1.left, sent[0].1.node), (conn, true, id(0)));
    assert!(bench.changes().contains(&Change::NetworkGone(lab())));
    assert!(bench.core.nodes(bench.now).is_empty() && !bench.core.routes().is_member(conn));
    assert!(bench.closes().is_empty(), "the farewell is still on its way");
    bench.pass(secs(11));
    assert_eq!(bench.closes(), [conn]);
}

#[test]
fn a_record_lapses_after_a_week_and_is_not_brought_back() {
    const WEEK: u64 = 7 * 24 * 3600;
    let mut bench = Bench::new();
    let conn = bench.member(9);
    bench.hear_of(conn, 1, 5);
    bench.pass(secs(WEEK - 7200));
    assert_eq!(bench.names(), ["bench", "peer1"]);
    bench.pass(secs(2 * 7200));
    assert_eq!(bench.names(), ["bench"], "its own record never lapses");
    assert!(bench.changes().contains(&Change::RecordGone { network: lab(), node: id(1) }));
    let conn = bench.member(9);
    bench.hear_of(conn, 1, 5);
    assert_eq!(bench.names(), ["bench"], "old news of somebody else");
    let owner = bench.member(1);
    bench.hear_of(owner, 1, 5);
    assert_eq!(bench.names(), ["bench", "peer1"], "from the node itself, whose clock may be wrong");
}

#[test]
fn contact_times_are_stored_once_a_minute() {
    let mut bench = Bench::new();
    let conn = bench.member(1);
    bench.hear_of(conn, 1, 5);
    bench.pass(secs(60));
    let mut stored = 0;
    for _ in 0..10 {
        let conn = bench.connect(1, false);
        bench.tell(Event::Disconnected { conn });
        stored += contacts(&bench);
        bench.pass(secs(12));
        stored += contacts(&bench);
    }
    assert!((1..=3).contains(&stored), "{stored} in two minutes");
    bench.pass(secs(120));
    bench.tell(Event::RoundTrip { conn, rtt: millis(5) });
    bench.pass(secs(120));
    assert_eq!(contacts(&bench), 0, "a round trip alone is not worth a write");
}

#[test]
fn tables_are_compared_every_minute_or_so() {
    let mut bench = Bench::new();
    bench.member(1);
    bench.pass(secs(600));
    let compared = bench.sent().iter().filter(|(_, m)| matches!(m, SyncMessage::Compare { .. })).count();
    assert!((6..=10).contains(&compared), "{compared} times in ten minutes");
}

#[test]
fn an_idle_core_sleeps() {
    let mut bench = Bench::new();
    for n in 1..=10 {
        let conn = bench.member(n);
        bench.hear_of(conn, n, 5);
    }
    bench.pass(secs(120));
    let mut wakes = 0;
    let end = bench.now.mono + secs(600);
    while let Some(due) = bench.core.poll_timeout().filter(|due| *due < end) {
        bench.advance(due.saturating_sub(bench.now.mono).max(millis(1)));
        bench.tell(Event::Timeout);
        wakes += 1;
    }
    assert!(wakes < 60, "{wakes} wakes in ten minutes");
}

#[test]
fn the_same_seed_says_the_same() {
    let run = || {
        let mut bench = Bench::new();
        let mut all = String::new();
        for n in 1..=30 {
            let conn = bench.member(n);
            bench.hear_of(conn, n, 5);
            bench.tell(Event::Disconnected { conn });
            bench.pass(secs(7));
            all.push_str(&format!("{:?}", bench.said));
        }
        all
    };
    assert_eq!(run(), run());
}
