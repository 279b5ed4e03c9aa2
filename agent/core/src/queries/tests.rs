//! What people are told of nodes and networks.

use super::*;
use crate::{Event, testing::*};

fn online(bench: &Bench, n: u8) -> bool {
    bench.core.nodes(bench.now).iter().find(|row| row.peer_id == id(n)).unwrap().online
}

#[test]
fn a_name_that_two_nodes_bear_is_refused_with_their_ids() {
    let mut bench = Bench::new();
    let conn = bench.member(1);
    for n in [1, 2, 3] {
        let mut record = said_by(n, 5);
        if n < 3 {
            record.name = "twin".parse().unwrap();
        }
        bench.hear_record(conn, signed(n, &record));
    }
    assert_eq!(bench.core.resolve("peer3", None).unwrap(), id(3));
    assert_eq!(bench.core.resolve(&id(1).to_string(), None).unwrap(), id(1));
    let refused = bench.core.resolve("twin", Some(&lab())).unwrap_err();
    assert_eq!(refused.code, FailureCode::Usage);
    assert!(refused.what.contains(&id(1).to_string()) && refused.what.contains(&id(2).to_string()));
    assert_eq!(bench.core.resolve("nobody", None).unwrap_err().code, FailureCode::Unreachable);
    let other = "other".parse().unwrap();
    assert_eq!(bench.core.resolve("peer3", Some(&other)).unwrap_err().code, FailureCode::Usage);
}

#[test]
fn the_table_shows_how_each_node_is_reached() {
    let mut bench = Bench::new();
    let conn = bench.member(1);
    bench.hear_of(conn, 1, 5);
    bench.hear_of(conn, 2, 5);
    bench.tell(Event::RoundTrip { conn, rtt: Duration::from_nanos(1_114_877) });
    let rows = bench.core.nodes(bench.now);
    let shown: Vec<_> = rows.iter().map(|r| (r.node_name.as_str(), r.path, r.transport, r.rtt_ms)).collect();
    let expected = [
        ("bench", PathKind::This, None, None),
        ("peer1", PathKind::Direct, Some(Carrier::Tcp), Some(1.115)),
        ("peer2", PathKind::None, None, None),
    ];
    assert_eq!(shown, expected);
    assert_eq!(bench.core.networks(bench.now)[0].members, 3);
}

#[test]
fn a_node_is_online_while_connected_or_lately_heard_of() {
    let mut bench = Bench::new();
    let conn = bench.member(1);
    bench.hear_of(conn, 1, 5);
    bench.hear_of(conn, 2, 5);
    assert!(online(&bench, 1) && online(&bench, 2));
    bench.tell(Event::DialFailed { peer: id(2), relayed: false, reason: "no route".into() });
    assert!(!online(&bench, 2), "it could not be reached");
    bench.hear_of(conn, 2, 60);
    assert!(online(&bench, 2), "heard of again");
    bench.tell(Event::Disconnected { conn });
    assert!(!online(&bench, 1), "its connection was lost");
    bench.pass(secs(66 * 60));
    assert!(!online(&bench, 2), "silent for too long");
}

#[test]
fn contact_is_what_was_heard_not_when_it_was_passed_on() {
    let mut bench = Bench::new();
    bench.pass(secs(3600));
    let conn = bench.member(1);
    bench.hear_of(conn, 2, 1000);
    let rows = bench.core.nodes(bench.now);
    let row = rows.iter().find(|row| row.peer_id == id(2)).unwrap();
    assert_eq!(row.latest_contact.0, START + 1000);
}

#[test]
fn problems_say_what_to_do() {
    let empty = Bench::with(nothing_stored());
    let problems = empty.core.problems(empty.now);
    assert!(problems[0].what.contains("no network") && problems[0].hint.contains("networks join"));
    let mut bench = Bench::new();
    assert!(bench.core.problems(bench.now)[0].what.contains("nobody else"));
    bench.tell(Event::JoinRefused { network: lab(), peer: id(9) });
    assert!(refused_here(&bench).is_some_and(|what| what.contains(&id(9).to_string())));
    assert_eq!(bench.core.networks(bench.now)[0].refused_joins, 1);
    bench.pass(secs(3601));
    assert_eq!(refused_here(&bench), None, "no longer news");
}

fn refused_here(bench: &Bench) -> Option<String> {
    bench.core.problems(bench.now).into_iter().map(|p| p.what).find(|what| what.contains("refused here"))
}

#[test]
fn a_refused_join_is_no_problem_of_who_is_in_or_kept_out() {
    let mut bench = Bench::new();
    bench.tell(Event::JoinRefused { network: lab(), peer: id(1) });
    assert!(refused_here(&bench).is_some());
    bench.member(1);
    assert_eq!(refused_here(&bench), None, "it has joined since");
    bench.tell(Event::JoinRefused { network: lab(), peer: id(1) });
    assert_eq!(refused_here(&bench), None, "an attempt that was late");
    bench.tell(Event::JoinRefused { network: lab(), peer: id(2) });
    bench.core.ban(None, id(2), true, bench.now).unwrap();
    assert_eq!(refused_here(&bench), None, "it is kept out by intent");
    assert_eq!(bench.core.networks(bench.now)[0].refused_joins, 3, "all are counted");
}

#[test]
fn a_clock_that_differs_from_most_is_named() {
    let mut bench = Bench::new();
    let conn = bench.member(1);
    for n in [1, 2, 3] {
        bench.hear_of(conn, n, 3_600_000);
    }
    let problems = bench.core.problems(bench.now);
    assert!(problems.iter().any(|p| p.what.contains("this node's clock is behind")), "{problems:?}");
}

#[test]
fn the_best_path_is_direct_then_old() {
    let mut bench = Bench::new();
    let relayed = bench.connect_over(1, false, true);
    let direct = bench.connect_over(1, false, false);
    let newer = bench.connect_over(1, false, false);
    for conn in [relayed, direct, newer] {
        bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
    }
    assert_eq!(bench.core.routes().path(&lab(), &id(1), PathRule::Any), Some(direct));
    bench.tell(Event::Disconnected { conn: direct });
    assert_eq!(bench.core.routes().path(&lab(), &id(1), PathRule::Any), Some(newer));
    bench.tell(Event::Disconnected { conn: newer });
    assert_eq!(bench.core.routes().path(&lab(), &id(1), PathRule::Any), Some(relayed));
    assert_eq!(bench.core.path(&lab(), &id(1), PathRule::Any).0, PathKind::Relayed);
    assert_eq!(bench.core.path(&lab(), &id(1), PathRule::Direct).0, PathKind::None);
    assert_eq!(bench.core.connection(relayed).unwrap().networks, BTreeSet::from([lab()]));
}
