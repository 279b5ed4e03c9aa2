//! Whether others can dial this node's public addresses: members are asked to try (AutoNAT v2), and tried for.
//!
//! Tried are the addresses that somebody vouches for: an interface has them, a router maps them, a person announced them.
//! What peers merely observe is no candidate: a NAT that filters by address alone lets the asked member in and nobody else,
//! so that its word would prove nothing. A member dials only the IP address that the request comes from, so this node can be
//! made to dial nobody else.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use hive_protocol::NodeId;
use multiaddr::{Multiaddr, Protocol};

use crate::{
    ConnId, Core, Now, Output,
    dialling::addresses_of,
    met::Sorted,
    outbox::Dice,
    own::Rank,
    path::Reason,
    reach::{ip, public_ip},
};

/// A first try, when the connection it goes over has settled.
const FIRST: Duration = Duration::from_millis(500);
/// Pauses after failures, and between dials of members who could try.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(5), Duration::from_secs(20), Duration::from_secs(60), Duration::from_secs(600)];
const SELDOM: Duration = Duration::from_secs(3600);
/// Between tries of an address that was reached, and the least of it where something hints that it no longer can be.
const AGAIN: Duration = Duration::from_secs(900);
const HINTED: Duration = Duration::from_secs(20);
/// Longest pause after members that would not try.
const REFUSED: Duration = Duration::from_secs(60);
/// A probe of which nothing is heard for so long is forgotten.
const LOST: Duration = Duration::from_secs(60);
/// Failures in a row after which an address counts as one that cannot be dialled.
const CERTAIN: u32 = 2;
/// The same where it was dialled before: who tries may be at fault, and what others rely on is not to come and go.
const WITHDRAWN: u32 = 3;
/// Most addresses that are tried.
const MOST: usize = 8;
/// What this node dials for others: so often in [`WINDOW`], and for one member.
const SERVED: usize = 30;
const SERVED_EACH: usize = 6;
const WINDOW: Duration = Duration::from_secs(60);

/// What is known of this node's addresses, and what was done for others.
#[derive(Default)]
pub(crate) struct Probes {
    /// The present addresses were gathered.
    gathered: bool,
    tested: BTreeMap<Multiaddr, Tested>,
    running: Option<Running>,
    /// Dials of members who could try, over IPv4 and over IPv6.
    sought: [Sought; 2],
    served: VecDeque<(NodeId, Duration)>,
}

/// The probe that is under way.
struct Running {
    address: Multiaddr,
    asked: ConnId,
    by: NodeId,
    since: Duration,
}

/// How often a member was dialled for want of one who could try, and when the next may be.
#[derive(Debug, Default)]
struct Sought {
    tries: usize,
    next: Duration,
}

#[derive(Debug, Default)]
struct Tested {
    /// In a row.
    failures: u32,
    /// Somebody got through, and not too many have failed since.
    reached: bool,
    /// Who failed or refused last: another one is asked next.
    by: Option<NodeId>,
    due: Duration,
    tried: Option<Duration>,
    /// How many in a row would not try.
    refusals: usize,
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
    /// Something changed: all is to be tried anew. What was found of an address that stays holds until then.
    pub fn restart(&mut self) {
        self.running = None;
        self.sought = Default::default();
        self.gathered = false;
    }

    /// Somebody came who may be asked.
    pub fn somebody_came(&mut self, now: Duration) {
        for tested in self.tested.values_mut().filter(|tested| tested.unasked) {
            (tested.due, tested.unasked) = (now + FIRST, false);
        }
    }

    /// Something hints that what could be dialled no longer can.
    pub fn hint(&mut self, now: Duration) {
        for tested in self.tested.values_mut().filter(|tested| tested.reached && tested.failures == 0) {
            let soonest = tested.tried.map_or(now, |tried| now.max(tried + HINTED));
            tested.due = tested.due.min(soonest + FIRST);
        }
    }

    /// Somebody came in over this family of addresses, by whichever of them.
    fn entered(&mut self, ip: IpAddr) {
        for (_, tested) in self.tested.iter_mut().filter(|(address, _)| is_like(address, ip)) {
            (tested.reached, tested.failures) = (true, 0);
        }
    }

    /// Whether a public address was tried in vain by more than one, or more than once.
    fn has_failed(&self, address: &Multiaddr) -> bool {
        self.tested.get(address).is_some_and(Tested::has_failed)
    }

    fn ranks(&self) -> BTreeMap<Multiaddr, Rank> {
        self.tested.iter().map(|(address, tested)| (address.clone(), tested.rank())).collect()
    }

    pub fn next(&self) -> Option<Duration> {
        match &self.running {
            Some(running) => Some(running.since + LOST),
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
    fn has_failed(&self) -> bool {
        !self.reached && self.failures >= CERTAIN
    }

    fn rank(&self) -> Rank {
        match (self.reached, self.has_failed()) {
            (true, _) => Rank::Reached,
            (false, true) => Rank::Failed,
            (false, false) => Rank::Untried,
        }
    }

    fn learned(&mut self, probed: Probed, by: NodeId, now: Duration, dice: &mut Dice) {
        let pause = match probed {
            Probed::Reached => {
                (self.reached, self.failures, self.by) = (true, 0, None);
                AGAIN
            }
            Probed::Unreached => {
                let pause = pause_after(self.failures as usize);
                (self.failures, self.by) = (self.failures.saturating_add(1), Some(by));
                self.reached &= self.failures < WITHDRAWN;
                pause
            }
            Probed::Refused => {
                self.by = Some(by);
                // At first it may only not know yet that this node has joined.
                pause_after(self.refusals).min(REFUSED)
            }
        };
        self.refusals = if probed == Probed::Refused { self.refusals.saturating_add(1) } else { 0 };
        (self.due, self.tried) = (now + dice.jitter(pause), Some(now));
    }
}

/// The pause after this many tries before the last.
fn pause_after(tries: usize) -> Duration {
    PAUSES.get(tries).copied().unwrap_or(SELDOM)
}

impl Core {
    /// Has the next address tried that is due, if a member is connected that can.
    pub(crate) fn probe_due(&mut self, now: Now) {
        if !std::mem::replace(&mut self.probes.gathered, true) {
            self.probes.tested = self.candidates_to_probe(now);
        }
        if self.probes.next().is_none_or(|due| due > now.mono) {
            return;
        }
        self.probes.running = None;
        let mut due = self.probes.tested.iter().filter(|(_, tested)| tested.due <= now.mono);
        let found = due.find_map(|(address, tested)| Some((address.clone(), self.prober(address, tested.by)?)));
        if let Some((address, (asked, by))) = found {
            if let Some(ip) = public_ip(&address) {
                self.probes.sought[usize::from(ip.is_ipv6())] = Sought::default();
            }
            self.probes.running = Some(Running { address: address.clone(), asked, by, since: now.mono });
            self.out.push(Output::Probe { conn: asked, address });
        } else {
            self.nobody_can_try(now);
        }
    }

    /// The public addresses that somebody vouches for.
    fn candidates_to_probe(&mut self, now: Now) -> BTreeMap<Multiaddr, Tested> {
        let can_be_dialled = |address: &&Multiaddr| public_ip(address).is_some() && is_plain(address);
        let candidates = self.own.direct().iter().filter(can_be_dialled).take(MOST);
        let mut before = std::mem::take(&mut self.probes.tested);
        let untested = |address: &Multiaddr| {
            let reached = public_ip(address).is_some_and(|ip| self.reach.is_proven(ip));
            let found = before.remove(address).unwrap_or_else(|| Tested { reached, ..Tested::default() });
            let failures = found.failures.min(CERTAIN);
            (address.clone(), Tested { due: now.mono + FIRST, failures, refusals: 0, ..found })
        };
        candidates.map(untested).collect()
    }

    /// No member is connected that could try what is due: whoever comes may, and one is dialled for it now and then. All
    /// may be connected over IPv6, and see nothing of this node's IPv4 address, or the other way round.
    fn nobody_can_try(&mut self, now: Now) {
        let due: Vec<_> =
            self.probes.tested.iter().filter(|(_, t)| t.due <= now.mono).map(|(address, _)| address.clone()).collect();
        for address in due {
            let again = public_ip(&address).and_then(|ip| self.seek_prober(ip, now)).unwrap_or(now.mono + SELDOM);
            if let Some(tested) = self.probes.tested.get_mut(&address) {
                (tested.due, tested.unasked) = (again, true);
            }
        }
    }

    /// Dials a member that would see this node at an address like `ip`, unless that was just done; when to do it again.
    fn seek_prober(&mut self, ip: IpAddr, now: Now) -> Option<Duration> {
        let direct = self.connections.iter().map(|(_, c)| c).filter(|c| !c.relayed && !c.joined.is_empty());
        let (alike, others): (Vec<_>, Vec<_>) = direct.partition(|c| is_like(&c.address, ip));
        let others = others.into_iter().filter(|c| !alike.iter().any(|other| other.peer == c.peer));
        let ways = others.map(|c| (c.peer, self.ways_like(&c.peer, ip, now)));
        let mut ways: BTreeMap<_, _> = ways.filter(|(_, ways)| *ways != Sorted::default()).collect();
        let peer = self.dice.pick(&ways.keys().copied().collect::<Vec<_>>())?;
        let sought = &mut self.probes.sought[usize::from(ip.is_ipv6())];
        if sought.next > now.mono {
            return Some(sought.next);
        }
        sought.tries = sought.tries.saturating_add(1);
        sought.next = now.mono + pause_after(sought.tries);
        let next = sought.next;
        let Sorted { known, claimed } = ways.remove(&peer).unwrap_or_default();
        if !claimed.is_empty() {
            self.met.dialled_at_claims(peer, Reason::Neighbour, now.mono);
        }
        let addresses = known.into_iter().chain(claimed).collect();
        self.out.push(Output::Upgrade { peer, addresses });
        Some(next)
    }

    /// Where a member may be dialled from an address like `ip`, which is not its own.
    fn ways_like(&self, peer: &NodeId, ip: IpAddr, now: Now) -> Sorted {
        let recorded = addresses_of(&self.tables, None, peer).into_iter();
        let alike = recorded.filter(|at| is_like(at, ip) && public_ip(at) != Some(ip) && is_plain(at));
        let mut sorted = self.met.sort(peer, alike, false);
        if self.met.claims_due(peer) > now.mono {
            sorted.claimed.clear();
        }
        sorted
    }

    /// A member that sees this node at the IP address in question, rather another one than `not`.
    fn prober(&self, address: &Multiaddr, not: Option<NodeId>) -> Option<(ConnId, NodeId)> {
        let wanted = public_ip(address)?;
        let sees_it = |seen: &Option<Multiaddr>| seen.as_ref().and_then(ip) == Some(wanted);
        let direct =
            self.connections.iter().filter(|(_, c)| !c.relayed && !c.joined.is_empty() && sees_it(&c.observed));
        // From the same local network it would prove nothing.
        let outside = direct.filter(|(_, c)| public_ip(&c.address).is_some_and(|at| at != wanted));
        // Of several to the same member the youngest: the others may be dead without a word.
        outside.map(|(conn, c)| (conn, c.peer)).min_by_key(|(conn, peer)| (Some(*peer) == not, Reverse(*conn)))
    }

    /// A probe asked for by [`Output::Probe`] has ended.
    pub(crate) fn probed(&mut self, asked: ConnId, address: &Multiaddr, probed: Probed, now: Now) {
        let is_it = |running: &mut Running| running.asked == asked && running.address == *address;
        let Some(Running { by, .. }) = self.probes.running.take_if(is_it) else { return };
        let Some(tested) = self.probes.tested.get_mut(address) else { return };
        if probed == Probed::Refused && self.connections.get(asked).is_none() {
            // It was lost on the way: whoever else is there now may be asked.
            (tested.due, tested.by) = (now.mono + FIRST, Some(by));
            return;
        }
        tested.learned(probed, by, now.mono, &mut self.dice);
        self.rank_addresses(now);
        let Some(ip) = public_ip(address) else { return };
        match probed {
            Probed::Reached if self.is_decisive(address, ip) => self.proven(ip, now),
            Probed::Unreached if !self.may_be_reached(ip) => self.disproven(ip, now),
            _ => {}
        }
    }

    /// Somebody came in from outside over this family of addresses.
    pub(crate) fn entered(&mut self, ip: IpAddr, now: Now) {
        self.probes.entered(ip);
        self.rank_addresses(now);
    }

    fn rank_addresses(&mut self, now: Now) {
        if self.own.set_ranks(self.probes.ranks()) {
            self.own.changed(now.mono);
        }
    }

    /// Whether some address of this family that decides has not failed for good.
    fn may_be_reached(&self, ip: IpAddr) -> bool {
        let alike = self.probes.tested.iter().filter(|(address, _)| is_like(address, ip));
        let decisive = alike.filter(|(address, _)| public_ip(address).is_some_and(|at| self.is_decisive(address, at)));
        decisive.map(|(_, tested)| tested).any(|tested| !tested.has_failed())
    }

    /// QUIC alone decides only where there is no TCP: UDP is blocked in many places.
    pub(crate) fn is_decisive(&self, address: &Multiaddr, ip: IpAddr) -> bool {
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

/// Whether an address is of the same family as an IP address, and public.
fn is_like(address: &Multiaddr, ip: IpAddr) -> bool {
    public_ip(address).is_some_and(|at| at.is_ipv4() == ip.is_ipv4())
}

fn is_tcp(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::Tcp(_)))
}

#[cfg(test)]
mod tests;
