//! Penalties against guessing passwords: how many attempts a source has, and how long it waits after them.
//!
//! Every attempt to join or log in counts as failed until it succeeds. A peer and an IP prefix each have a few
//! attempts free, then waits that double; all strangers together share one budget. Whoever proved a password before is
//! judged by its own failures alone, so no stranger can lock a member out. Each password has a [`Guard`] of its own:
//! whoever proves one is no better placed to guess another. Nothing here is stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use hive_protocol::{NetworkName, NodeId};

use crate::{Purpose, Source};

/// Failures a source has before it waits.
const FREE: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// Quiet time for which one failure is forgiven.
const FORGIVEN_AFTER: Duration = Duration::from_secs(300);
/// Most sources remembered of each kind.
const SOURCES: usize = 4096;
/// Attempts that all strangers together have at once, and how fast they come back.
const TOTAL: u32 = 64;
const TOTAL_REFILL: Duration = Duration::from_secs(2);

/// One guard for each password of the node. Attempts at networks that it does not have share one.
#[derive(Default)]
pub(crate) struct Guards {
    login: Guard,
    networks: BTreeMap<NetworkName, Guard>,
    elsewhere: Guard,
}

impl Guards {
    /// The guard of what an attempt is for. `known` says whether the node has the network named.
    pub fn of(&mut self, purpose: &Purpose, known: impl Fn(&NetworkName) -> bool) -> &mut Guard {
        match purpose {
            Purpose::Login => &mut self.login,
            Purpose::Join(network) if known(network) => self.networks.entry(network.clone()).or_default(),
            Purpose::Join(_) => &mut self.elsewhere,
        }
    }

    /// The node has left a network.
    pub fn forget(&mut self, network: &NetworkName) {
        self.networks.remove(network);
    }
}

/// Judges attempts at one password.
#[derive(Default)]
pub(crate) struct Guard {
    peers: Sources<NodeId>,
    prefixes: Sources<Prefix>,
    total: Total,
    proven: BTreeSet<NodeId>,
}

/// The part of an IP address that one customer of a network has: all of IPv4, half of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Prefix {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl From<IpAddr> for Prefix {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let mut half = [0; 8];
                half.copy_from_slice(&v6.octets()[..8]);
                Self::V6(half)
            }
        }
    }
}

impl Guard {
    /// Counts an attempt, or says how long its source has to wait.
    pub fn attempt(&mut self, source: Source, now: Duration) -> Result<(), Duration> {
        let peer = source.peer;
        let stranger = peer.is_none_or(|p| !self.proven.contains(&p));
        let prefix = source.ip.map(Prefix::from).filter(|_| stranger);
        let waits = [
            peer.and_then(|p| self.peers.wait(&p, now)),
            prefix.and_then(|p| self.prefixes.wait(&p, now)),
            stranger.then(|| self.total.wait(now)).flatten(),
        ];
        if let Some(longest) = waits.into_iter().flatten().max() {
            return Err(longest);
        }
        if let Some(peer) = peer {
            self.peers.failed(peer, now);
        }
        if let Some(prefix) = prefix {
            self.prefixes.failed(prefix, now);
        }
        if stranger {
            self.total.failed(now);
        }
        Ok(())
    }

    /// Gives an attempt back: it succeeded. Earlier failures stay until time forgives them, or a member could guess in
    /// between.
    pub fn succeeded(&mut self, source: Source, now: Duration) {
        let stranger = source.peer.is_none_or(|p| !self.proven.contains(&p));
        if stranger {
            self.total.give_back(now);
        }
        if let Some(ip) = source.ip.filter(|_| stranger) {
            self.prefixes.give_back(&ip.into(), now);
        }
        if let Some(peer) = source.peer {
            self.peers.give_back(&peer, now);
            self.remember(peer);
        }
    }

    fn remember(&mut self, peer: NodeId) {
        if self.proven.len() >= SOURCES && !self.proven.contains(&peer) {
            self.proven.pop_first();
        }
        self.proven.insert(peer);
    }
}

/// The failures of one kind of source.
struct Sources<K>(BTreeMap<K, Failures>);

impl<K> Default for Sources<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    /// Until when the source waits; also the moment from which it is quiet.
    until: Duration,
}

impl Failures {
    fn forgiven(self, now: Duration) -> Self {
        let quiet = now.saturating_sub(self.until);
        let steps = u32::try_from(quiet.as_secs() / FORGIVEN_AFTER.as_secs()).unwrap_or(u32::MAX);
        if steps == 0 {
            return self;
        }
        Self { count: self.count.saturating_sub(steps), until: self.until + FORGIVEN_AFTER * steps }
    }
}

impl<K: Copy + Ord> Sources<K> {
    fn wait(&self, source: &K, now: Duration) -> Option<Duration> {
        let wait = self.0.get(source)?.until.checked_sub(now)?;
        (!wait.is_zero()).then_some(wait)
    }

    fn failed(&mut self, source: K, now: Duration) {
        let before = self.0.get(&source).map_or(0, |f| f.forgiven(now).count);
        if before == 0 && self.0.len() >= SOURCES && !self.0.contains_key(&source) {
            self.forget_one();
        }
        let count = before + 1;
        self.0.insert(source, Failures { count, until: now + penalty(count) });
    }

    fn give_back(&mut self, source: &K, now: Duration) {
        let Some(failures) = self.0.get_mut(source) else { return };
        *failures = Failures { count: failures.count.saturating_sub(1), until: now };
        if failures.count == 0 {
            self.0.remove(source);
        }
    }

    /// Makes room by forgetting the source that failed least, and longest ago.
    fn forget_one(&mut self) {
        let least = self.0.iter().min_by_key(|(_, f)| (f.count, f.until)).map(|(k, _)| *k);
        least.and_then(|k| self.0.remove(&k));
    }
}

fn penalty(failures: u32) -> Duration {
    match failures.checked_sub(FREE) {
        None => Duration::ZERO,
        Some(over) => FIRST_WAIT.saturating_mul(1 << over.min(16)).min(LONGEST_WAIT),
    }
}

/// One bucket for all who have proven nothing.
#[derive(Default)]
struct Total {
    used: u32,
    since: Duration,
}

impl Total {
    fn wait(&mut self, now: Duration) -> Option<Duration> {
        self.refill(now);
        (self.used >= TOTAL).then(|| (self.since + TOTAL_REFILL).saturating_sub(now))
    }

    fn failed(&mut self, now: Duration) {
        self.refill(now);
        self.used += 1;
    }

    fn give_back(&mut self, now: Duration) {
        self.refill(now);
        self.used = self.used.saturating_sub(1);
    }

    fn refill(&mut self, now: Duration) {
        let steps = now.saturating_sub(self.since).as_millis() / TOTAL_REFILL.as_millis();
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.used = self.used.saturating_sub(steps);
        self.since = if self.used == 0 { now } else { self.since + TOTAL_REFILL * steps };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u16) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    fn at(n: u16, ip: &str) -> Source {
        Source { peer: Some(peer(n)), ip: Some(ip.parse().unwrap()) }
    }

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_few_failures_are_free_then_waits_double() {
        let mut guard = Guard::default();
        let source = at(1, "192.0.2.1");
        for _ in 0..FREE {
            assert_eq!(guard.attempt(source, secs(1)), Ok(()));
        }
        assert_eq!(guard.attempt(source, secs(1)), Err(secs(2)));
        assert_eq!(guard.attempt(source, secs(3)), Ok(()));
        assert_eq!(guard.attempt(source, secs(3)), Err(secs(4)));
    }

    #[test]
    fn another_peer_id_from_the_same_address_has_no_new_attempts() {
        let mut guard = Guard::default();
        for n in 0..5 {
            assert_eq!(guard.attempt(at(n, "2001:db8::1"), secs(1)), Ok(()));
        }
        assert!(guard.attempt(at(9, "2001:db8::ffff"), secs(1)).is_err(), "the same /64");
        assert_eq!(guard.attempt(at(9, "2001:db8:1::1"), secs(1)), Ok(()));
    }

    #[test]
    fn waits_end_at_ten_minutes_and_are_forgiven_in_time() {
        let mut guard = Guard::default();
        let source = at(1, "192.0.2.1");
        let mut now = secs(1);
        for _ in 0..40 {
            if let Err(wait) = guard.attempt(source, now) {
                assert!(wait <= LONGEST_WAIT);
                now += wait;
            }
        }
        now += FORGIVEN_AFTER * 60;
        for _ in 0..FREE {
            assert_eq!(guard.attempt(source, now), Ok(()));
        }
    }

    #[test]
    fn strangers_cannot_lock_out_who_succeeded() {
        let mut guard = Guard::default();
        let member = at(7, "198.51.100.7");
        guard.attempt(member, secs(1)).unwrap();
        guard.succeeded(member, secs(1));
        let mut refused = 0;
        for n in 0..200u16 {
            let [a, b] = n.to_be_bytes();
            let ip = IpAddr::from([203, 0, a, b]);
            refused += u32::from(guard.attempt(Source { peer: Some(peer(100 + n)), ip: Some(ip) }, secs(2)).is_err());
        }
        assert!(refused > 0, "strangers together have a budget");
        assert!(guard.attempt(at(900, "198.51.100.9"), secs(2)).is_err());
        assert_eq!(guard.attempt(member, secs(2)), Ok(()));
        for n in 300..306 {
            let _ = guard.attempt(at(n, "198.51.100.7"), secs(60));
        }
        assert_eq!(guard.attempt(member, secs(60)), Ok(()), "a stranger behind the same router");
    }

    #[test]
    fn success_does_not_buy_new_guesses() {
        let mut guard = Guard::default();
        let source = at(1, "192.0.2.1");
        for _ in 0..FREE {
            guard.attempt(source, secs(1)).unwrap();
        }
        guard.succeeded(source, secs(1));
        assert_eq!(guard.attempt(source, secs(1)), Ok(()), "the one that was given back");
        assert!(guard.attempt(source, secs(1)).is_err());
    }

    #[test]
    fn whoever_proves_one_password_is_a_stranger_to_the_others() {
        let mut guards = Guards::default();
        let [lab, home] = ["lab", "home"].map(|name| Purpose::Join(name.parse().unwrap()));
        for n in 0..40 {
            let source = at(n, "192.0.2.1");
            guards.of(&lab, |_| true).succeeded(source, secs(1));
        }
        let guesses = |guards: &mut Guards, purpose: &Purpose| {
            (0..40).filter(|n| guards.of(purpose, |_| true).attempt(at(*n, "192.0.2.1"), secs(1)).is_ok()).count()
        };
        assert_eq!(guesses(&mut guards, &home), 5);
        assert_eq!(guesses(&mut guards, &Purpose::Login), 5);
        assert_eq!(guesses(&mut guards, &lab), 40);
    }

    #[test]
    fn the_local_socket_has_the_total_budget_alone() {
        let mut guard = Guard::default();
        let local = Source { peer: None, ip: None };
        for _ in 0..TOTAL {
            assert_eq!(guard.attempt(local, secs(1)), Ok(()));
        }
        assert!(guard.attempt(local, secs(1)).is_err());
        assert_eq!(guard.attempt(local, secs(4)), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_worst() {
        let mut sources = Sources::<u32>::default();
        for _ in 0..8 {
            sources.failed(0, secs(1));
        }
        for n in 1..=2 * u32::try_from(SOURCES).unwrap() {
            sources.failed(n, secs(2));
        }
        assert_eq!(sources.0.len(), SOURCES);
        assert!(sources.wait(&0, secs(2)).is_some());
    }
}
