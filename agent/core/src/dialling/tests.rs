//! Whom the core dials, when, and which connections it lets go.

use std::time::Duration;

use hive_protocol::PeerRecord;

use super::*;
use crate::{ConnId, Event, testing::*};

/// A core that knows `count` members from 1 up, none of which is connected.
fn knowing(count: u8) -> Bench {
    let mut bench = Bench::new();
    let helper = bench.member(200);
    for n in 1..=count {
        bench.hear_of(helper, n, 5);
    }
    bench.pass(secs(1));
    bench
}

fn fail(bench: &mut Bench, n: u8) {
    bench.tell(Event::DialFailed { peer: id(n), relayed: false, reason: "no route".into() });
}

/// The time until the next dial, and whom.
fn next_dial(bench: &mut Bench) -> (Duration, Vec<NodeId>) {
    let before = bench.now.mono;
    while bench.dials().is_empty() {
        bench.pass(millis(50));
        assert!(bench.now.mono - before < secs(300), "no dial");
    }
    (bench.now.mono - before, bench.dials())
}

#[test]
fn a_small_network_is_a_mesh() {
    let mut bench = Bench::new();
    let helper = bench.member(200);
    let mut dialled = Vec::new();
    for n in 1..=6 {
        bench.hear_of(helper, n, 5);
        bench.pass(millis(300));
        dialled.extend(bench.dials());
    }
    let all: Vec<_> = (1..=6).map(id).collect();
    assert_eq!(dialled, all);
}

#[test]
fn in_a_large_network_a_few_are_chosen() {
    let mut bench = Bench::new();
    let helper = bench.member(200);
    for n in 1..=40 {
        bench.hear_of(helper, n, 5);
    }
    bench.pass(millis(300));
    let dialled = bench.dials();
    assert!((3..=4).contains(&dialled.len()), "{dialled:?}");
    let mut ring: Vec<_> = (1..=40).map(id).chain([id(200)]).collect();
    ring.sort();
    let successor = *ring.iter().find(|n| **n > id(0)).unwrap_or(&ring[0]);
    assert!(dialled.contains(&successor) || successor == id(200));
}

#[test]
fn pauses_double_up_to_a_minute() {
    let mut bench = knowing(1);
    let mut waits = Vec::new();
    for _ in 0..12 {
        fail(&mut bench, 1);
        bench.said.clear();
        waits.push(next_dial(&mut bench).0.as_secs_f64());
    }
    assert!(waits[0] <= 0.6 && waits[3] > waits[0], "{waits:?}");
    assert!((40.0..=61.0).contains(&waits[11]), "{waits:?}");
}

#[test]
fn the_peer_of_a_proxy_is_tried_every_four_seconds() {
    let mut bench = knowing(1);
    bench.core.add_proxy(&ingress("peer1"), bench.now).unwrap();
    bench.listen();
    for _ in 0..12 {
        fail(&mut bench, 1);
        bench.said.clear();
        assert!(next_dial(&mut bench).0 <= millis(4100));
    }
    let problems = bench.core.problems(bench.now);
    assert!(problems.iter().any(|p| p.what.contains("peer1") && p.what.contains("no route")), "{problems:?}");
}

#[test]
fn who_waits_for_a_peer_gets_a_dial_at_once() {
    let mut bench = knowing(1);
    for _ in 0..8 {
        fail(&mut bench, 1);
        bench.said.clear();
        next_dial(&mut bench);
    }
    fail(&mut bench, 1);
    bench.pass(secs(1));
    assert!(bench.dials().is_empty());
    bench.tell(Event::Wanted { peer: id(1), paths: PathRule::Any });
    assert_eq!(bench.dials(), [id(1)]);
    fail(&mut bench, 1);
    bench.tell(Event::Wanted { peer: id(1), paths: PathRule::Any });
    assert!(bench.dials().is_empty(), "it was just tried");
    bench.pass(millis(600));
    assert_eq!(bench.dials(), [id(1)]);
}

#[test]
fn a_lost_connection_is_dialled_again_at_once() {
    let mut bench = knowing(1);
    let conn = bench.connect(1, true);
    bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
    bench.pass(secs(40));
    bench.tell(Event::Disconnected { conn });
    bench.pass(millis(310));
    assert_eq!(bench.dials(), [id(1)]);
}

#[test]
fn a_peer_whose_record_names_no_address_is_dialled_where_it_was_reached() {
    let mut bench = Bench::new();
    let conn = bench.connect(1, true);
    bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
    bench.hear_record(conn, signed(1, &PeerRecord { addresses: Vec::new(), ..said_by(1, 5) }));
    bench.core.add_proxy(&ingress("peer1"), bench.now).unwrap();
    bench.pass(secs(1));
    bench.tell(Event::Disconnected { conn });
    bench.pass(secs(1));
    let dialled = bench.find(|said| match said {
        Output::Dial { addresses, .. } => Some(addresses.clone()),
        _ => None,
    });
    assert_eq!(dialled, [["/ip4/10.0.0.1/tcp/4180".parse().unwrap()]]);
}

#[test]
fn a_sleep_or_another_address_ends_every_pause() {
    let mut bench = knowing(1);
    for _ in 0..10 {
        fail(&mut bench, 1);
        bench.said.clear();
        next_dial(&mut bench);
    }
    fail(&mut bench, 1);
    bench.tell(Event::Addresses(vec![address(77)]));
    assert_eq!(bench.dials(), [id(1)]);
    fail(&mut bench, 1);
    bench.now.wall.0 += 3_600_000;
    bench.tell(Event::Timeout);
    assert_eq!(bench.dials(), [id(1)]);
}

#[test]
fn no_more_than_eight_dials_at_once() {
    let mut bench = Bench::new();
    let helper = bench.member(200);
    let mut dialled = Vec::new();
    for n in 1..=20 {
        bench.hear_of(helper, n, 5);
        bench.tell(Event::Wanted { peer: id(n), paths: PathRule::Any });
        dialled.extend(bench.dials());
    }
    bench.pass(secs(1));
    dialled.extend(bench.dials());
    assert_eq!(dialled.len(), 8);
    bench.tell(Event::DialFailed { peer: dialled[0], relayed: false, reason: "no route".into() });
    assert_eq!(bench.dials().len(), 1);
}

#[test]
fn of_two_connections_the_oldest_direct_one_stays() {
    let smaller = if id(1) > id(0) { 1 } else { 2 };
    assert!(id(smaller) > id(0), "this side judges");
    let mut bench = Bench::new();
    let conns = [true, false, false].map(|relayed| bench.connect_over(smaller, false, relayed));
    for conn in conns {
        bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
    }
    bench.pass(millis(600));
    conns.iter().for_each(|conn| bench.hear_of(*conn, smaller, 5));
    bench.pass(millis(28_400));
    assert!(bench.idle_closes().is_empty());
    bench.pass(secs(32));
    assert_eq!(bench.idle_closes(), [conns[0], conns[2]]);
    bench.pass(secs(61));
    assert_eq!(bench.idle_closes(), [conns[0], conns[2]], "again after a minute");
}

#[test]
fn the_side_with_the_larger_id_does_not_judge() {
    let larger = (1..=250).find(|n| id(*n) < id(0)).unwrap();
    let mut bench = Bench::new();
    for _ in 0..2 {
        bench.member(larger);
    }
    bench.pass(secs(300));
    assert!(bench.idle_closes().is_empty());
}

#[test]
fn the_youngest_connections_beyond_need_may_go() {
    let mut bench = Bench::new();
    let conns: Vec<ConnId> = (1..=26).map(|n| bench.member(n)).collect();
    bench.pass(secs(65));
    let mut closed = bench.idle_closes();
    closed.sort();
    assert_eq!(closed, conns[24..]);
}

#[test]
fn who_wants_a_relayed_path_gets_one_beside_the_direct_one() {
    let mut bench = Bench::new();
    bench.member(2);
    let direct = bench.member(1);
    let over: Multiaddr = circuit(&address(2), &id(2));
    bench.hear_record(direct, signed(1, &PeerRecord { addresses: vec![address(1), over], ..said_by(1, 5) }));
    bench.pass(secs(1));
    assert!(bench.dials().is_empty(), "it is connected");
    bench.tell(Event::Wanted { peer: id(1), paths: PathRule::Relay });
    let relayed = |o: &Output| match o {
        Output::Dial { peer, addresses } => Some((*peer, addresses.iter().all(is_relayed))),
        _ => None,
    };
    assert_eq!(bench.find(relayed), [(id(1), true)]);
    bench.connect_over(1, true, true);
    bench.pass(secs(5));
    assert!(bench.dials().is_empty(), "there is one");
}

#[test]
fn a_member_cannot_make_others_knock_at_somebodys_door_for_ever() {
    let mut bench = Bench::new();
    let helper = bench.member(200);
    let victims = (10..26).map(address).collect();
    bench.hear_record(helper, signed(1, &PeerRecord { addresses: victims, ..said_by(1, 5) }));
    let knock = |bench: &mut Bench, span: u64| {
        let mut knocks = Vec::new();
        for _ in 0..span {
            bench.pass(secs(1));
            let dialled = bench.find(|o| match o {
                Output::Dial { peer, addresses } if *peer == id(1) => Some(addresses.len()),
                _ => None,
            });
            dialled.iter().for_each(|_| fail(bench, 1));
            knocks.extend(dialled);
        }
        knocks
    };
    let first = knock(&mut bench, 3600);
    assert!((20..=22).contains(&first.len()), "{}", first.len());
    assert!(first.iter().all(|hosts| *hosts == 8));
    assert!((2..=4).contains(&knock(&mut bench, 3 * 3600).len()), "once an hour");
    bench.tell(Event::Wanted { peer: id(1), paths: PathRule::Any });
    assert_eq!(bench.dials(), [id(1)], "somebody here waits for it");
}

#[test]
fn a_peer_that_speaks_again_is_dialled_over_its_relay_at_once() {
    let mut bench = Bench::new();
    let relay = bench.member(2);
    let circuit = circuit(&address(2), &id(2));
    let record = |seq| signed(1, &PeerRecord { addresses: vec![circuit.clone()], ..said_by(1, seq) });
    bench.hear_record(relay, record(5));
    for _ in 0..60 {
        bench.pass(secs(1));
        if !bench.dials().is_empty() {
            bench.tell(Event::DialFailed { peer: id(1), relayed: true, reason: "no reservation".into() });
        }
    }
    bench.pass(secs(2));
    while !bench.dials().is_empty() {
        bench.tell(Event::DialFailed { peer: id(1), relayed: true, reason: "no reservation".into() });
        bench.pass(secs(2));
    }
    bench.hear_record(relay, record(6));
    assert_eq!(bench.dials(), [id(1)]);
}
