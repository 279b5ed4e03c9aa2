//! Whom to be connected to, when to dial, and which connections could go.
//!
//! A node wants the peers of its proxies, whoever somebody local waits for, and a few neighbours in each network: its
//! successor on the ring of ids, which holds the network together, and some at random, which keep it small. It knows
//! nothing of what runs over a connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hive_protocol::{NetworkName, NodeId};
use multiaddr::{Multiaddr, Protocol};

use crate::{
    ConnId,
    connections::{Connection, Connections},
    outbox::Dice,
};

/// Time in which changes of the table are gathered before paths are reviewed: a newcomer learns the table first.
pub(crate) const GATHER: Duration = Duration::from_millis(250);
/// Networks of at most this many other members are fully meshed.
const MESH: usize = 7;
/// Neighbours chosen at random in larger networks.
const CHOSEN: usize = 3;
/// Most dials at once.
const DIALS: usize = 8;
/// A dial of which nothing was heard for so long is forgotten.
const DIAL_LOST: Duration = Duration::from_secs(90);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Longest pause where a proxy or a person waits.
const URGENT_PAUSE: Duration = Duration::from_secs(4);
/// Failures in a row after which dials to neighbours are spread out: most likely this node is cut off.
const CUT_OFF: u32 = 4;
const CUT_OFF_PAUSE: Duration = Duration::from_secs(5);
/// How long a direct dial goes on alone before relays are tried beside it.
const RELAY_AFTER: Duration = Duration::from_millis(500);
/// Longest pause between dials over relays.
const LONGEST_CIRCUIT_PAUSE: Duration = Duration::from_secs(10);
/// How long a wish for a connection lasts.
const WISH: Duration = Duration::from_secs(60);
/// A connection lost before this age was no good; the next dial waits.
const SETTLED: Duration = Duration::from_secs(30);
/// Age at which a second connection to the same peer may go, and how often that is said again.
const SPARE_AGE: Duration = Duration::from_secs(30);
const SPARE_AGAIN: Duration = Duration::from_secs(60);
/// Connections beyond which those nobody here wants may go.
const ENOUGH: usize = 24;
/// How long the last error of a peer that is no longer wanted is remembered.
const MEMORY: Duration = Duration::from_secs(600);

/// Why a connection is wanted; the more urgent, the smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    Proxy,
    Wish,
    Relay,
    Neighbour,
}

/// Where a peer may be dialled.
pub(crate) struct Ways {
    pub direct: Vec<Multiaddr>,
    /// By the peer's word alone, and when those may be dialled if nobody waits.
    pub claimed: Vec<Multiaddr>,
    pub claimed_at: Duration,
    pub relayed: Vec<Multiaddr>,
}

/// A dial to begin.
pub(crate) struct Dial {
    pub peer: NodeId,
    pub addresses: Vec<Multiaddr>,
    pub relayed: bool,
    /// Some of it at the peer's word alone, for this reason, while nobody waits.
    pub claimed: Option<Reason>,
}

/// A member that could be a neighbour.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub node: NodeId,
    pub connected: bool,
    /// Connected, or believed to be up and not lately tried in vain.
    pub up: bool,
}

/// Dials under way and planned.
#[derive(Default)]
pub(crate) struct Paths {
    targets: BTreeMap<NodeId, Target>,
    chosen: BTreeMap<NetworkName, BTreeSet<NodeId>>,
    review_at: Option<Duration>,
    failures_in_row: u32,
    neighbours_at: Duration,
}

#[derive(Default)]
struct Target {
    failures: u32,
    next: Duration,
    dialling: Option<Duration>,
    last_try: Option<Duration>,
    wish_until: Option<Duration>,
    /// The wish is for a path over a relay, whatever other there is.
    relayed_until: Option<Duration>,
    last_error: Option<String>,
    /// Where the last good connection was dialled. Its record may not have said so yet.
    reached_at: Option<Multiaddr>,
    urgent: bool,
    circuit: Circuit,
}

/// Dials of one peer over relays, beside the direct ones.
#[derive(Default)]
struct Circuit {
    failures: u32,
    next: Duration,
    dialling: Option<Duration>,
    last_try: Option<Duration>,
}

impl Target {
    fn failed(&mut self, now: Duration, dice: &mut Dice) {
        let longest = if self.urgent { URGENT_PAUSE } else { LONGEST_PAUSE };
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(longest);
        self.failures = self.failures.saturating_add(1);
        self.next = now + dice.jitter(pause);
    }
}

impl Paths {
    /// Somebody local needs this peer: dial at once, unless that was just tried.
    pub fn wish(&mut self, peer: NodeId, now: Duration) {
        let target = self.targets.entry(peer).or_default();
        target.wish_until = Some(now + WISH);
        target.next = target.last_try.map_or(now, |tried| now.max(tried + FIRST_PAUSE));
        self.review_at(now);
    }

    /// Somebody local needs a path to this peer over a relay.
    pub fn wish_relayed(&mut self, peer: NodeId, now: Duration) {
        let target = self.targets.entry(peer).or_default();
        (target.wish_until, target.relayed_until) = (Some(now + WISH), Some(now + WISH));
        self.review_at(now);
    }

    /// Whether a path over a relay is wished for, and not there.
    pub fn wants_relayed(&self, peer: &NodeId, connections: &Connections, now: Duration) -> bool {
        let until = self.targets.get(peer).and_then(|target| target.relayed_until);
        until.is_some_and(|until| until > now) && !connections.has(peer, true)
    }

    /// Peers for whom a wish is alive.
    pub fn wishes(&self, now: Duration) -> impl Iterator<Item = &NodeId> {
        let alive = move |target: &Target| target.wish_until.is_some_and(|until| until > now);
        self.targets.iter().filter(move |(_, target)| alive(target)).map(|(peer, _)| peer)
    }

    pub fn connected(&mut self, peer: &NodeId, dialled: bool, relayed: bool, now: Duration) {
        self.failures_in_row = 0;
        self.neighbours_at = now;
        if let Some(target) = self.targets.get_mut(peer) {
            target.last_error = None;
            let dialling = if relayed { &mut target.circuit.dialling } else { &mut target.dialling };
            *dialling = dialling.filter(|_| !dialled);
        }
        self.review_at(now);
    }

    /// A connection proved useful: earlier failures are forgotten.
    pub fn joined(&mut self, peer: &NodeId) {
        if let Some(target) = self.targets.get_mut(peer) {
            target.failures = 0;
            target.circuit.failures = 0;
        }
    }

    /// No relay led to the peer. Direct dials go on as they were.
    pub fn circuit_failed(&mut self, peer: NodeId, reason: String, now: Duration, dice: &mut Dice) {
        let target = self.targets.entry(peer).or_default();
        let circuit = &mut target.circuit;
        circuit.dialling = None;
        let pause = FIRST_PAUSE.saturating_mul(1 << circuit.failures.min(10)).min(LONGEST_CIRCUIT_PAUSE);
        circuit.failures = circuit.failures.saturating_add(1);
        circuit.next = now + dice.jitter(pause);
        target.last_error.get_or_insert(reason);
        self.review_at(now);
    }

    /// A record that a peer has just made was heard: it is up, and may have its relays again.
    pub fn spoke(&mut self, peer: &NodeId, now: Duration) {
        let Some(target) = self.targets.get_mut(peer) else { return };
        let after = |last: Option<Duration>, pause| last.map_or(now, |last: Duration| now.max(last + pause));
        target.next = target.next.min(after(target.last_try, URGENT_PAUSE));
        target.circuit.next = target.circuit.next.min(after(target.circuit.last_try, FIRST_PAUSE));
        let next = target.next.min(target.circuit.next);
        self.review_at(next);
    }

    /// The last connection to a peer is gone.
    pub fn lost(&mut self, peer: NodeId, connection: &Connection, now: Duration, dice: &mut Dice) {
        let target = self.targets.entry(peer).or_default();
        if connection.dialled && !connection.relayed && !connection.joined.is_empty() {
            target.reached_at = Some(without_peer(&connection.address));
        }
        let lived = now.saturating_sub(connection.since);
        if !connection.joined.is_empty() && (target.urgent || lived >= SETTLED) {
            target.failures = 0;
            target.next = now + dice.millis(0, 300);
        } else {
            target.failed(now, dice);
        }
        self.review_at(now);
    }

    pub fn dial_failed(&mut self, peer: NodeId, reason: String, now: Duration, dice: &mut Dice) {
        let target = self.targets.entry(peer).or_default();
        target.dialling = None;
        target.last_error = Some(reason);
        target.failed(now, dice);
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        if let Some(over) = self.failures_in_row.checked_sub(CUT_OFF) {
            let pause = FIRST_PAUSE.saturating_mul(1 << over.min(8)).min(CUT_OFF_PAUSE);
            self.neighbours_at = now + dice.jitter(pause);
        }
        self.review_at(now);
    }

    /// Why the last dial of a peer failed, if none has succeeded since.
    pub fn last_error(&self, peer: &NodeId) -> Option<&str> {
        self.targets.get(peer)?.last_error.as_deref()
    }

    /// Whether the last attempts to reach a peer were in vain.
    pub fn is_resting(&self, peer: &NodeId) -> bool {
        self.targets.get(peer).is_some_and(|target| target.failures > 0)
    }

    /// The world may have changed (other addresses, a sleep): every pause is over.
    pub fn retry_all(&mut self, now: Duration) {
        for target in self.targets.values_mut() {
            target.failures = 0;
            target.next = now;
            (target.circuit.failures, target.circuit.next) = (0, now);
        }
        self.failures_in_row = 0;
        self.neighbours_at = now;
        self.review_at(now);
    }

    /// Asks for a review at `at`, or earlier.
    pub fn review_at(&mut self, at: Duration) {
        self.review_at = Some(self.review_at.map_or(at, |due| due.min(at)));
    }

    /// Whether a review is due; asking clears it.
    pub fn is_review_due(&mut self, now: Duration) -> bool {
        self.review_at.take_if(|at| *at <= now).is_some()
    }

    pub fn next(&self) -> Option<Duration> {
        self.review_at
    }

    pub fn forget(&mut self, network: &NetworkName) {
        self.chosen.remove(network);
    }

    /// The neighbours wanted in a network, of `others` in the order of their ids.
    pub fn neighbours(
        &mut self,
        network: &NetworkName,
        me: &NodeId,
        others: &[Candidate],
        dice: &mut Dice,
    ) -> BTreeSet<NodeId> {
        if others.len() <= MESH {
            return others.iter().map(|c| c.node).collect();
        }
        let start = others.partition_point(|c| c.node < *me);
        let mut ring = others[start..].iter().chain(&others[..start]);
        // The true successor, up or not, so that a network that fell apart grows together again; then the next one up.
        let mut wanted: BTreeSet<_> = others.get(start).or(others.first()).map(|c| c.node).into_iter().collect();
        wanted.extend(ring.find(|c| c.up).map(|c| c.node));
        let chosen = self.chosen.entry(network.clone()).or_default();
        choose(chosen, &wanted, others, dice);
        wanted.extend(chosen.iter().copied());
        wanted
    }

    /// Dials what is wanted and due. `ways` knows where a peer is.
    pub fn plan(
        &mut self,
        wants: &BTreeMap<NodeId, Reason>,
        connections: &Connections,
        ways: impl Fn(&NodeId) -> Ways,
        now: Duration,
    ) -> Vec<Dial> {
        self.forget_old(wants, now);
        let over_relay: BTreeSet<_> =
            wants.keys().filter(|peer| self.wants_relayed(peer, connections, now)).copied().collect();
        let lacking = |peer: &NodeId| !connections.is_connected(peer) || over_relay.contains(peer);
        let mut order: Vec<_> = wants.iter().filter(|(peer, _)| lacking(peer)).collect();
        order.sort_by_key(|(peer, reason)| (**reason, **peer));
        let mut running = self.targets.values().filter(|t| t.dialling.is_some()).count();
        let mut dials = Vec::new();
        for (peer, reason) in order {
            let Ways { mut direct, claimed, claimed_at, relayed } = ways(peer);
            let wished = self.targets.get(peer).and_then(|target| target.wish_until).is_some_and(|until| until > now);
            let claims = !claimed.is_empty() && (wished || claimed_at <= now);
            match claims {
                true => direct.extend(claimed),
                false if !claimed.is_empty() => self.review_at(claimed_at),
                false => {}
            }
            let reached_at = self.targets.get(peer).and_then(|target| target.reached_at.as_ref());
            direct.extend(reached_at.filter(|at| !direct.contains(at)).cloned());
            let alone = relayed.is_empty();
            let connected = connections.is_connected(peer);
            let at = self.dial_at(peer, *reason).filter(|_| !direct.is_empty() && !connected);
            match at {
                Some(at) if at > now => self.review_at(at),
                Some(_) if running < DIALS => {
                    running += 1;
                    let target = self.targets.entry(*peer).or_default();
                    (target.dialling, target.last_try) = (Some(now), Some(now));
                    let claimed = Some(*reason).filter(|_| claims && !wished);
                    dials.push(Dial { peer: *peer, addresses: direct, relayed: false, claimed });
                }
                Some(_) => self.review_at(now + DIAL_LOST),
                None => {}
            }
            if !alone && self.is_circuit_due(peer, now) {
                dials.push(Dial { peer: *peer, addresses: relayed, relayed: true, claimed: None });
            }
        }
        dials
    }

    /// Whether a dial over relays is to begin now: when a direct one has been going on for a moment, or rests. If so it
    /// counts as begun.
    fn is_circuit_due(&mut self, peer: &NodeId, now: Duration) -> bool {
        let target = self.targets.entry(*peer).or_default();
        if target.circuit.dialling.is_some() {
            return false;
        }
        let after_direct = target.dialling.map_or(now, |since| since + RELAY_AFTER);
        let at = target.circuit.next.max(after_direct);
        let due = at <= now;
        if due {
            (target.circuit.dialling, target.circuit.last_try) = (Some(now), Some(now));
        } else {
            self.review_at(at);
        }
        due
    }

    /// When a wanted peer may be dialled; none while it is being dialled.
    fn dial_at(&mut self, peer: &NodeId, reason: Reason) -> Option<Duration> {
        let neighbours_at = self.neighbours_at;
        let target = self.targets.entry(*peer).or_default();
        target.urgent = reason != Reason::Neighbour;
        if target.dialling.is_some() {
            return None;
        }
        if target.urgent {
            let soonest = target.last_try.unwrap_or_default() + URGENT_PAUSE;
            target.next = target.next.min(soonest);
            return Some(target.next);
        }
        Some(target.next.max(neighbours_at))
    }

    fn forget_old(&mut self, wants: &BTreeMap<NodeId, Reason>, now: Duration) {
        for target in self.targets.values_mut() {
            for dialling in [&mut target.dialling, &mut target.circuit.dialling] {
                *dialling = dialling.filter(|since| now.saturating_sub(*since) < DIAL_LOST);
            }
        }
        self.targets
            .retain(|peer, target| wants.contains_key(peer) || target.dialling.is_some() || target.next + MEMORY > now);
    }

    /// The connections that may be closed if idle; the next time to ask is noted.
    pub fn spares(
        &mut self,
        me: &NodeId,
        wants: &BTreeMap<NodeId, Reason>,
        connections: &mut Connections,
        now: Duration,
    ) -> Vec<ConnId> {
        let mut spare = doubles(me, connections);
        spare.extend(surplus(wants, connections));
        spare.extend(connections.iter().filter(|(_, c)| c.doubtful && !c.joined.is_empty()).map(|(id, _)| id));
        let mut close = Vec::new();
        for id in spare {
            let Some(connection) = connections.get_mut(id) else { continue };
            let first = if connection.doubtful { now } else { connection.since + SPARE_AGE };
            let due = connection.spare_since.map_or(first, |said| said + SPARE_AGAIN);
            if due <= now {
                connection.spare_since = Some(now);
                close.push(id);
            }
            self.review_at(due.max(now + SPARE_AGE));
        }
        close
    }
}

/// An address as records have it: whose it is goes without saying.
fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut address = address.clone();
    if let Some(Protocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    address
}

/// Keeps the chosen ones that are up, and fills their places: with members that are connected anyway where those are
/// many, else with any that are up, else with any at all.
fn choose(chosen: &mut BTreeSet<NodeId>, others_wanted: &BTreeSet<NodeId>, others: &[Candidate], dice: &mut Dice) {
    let up: BTreeSet<_> = others.iter().filter(|c| c.up).map(|c| c.node).collect();
    chosen.retain(|node| up.contains(node) && !others_wanted.contains(node));
    let many = others.iter().filter(|c| c.connected).count() >= MESH;
    let ranks: [&dyn Fn(&Candidate) -> bool; 3] = [&|c| many && c.connected, &|c| c.up, &|_| true];
    for rank in ranks {
        let free = others.iter().filter(|c| rank(c) && !others_wanted.contains(&c.node) && !chosen.contains(&c.node));
        let mut free: Vec<_> = free.map(|c| c.node).collect();
        while chosen.len() < CHOSEN {
            let Some(node) = dice.pick(&free) else { break };
            free.retain(|other| *other != node);
            chosen.insert(node);
        }
    }
}

/// Second connections to the same peer. Only the side with the smaller id judges, so that the two do not close one each.
fn doubles(me: &NodeId, connections: &Connections) -> Vec<ConnId> {
    let judged = connections.peers().filter(|(peer, ids)| ids.len() > 1 && me < *peer);
    let spare = judged.flat_map(|(peer, ids)| {
        let best = connections.best(peer).map(|(id, _)| id);
        ids.iter().copied().filter(move |id| Some(*id) != best)
    });
    spare.collect()
}

/// The youngest connections beyond [`ENOUGH`] that nobody here wants.
fn surplus(wants: &BTreeMap<NodeId, Reason>, connections: &Connections) -> Vec<ConnId> {
    let over = connections.len().saturating_sub(ENOUGH);
    let unwanted = connections.iter().filter(|(_, c)| !wants.contains_key(&c.peer) && !c.is_held());
    let mut unwanted: Vec<_> = unwanted.map(|(id, c)| (c.since, id)).collect();
    unwanted.sort();
    unwanted.into_iter().rev().take(over).map(|(_, id)| id).collect()
}

#[cfg(test)]
mod tests;
