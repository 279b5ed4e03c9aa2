//! Whether others can dial this node's public addresses: members are asked to try (AutoNAT v2), and tried for.
//!
//! Tried are the addresses that somebody vouches for: an interface has them, a router maps them, a person announced them.
//! What peers merely observe is no candidate: a NAT that filters by address alone lets the asked member in and nobody else,
//! so that its word would prove nothing. A member dials only the IP address that the request comes from, so this node can be
//! made to dial nobody else.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use hive_protocol::NodeId;
use multiaddr::{Multiaddr, Protocol};

use crate::{
    ConnId, Core, Now, Output,
    outbox::Dice,
    reach::{ip, public_ip},
};

/// A first try, when the connection it goes over has settled.
const FIRST: Duration = Duration::from_millis(500);
/// Pauses after failures.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(5), Duration::from_secs(60), Duration::from_secs(600), Duration::from_secs(3600)];
/// Between tries of an address that was reached.
const AGAIN: Duration = Duration::from_secs(3600);
/// After a member that would not try.
const REFUSED: Duration = Duration::from_secs(60);
/// A probe of which nothing is heard for so long is forgotten.
const LOST: Duration = Duration::from_secs(60);
/// Failures after which an address counts as one that cannot be dialled.
const CERTAIN: u32 = 2;
/// Most addresses that are tried.
const MOST: usize = 8;
/// What this node dials for others: so often in [`WINDOW`], and for one member.
const SERVED: usize = 30;
const SERVED_EACH: usize = 6;
const WINDOW: Duration = Duration::from_secs(60);

/// What is known of this node's addresses, and what was done for others.
#[derive(Default)]
pub(crate) struct Probes {
    /// The addresses changed since they were gathered.
    stale: bool,
    tested: BTreeMap<Multiaddr, Tested>,
    /// The one that is under way, whom it was asked of, and since when.
    running: Option<(Multiaddr, NodeId, Duration)>,
    served: VecDeque<(NodeId, Duration)>,
}

#[derive(Debug, Default)]
struct Tested {
    failures: u32,
    reached: bool,
    /// Who failed last: another one is asked next.
    by: Option<NodeId>,
    due: Duration,
    /// The last one asked would not try.
    refused: bool,
    /// It was due, and nobody there to be asked.
    unasked: bool,
}

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// The address can be dialled.
    Reached,
    /// It cannot.
    Unreached,
    /// Nobody tried.
    Refused,
}

impl Probes {
    /// Something changed: all is to be tried anew.
    pub fn restart(&mut self) {
        self.tested.clear();
        self.stale = true;
    }

    /// Somebody came who may be asked.
    pub fn somebody_came(&mut self, now: Duration) {
        for tested in self.tested.values_mut().filter(|tested| tested.unasked) {
            (tested.due, tested.unasked) = (now + FIRST, false);
        }
    }

    /// Whether a public address was tried in vain by more than one, or more than once.
    fn has_failed(&self, address: &Multiaddr) -> bool {
        self.tested.get(address).is_some_and(|tested| !tested.reached && tested.failures >= CERTAIN)
    }

    pub fn next(&self) -> Option<Duration> {
        match &self.running {
            Some((.., since)) => Some(*since + LOST),
            None => self.tested.values().map(|tested| tested.due).min(),
        }
    }

    /// Counts a dial for a member, if it is not one too many.
    fn serve(&mut self, peer: NodeId, now: Duration) -> bool {
        self.served.retain(|(_, at)| *at + WINDOW > now);
        let its = self.served.iter().filter(|(other, _)| *other == peer).count();
        let may = self.served.len() < SERVED && its < SERVED_EACH;
        if may {
            self.served.push_back((peer, now));
        }
        may
    }
}

impl Tested {
    fn learned(&mut self, probed: Probed, by: NodeId, now: Duration, dice: &mut Dice) {
        self.refused &= probed == Probed::Refused;
        let pause = match probed {
            Probed::Reached => {
                (self.reached, self.failures, self.by) = (true, 0, None);
                AGAIN
            }
            Probed::Unreached => {
                let pause = PAUSES.get(self.failures as usize).copied().unwrap_or(AGAIN);
                (self.reached, self.failures, self.by) = (false, self.failures.saturating_add(1), Some(by));
                pause
            }
            Probed::Refused => {
                self.by = Some(by);
                // The first time it may only not know yet that this node has joined, or the connection have gone.
                if std::mem::replace(&mut self.refused, true) { REFUSED } else { PAUSES[0] }
            }
        };
        self.due = now + dice.jitter(pause);
    }
}

impl Core {
    /// Has the next address tried that is due, if a member is connected that can.
    pub(crate) fn probe_due(&mut self, now: Now) {
        if std::mem::take(&mut self.probes.stale) {
            let untested = || Tested { due: now.mono + FIRST, ..Tested::default() };
            self.probes.tested = self.candidates_to_probe().into_iter().map(|address| (address, untested())).collect();
        }
        if self.probes.next().is_none_or(|due| due > now.mono) {
            return;
        }
        self.probes.running = None;
        let mut due = self.probes.tested.iter().filter(|(_, tested)| tested.due <= now.mono);
        let found = due.find_map(|(address, tested)| Some((address.clone(), self.prober(address, tested.by)?)));
        if let Some((address, (conn, peer))) = found {
            self.probes.running = Some((address.clone(), peer, now.mono));
            self.out.push(Output::Probe { conn, address });
        } else {
            // Nobody connected can try: whoever comes may.
            let due = self.probes.tested.values_mut().filter(|tested| tested.due <= now.mono);
            due.for_each(|tested| (tested.due, tested.unasked) = (now.mono + AGAIN, true));
        }
    }

    /// The public addresses that somebody vouches for.
    fn candidates_to_probe(&self) -> Vec<Multiaddr> {
        let can_be_dialled = |address: &&Multiaddr| public_ip(address).is_some() && is_plain(address);
        self.own.direct().iter().filter(can_be_dialled).take(MOST).cloned().collect()
    }

    /// A member that sees this node at the IP address in question, rather another one than `not`.
    fn prober(&self, address: &Multiaddr, not: Option<NodeId>) -> Option<(ConnId, NodeId)> {
        let wanted = public_ip(address)?;
        let sees_it = |seen: &Option<Multiaddr>| seen.as_ref().and_then(ip) == Some(wanted);
        let direct =
            self.connections.iter().filter(|(_, c)| !c.relayed && !c.joined.is_empty() && sees_it(&c.observed));
        // From the same local network it would prove nothing.
        let outside = direct.filter(|(_, c)| public_ip(&c.address).is_some_and(|at| at != wanted));
        outside.map(|(conn, c)| (conn, c.peer)).min_by_key(|(conn, peer)| (Some(*peer) == not, *conn))
    }

    /// A probe asked for by [`Output::Probe`] has ended.
    pub(crate) fn probed(&mut self, address: &Multiaddr, probed: Probed, now: Now) {
        let Some((running, by, _)) = self.probes.running.take() else { return };
        let Some(tested) = self.probes.tested.get_mut(address).filter(|_| running == *address) else { return };
        tested.learned(probed, by, now.mono, &mut self.dice);
        if let Some(ip) = public_ip(address).filter(|ip| probed == Probed::Reached && self.is_decisive(address, *ip)) {
            self.proven(ip, now);
        }
    }

    /// QUIC alone decides only where there is no TCP: UDP is blocked in many places.
    fn is_decisive(&self, address: &Multiaddr, ip: IpAddr) -> bool {
        is_tcp(address) || !self.own.direct().iter().any(|other| is_tcp(other) && public_ip(other) == Some(ip))
    }

    /// Which of a member's addresses this node dials for it: the first at the IP address that it comes from. None where that
    /// is not its right, or too much.
    #[must_use]
    pub fn answer_probe(&mut self, conn: ConnId, addresses: &[Multiaddr], now: Now) -> Option<usize> {
        let connection = self.connections.get(conn).filter(|c| !c.relayed && !c.joined.is_empty())?;
        let (peer, from) = (connection.peer, public_ip(&connection.address)?);
        let place = addresses.iter().position(|address| is_plain(address) && ip(address) == Some(from))?;
        self.probes.serve(peer, now.mono).then_some(place)
    }

    /// The public addresses that no member could dial.
    pub(crate) fn unreached(&self) -> Vec<&Multiaddr> {
        self.own.direct().iter().filter(|address| self.probes.has_failed(address)).collect()
    }

    /// Whether this node has public addresses, and none of those that were tried can be dialled.
    pub(crate) fn is_walled(&self) -> bool {
        !self.unreached().is_empty() && !self.probes.tested.values().any(|tested| tested.reached)
    }
}

/// `/ip4|ip6/IP/tcp/PORT` or `/ip4|ip6/IP/udp/PORT/quic-v1`, and whose it is at most.
fn is_plain(address: &Multiaddr) -> bool {
    let mut parts = address.iter().filter(|part| !matches!(part, Protocol::P2p(_)));
    let ip = matches!(parts.next(), Some(Protocol::Ip4(_) | Protocol::Ip6(_)));
    let transport = match (parts.next(), parts.next()) {
        (Some(Protocol::Tcp(port)), None) | (Some(Protocol::Udp(port)), Some(Protocol::QuicV1)) => port > 0,
        _ => false,
    };
    ip && transport && parts.next().is_none()
}

fn is_tcp(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::Tcp(_)))
}

#[cfg(test)]
mod tests {
    use hive_protocol::Reachability;

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
                bench.tell(Event::Probed { address: address.clone(), probed });
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
        bench.pass(secs(1800));
        assert!(asked(&bench).is_empty(), "once an hour is enough");
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
}
