//! From a connection to a member: asking for joins, taking them, and closing what belongs nowhere.

use std::time::Duration;

use hive_protocol::{NetworkName, NodeId, peer::JoinRefusal};

use crate::{
    ConnId, Core, Now, Output,
    connections::{Ask, Connection, Proof},
    register,
};

/// How long the side that was dialled leaves it to the dialler to ask.
const DIALLER_FIRST: Duration = Duration::from_secs(2);
/// How long a node that is asked to try later waits.
const LATER: Duration = Duration::from_secs(30);
/// How long the side that asked leaves it to the other to compare tables first: only that one knows that both joined.
const OTHER_COMPARES: Duration = Duration::from_millis(500);

impl Core {
    pub(crate) fn connected(&mut self, conn: ConnId, connection: Connection, now: Now) {
        let (peer, dialled) = (connection.peer, connection.dialled);
        self.connections.insert(conn, connection);
        if peer == self.own.id {
            self.close(conn, "connected to itself");
            return;
        }
        self.path.connected(&peer, dialled, now.mono);
        self.tables.values_mut().for_each(|table| table.set_lost(&peer, false));
        self.touch(&peer, true, now);
        for network in self.shared_networks(&peer) {
            self.plan_join(conn, &network, now);
        }
        for network in self.registrations.networks(&peer) {
            self.connections.ask(conn, &network, now.mono);
        }
    }

    pub(crate) fn disconnected(&mut self, conn: ConnId, now: Now) {
        let Some(gone) = self.connections.remove(conn) else { return };
        let peer = gone.peer;
        self.routes_changed |= !gone.joined.is_empty();
        self.touch(&peer, true, now);
        if self.connections.is_connected(&peer) {
            return;
        }
        if gone.spare_since.is_none() {
            self.tables.values_mut().for_each(|table| table.set_lost(&peer, true));
        }
        self.registrations.of(&peer).for_each(|registration| registration.dialled = false);
        self.path.lost(peer, &gone, now.mono, &mut self.dice);
    }

    pub(crate) fn dial_failed(&mut self, peer: NodeId, reason: String, now: Now) {
        let networks = self.registrations.networks(&peer);
        let tried: Vec<_> = self.registrations.of(&peer).map(|r| (r.dialled, r.identity.name.clone())).collect();
        for (network, (dialled, name)) in networks.iter().zip(tried) {
            if dialled && !self.connections.is_connected(&peer) {
                let failed = self.registrations.fail(network, &peer, register::unreachable(&name, &reason));
                failed.into_iter().for_each(|output| self.out.push(output));
            }
        }
        if !self.connections.is_connected(&peer) {
            self.tables.values_mut().for_each(|table| table.set_lost(&peer, true));
        }
        self.path.dial_failed(peer, reason, now.mono, &mut self.dice);
    }

    pub(crate) fn joined(&mut self, conn: ConnId, network: &NetworkName, old_password: bool, now: Now) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let peer = connection.peer;
        let Some(room) = self.networks.get_mut(network).filter(|n| !n.banned.contains(&peer)) else { return };
        room.taken_in(&peer);
        let asked = connection.asks.remove(network) == Some(Ask::Running);
        let proof = if old_password { Proof::Old } else { Proof::Current };
        let before = connection.joined.insert(network.clone(), proof);
        let early = connection.take_early(network);
        if before.is_none() {
            let wait = if asked { OTHER_COMPARES } else { Duration::ZERO };
            connection.compare_at.insert(network.clone(), now.mono + wait);
            self.path.joined(&peer);
            self.routes_changed = true;
        }
        self.registrations.joined(network, &peer, now.mono);
        self.complete_registration(network, &peer);
        early.into_iter().for_each(|message| self.synced(conn, message, now));
    }

    pub(crate) fn join_failed(&mut self, conn: ConnId, network: &NetworkName, refusal: Option<JoinRefusal>, now: Now) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.asks.remove(network);
        let (peer, joined) = (connection.peer, connection.joined.contains_key(network));
        let failed = self.registrations.fail(network, &peer, register::refused(network, refusal));
        failed.into_iter().for_each(|output| self.out.push(output));
        if joined || !self.is_member(network, &peer) {
            return;
        }
        let Some(room) = self.networks.get_mut(network) else { return };
        let again = match refusal {
            Some(JoinRefusal::TryLater) => now.mono + self.dice.jitter(LATER),
            _ => room.turned_down(peer, now.mono, &mut self.dice),
        };
        self.connections.ask(conn, network, again);
    }

    pub(crate) fn join_refused(&mut self, network: &NetworkName, now: Now) {
        if let Some(room) = self.networks.get_mut(network) {
            room.refused_here(now.mono);
        }
    }

    /// Plans to ask for a join, at the moment that suits this side of the connection and the peer's last answer.
    pub(crate) fn plan_join(&mut self, conn: ConnId, network: &NetworkName, now: Now) {
        let Some(connection) = self.connections.get(conn) else { return };
        let Some(room) = self.networks.get(network).filter(|n| !n.banned.contains(&connection.peer)) else { return };
        if connection.joined.get(network) == Some(&Proof::Current) {
            return;
        }
        let ours = if connection.dialled { now.mono } else { now.mono + DIALLER_FIRST };
        let at = room.turned_down_until(&connection.peer, now.mono).map_or(ours, |until| until.max(ours));
        self.connections.ask(conn, network, at);
    }

    /// Networks in whose tables a peer is a member that this node does not keep out.
    fn shared_networks(&self, peer: &NodeId) -> Vec<NetworkName> {
        self.networks.names().into_iter().filter(|network| self.is_member(network, peer)).collect()
    }

    pub(crate) fn is_member(&self, network: &NetworkName, node: &NodeId) -> bool {
        self.tables.get(network).is_some_and(|table| table.member(node).is_some())
            && !self.networks.is_banned(network, node)
    }

    pub(crate) fn ask_to_join(&mut self, now: Now) {
        for (conn, network) in self.connections.due_asks(now.mono) {
            self.out.push(Output::Join { conn, network });
        }
    }

    pub(crate) fn close_strangers(&mut self, now: Now) {
        for conn in self.connections.overdue(now.mono) {
            self.close(conn, "joined no network in time");
        }
    }

    pub(crate) fn close(&mut self, conn: ConnId, reason: &'static str) {
        if self.connections.close(conn) {
            self.out.push(Output::Close { conn, reason });
        }
    }

    /// Takes a network from the connections for which `which` holds, and closes those that have nothing left. The
    /// others are closed once idle: no message tells a peer that it was expelled, only its next join does.
    pub(crate) fn expel(
        &mut self,
        network: &NetworkName,
        reason: &'static str,
        now: Now,
        which: impl Fn(&Connection, Proof) -> bool,
    ) {
        let expelled = self.connections.expel(network, now.mono, which);
        self.routes_changed |= !expelled.is_empty();
        for conn in expelled {
            let Some(connection) = self.connections.get_mut(conn) else { continue };
            connection.doubtful = true;
            if connection.joined.is_empty() && !connection.is_held() {
                self.close(conn, reason);
            }
        }
        self.path.review_at(now.mono);
    }

    /// Connections that were joined by a password whose grace is over lose that network.
    pub(crate) fn end_old_passwords(&mut self, now: Now) {
        for network in self.networks.end_graces(now.wall, &mut self.out) {
            self.expel(&network, "joined by a password that has ended", now, |_, proof| proof == Proof::Old);
        }
    }

    pub(crate) fn complete_registration(&mut self, network: &NetworkName, peer: &NodeId) {
        let Some(table) = self.tables.get(network) else { return };
        let Some(entry) = table.member(peer) else { return };
        let members = crate::tables::count_members(&self.tables, network);
        let done = self.registrations.complete(network, peer, &entry.record.name, members);
        done.into_iter().for_each(|output| self.out.push(output));
    }
}

#[cfg(test)]
mod tests {
    use hive_protocol::{Identity, message::FailureCode, peer::JoinRefusal, peer::SyncMessage};

    use super::*;
    use crate::{Change, Event, testing::*};

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
        bench.tell(Event::Joined { conn, network: lab(), old_password: false });
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
        bench.tell(Event::Joined { conn, network: lab(), old_password: false });
        assert!(bench.core.problems(bench.now).is_empty());
    }

    #[test]
    fn a_message_that_overtakes_the_join_is_not_lost() {
        let mut bench = Bench::new();
        let conn = bench.connect(1, false);
        bench.hear_of(conn, 1, 5);
        assert_eq!(bench.names(), ["bench"], "not before the join");
        bench.tell(Event::Joined { conn, network: lab(), old_password: false });
        assert_eq!(bench.names(), ["bench", "peer1"]);
    }

    #[test]
    fn whoever_knows_that_both_joined_compares_tables() {
        let mut bench = Bench::new();
        let asked_by_peer = bench.member(1);
        assert!(matches!(bench.sent()[..], [(conn, SyncMessage::Compare { .. })] if conn == asked_by_peer));
        bench.hear_of(asked_by_peer, 2, 5);
        let asked_here = bench.connect(2, true);
        bench.tell(Event::Joined { conn: asked_here, network: lab(), old_password: false });
        assert!(bench.sent().is_empty(), "the other side knows first");
        bench.pass(secs(1));
        assert!(bench.sent().iter().any(|(conn, m)| *conn == asked_here && matches!(m, SyncMessage::Compare { .. })));
    }

    #[test]
    fn joins_by_the_old_password_end_with_its_grace() {
        let mut bench = Bench::new();
        let (late, early) = (bench.member(1), bench.member(2));
        bench.core.rotate(&lab(), secret(2), secs(60), bench.now).unwrap();
        assert_eq!(bench.core.join_secrets(&lab(), &id(1), bench.now), [secret(2), secret(1)]);
        bench.pass(secs(3));
        assert_eq!(bench.joins().len(), 2, "both are asked for the new one");
        bench.tell(Event::Joined { conn: early, network: lab(), old_password: false });
        refuse(&mut bench, late);
        assert!(bench.core.routes().joined(late, &lab()), "in grace");
        bench.pass(secs(60));
        assert_eq!(bench.core.join_secrets(&lab(), &id(1), bench.now), [secret(2)]);
        let routes = bench.core.routes();
        assert!(!routes.joined(late, &lab()) && routes.joined(early, &lab()));
        assert_eq!(bench.closes(), [late]);
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
        bench.tell(Event::Joined { conn, network: lab(), old_password: false });
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
        bench.tell(Event::DialFailed { peer: id(1), reason: "connection refused".into() });
        assert_eq!(registered(&bench), [Err(FailureCode::Unreachable)]);
        bench.pass(secs(60));
        begin(&mut bench);
        let conn = bench.connect(1, true);
        refuse(&mut bench, conn);
        assert_eq!(registered(&bench), [Err(FailureCode::NotAuthorised)]);
        begin(&mut bench);
        bench.pass(secs(19));
        assert!(registered(&bench).is_empty());
        bench.pass(secs(2));
        assert_eq!(registered(&bench), [Err(FailureCode::Unreachable)]);
        assert_eq!(bench.names(), ["bench"], "no other effect");
    }
}
