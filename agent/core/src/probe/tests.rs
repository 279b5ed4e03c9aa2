use hive_protocol::{PeerRecord, Reachability};

use super::*;
use crate::{Event, testing::*};

fn at(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

const TCP: &str = "/ip4/203.0.113.9/tcp/4180";
const QUIC: &str = "/ip4/203.0.113.9/udp/4180/quic-v1";

/// A node with these addresses, and members 1 to `count` that it dialled, who see it at 203.0.113.9.
fn bench(addresses: &[&str], count: u8) -> Bench {
    let mut bench = Bench::new();
    bench.tell(Event::Addresses(addresses.iter().map(|text| at(text)).collect()));
    for n in 1..=count {
        let conn = bench.connect_from(n, true, at(&format!("/ip4/198.51.100.{n}/tcp/4180")));
        bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
        bench.tell(Event::Observed { conn, address: at(TCP) });
    }
    bench
}

fn asked(bench: &Bench) -> Vec<(ConnId, Multiaddr)> {
    bench.find(|o| if let Output::Probe { conn, address } = o { Some((*conn, address.clone())) } else { None })
}

/// Lets time pass until the next probe, and answers it.
fn answer(bench: &mut Bench, probed: Probed) -> (ConnId, Multiaddr) {
    for _ in 0..100 {
        if let Some((conn, address)) = asked(bench).pop() {
            bench.tell(Event::Probed { conn, address: address.clone(), probed });
            return (conn, address);
        }
        bench.pass(secs(1));
    }
    panic!("nobody was asked");
}

#[test]
fn a_node_that_members_can_dial_is_public() {
    let mut bench = bench(&[TCP, QUIC], 1);
    assert_eq!(bench.core.reachability(), Reachability::Unknown);
    assert_eq!(answer(&mut bench, Probed::Reached).1, at(TCP));
    assert_eq!(bench.core.reachability(), Reachability::Public);
    assert_eq!(answer(&mut bench, Probed::Reached).1, at(QUIC));
    bench.pass(secs(600));
    assert!(asked(&bench).is_empty(), "now and then is enough");
}

#[test]
fn quic_alone_makes_no_node_public_that_listens_on_tcp() {
    let mut bench = bench(&[TCP, QUIC], 1);
    answer(&mut bench, Probed::Unreached);
    assert_eq!(answer(&mut bench, Probed::Reached).1, at(QUIC));
    assert_eq!(bench.core.reachability(), Reachability::Unknown);
}

#[test]
fn a_failure_counts_when_another_member_has_failed_too() {
    let mut bench = bench(&[TCP], 2);
    let (first, _) = answer(&mut bench, Probed::Unreached);
    assert!(bench.core.unreached().is_empty());
    let (second, _) = answer(&mut bench, Probed::Unreached);
    assert_ne!(first, second);
    assert_eq!(bench.core.reachability(), Reachability::Private);
    let problems = bench.core.problems(bench.now);
    assert!(problems.iter().any(|p| p.what.contains(TCP)), "{problems:?}");
    answer(&mut bench, Probed::Reached);
    assert_eq!(bench.core.reachability(), Reachability::Public, "the firewall was opened");
}

#[test]
fn private_addresses_and_observed_ones_are_never_tried() {
    let mut bench = bench(&["/ip4/10.0.0.5/tcp/4180", "/ip4/100.64.0.5/tcp/4180"], 2);
    bench.pass(secs(600));
    assert!(asked(&bench).is_empty());
}

#[test]
fn one_who_sees_another_address_or_is_next_door_is_not_asked() {
    let mut bench = bench(&[TCP], 0);
    let next_door = bench.connect_from(1, true, at("/ip4/203.0.113.9/tcp/4181"));
    let elsewhere = bench.connect_from(2, true, at("/ip4/198.51.100.2/tcp/4180"));
    for (conn, seen) in [(next_door, "/ip4/203.0.113.9/tcp/5"), (elsewhere, "/ip4/192.0.2.77/tcp/5")] {
        bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
        bench.tell(Event::Observed { conn, address: at(seen) });
    }
    bench.pass(secs(600));
    assert!(asked(&bench).is_empty());
}

#[test]
fn a_member_has_its_own_address_dialled_a_few_times_and_no_other() {
    let mut bench = Bench::new();
    let conn = bench.connect_from(1, false, at("/ip4/203.0.113.9/tcp/50000"));
    assert_eq!(bench.core.answer_probe(conn, &[at(TCP)], bench.now), None, "a stranger");
    bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
    let others = [
        "/ip4/198.51.100.9/tcp/4180",
        "/ip4/10.0.0.1/tcp/22",
        "/dns4/a.example/tcp/1",
        "/ip4/203.0.113.9/tcp/0",
        "/ip4/203.0.113.9/tcp/80/http",
    ];
    let mut addresses: Vec<_> = others.iter().map(|text| at(text)).collect();
    assert_eq!(bench.core.answer_probe(conn, &addresses, bench.now), None);
    addresses.push(at(QUIC));
    let answers = (0..20).filter(|_| bench.core.answer_probe(conn, &addresses, bench.now) == Some(5)).count();
    assert_eq!(answers, SERVED_EACH);
    bench.advance(WINDOW);
    assert!(bench.core.answer_probe(conn, &addresses, bench.now).is_some());
}

/// A node at [`TCP`] that two members found public, and no probe due.
fn public() -> Bench {
    let mut bench = bench(&[TCP], 2);
    answer(&mut bench, Probed::Reached);
    assert_eq!(bench.core.reachability(), Reachability::Public);
    bench
}

#[test]
fn a_restarted_node_whose_addresses_are_as_before_is_tried() {
    let mut before = bench(&[TCP], 0);
    before.pass(secs(1));
    let own = said_by(0, 5);
    let record = PeerRecord { addresses: vec![at(TCP)], ..own };
    let network = crate::StoredNetwork { name: lab(), secret: secret(1), previous: None, banned: Vec::new() };
    let records = vec![(signed(0, &record), hive_protocol::Timestamp(START))];
    let mut bench = Bench::with(crate::Stored { networks: vec![network], records, ..nothing_stored() });
    bench.tell(Event::Addresses(vec![at(TCP)]));
    let conn = bench.connect_from(1, true, at("/ip4/198.51.100.1/tcp/4180"));
    bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
    bench.tell(Event::Observed { conn, address: at(TCP) });
    assert_eq!(answer(&mut bench, Probed::Reached), (conn, at(TCP)));
    assert_eq!(bench.core.reachability(), Reachability::Public);
}

#[test]
fn a_member_that_sees_the_other_family_is_dialled_over_this_one() {
    let mut bench = bench(&[TCP], 0);
    let conn = bench.connect_from(1, true, at("/ip6/2001:db8::1/tcp/4180"));
    bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
    bench.tell(Event::Observed { conn, address: at("/ip6/2001:db8::9/tcp/4180") });
    let over4 = at("/ip4/198.51.100.1/tcp/4180");
    let addresses = vec![at("/ip6/2001:db8::1/tcp/4180"), at("/ip4/10.0.0.1/tcp/4180"), over4.clone()];
    bench.hear_record(conn, signed(1, &PeerRecord { addresses, ..said_by(1, 5) }));
    let dialled = |bench: &Bench| {
        bench
            .find(|o| if let Output::Upgrade { peer, addresses } = o { Some((*peer, addresses.clone())) } else { None })
    };
    bench.pass(secs(2));
    assert_eq!(dialled(&bench), [(id(1), vec![over4.clone()])]);
    bench.pass(secs(3000));
    assert!((1..=4).contains(&dialled(&bench).len()), "ever more rarely");
    let conn = bench.connect_from(1, true, over4);
    bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
    bench.tell(Event::Observed { conn, address: at(TCP) });
    assert_eq!(answer(&mut bench, Probed::Reached), (conn, at(TCP)));
    bench.pass(secs(3000));
    assert!(dialled(&bench).is_empty());
}

#[test]
fn one_unlucky_probe_takes_nothing_back_and_several_do() {
    let mut bench = public();
    bench.pass(AGAIN * 2);
    answer(&mut bench, Probed::Unreached);
    answer(&mut bench, Probed::Unreached);
    assert_eq!(bench.core.reachability(), Reachability::Public);
    answer(&mut bench, Probed::Reached);
    bench.pass(AGAIN * 2);
    let by: std::collections::BTreeSet<_> = (0..3).map(|_| answer(&mut bench, Probed::Unreached).0).collect();
    assert_eq!((by.len(), bench.core.reachability()), (2, Reachability::Private));
    assert!(!bench.core.is_relaying());
    let problems = bench.core.problems(bench.now);
    assert!(problems.iter().any(|p| p.what.contains(TCP)), "{problems:?}");
    answer(&mut bench, Probed::Reached);
    assert_eq!(bench.core.reachability(), Reachability::Public);
    assert!(bench.core.is_relaying());
}

#[test]
fn who_gets_in_counts_more_than_who_tries_in_vain() {
    let mut bench = public();
    bench.pass(AGAIN * 2);
    answer(&mut bench, Probed::Unreached);
    answer(&mut bench, Probed::Unreached);
    let conn = bench.connect_from(3, false, at("/ip4/198.51.100.3/tcp/50000"));
    bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
    answer(&mut bench, Probed::Unreached);
    assert_eq!(bench.core.reachability(), Reachability::Public);
}

#[test]
fn a_path_that_is_lost_has_the_addresses_tried_again_soon() {
    let mut bench = public();
    bench.pass(secs(100));
    assert!(asked(&bench).is_empty());
    let lost = bench.connect_from(3, false, at("/ip4/198.51.100.3/tcp/50000"));
    bench.tell(Event::Joined { conn: lost, network: lab(), secret: secret(1) });
    bench.tell(Event::Disconnected { conn: lost });
    bench.pass(secs(2));
    let [(conn, address)] = &asked(&bench)[..] else { panic!("not tried") };
    bench.tell(Event::Probed { conn: *conn, address: address.clone(), probed: Probed::Reached });
    bench.core.probes.hint(bench.now.mono);
    bench.pass(secs(15));
    assert!(asked(&bench).is_empty(), "not as often as a peer likes");
}

#[test]
fn an_answer_to_what_was_asked_before_a_change_counts_for_nothing() {
    let mut bench = bench(&[TCP], 1);
    bench.pass(secs(1));
    let [(conn, address)] = &asked(&bench)[..] else { panic!("not tried") };
    let late = Event::Probed { conn: *conn, address: address.clone(), probed: Probed::Reached };
    bench.tell(Event::Addresses(vec![at("/ip4/203.0.113.10/tcp/4180")]));
    bench.tell(Event::Disconnected { conn: *conn });
    bench.tell(Event::Addresses(vec![at(TCP)]));
    let conn = bench.connect_from(2, true, at("/ip4/198.51.100.2/tcp/4180"));
    bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
    bench.tell(Event::Observed { conn, address: at(TCP) });
    bench.tell(late);
    assert_eq!(bench.core.reachability(), Reachability::Unknown);
    assert_eq!(answer(&mut bench, Probed::Reached).0, conn, "the one under way keeps nobody waiting");
}

#[test]
fn a_dial_back_is_no_sign_that_the_peer_has_lost_its_paths() {
    let mut bench = bench(&[TCP], 1);
    bench.pass(secs(10));
    let path = |bench: &Bench| bench.core.routes().path(&lab(), &id(1), hive_protocol::PathRule::Any);
    let before = path(&bench);
    let back = bench.connect_from(1, false, at("/ip4/198.51.100.1/tcp/50000"));
    bench.tell(Event::Disconnected { conn: back });
    let relayed = bench.connect_over(1, true, true);
    bench.tell(Event::Joined { conn: relayed, network: lab(), secret: secret(1) });
    assert_eq!(path(&bench), before);
}

#[test]
fn what_was_reached_is_named_first_and_what_failed_last_and_nothing_is_left_out() {
    let dead = "/ip4/203.0.113.10/tcp/4180";
    let mut bench = bench(&[dead, TCP], 1);
    let sees_dead = bench.connect_from(2, true, at("/ip4/198.51.100.2/tcp/4180"));
    bench.tell(Event::Joined { conn: sees_dead, network: lab(), secret: secret(1) });
    bench.tell(Event::Observed { conn: sees_dead, address: at(dead) });
    assert_eq!(bench.core.addresses(), [dead, TCP].map(at));
    for _ in 0..60 {
        for (conn, address) in asked(&bench) {
            let probed = if address == at(TCP) { Probed::Reached } else { Probed::Unreached };
            bench.tell(Event::Probed { conn, address, probed });
        }
        bench.pass(secs(1));
    }
    assert_eq!(bench.core.addresses(), [TCP, dead].map(at));
    bench.tell(Event::Addresses([dead, TCP].map(at).to_vec()));
    assert_eq!(bench.core.addresses(), [TCP, dead].map(at), "the order is no change of the addresses");
    assert_eq!(bench.core.reachability(), Reachability::Public);
}

#[test]
fn an_address_that_stays_keeps_its_rank_and_is_tried_again() {
    let dead = "/ip4/203.0.113.10/tcp/4180";
    let mut bench = bench(&[dead, TCP], 1);
    answer(&mut bench, Probed::Reached);
    assert_eq!(bench.core.addresses(), [TCP, dead].map(at));
    let private = "/ip4/192.168.7.2/tcp/4180";
    bench.tell(Event::Addresses([dead, TCP, private].map(at).to_vec()));
    assert_eq!(bench.core.addresses()[0], at(TCP));
    assert_eq!(answer(&mut bench, Probed::Reached).1, at(TCP));
}
