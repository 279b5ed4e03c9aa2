//! Reservations: through which other nodes this node can be reached while nobody can dial it.
//!
//! Two members that relay are held, on different nodes, the nearest by round trip of those connected. Whatever ends a
//! reservation (the relay is gone, refuses, or stops relaying) makes room for another one at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hive_protocol::NodeId;
use multiaddr::{Multiaddr, Protocol};

use crate::{Core, Now, Output, path::GATHER};

/// Relays that a node which cannot be dialled holds.
const HELD: usize = 2;
/// An answer takes a round trip; after this the relay counts as failing.
const ANSWER: Duration = Duration::from_secs(5);
/// How long too few relays among those connected are put up with before others are dialled for it: neighbours may be
/// under way.
const PUT_UP: Duration = Duration::from_secs(2);
const FIRST_REST: Duration = Duration::from_secs(5);
const LONGEST_REST: Duration = Duration::from_secs(300);

/// The relays held, asked and avoided.
#[derive(Default)]
pub(crate) struct Relays {
    held: BTreeMap<NodeId, Held>,
    /// Relays that failed: how often, and until when they are left alone.
    resting: BTreeMap<NodeId, (u32, Duration)>,
    /// Relays to be connected to, so that one can be held.
    pub wanted: BTreeSet<NodeId>,
    /// Since when those connected are too few.
    lacking: Option<Duration>,
}

struct Held {
    address: Multiaddr,
    asked: Duration,
    granted: bool,
}

impl Relays {
    /// The relays through which this node can be reached.
    pub fn granted(&self) -> impl Iterator<Item = &NodeId> {
        self.held.iter().filter(|(_, held)| held.granted).map(|(relay, _)| relay)
    }

    /// The addresses that say so.
    pub fn circuits(&self) -> Vec<Multiaddr> {
        let granted = self.held.iter().filter(|(_, held)| held.granted);
        granted.map(|(relay, held)| circuit(&held.address, relay)).collect()
    }

    fn rest(&mut self, relay: NodeId, now: Duration) {
        let (failures, until) = self.resting.entry(relay).or_default();
        *until = now + FIRST_REST.saturating_mul(1 << (*failures).min(10)).min(LONGEST_REST);
        *failures = failures.saturating_add(1);
    }

    fn is_resting(&self, relay: &NodeId, now: Duration) -> bool {
        self.resting.get(relay).is_some_and(|(_, until)| *until > now)
    }

    /// Gives up the relays that do not answer; the next moment to look again.
    fn expire(&mut self, now: Duration) -> Vec<NodeId> {
        let late = |held: &Held| !held.granted && held.asked + ANSWER <= now;
        let late: Vec<_> = self.held.iter().filter(|(_, held)| late(held)).map(|(relay, _)| *relay).collect();
        for relay in &late {
            self.held.remove(relay);
            self.rest(*relay, now);
        }
        late
    }

    fn next(&self, now: Duration) -> Option<Duration> {
        let answers = self.held.values().filter(|held| !held.granted).map(|held| held.asked + ANSWER);
        answers.chain(self.resting.values().map(|(_, until)| *until).filter(|until| *until > now)).min()
    }
}

/// `ADDRESS/p2p/RELAY/p2p-circuit`.
pub(crate) fn circuit(address: &Multiaddr, relay: &NodeId) -> Multiaddr {
    let bare: Multiaddr = address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect();
    bare.with(Protocol::P2p(relay.to_peer_id())).with(Protocol::P2pCircuit)
}

impl Core {
    /// Brings the reservations in line with what is needed and what there is.
    pub(crate) fn review_relays(&mut self, now: Now) {
        let before = self.relays.circuits();
        for relay in self.relays.expire(now.mono) {
            self.out.push(Output::Unreserve { relay });
        }
        let known = self.known_relays(now);
        self.drop_relays(&known);
        if self.needs_relays() {
            self.reserve(&known, now);
        }
        self.relays.next(now.mono).into_iter().for_each(|at| self.path.review_at(at));
        if self.relays.circuits() != before {
            self.publish_circuits(now);
        }
    }

    fn needs_relays(&self) -> bool {
        !self.reach.is_public4()
    }

    /// Members that relay, with the round trip and address of a direct connection to each, if there is one.
    fn known_relays(&self, now: Now) -> BTreeMap<NodeId, Option<(Duration, Multiaddr)>> {
        let mut known = BTreeMap::new();
        for (network, table) in &self.tables {
            let relaying = table.members().filter(|(node, entry)| {
                entry.head().relay && **node != self.own.id && self.is_online(node, entry, now)
            });
            let admitted = relaying.filter(|(node, _)| !self.networks.is_banned(network, node));
            known.extend(admitted.map(|(node, _)| (*node, self.way_to_relay(node))));
        }
        known
    }

    fn way_to_relay(&self, relay: &NodeId) -> Option<(Duration, Multiaddr)> {
        let direct = self.connections.of(relay).filter(|(_, c)| !c.relayed && !c.joined.is_empty());
        direct.map(|(_, c)| (c.rtt.unwrap_or(Duration::MAX), c.address.clone())).min_by_key(|(rtt, _)| *rtt)
    }

    /// Lets go of relays that are gone, relay no more, or are not needed.
    fn drop_relays(&mut self, known: &BTreeMap<NodeId, Option<(Duration, Multiaddr)>>) {
        let needed = self.needs_relays();
        let useful = |relay: &NodeId| needed && known.get(relay).is_some_and(Option::is_some);
        let gone: Vec<_> = self.relays.held.keys().filter(|relay| !useful(relay)).copied().collect();
        for relay in gone {
            self.relays.held.remove(&relay);
            self.out.push(Output::Unreserve { relay });
        }
        self.relays.wanted.clear();
    }

    fn reserve(&mut self, known: &BTreeMap<NodeId, Option<(Duration, Multiaddr)>>, now: Now) {
        let free = |relay: &NodeId| !self.relays.held.contains_key(relay) && !self.relays.is_resting(relay, now.mono);
        let near = |(relay, way): (&NodeId, &Option<(Duration, Multiaddr)>)| {
            way.clone().map(|(rtt, address)| (rtt, *relay, address))
        };
        let mut ready: Vec<_> = known.iter().filter(|(relay, _)| free(relay)).filter_map(near).collect();
        ready.sort_by_key(|(rtt, relay, _)| (*rtt, *relay));
        let missing = HELD.saturating_sub(self.relays.held.len());
        let far: Vec<_> = known.iter().filter(|(relay, way)| way.is_none() && free(relay)).map(|(r, _)| *r).collect();
        for (_, relay, address) in ready.into_iter().take(missing) {
            let held = Held { address: address.clone(), asked: now.mono, granted: false };
            self.relays.held.insert(relay, held);
            self.out.push(Output::Reserve { relay, address: circuit(&address, &relay) });
        }
        let missing = HELD.saturating_sub(self.relays.held.len());
        self.want_more(missing, far, now);
    }

    /// Has relays dialled, if those connected have been too few for a while.
    fn want_more(&mut self, missing: usize, far: Vec<NodeId>, now: Now) {
        if missing == 0 || far.is_empty() {
            self.relays.lacking = None;
            return;
        }
        let at = *self.relays.lacking.get_or_insert(now.mono) + PUT_UP;
        if at > now.mono {
            return self.path.review_at(at);
        }
        // Those that were up when last heard of, first.
        let (tired, fresh): (Vec<_>, Vec<_>) = far.into_iter().partition(|relay| self.path.is_resting(relay));
        self.relays.wanted = fresh.into_iter().chain(tired).take(missing).collect();
    }

    /// A relay holds a reservation for this node.
    pub(crate) fn reserved(&mut self, relay: NodeId, now: Now) {
        let Some(held) = self.relays.held.get_mut(&relay) else { return };
        let news = !std::mem::replace(&mut held.granted, true);
        self.relays.resting.remove(&relay);
        if news {
            self.publish_circuits(now);
        }
    }

    /// A reservation ended, or was refused.
    pub(crate) fn reservation_lost(&mut self, relay: NodeId, now: Now) {
        let Some(held) = self.relays.held.remove(&relay) else { return };
        self.relays.rest(relay, now.mono);
        self.path.review_at(now.mono + GATHER);
        if held.granted {
            self.publish_circuits(now);
        }
    }

    fn publish_circuits(&mut self, now: Now) {
        if self.own.set_circuits(self.relays.circuits()) {
            self.own.changed(now.mono);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, testing::*};

    /// A member that relays, connected, with this round trip.
    fn relay(bench: &mut Bench, n: u8, rtt: Duration) -> crate::ConnId {
        let conn = bench.member(n);
        let record = hive_protocol::PeerRecord { relay: true, ..said_by(n, 5) };
        bench.tell(Event::RoundTrip { conn, rtt });
        bench.hear_record(conn, signed(n, &record));
        bench.pass(millis(300));
        conn
    }

    fn asked(bench: &Bench) -> Vec<NodeId> {
        bench.find(|output| if let Output::Reserve { relay, .. } = output { Some(*relay) } else { None })
    }

    fn circuits(bench: &Bench) -> usize {
        bench.core.addresses().iter().filter(|address| crate::reach::is_relayed(address)).count()
    }

    #[test]
    fn two_relays_are_held_and_published_once_they_agree() {
        let mut bench = Bench::new();
        relay(&mut bench, 1, millis(50));
        assert_eq!(asked(&bench), [id(1)]);
        relay(&mut bench, 2, millis(5));
        assert_eq!(asked(&bench), [id(2)]);
        relay(&mut bench, 3, millis(1));
        assert!(asked(&bench).is_empty(), "two are enough");
        assert_eq!(circuits(&bench), 0);
        bench.tell(Event::Reserved { relay: id(1) });
        assert_eq!(circuits(&bench), 1);
    }

    #[test]
    fn a_relay_that_dies_is_replaced_at_once_and_withdrawn() {
        let mut bench = Bench::new();
        let first = relay(&mut bench, 1, millis(1));
        relay(&mut bench, 2, millis(5));
        relay(&mut bench, 3, millis(9));
        bench.tell(Event::Reserved { relay: id(1) });
        bench.tell(Event::Disconnected { conn: first });
        let mut next = asked(&bench);
        bench.pass(millis(300));
        next.extend(asked(&bench));
        assert_eq!((next, circuits(&bench)), (vec![id(3)], 0));
    }

    #[test]
    fn a_relay_that_refuses_or_is_silent_rests() {
        let mut bench = Bench::new();
        relay(&mut bench, 1, millis(1));
        bench.tell(Event::ReservationLost { relay: id(1) });
        assert!(asked(&bench).is_empty());
        bench.pass(secs(6));
        assert_eq!(asked(&bench), [id(1)]);
        bench.pass(secs(4));
        assert!(asked(&bench).is_empty(), "not answered yet");
        bench.pass(secs(13));
        assert_eq!(asked(&bench), [id(1)], "silent for 5 s, left alone for 10");
    }

    #[test]
    fn a_node_that_can_be_dialled_needs_no_relay() {
        let mut bench = Bench::new();
        relay(&mut bench, 1, millis(1));
        bench.tell(Event::Reserved { relay: id(1) });
        let conn = bench.connect_from(2, false, "/ip4/198.51.100.3/tcp/4180".parse().unwrap());
        bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
        bench.pass(millis(300));
        let dropped = bench.find(|o| if let Output::Unreserve { relay } = o { Some(*relay) } else { None });
        assert_eq!((dropped, circuits(&bench)), (vec![id(1)], 0));
    }

    #[test]
    fn a_relay_that_is_not_connected_is_wanted() {
        let mut bench = Bench::new();
        let helper = bench.member(9);
        let record = hive_protocol::PeerRecord { relay: true, ..said_by(1, 5) };
        bench.hear_record(helper, signed(1, &record));
        bench.pass(millis(300));
        assert!(bench.core.relays.wanted.is_empty(), "a neighbour that relays may come by itself");
        bench.pass(secs(3));
        assert!(bench.core.relays.wanted.contains(&id(1)));
    }
}
