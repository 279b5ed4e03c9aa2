//! Every decision of a hive node: who is a member, which record holds, whom to dial, which stream to admit, who may
//! log in.
//!
//! Sans I/O: the core is told what happened ([`Event`]) and when ([`Now`]), and says what to do ([`Output`]); its only
//! randomness is the seed it is made with. So a simulation replays from a number, and the shell around it
//! (`hive-agent`) holds no policy.
//!
//! Each room decides one thing and knows nothing of the others: `membership` (networks and their secrets), `peers` and
//! `sync` (the table), `newcomers` (how fast it grows), `own` (this node's record), `connections`, `path` (whom to
//! dial), `met` (where a peer's word leads), `reach`, `probe`, `relays`, `punch` and `upgrade` (ways through NATs, and back to better ones), `routes`
//! (proxies and admission), `stream` (what a carrier has yet to take), `share` (who may have how much), `register`,
//! `session`, `guard`, [`acme`] (when certificates are ordered), [`portmap`] (which ports a router maps here),
//! [`update`] (when another binary takes this one's place). [`Core`] only carries news between them.

#![forbid(unsafe_code)]

pub mod acme;
mod clock;
mod commands;
mod connections;
mod dialling;
mod event;
mod guard;
mod joining;
mod membership;
mod met;
mod newcomers;
mod outbox;
mod own;
mod path;
mod peers;
pub mod portmap;
mod probe;
mod problems;
mod punch;
mod queries;
mod reach;
mod register;
mod relays;
mod routes;
mod session;
pub mod share;
pub mod stream;
mod sync;
mod tables;
#[cfg(test)]
mod testing;
pub mod update;
mod upgrade;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use hive_protocol::{NetworkName, NodeId};

pub use event::*;
pub use met::is_ordinary_port;
pub use probe::Probed;
pub use queries::ConnectionInfo;
pub use routes::{Epoch, Routes, Standing, wrong_path};

use crate::{
    clock::Clock,
    connections::Connections,
    guard::Guards,
    membership::Membership,
    met::Met,
    newcomers::Newcomers,
    outbox::{Dice, Outbox},
    own::Own,
    path::Paths,
    peers::Table,
    probe::Probes,
    reach::Reach,
    register::Registrations,
    relays::Relays,
    routes::ProxyBook,
    session::Sessions,
    upgrade::Upgrades,
};

/// A node's decisions.
///
/// After every call, carry out [`Core::poll_output`] until it is empty, then arm a timer for [`Core::poll_timeout`].
pub struct Core {
    clock: Clock,
    dice: Dice,
    out: Outbox,
    own: Own,
    networks: Membership,
    tables: BTreeMap<NetworkName, Table>,
    connections: Connections,
    newcomers: Newcomers,
    met: Met,
    path: Paths,
    reach: Reach,
    relays: Relays,
    upgrades: Upgrades,
    probes: Probes,
    proxies: ProxyBook,
    routes: Arc<Routes>,
    routes_changed: bool,
    registrations: Registrations,
    sessions: Sessions,
    guards: Guards,
    /// When each network's table is compared with that of some member.
    gossip_at: BTreeMap<NetworkName, Duration>,
    /// Records of others that say something new and are not stored yet.
    unsaved: BTreeSet<(NetworkName, NodeId)>,
    saved: Duration,
    flush_at: Option<Duration>,
    flushed: Duration,
    lapse_at: Duration,
}

impl Core {
    /// Takes up what was stored. `seed` is all the randomness it will ever have.
    #[must_use]
    pub fn new(config: Config, stored: Stored, seed: [u8; 32], now: Now) -> Self {
        let mut dice = Dice::new(seed);
        let fake_key = blake3::derive_key("hive fake login v1", &config.key.to_bytes());
        let own = Own::new(config, stored.name, now.mono, &mut dice);
        let mut core = Self {
            clock: Clock::new(now),
            dice,
            out: Outbox::default(),
            own,
            networks: Membership::new(stored.networks),
            tables: BTreeMap::new(),
            connections: Connections::default(),
            newcomers: Newcomers::default(),
            met: Met::default(),
            path: Paths::default(),
            reach: Reach::default(),
            relays: Relays::default(),
            upgrades: Upgrades::default(),
            probes: Probes::default(),
            proxies: ProxyBook::new(stored.proxies, stored.next_proxy),
            routes: Arc::default(),
            routes_changed: true,
            registrations: Registrations::default(),
            sessions: Sessions::new(stored.admin, stored.sessions, fake_key),
            guards: Guards::default(),
            gossip_at: BTreeMap::new(),
            unsaved: BTreeSet::new(),
            saved: now.mono.saturating_sub(tables::SAVE),
            flush_at: None,
            flushed: now.mono,
            lapse_at: now.mono,
        };
        core.restore_tables(stored.records, now);
        core.reach_changed(now);
        core.settle(now);
        core
    }

    /// Tells the core what happened.
    pub fn handle(&mut self, event: Event, now: Now) {
        self.advance(now);
        self.dispatch(event, now);
        self.settle(now);
    }

    /// The next thing to do. What one call made must be taken before the next call.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop()
    }

    /// When to call [`Core::handle`] with [`Event::Timeout`], on [`Now::mono`], if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let walls = [self.networks.next_grace(), self.sessions.next_expiry()];
        let timers = [
            self.connections.next(),
            self.own.next(),
            self.path.next(),
            self.probes.next(),
            self.registrations.next(),
            self.gossip_at.values().min().copied(),
            self.flush_at,
            self.next_save(),
            Some(self.lapse_at),
        ];
        let walls = walls.into_iter().flatten().map(|at| self.clock.mono_at(at));
        timers.into_iter().flatten().chain(walls).min()
    }

    /// Keeps a connection open though it has joined no network: a control session lives on it. Or lets go of it.
    pub fn hold(&mut self, conn: ConnId, held: bool) {
        self.connections.hold(conn, held, self.clock.now().mono);
    }

    fn dispatch(&mut self, event: Event, now: Now) {
        match event {
            Event::Connected { conn, peer, dialled, address, relayed } => {
                let connection = connections::Connection::new(peer, dialled, address, relayed, now.mono);
                self.connected(conn, connection, now);
            }
            Event::Disconnected { conn } => self.disconnected(conn, now),
            Event::DialFailed { peer, relayed: true, reason } => self.circuit_failed(peer, reason, now),
            Event::DialFailed { peer, relayed: false, reason } => self.dial_failed(peer, reason, now),
            Event::Joined { conn, network, secret } => self.joined(conn, &network, &secret, now),
            Event::JoinFailed { conn, network, refusal } => self.join_failed(conn, &network, refusal, now),
            Event::JoinRefused { network, peer } => self.join_refused(&network, peer, now),
            Event::Sync { conn, message } => self.synced(conn, message, now),
            Event::AddressGone(address) => self.address_gone(&address),
            Event::Addresses(addresses) => self.addresses_changed(addresses, now),
            Event::Wanted { peer, paths } => self.wanted(peer, paths, now),
            Event::RoundTrip { conn, rtt } => self.round_trip(conn, rtt, now),
            Event::Observed { conn, address } => self.observed(conn, address, now),
            Event::Probed { conn, address, probed } => self.probed(conn, &address, probed, now),
            Event::Reserved { relay } => self.reserved(relay, now),
            Event::ReservationLost { relay } => self.reservation_lost(relay, now),
            Event::Timeout => {}
        }
    }

    /// Notices that time did not pass as it should: after a sleep every path is doubtful, and so is what we said of
    /// the time.
    fn advance(&mut self, now: Now) {
        let due = self.poll_timeout();
        if self.clock.advance(now, due) {
            self.path.retry_all(now.mono);
            self.met.forgive();
            self.upgrades.restart_all();
            self.probes.hint(now.mono);
            self.restart_punches(now, |_| true);
            self.own.changed(now.mono);
        }
    }

    /// Does what is due, then publishes what changed.
    fn settle(&mut self, now: Now) {
        self.end_old_passwords(now);
        self.close_strangers(now);
        self.ask_to_join(now);
        self.issue_due(now);
        self.compare_due(now);
        self.expire(now);
        self.end_doubts(now);
        self.punch_due(now);
        self.probe_due(now);
        self.review_paths(now);
        self.save_due(now);
        self.flush_due(now);
        self.publish_routes();
    }

    fn expire(&mut self, now: Now) {
        self.sessions.expire(now.wall, &mut self.out);
        let tables = &self.tables;
        let ended = self.registrations.expire(now.mono, |network| tables::count_members(tables, network));
        ended.into_iter().for_each(|output| self.out.push(output));
        if self.lapse_at <= now.mono {
            self.lapse_at = now.mono + Duration::from_secs(3600);
            self.lapse(now);
        }
    }

    fn publish_routes(&mut self) {
        if std::mem::take(&mut self.routes_changed) {
            self.routes = Arc::new(Routes::new(&self.proxies, &self.connections, &self.networks));
            self.out.push(Output::RoutesChanged);
        }
    }
}
