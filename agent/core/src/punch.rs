//! From a relayed connection to a direct one: when to try a hole punch, and with what.
//!
//! Of the two ends of a relayed connection the one that was dialled begins, so that they do not try one each. A direct
//! connection to the same peer ends the attempts; when it is lost they begin again. What runs over the relay stays there.

use std::time::Duration;

use hive_protocol::NodeId;
use multiaddr::Multiaddr;

use crate::{
    ConnId, Core, Now, Output,
    reach::{Mapping, relay_of},
};

/// Pauses after the first attempts. The second comes soon, with the parts swapped: where one end's port cannot be
/// foreseen, that end must be the one that speaks first. A third waits until all dials of the first have ended.
const PAUSES: [Duration; 3] = [Duration::from_millis(2500), Duration::from_secs(16), Duration::from_secs(45)];
/// Between later attempts: a router may have been replaced, or a laptop carried home.
const LATER: Duration = Duration::from_secs(300);
/// Between attempts where somebody waits: all dials of one have ended by then.
const HASTE: Duration = Duration::from_secs(5);
/// How often a peer may make this node dial.
const AT_MOST: Duration = Duration::from_secs(2);

/// The attempts of one relayed connection.
#[derive(Debug, Default)]
pub(crate) struct Punches {
    pub due: Option<Duration>,
    tries: usize,
    last: Option<Duration>,
    answered: Option<Duration>,
}

impl Punches {
    /// Begins anew: something changed.
    pub fn restart(&mut self, now: Duration) {
        self.tries = 0;
        self.due = Some(now);
    }

    /// Tries now, unless it just did or is about to.
    fn hasten(&mut self, now: Duration) {
        let soonest = self.last.map_or(now, |last| now.max(last + HASTE));
        self.due = Some(self.due.map_or(soonest, |due| due.min(soonest)));
    }

    fn tried(&mut self, now: Duration) {
        self.last = Some(now);
        self.due = Some(now + PAUSES.get(self.tries).copied().unwrap_or(LATER));
        self.tries = self.tries.saturating_add(1);
    }
}

impl Core {
    /// Tries what is due.
    pub(crate) fn punch_due(&mut self, now: Now) {
        for (conn, peer) in self.connections.due_punches(now.mono) {
            let direct = self.connections.of(&peer).any(|(_, c)| !c.relayed && !c.is_past() && !c.joined.is_empty());
            let Some(connection) = self.connections.get_mut(conn) else { continue };
            if direct {
                connection.punches.due = None;
                continue;
            }
            if !self.met.may_punch(peer, now.mono) {
                connection.punches.due = Some(now.mono + AT_MOST);
                continue;
            }
            let speak_first = connection.punches.tries % 2 == 1;
            connection.punches.tried(now.mono);
            self.reach.punching(peer, now.mono);
            self.out.push(Output::Punch { conn, addresses: self.punch_candidates(), speak_first });
        }
    }

    /// The peer at the other end of a relayed connection begins a hole punch: where this node may be reached. None where
    /// that is not its right, or too soon.
    #[must_use]
    pub fn answer_punch(&mut self, conn: ConnId, now: Now) -> Option<Vec<Multiaddr>> {
        let connection = self.connections.get_mut(conn).filter(|c| c.relayed && !c.joined.is_empty())?;
        let early = connection.punches.answered.is_some_and(|before| now.mono < before + AT_MOST);
        if early {
            return None;
        }
        let peer = connection.peer;
        if !self.met.may_punch(peer, now.mono) {
            return None;
        }
        connection.punches.answered = Some(now.mono);
        self.reach.punching(peer, now.mono);
        Some(self.punch_candidates())
    }

    /// The node that carries the path to a peer, if one does.
    pub(crate) fn relayed_by(&self, peer: &NodeId) -> Option<NodeId> {
        let (_, connection) = self.connections.best(peer).filter(|(_, c)| c.relayed)?;
        relay_of(&connection.address)
    }

    /// Why the path to a peer is not direct, as far as this node saw it.
    pub(crate) fn why_relayed(&self, peer: &NodeId) -> Option<String> {
        let (_, connection) = self.connections.best(peer).filter(|(_, c)| c.relayed)?;
        let why = match (self.mapping(), connection.punches.tries) {
            (Mapping::Dependent, _) => {
                "this node's router uses another port for every destination (symmetric NAT)".into()
            }
            (_, 0) if connection.dialled => "the other node leads the hole punches, none came through so far".into(),
            (_, 0) => "a hole punch is about to begin".into(),
            (_, tries) => format!("{tries} hole punches did not come through"),
        };
        Some(why)
    }

    /// Somebody waits for a direct path to a peer: whichever end this is, it tries now, unless it just did.
    pub(crate) fn punch_now(&mut self, peer: &NodeId, now: Now) {
        for connection in self.connections.of_mut(peer).filter(|c| c.relayed && !c.joined.is_empty()) {
            connection.punches.hasten(now.mono);
        }
    }

    /// Every attempt begins anew: the addresses changed, or a direct connection was lost.
    pub(crate) fn restart_punches(&mut self, now: Now, which: impl Fn(&crate::connections::Connection) -> bool) {
        self.connections.restart_punches(now.mono, which);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, testing::*};

    fn punches(bench: &Bench) -> usize {
        bench.find(|output| matches!(output, Output::Punch { .. }).then_some(())).len()
    }

    fn relayed_member(bench: &mut Bench, dialled: bool) -> ConnId {
        let conn = bench.connect_over(1, dialled, true);
        bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
        conn
    }

    #[test]
    fn a_peer_that_dials_again_has_lost_what_it_had() {
        let mut bench = Bench::new();
        let direct = bench.member(1);
        let young = relayed_member(&mut bench, false);
        let path = |bench: &Bench| bench.core.routes().path(&lab(), &id(1), hive_protocol::PathRule::Any);
        assert_eq!((path(&bench), punches(&bench)), (Some(direct), 0), "both were being made at once");
        bench.tell(Event::Disconnected { conn: young });
        bench.pass(secs(30));
        let relayed = relayed_member(&mut bench, false);
        assert_eq!((path(&bench), punches(&bench)), (Some(relayed), 1));
        bench.pass(secs(30));
        let again = relayed_member(&mut bench, false);
        assert_eq!(path(&bench), Some(again), "the circuit before is as dead");
        bench.hear_of(direct, 1, 5);
        assert_eq!(path(&bench), Some(direct), "it speaks: the peer only wanted one more");
    }

    #[test]
    fn the_side_that_was_dialled_punches_until_a_direct_connection_is_there() {
        let mut bench = Bench::new();
        relayed_member(&mut bench, false);
        assert_eq!(punches(&bench), 1);
        bench.pass(secs(30));
        assert_eq!(punches(&bench), 2, "after 2.5 and 18.5 s");
        let direct = bench.connect(1, false);
        bench.tell(Event::Joined { conn: direct, network: lab(), secret: secret(1) });
        bench.pass(secs(600));
        assert_eq!(punches(&bench), 0);
        bench.tell(Event::Disconnected { conn: direct });
        assert_eq!(punches(&bench), 1, "direct again by itself");
    }

    #[test]
    fn the_dialler_only_answers_and_not_too_often() {
        let mut bench = Bench::new();
        let conn = relayed_member(&mut bench, true);
        bench.pass(secs(60));
        assert_eq!(punches(&bench), 0);
        assert!(bench.core.answer_punch(conn, bench.now).is_some());
        assert!(bench.core.answer_punch(conn, bench.now).is_none());
        let direct = bench.member(2);
        assert!(bench.core.answer_punch(direct, bench.now).is_none(), "not over a relay");
    }

    #[test]
    fn new_addresses_are_tried_at_once() {
        let mut bench = Bench::new();
        relayed_member(&mut bench, false);
        bench.pass(secs(100));
        bench.tell(Event::Addresses(vec![address(77)]));
        assert_eq!(punches(&bench), 1);
    }
}
