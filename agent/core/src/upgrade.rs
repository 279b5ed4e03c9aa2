//! Back to a better path: peers that are reached over a relay, or by QUIC alone, are dialled again now and then.
//!
//! A path is what the network allowed when it was made. A firewall is opened, a cut link heals, a port is forwarded, and
//! nothing tells this node: so it tries, ever more rarely, and anew when something does tell. The worse path stays as it
//! is meanwhile; what comes of an attempt is a connection like any other.

use std::{collections::BTreeMap, time::Duration};

use hive_protocol::NodeId;

use crate::{
    Core, Now, Output,
    connections::{Connection, is_quic},
    dialling::addresses_of,
    met::Sorted,
    outbox::Dice,
    path::Reason,
};

/// Pauses before the first attempts; the dial that found the worse path has just failed at the better one.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(3), Duration::from_secs(10), Duration::from_secs(30), Duration::from_secs(90)];
/// Between later ones, at addresses where the peer was met; others are for [`crate::met`] to allow.
const LATER: Duration = Duration::from_secs(120);
/// Between attempts where somebody waits.
const HASTE: Duration = Duration::from_secs(2);

/// The peers whose path could be better.
#[derive(Default)]
pub(crate) struct Upgrades(BTreeMap<NodeId, Attempts>);

#[derive(Default)]
struct Attempts {
    tries: usize,
    last: Option<Duration>,
    due: Option<Duration>,
    /// Somebody waits.
    hasty: bool,
}

impl Upgrades {
    /// Something changed between this node and a peer: attempts begin anew.
    pub fn restart(&mut self, peer: &NodeId) {
        self.0.remove(peer);
    }

    /// Something changed here.
    pub fn restart_all(&mut self) {
        self.0.clear();
    }
}

impl Attempts {
    /// When the next one is due; planned if it was not.
    fn plan(&mut self, now: Duration, dice: &mut Dice) -> Duration {
        let pause = PAUSES.get(self.tries).copied().unwrap_or(LATER);
        *self.due.get_or_insert_with(|| now + dice.jitter(pause))
    }

    fn tried(&mut self, now: Duration) {
        self.tries = self.tries.saturating_add(1);
        (self.last, self.due, self.hasty) = (Some(now), None, false);
    }
}

impl Core {
    /// Tries what is due of the wanted peers, and plans the rest.
    pub(crate) fn upgrade_due(&mut self, wants: &BTreeMap<NodeId, Reason>, now: Now) {
        let better: BTreeMap<_, _> = wants.keys().filter_map(|peer| Some((*peer, self.better(peer)?))).collect();
        self.upgrades.0.retain(|peer, _| better.contains_key(peer));
        for (peer, Sorted { known, claimed }) in better {
            let attempts = self.upgrades.0.entry(peer).or_default();
            let (due, hasty) = (attempts.plan(now.mono, &mut self.dice), attempts.hasty);
            let claimed_at = if hasty { now.mono } else { self.met.claims_due(&peer) };
            let due = if known.is_empty() { due.max(claimed_at) } else { due };
            if due > now.mono {
                self.path.review_at(due);
                continue;
            }
            attempts.tried(now.mono);
            self.path.review_at(attempts.plan(now.mono, &mut self.dice));
            let claims = !claimed.is_empty() && claimed_at <= now.mono;
            if let Some(reason) = wants.get(&peer).filter(|_| claims && !hasty) {
                self.met.dialled_at_claims(peer, *reason, now.mono);
            }
            let addresses = known.into_iter().chain(claimed.into_iter().filter(|_| claims)).collect();
            self.out.push(Output::Upgrade { peer, addresses });
        }
    }

    /// Somebody waits for a direct path to a peer: the next attempt is now, unless one was just made.
    pub(crate) fn upgrade_now(&mut self, peer: NodeId, now: Now) {
        let attempts = self.upgrades.0.entry(peer).or_default();
        attempts.hasty = true;
        attempts.due = Some(attempts.last.map_or(now.mono, |last| now.mono.max(last + HASTE)));
        self.path.review_at(now.mono);
    }

    /// Where a better path to a connected peer may lead: anywhere without a relay, or over TCP where it is direct already.
    /// None where there is no better one.
    fn better(&self, peer: &NodeId) -> Option<Sorted> {
        let joined = || self.connections.of(peer).map(|(_, c)| c).filter(|c| !c.joined.is_empty());
        // One that most likely leads nowhere counts while there is no other.
        let alive = joined().any(|c| !c.is_past());
        let joined: Vec<&Connection> = joined().filter(|c| !(alive && c.is_past())).collect();
        let direct = joined.iter().any(|c| !c.relayed);
        if joined.is_empty() || joined.iter().any(|c| !c.relayed && !c.is_quic()) {
            return None;
        }
        let recorded = addresses_of(&self.tables, None, peer).into_iter().filter(|at| !(direct && is_quic(at)));
        let sorted = self.met.sort(peer, recorded, self.own.is_local());
        Some(sorted).filter(|sorted| *sorted != Sorted::default())
    }
}

#[cfg(test)]
mod tests {
    use hive_protocol::{PathRule, PeerRecord};

    use super::*;
    use crate::{ConnId, Event, testing::*};

    /// A member with addresses for TCP and QUIC, reached in this way.
    fn reached(from: &str, relayed: bool) -> (Bench, ConnId) {
        let mut bench = Bench::new();
        let conn = if relayed {
            bench.connect_over(1, true, true)
        } else {
            bench.connect_from(1, true, from.parse().unwrap())
        };
        bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
        let addresses = vec![address(1), "/ip4/192.0.2.1/udp/4180/quic-v1".parse().unwrap()];
        bench.hear_record(conn, signed(1, &PeerRecord { addresses, ..said_by(1, 5) }));
        (bench, conn)
    }

    /// The attempts of the next seconds: how many, and at how many addresses the last.
    fn attempts(bench: &mut Bench, seconds: u64) -> (usize, usize) {
        bench.pass(secs(seconds));
        let found =
            bench.find(|o| if let Output::Upgrade { addresses, .. } = o { Some(addresses.len()) } else { None });
        (found.len(), found.last().copied().unwrap_or(0))
    }

    #[test]
    fn a_relayed_peer_is_dialled_directly_ever_more_rarely() {
        let (mut bench, _) = reached("", true);
        assert_eq!(attempts(&mut bench, 4), (1, 2));
        let (many, _) = attempts(&mut bench, 600);
        assert!((3..=8).contains(&many), "{many}");
        bench.tell(Event::Addresses(vec![address(0), address(9)]));
        assert_eq!(attempts(&mut bench, 4).0, 1, "this node moved: at once again");
    }

    #[test]
    fn where_a_peer_was_never_met_it_is_dialled_once_an_hour_in_the_end() {
        let (mut bench, conn) = reached("", true);
        let _ = attempts(&mut bench, 3 * 3600);
        assert!((9..=11).contains(&attempts(&mut bench, 10 * 3600).0));
        let addresses = vec![address(1), address(2)];
        bench.hear_record(conn, signed(1, &PeerRecord { addresses, ..said_by(1, 6) }));
        assert_eq!(attempts(&mut bench, 600).0, 0, "a new record buys nothing");
        let direct = bench.connect_from(1, false, "/ip4/192.0.2.2/tcp/50000".parse().unwrap());
        bench.tell(Event::Joined { conn: direct, network: lab(), secret: secret(1) });
        bench.tell(Event::Disconnected { conn: direct });
        assert_eq!(attempts(&mut bench, 4), (1, 2), "where it came from, and its word counts once more");
        assert!(attempts(&mut bench, 3600).0 > 25, "every two minutes");
    }

    #[test]
    fn a_peer_on_quic_alone_is_dialled_over_tcp_until_that_is_there() {
        let (mut bench, _) = reached("/ip4/192.0.2.1/udp/4180/quic-v1", false);
        assert_eq!(attempts(&mut bench, 4), (1, 1));
        let conn = bench.connect_from(1, true, address(1));
        bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
        assert_eq!(attempts(&mut bench, 600).0, 0);
        bench.tell(Event::Disconnected { conn });
        assert_eq!(attempts(&mut bench, 4).0, 1, "the better path is gone: it begins anew");
    }

    #[test]
    fn a_direct_path_over_tcp_cannot_be_bettered() {
        let (mut bench, _) = reached("/ip4/192.0.2.1/tcp/4180", false);
        assert_eq!(attempts(&mut bench, 600).0, 0);
    }

    #[test]
    fn who_waits_for_a_direct_path_gets_an_attempt_and_a_punch_at_once() {
        let (mut bench, _) = reached("", true);
        let _ = attempts(&mut bench, 1000);
        let wanted = || Event::Wanted { peer: id(1), paths: PathRule::Direct };
        bench.tell(wanted());
        let dials = bench.find(|o| matches!(o, Output::Upgrade { .. }).then_some(()));
        let punches = bench.find(|o| matches!(o, Output::Punch { .. }).then_some(()));
        assert_eq!((dials.len(), punches.len()), (1, 1), "though the other end leads the punches");
        bench.tell(wanted());
        bench.pass(secs(1));
        assert!(bench.find(|o| matches!(o, Output::Upgrade { .. }).then_some(())).is_empty(), "one was just made");
    }
}
