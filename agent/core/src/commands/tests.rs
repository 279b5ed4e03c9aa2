//! What people ask for, and what they are told when it makes no sense.

use hive_protocol::{
    PathRule,
    message::BindAddr,
    tunnel::{Open, RefuseReason},
};

use super::*;
use crate::{ConnId, Epoch, Event, Output, Routes, Standing, testing::*};

/// A core that knows peers 1 to 3.
fn bench() -> Bench {
    let mut bench = Bench::new();
    for n in 1..=3 {
        let conn = bench.member(n);
        bench.hear_of(conn, n, 5);
    }
    bench
}

fn open(origin_port: u16, target_port: u16) -> Open {
    Open { stream: [1; 16], network: lab(), origin_port, target_port, grace: None, attempt: None }
}

#[test]
fn joining_again_needs_the_same_password() {
    let mut bench = Bench::new();
    assert!(bench.core.join_network(&lab(), secret(1), bench.now).is_ok());
    let refused = bench.core.join_network(&lab(), secret(2), bench.now).unwrap_err();
    assert_eq!(refused.code, FailureCode::Usage);
    assert!(refused.hint.unwrap().contains("rotate"));
}

#[test]
fn what_needs_a_network_says_so() {
    let mut bench = Bench::new();
    let other = "other".parse().unwrap();
    let now = bench.now;
    assert_eq!(bench.core.leave_network(&other, now).unwrap_err().code, FailureCode::Usage);
    assert_eq!(bench.core.rotate(&other, secret(2), secs(1), now).unwrap_err().code, FailureCode::Usage);
    assert_eq!(bench.core.ban(Some(&other), id(1), true, now).unwrap_err().code, FailureCode::Usage);
    assert_eq!(bench.core.rotate(&lab(), secret(1), secs(1), now).unwrap_err().code, FailureCode::Usage);
    assert_eq!(bench.core.ban(None, id(0), true, now).unwrap_err().code, FailureCode::Usage);
}

#[test]
fn a_proxy_is_added_stored_and_numbered() {
    let mut bench = bench();
    let id = bench.core.add_proxy(&ingress("peer1"), bench.now).unwrap();
    bench.listen();
    let changes = bench.changes();
    assert!(changes.contains(&Change::NextProxy(id + 1)));
    assert!(
        changes.iter().any(
            |c| matches!(c, Change::Proxy(spec) if spec.id == id && spec.remote.as_ref().unwrap().network == lab())
        )
    );
    bench.core.remove_proxy(id, bench.now).unwrap();
    let next = bench.core.add_proxy(&ingress("peer1"), bench.now).unwrap();
    assert!(next > id, "a number is never used twice");
}

#[test]
fn a_temporary_proxy_is_never_stored() {
    let mut bench = bench();
    let request = ProxyRequest { temporary: true, ..egress("peer1") };
    let id = bench.core.add_proxy(&request, bench.now).unwrap();
    bench.core.enable_proxy(id, false, bench.now).unwrap();
    bench.core.remove_proxy(id, bench.now).unwrap();
    bench.listen();
    assert_eq!(bench.changes(), [Change::NextProxy(id + 1)]);
}

#[test]
fn a_proxy_that_makes_no_sense_is_refused() {
    let mut bench = bench();
    bench.core.add_proxy(&ingress("peer1"), bench.now).unwrap();
    bench.core.add_proxy(&egress("peer1"), bench.now).unwrap();
    bench.core.ban(None, id(3), true, bench.now).unwrap();
    let own = id(0).to_string();
    let banned = id(3).to_string();
    let elsewhere = ProxyRequest { network: Some("other".parse().unwrap()), ..ingress("peer2") };
    for (what, request) in [("the same ingress", ingress("peer1")), ("the same listener", egress("peer2"))] {
        // It makes sense, and is there already: as a port that another program has.
        assert_eq!(bench.core.add_proxy(&request, bench.now).map_err(|f| f.code), Err(FailureCode::Failed), "{what}");
    }
    let senseless = [
        ("itself", ingress(&own)),
        ("banned", ingress(&banned)),
        ("port 0", ProxyRequest { port: 0, ..ingress("peer2") }),
        ("peer's port 0", ProxyRequest { peer_port: 0, ..ingress("peer2") }),
        ("a host on an egress", ProxyRequest { host: Some("h".into()), port: 1, ..egress("peer2") }),
        ("a bind on an ingress", ProxyRequest { bind: Some(BindAddr(DEFAULT_BIND)), ..ingress("peer2") }),
        ("no host", ProxyRequest { host: Some(String::new()), ..ingress("peer2") }),
        ("a host with spaces", ProxyRequest { host: Some("a b".into()), ..ingress("peer2") }),
        ("another network", elsewhere),
    ];
    for (what, request) in senseless {
        assert_eq!(bench.core.add_proxy(&request, bench.now).map_err(|f| f.code), Err(FailureCode::Usage), "{what}");
    }
    let unknown = bench.core.add_proxy(&ingress("nobody"), bench.now).unwrap_err();
    assert_eq!(unknown.code, FailureCode::Unreachable);
    assert_eq!(bench.core.remove_proxy(99, bench.now).unwrap_err().code, FailureCode::Usage);
}

/// Whether a stream of this proxy may go on over a connection now.
fn allows(routes: &Routes, proxy: ProxyId, conn: Option<ConnId>) -> bool {
    let epoch: Epoch = conn.map_or(0, |conn| routes.epoch(&lab(), conn));
    routes.standing(proxy, conn, epoch) == Standing::Held
}

#[test]
fn a_stream_needs_the_right_peer_port_target_and_connection() {
    let mut bench = Bench::new();
    let conn = bench.member(1);
    bench.hear_of(conn, 1, 5);
    let other = bench.member(2);
    let stranger = bench.connect(1, false);
    let proxy = bench.core.add_proxy(&ingress("peer1"), bench.now).unwrap();
    let routes = bench.core.routes();
    assert_eq!(routes.admit(conn, &id(1), false, &open(18_080, 8080)).unwrap().id, proxy);
    assert!([Some(other), Some(stranger), None].iter().all(|conn| !allows(&routes, proxy, *conn)));
    assert!(allows(&routes, proxy, Some(conn)));
    let refused = [
        (other, 2, open(18_080, 8080)),
        (other, 1, open(18_080, 8080)),
        (stranger, 1, open(18_080, 8080)),
        (conn, 1, open(18_081, 8080)),
        (conn, 1, open(18_080, 8081)),
        (conn, 1, Open { network: "other".parse().unwrap(), ..open(18_080, 8080) }),
    ];
    for (conn, peer, open) in refused {
        assert_eq!(routes.admit(conn, &id(peer), false, &open).unwrap_err().reason, RefuseReason::NoRule);
    }
}

#[test]
fn a_proxy_takes_the_paths_that_its_rule_allows() {
    let mut bench = Bench::new();
    let relayed = bench.connect_over(1, true, true);
    bench.tell(crate::Event::Joined { conn: relayed, network: lab(), secret: secret(1) });
    bench.hear_of(relayed, 1, 5);
    let direct_only = ProxyRequest { path_rule: Some(PathRule::Direct), ..ingress("peer1") };
    bench.core.add_proxy(&direct_only, bench.now).unwrap();
    let path = |bench: &Bench, rule| bench.core.routes().path(&lab(), &id(1), rule);
    assert_eq!([PathRule::Any, PathRule::Relay].map(|rule| path(&bench, rule)), [Some(relayed); 2]);
    assert_eq!(path(&bench, PathRule::Direct), None);
    let refused = bench.core.routes().admit(relayed, &id(1), true, &open(18_080, 8080)).unwrap_err();
    assert_eq!(refused.reason, RefuseReason::Path);
    let problems = bench.core.problems(bench.now);
    assert!(problems.iter().any(|p| p.what.contains("no direct path to peer1")), "{problems:?}");
    let other = ProxyRequest { port: 8081, ..ingress("peer1") };
    bench.core.add_proxy(&other, bench.now).unwrap();
    let slow = |bench: &Bench| bench.core.problems(bench.now).iter().any(|p| p.what.contains("over a relay only"));
    assert!(!slow(&bench), "it may become direct yet");
    bench.pass(std::time::Duration::from_secs(100));
    assert!(slow(&bench));
    let direct = bench.member(1);
    assert_eq!(path(&bench, PathRule::Direct), Some(direct));
    assert!(!slow(&bench));
    assert!(bench.core.routes().admit(direct, &id(1), false, &open(18_080, 8080)).is_ok());
    let problems = bench.core.problems(bench.now);
    assert!(problems.iter().all(|p| !p.what.contains("no direct path")), "{problems:?}");
}

#[test]
fn a_right_that_is_taken_away_is_gone_at_once() {
    type Take = fn(&mut Bench, ProxyId);
    let ways: [Take; 4] = [
        |bench, proxy| bench.core.remove_proxy(proxy, bench.now).unwrap(),
        |bench, proxy| bench.core.enable_proxy(proxy, false, bench.now).unwrap(),
        |bench, _| bench.core.ban(None, id(1), true, bench.now).unwrap(),
        |bench, _| bench.core.leave_network(&lab(), bench.now).unwrap(),
    ];
    for take_away in ways {
        let mut bench = Bench::new();
        let conn = bench.member(1);
        bench.hear_of(conn, 1, 5);
        let proxy = bench.core.add_proxy(&ingress("peer1"), bench.now).unwrap();
        assert!(allows(&bench.core.routes(), proxy, Some(conn)));
        bench.listen();
        take_away(&mut bench, proxy);
        bench.listen();
        assert!(!allows(&bench.core.routes(), proxy, Some(conn)));
        assert!(bench.said.iter().any(|output| matches!(output, Output::RoutesChanged)));
    }
}

#[test]
fn an_ended_password_ends_the_rights_of_those_who_are_away_too() {
    let day = secs(24 * 3600);
    for (grace, at_once, later) in
        [(secs(0), Standing::Revoked, Standing::Revoked), (day, Standing::Absent, Standing::Revoked)]
    {
        let mut bench = Bench::new();
        let [old, new] = [bench.member(1), bench.member(1)];
        bench.hear_of(old, 1, 5);
        let proxy = bench.core.add_proxy(&ingress("peer1"), bench.now).unwrap();
        let epoch = |bench: &Bench, conn| bench.core.routes().epoch(&lab(), conn);
        let by_old = epoch(&bench, old);
        bench.tell(Event::Disconnected { conn: old });
        bench.core.rotate(&lab(), secret(2), grace, bench.now).unwrap();
        bench.listen();
        assert!(bench.said.iter().any(|output| matches!(output, Output::RoutesChanged)));
        let standing = |bench: &Bench, conn, epoch| bench.core.routes().standing(proxy, Some(conn), epoch);
        assert_eq!(standing(&bench, old, by_old), at_once);
        bench.tell(Event::Joined { conn: new, network: lab(), secret: secret(2) });
        let by_new = epoch(&bench, new);
        bench.tell(Event::Disconnected { conn: new });
        bench.pass(day + secs(60));
        assert_eq!(standing(&bench, old, by_old), later);
        assert_eq!(standing(&bench, new, by_new), Standing::Absent, "the new password still counts");
    }
}

#[test]
fn leaving_a_network_removes_its_proxies() {
    let mut bench = bench();
    let id = bench.core.add_proxy(&ingress("peer1"), bench.now).unwrap();
    bench.core.leave_network(&lab(), bench.now).unwrap();
    bench.listen();
    assert!(bench.changes().contains(&Change::ProxyGone(id)));
}

#[test]
fn the_network_must_be_named_where_several_could_be_meant() {
    let mut bench = bench();
    let other: NetworkName = "other".parse().unwrap();
    bench.core.join_network(&other, secret(3), bench.now).unwrap();
    assert!(bench.core.add_proxy(&ingress("peer1"), bench.now).is_ok(), "a member of one alone");
    let by_id = ingress(&id(77).to_string());
    let refused = bench.core.add_proxy(&by_id, bench.now).unwrap_err();
    assert!(refused.what.contains("lab, other") && refused.hint.unwrap().contains("--network"));
    assert!(bench.core.add_proxy(&ProxyRequest { network: Some(other), ..by_id }, bench.now).is_ok());
}
