//! Who is let in, who is not, and who gives way.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn prefix(addr: &str) -> Prefix {
    Prefix::of(&addr.parse().unwrap())
}

#[test]
fn one_customer_is_one_prefix() {
    assert_eq!(prefix("/ip6/2001:db8:0:1::1/tcp/1"), prefix("/ip6/2001:db8:0:ff::2/tcp/2"));
    assert_ne!(prefix("/ip6/2001:db8:0:100::1/tcp/1"), prefix("/ip6/2001:db8:0:200::1/tcp/1"));
    assert_eq!(prefix("/ip4/192.0.2.1/tcp/1"), prefix("/ip4/192.0.2.1/tcp/2"));
    assert_ne!(prefix("/ip4/192.0.2.1/tcp/1"), prefix("/ip4/192.0.2.2/tcp/1"));
    assert_eq!(prefix("/ip6/::ffff:192.0.2.1/tcp/1"), prefix("/ip4/192.0.2.1/tcp/1"));
}

/// The first connection that is refused, of those that stay in their handshake, each from where `from` says.
fn first_refused(from: impl Fn(usize) -> String) -> usize {
    let (_, control, _) = crate::streams::new([], crate::streams::Limits::default());
    let mut limits = Behaviour::new(Limits::default(), control);
    let mut arrives = |number: usize| {
        let (id, local) = (ConnectionId::new_unchecked(number), Multiaddr::empty());
        limits.handle_pending_inbound_connection(id, &local, &from(number).parse().unwrap())
    };
    (0..1024).find(|number| arrives(*number).is_err()).unwrap()
}

#[test]
fn a_few_addresses_that_stay_silent_keep_nobody_else_out() {
    assert_eq!(first_refused(|_| "/ip4/192.0.2.1/tcp/1".to_owned()), Limits::default().pending_per_prefix);
    let from_63_and_one = |n| format!("/ip4/192.0.2.{}/tcp/1", n / 8);
    assert_eq!(first_refused(from_63_and_one), Limits::default().pending_inbound);
}

#[test]
fn a_relays_address_is_not_its_clients() {
    let relay = PeerId::random();
    assert_eq!(prefix(&format!("/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit")), Prefix::Elsewhere);
    assert_eq!(prefix(&format!("/p2p/{relay}")), Prefix::Elsewhere);
}

/// A swarm's part: connections that come, are established and go.
struct Bench {
    limits: Behaviour,
    control: Control,
    next: AtomicUsize,
}

fn bench() -> Bench {
    let (_, control, _) = crate::streams::new([], crate::streams::Limits::default());
    let limits = Limits { strangers: 4, ..Limits::default() };
    Bench { limits: Behaviour::new(limits, control.clone()), control, next: AtomicUsize::new(0) }
}

impl Bench {
    /// A connection from this host, let in and established; with an admission of its own, as `member` says.
    fn comes(&mut self, host: u8, member: bool) -> Option<ConnectionId> {
        let id = ConnectionId::new_unchecked(self.next.fetch_add(1, Ordering::Relaxed));
        let (peer, local) = (PeerId::random(), Multiaddr::empty());
        let remote: Multiaddr = format!("/ip4/192.0.2.{host}/tcp/1").parse().unwrap();
        self.limits.handle_pending_inbound_connection(id, &local, &remote).ok()?;
        if self.limits.handle_established_inbound_connection(id, peer, &local, &remote).is_err() {
            self.limits.give_up(id);
            return None;
        }
        let endpoint = ConnectedPoint::Listener { local_addr: local, send_back_addr: remote };
        self.limits.establish(id, peer, &endpoint);
        if member {
            self.limits.established.get_mut(&id).unwrap().admission = Admission::of_a_member();
        }
        assert_eq!(self.control.count_admitted([id].iter()), 0);
        Some(id)
    }

    /// The connection that the swarm is told to close.
    fn told(&mut self) -> Option<ConnectionId> {
        let mut cx = Context::from_waker(futures::task::noop_waker_ref());
        match self.limits.poll(&mut cx) {
            Poll::Ready(ToSwarm::CloseConnection { connection: CloseConnection::One(id), .. }) => Some(id),
            _ => None,
        }
    }
}

#[test]
fn a_crowd_from_one_address_makes_room_for_another() {
    let mut bench = bench();
    let crowd: Vec<_> = (0..4).map(|_| bench.comes(1, false).unwrap()).collect();
    assert_eq!(bench.comes(1, false), None, "all places are taken");
    assert!(bench.comes(2, false).is_some());
    assert_eq!(bench.told(), Some(crowd[0]), "the first that came gives way");
    assert!(bench.comes(2, false).is_some());
    assert_eq!(bench.told(), Some(crowd[1]), "and only once");
    assert_eq!(bench.comes(2, false), None, "two and two are fair");
    assert_eq!(bench.told(), None);
}

#[test]
fn who_has_stayed_long_gives_way_to_nobody() {
    let mut bench = bench();
    (0..4).for_each(|_| assert!(bench.comes(1, false).is_some()));
    let Some(long_ago) = Instant::now().checked_sub(MAY_GIVE_WAY) else { return };
    bench.limits.established.values_mut().for_each(|held| held.since = long_ago);
    assert_eq!(bench.comes(2, false), None);
}

#[test]
fn no_crowd_keeps_a_member_from_coming_back() {
    let mut bench = bench();
    let member = bench.comes(9, true).unwrap();
    for host in 1..=4 {
        assert!(bench.comes(host, false).is_some());
    }
    assert_eq!(bench.comes(5, false), None, "nobody has more than one");
    assert!(bench.comes(9, false).is_some(), "it is there");
    bench.limits.close(member);
    assert!(bench.comes(9, false).is_some(), "it was there lately");
    assert_eq!(bench.comes(5, false), None, "and takes no place from those who share them");
}
