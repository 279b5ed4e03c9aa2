//! From connection to member: who asks when, who is let in, and who is closed.

use hive_protocol::{Identity, PathRule, message::FailureCode, peer::JoinRefusal, peer::SyncMessage};

use super::*;
use crate::{Change, Event, connections::SPEAKS, testing::*};

fn identity(n: u8) -> Identity {
    Identity { node: id(n), name: "shed".parse().unwrap(), addresses: vec![address(n)] }
}

fn refuse(bench: &mut Bench, conn: ConnId) {
    let refusal = Some(JoinRefusal::NotAccepted);
    bench.tell(Event::JoinFailed { conn, network: lab(), refusal });
}

/// How registrations ended: members known, or the kind of failure.
fn registered(bench: &Bench) -> Vec<Result<u32, FailureCode>> {
    let ended = |output: &Output| match output {
        Output::Registered { result, .. } => Some(result.clone().map(|(_, n)| n).map_err(|f| f.code)),
        _ => None,
    };
    bench.find(ended)
}

#[test]
fn who_joins_nothing_is_closed_after_ten_seconds() {
    let mut bench = Bench::new();
    let conn = bench.connect(1, false);
    bench.pass(secs(9));
    assert!(bench.closes().is_empty());
    bench.pass(secs(2));
    assert_eq!(bench.closes(), [conn]);
    bench.pass(secs(60));
    assert!(bench.closes().is_empty(), "told once");
}

#[test]
fn a_held_connection_lives_until_it_is_let_go() {
    let mut bench = Bench::new();
    let conn = bench.connect(1, false);
    bench.core.hold(conn, true);
    bench.pass(secs(60));
    assert!(bench.closes().is_empty());
    bench.core.hold(conn, false);
    bench.pass(secs(11));
    assert_eq!(bench.closes(), [conn]);
}

#[test]
fn the_dialler_asks_at_once_and_the_other_side_after_two_seconds() {
    let mut bench = Bench::new();
    let helper = bench.member(9);
    for n in [1, 2] {
        bench.hear_of(helper, n, 5);
    }
    let ours = bench.connect(1, true);
    assert_eq!(bench.joins(), [ours]);
    let theirs = bench.connect(2, false);
    assert!(bench.joins().is_empty());
    bench.pass(millis(2100));
    assert_eq!(bench.joins(), [theirs]);
}

#[test]
fn nobody_asks_again_once_joined() {
    let mut bench = Bench::new();
    let helper = bench.member(9);
    bench.hear_of(helper, 1, 5);
    let conn = bench.connect(1, false);
    bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
    bench.pass(secs(5));
    assert!(bench.joins().is_empty());
}

#[test]
fn a_peer_that_turns_out_to_be_a_member_is_asked() {
    let mut bench = Bench::new();
    let stranger = bench.connect(1, true);
    assert!(bench.joins().is_empty(), "nothing is known of it");
    let helper = bench.member(9);
    bench.hear_of(helper, 1, 5);
    assert_eq!(bench.joins(), [stranger]);
}

#[test]
fn a_member_that_refuses_is_asked_ever_more_rarely_and_shown() {
    let mut bench = Bench::new();
    let helper = bench.member(9);
    bench.hear_of(helper, 1, 5);
    let conn = bench.connect(1, true);
    bench.core.hold(conn, true);
    let mut waits = Vec::new();
    for _ in 0..8 {
        refuse(&mut bench, conn);
        let before = bench.now.mono;
        while bench.joins().is_empty() {
            bench.pass(secs(1));
        }
        waits.push((bench.now.mono - before).as_secs());
    }
    assert!((22..=31).contains(&waits[0]) && waits.windows(2).take(4).all(|w| w[0] < w[1]), "{waits:?}");
    assert!((440..=601).contains(&waits[7]), "{waits:?}");
    refuse(&mut bench, conn);
    let problems = bench.core.problems(bench.now);
    assert!(problems.iter().any(|p| p.what.contains("not let in to network lab by peer1")), "{problems:?}");
    bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
    assert!(bench.core.problems(bench.now).is_empty());
}

#[test]
fn a_message_that_overtakes_the_join_is_not_lost() {
    let mut bench = Bench::new();
    let conn = bench.connect(1, false);
    bench.hear_of(conn, 1, 5);
    assert_eq!(bench.names(), ["bench"], "not before the join");
    bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
    assert_eq!(bench.names(), ["bench", "peer1"]);
}

#[test]
fn whoever_knows_that_both_joined_compares_tables() {
    let mut bench = Bench::new();
    let asked_by_peer = bench.member(1);
    assert!(matches!(bench.sent()[..], [(conn, SyncMessage::Compare { .. })] if conn == asked_by_peer));
    bench.hear_of(asked_by_peer, 2, 5);
    let asked_here = bench.connect(2, true);
    bench.tell(Event::Joined { conn: asked_here, network: lab(), secret: secret(1) });
    assert!(bench.sent().is_empty(), "the other side knows first");
    bench.pass(secs(1));
    assert!(bench.sent().iter().any(|(conn, m)| *conn == asked_here && matches!(m, SyncMessage::Compare { .. })));
}

/// Two connections that the peer dialled, the second over a relay two seconds after the first; and which is used.
fn dialled_again() -> (Bench, [ConnId; 2], impl Fn(&Bench) -> Option<ConnId>) {
    let mut bench = Bench::new();
    let first = bench.member(1);
    bench.pass(secs(2));
    let second = bench.connect_over(1, false, true);
    bench.tell(Event::Joined { conn: second, network: lab(), secret: secret(1) });
    let used = |bench: &Bench| bench.core.routes().path(&lab(), &id(1), PathRule::Any);
    (bench, [first, second], used)
}

#[test]
fn a_path_that_came_up_just_before_has_time_to_speak() {
    let (mut bench, [first, second], used) = dialled_again();
    assert_eq!(used(&bench), Some(first));
    bench.pass(SPEAKS);
    assert_eq!(used(&bench), Some(second), "it was silent");
    let punches = bench.find(|output| matches!(output, Output::Punch { .. }).then_some(()));
    assert_eq!(punches.len(), 1, "a direct path is sought at once");
    bench.hear_of(first, 1, 9);
    bench.pass(secs(60));
    assert_eq!(used(&bench), Some(first), "it speaks late");

    let (mut bench, [first, _], used) = dialled_again();
    bench.pass(millis(700));
    bench.hear_of(first, 1, 9);
    bench.pass(secs(60));
    assert_eq!(used(&bench), Some(first), "it spoke in time");
}

#[test]
fn what_was_said_while_the_newer_path_joined_counts() {
    for age in [secs(2), secs(60)] {
        let mut bench = Bench::new();
        let first = bench.member(1);
        bench.pass(age);
        let second = bench.connect_over(1, false, true);
        bench.pass(millis(600));
        bench.hear_of(first, 1, 9);
        bench.tell(Event::Joined { conn: second, network: lab(), secret: secret(1) });
        bench.pass(secs(5));
        assert_eq!(bench.core.routes().path(&lab(), &id(1), PathRule::Any), Some(first));
    }
}

#[test]
fn joins_by_the_old_password_end_with_its_grace() {
    let mut bench = Bench::new();
    let (late, early) = (bench.member(1), bench.member(2));
    bench.core.rotate(&lab(), secret(2), secs(60), bench.now).unwrap();
    assert_eq!(bench.core.join_secrets(&lab(), &id(1), bench.now), [secret(2), secret(1)]);
    bench.pass(secs(3));
    assert_eq!(bench.joins().len(), 2, "both are asked for the new one");
    bench.tell(Event::Joined { conn: early, network: lab(), secret: secret(2) });
    refuse(&mut bench, late);
    assert!(bench.core.routes().joined(late, &lab()), "in grace");
    bench.pass(secs(60));
    assert_eq!(bench.core.join_secrets(&lab(), &id(1), bench.now), [secret(2)]);
    let routes = bench.core.routes();
    assert!(!routes.joined(late, &lab()) && routes.joined(early, &lab()));
    assert_eq!(bench.closes(), [late]);
}

#[test]
fn a_proof_that_comes_after_the_grace_admits_nobody() {
    let mut bench = Bench::new();
    let late = bench.connect(1, false);
    bench.core.rotate(&lab(), secret(2), secs(2), bench.now).unwrap();
    bench.pass(secs(3));
    bench.tell(Event::Joined { conn: late, network: lab(), secret: secret(1) });
    assert!(!bench.core.routes().joined(late, &lab()));
    assert_eq!(bench.closes(), [late]);
}

#[test]
fn a_proof_of_a_password_that_was_just_replaced_is_worth_its_grace() {
    for (grace, admitted) in [(secs(0), false), (secs(60), true)] {
        let mut bench = Bench::new();
        let conn = bench.connect(1, false);
        bench.core.rotate(&lab(), secret(2), grace, bench.now).unwrap();
        bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
        assert_eq!(bench.core.routes().joined(conn, &lab()), admitted);
        bench.pass(secs(61));
        assert!(!bench.core.routes().joined(conn, &lab()));
    }
}

#[test]
fn a_banned_node_loses_everything_here() {
    let mut bench = Bench::new();
    let conn = bench.member(1);
    bench.hear_of(conn, 1, 5);
    bench.core.ban(None, id(1), true, bench.now).unwrap();
    bench.listen();
    assert_eq!(bench.closes(), [conn]);
    assert!(!bench.core.routes().is_member(conn));
    assert_eq!(bench.names(), ["bench"]);
    assert!(bench.core.join_secrets(&lab(), &id(1), bench.now).is_empty());
    assert!(bench.changes().contains(&Change::RecordGone { network: lab(), node: id(1) }));
    let again = bench.member(1);
    assert!(!bench.core.routes().is_member(again), "even if the shell were late to notice");
    let helper = bench.member(9);
    bench.hear_of(helper, 1, 50);
    assert_eq!(bench.names(), ["bench"], "nobody else brings its record back");
    bench.core.ban(Some(&lab()), id(1), false, bench.now).unwrap();
    bench.hear_of(helper, 1, 50);
    assert_eq!(bench.names(), ["bench", "peer1"]);
}

#[test]
fn a_registration_dials_joins_and_tells_the_name() {
    let mut bench = Bench::new();
    bench.core.register(&identity(1), &lab(), bench.now).unwrap();
    bench.listen();
    assert_eq!(bench.dials(), [id(1)]);
    let conn = bench.connect(1, true);
    assert_eq!(bench.joins(), [conn]);
    bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
    assert!(registered(&bench).is_empty(), "its own record tells its name");
    bench.hear_of(conn, 1, 5);
    assert_eq!(registered(&bench), [Ok(2)]);
    bench.core.register(&identity(1), &lab(), bench.now).unwrap();
    bench.listen();
    assert_eq!(registered(&bench), [Ok(2)], "a member answers at once");
}

#[test]
fn a_registration_says_why_it_failed() {
    let mut bench = Bench::new();
    let begin = |bench: &mut Bench| {
        bench.core.register(&identity(1), &lab(), bench.now).unwrap();
        bench.listen();
    };
    begin(&mut bench);
    bench.tell(Event::DialFailed { peer: id(1), relayed: false, reason: "connection refused".into() });
    assert_eq!(registered(&bench), [Err(FailureCode::Unreachable)]);
    bench.pass(secs(60));
    begin(&mut bench);
    let conn = bench.connect(1, true);
    refuse(&mut bench, conn);
    assert_eq!(registered(&bench), [Err(FailureCode::Failed)]);
    begin(&mut bench);
    bench.pass(secs(19));
    assert!(registered(&bench).is_empty());
    bench.pass(secs(2));
    assert_eq!(registered(&bench), [Err(FailureCode::Unreachable)]);
    assert_eq!(bench.names(), ["bench"], "no other effect");
}
