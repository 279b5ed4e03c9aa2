//! The connections that are up: whose they are, which networks they have joined, and which joins are due.
//!
//! A connection proves a key and nothing else. It belongs to a network once both sides proved the password on it, and
//! loses that when a right is taken away. This room asks for nothing by itself; it keeps the moments at which others
//! act.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use hive_protocol::{NetworkName, NodeId, peer::PeerMessage};
use multiaddr::{Multiaddr, Protocol};

use crate::{ConnId, punch::Punches, reach::ip};

/// How long a connection may live without belonging to any network.
pub(crate) const UNJOINED: Duration = Duration::from_secs(10);
/// About what a dial over a relay takes that was begun before a direct one succeeded; one that takes longer costs a hole
/// punch for nothing.
const MEANWHILE: Duration = Duration::from_secs(3);
/// Something is heard on what came up in the meantime by then: the dialler of the newer connection compares tables on the
/// others after half a second ([`Connections::compare_on_others`]), and that may take a second longer than the join did.
pub(crate) const SPEAKS: Duration = Duration::from_millis(1_500);
/// Sync messages kept that overtook the news that a connection has joined.
const EARLY: usize = 4;

/// One connection.
pub(crate) struct Connection {
    pub peer: NodeId,
    pub dialled: bool,
    pub address: Multiaddr,
    pub relayed: bool,
    /// Where it leaves this node, if there is only one place.
    pub local: Option<IpAddr>,
    /// The peer has said that it is no longer where this connection leads.
    pub left_behind: bool,
    /// The peer has dialled again since, and nothing was heard here after that.
    superseded: bool,
    /// It counts as superseded unless something is heard here by then.
    doubted_until: Option<Duration>,
    heard: Duration,
    pub since: Duration,
    pub rtt: Option<Duration>,
    /// Where the peer says that it sees this node.
    pub observed: Option<Multiaddr>,
    /// Attempts to get from this connection, which is relayed, to a direct one.
    pub punches: Punches,
    /// Networks joined, and whether by the password before a rotation.
    pub joined: BTreeMap<NetworkName, Proof>,
    /// Joins to ask for, or asked for.
    pub asks: BTreeMap<NetworkName, Ask>,
    /// When to compare tables (again).
    pub compare_at: BTreeMap<NetworkName, Duration>,
    /// Messages that no correct peer sends.
    pub strikes: u32,
    /// When the shell was last asked to close this one if idle.
    pub spare_since: Option<Duration>,
    /// The peer may believe that it has joined a network from which it was expelled: a new connection would tell it.
    pub doubtful: bool,
    early: VecDeque<PeerMessage>,
    held: bool,
    closing: bool,
    unjoined_since: Duration,
}

/// The password by which a network was joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    Current,
    Old,
}

/// A join this side asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    At(Duration),
    Running,
}

impl Connection {
    pub fn new(peer: NodeId, dialled: bool, address: Multiaddr, relayed: bool, now: Duration) -> Self {
        Self {
            peer,
            dialled,
            address,
            relayed,
            local: None,
            left_behind: false,
            superseded: false,
            doubted_until: None,
            heard: now,
            since: now,
            rtt: None,
            observed: None,
            punches: Punches::default(),
            joined: BTreeMap::new(),
            asks: BTreeMap::new(),
            compare_at: BTreeMap::new(),
            strikes: 0,
            spare_since: None,
            doubtful: false,
            early: VecDeque::new(),
            held: false,
            closing: false,
            unjoined_since: now,
        }
    }

    pub fn networks(&self) -> BTreeSet<NetworkName> {
        self.joined.keys().cloned().collect()
    }

    /// QUIC costs more for each byte than TCP, and the end of a peer shows only by its silence.
    pub fn is_quic(&self) -> bool {
        is_quic(&self.address)
    }

    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Keeps a message until the network it speaks of is joined.
    pub fn keep_early(&mut self, message: PeerMessage) {
        if self.early.len() < EARLY {
            self.early.push_back(message);
        }
    }

    /// The messages of a network that came before it was joined.
    pub fn take_early(&mut self, network: &NetworkName) -> Vec<PeerMessage> {
        let (now, later): (VecDeque<_>, _) = self.early.drain(..).partition(|m| m.network == *network);
        self.early = later;
        now.into()
    }

    /// Something was said here: it leads to the peer. True if that is news.
    pub fn heard(&mut self, now: Duration) -> bool {
        (self.heard, self.doubted_until) = (now, None);
        std::mem::take(&mut self.superseded)
    }

    /// Whether it most likely leads nowhere any more.
    pub fn is_past(&self) -> bool {
        self.left_behind || self.superseded
    }

    /// What makes a path the better one, the smaller first: to where the peer is before to where it was, direct before
    /// relayed, TCP before QUIC, the oldest first.
    pub fn rank(&self) -> impl Ord + use<> {
        (self.is_past(), self.relayed, self.is_quic(), self.since)
    }

    fn is_stranger(&self) -> bool {
        self.joined.is_empty() && !self.held && !self.closing
    }

    fn close_at(&self) -> Option<Duration> {
        self.is_stranger().then(|| self.unjoined_since + UNJOINED)
    }

    fn next(&self) -> Option<Duration> {
        let asks = self.asks.values().filter_map(|ask| if let Ask::At(at) = ask { Some(*at) } else { None });
        let compares = self.compare_at.values().copied();
        asks.chain(compares).chain(self.close_at()).chain(self.punches.due).chain(self.doubted_until).min()
    }
}

pub(crate) fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::Quic | Protocol::QuicV1))
}

/// All connections, by id and by peer.
#[derive(Default)]
pub(crate) struct Connections {
    all: BTreeMap<ConnId, Connection>,
    peers: BTreeMap<NodeId, BTreeSet<ConnId>>,
}

impl Connections {
    pub fn insert(&mut self, id: ConnId, connection: Connection) {
        self.peers.entry(connection.peer).or_default().insert(id);
        self.all.insert(id, connection);
    }

    pub fn remove(&mut self, id: ConnId) -> Option<Connection> {
        let gone = self.all.remove(&id)?;
        if let Some(ids) = self.peers.get_mut(&gone.peer) {
            ids.remove(&id);
            if ids.is_empty() {
                self.peers.remove(&gone.peer);
            }
        }
        Some(gone)
    }

    pub fn get(&self, id: ConnId) -> Option<&Connection> {
        self.all.get(&id)
    }

    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.all.get_mut(&id)
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &Connection)> {
        self.all.iter().map(|(id, connection)| (*id, connection))
    }

    pub fn peers(&self) -> impl Iterator<Item = (&NodeId, &BTreeSet<ConnId>)> {
        self.peers.iter()
    }

    pub fn of(&self, peer: &NodeId) -> impl Iterator<Item = (ConnId, &Connection)> {
        let ids = self.peers.get(peer).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.all.get(id)?)))
    }

    pub fn of_mut(&mut self, peer: &NodeId) -> impl Iterator<Item = &mut Connection> {
        self.all.values_mut().filter(move |connection| connection.peer == *peer)
    }

    /// Whether some connection to a peer is direct, or relayed.
    pub fn has(&self, peer: &NodeId, relayed: bool) -> bool {
        self.of(peer).any(|(_, connection)| connection.relayed == relayed)
    }

    pub fn is_connected(&self, peer: &NodeId) -> bool {
        self.peers.contains_key(peer)
    }

    pub fn is_joined(&self, id: ConnId, network: &NetworkName) -> bool {
        self.all.get(&id).is_some_and(|c| c.joined.contains_key(network))
    }

    /// Connections that have joined a network.
    pub fn joined(&self, network: &NetworkName) -> Vec<ConnId> {
        self.iter().filter(|(_, c)| c.joined.contains_key(network)).map(|(id, _)| id).collect()
    }

    /// The best connection to a peer.
    pub fn best(&self, peer: &NodeId) -> Option<(ConnId, &Connection)> {
        self.of(peer).min_by_key(|(id, c)| (c.joined.is_empty(), c.rank(), *id))
    }

    /// Notes where connections leave from of which that was not known: those made while an address changed come before the
    /// news of it.
    pub fn locate(&mut self, local: impl Fn(&IpAddr) -> Option<IpAddr>) {
        for connection in self.all.values_mut().filter(|c| !c.relayed && c.local.is_none()) {
            connection.local = ip(&connection.address).and_then(|remote| local(&remote));
        }
    }

    /// Notes which direct connections lead to where the peer was `before`, and is not any more.
    pub fn leave_behind(&mut self, peer: &NodeId, before: &[Multiaddr], after: &[Multiaddr]) {
        let is_in = |addresses: &[Multiaddr], remote| addresses.iter().filter_map(ip).any(|ip| ip == remote);
        for connection in self.all.values_mut().filter(|c| c.peer == *peer && !c.relayed) {
            let Some(remote) = ip(&connection.address) else { continue };
            connection.left_behind = !is_in(after, remote) && (connection.left_behind || is_in(before, remote));
        }
    }

    /// A peer dials when it has no connection: those that this end still has lead nowhere, but for those on which it has
    /// said the contrary since, or will ([`Connections::compare_on_others`]). One that was perhaps being made meanwhile has
    /// time to. Says whether there are any that count as past now.
    pub fn supersede(&mut self, by: ConnId, now: Duration) -> bool {
        let Some((peer, since)) = self.get(by).map(|c| (c.peer, c.since)) else { return false };
        let may_be_past = |c: &Connection| c.peer == peer && c.since <= since && !(c.since < since && c.heard >= since);
        let mut any = false;
        for (_, old) in self.all.iter_mut().filter(|(id, c)| **id != by && may_be_past(c)) {
            if old.since + MEANWHILE < since {
                (old.superseded, old.doubted_until) = (true, None);
                any = true;
            } else if !old.superseded {
                old.doubted_until = Some(now + SPEAKS);
            }
        }
        any
    }

    /// Connections on which nothing was heard in time are past now. Returns whose they are, and which were direct.
    pub fn end_doubts(&mut self, now: Duration) -> Vec<(NodeId, bool)> {
        let over = |c: &&mut Connection| c.doubted_until.is_some_and(|at| at <= now);
        let give_up = |c: &mut Connection| {
            (c.doubted_until, c.superseded) = (None, true);
            (c.peer, !c.relayed)
        };
        self.all.values_mut().filter(over).map(give_up).collect()
    }

    /// This end dialled though it has other connections to the peer: something said on them tells it that they live.
    pub fn compare_on_others(&mut self, peer: &NodeId, dialled: ConnId, at: Duration) {
        for (_, other) in self.all.iter_mut().filter(|(id, c)| **id != dialled && c.peer == *peer) {
            other.compare_at.extend(other.joined.keys().map(|network| (network.clone(), at)));
        }
    }

    /// Asks for a join at `at`, unless one is running or due earlier.
    pub fn ask(&mut self, id: ConnId, network: &NetworkName, at: Duration) {
        let Some(connection) = self.all.get_mut(&id) else { return };
        let ask = connection.asks.entry(network.clone()).or_insert(Ask::At(at));
        if let Ask::At(due) = ask {
            *due = at.min(*due);
        }
    }

    /// The joins that are due; they count as running from now on.
    pub fn due_asks(&mut self, now: Duration) -> Vec<(ConnId, NetworkName)> {
        let mut due = Vec::new();
        for (id, connection) in &mut self.all {
            for (network, ask) in &mut connection.asks {
                if matches!(ask, Ask::At(at) if *at <= now) {
                    *ask = Ask::Running;
                    due.push((*id, network.clone()));
                }
            }
        }
        due
    }

    /// The relayed connections on which a hole punch is due, and their peers.
    pub fn due_punches(&self, now: Duration) -> Vec<(ConnId, NodeId)> {
        let due = self.iter().filter(|(_, c)| c.punches.due.is_some_and(|at| at <= now));
        due.map(|(id, c)| (id, c.peer)).collect()
    }

    /// Hole punches begin anew on the relayed connections that were dialled from the other end.
    pub fn restart_punches(&mut self, now: Duration, which: impl Fn(&Connection) -> bool) {
        let ours = |c: &Connection| c.relayed && !c.dialled && !c.joined.is_empty() && !c.is_past();
        self.all.values_mut().filter(|c| ours(c) && which(c)).for_each(|c| c.punches.restart(now));
    }

    /// The table comparisons that are due.
    pub fn due_compares(&mut self, now: Duration) -> Vec<(ConnId, NetworkName)> {
        let mut due = Vec::new();
        for (id, connection) in &mut self.all {
            let waiting = std::mem::take(&mut connection.compare_at);
            let (ready, later) = waiting.into_iter().partition(|(_, at)| *at <= now);
            connection.compare_at = later;
            let ready: BTreeMap<NetworkName, Duration> = ready;
            due.extend(ready.into_keys().map(|network| (*id, network)));
        }
        due
    }

    /// Notes that the shell has been told to close a connection; false if it was told before.
    pub fn close(&mut self, id: ConnId) -> bool {
        self.all.get_mut(&id).is_some_and(|c| !std::mem::replace(&mut c.closing, true))
    }

    /// Connections whose time to join something is over.
    pub fn overdue(&self, now: Duration) -> Vec<ConnId> {
        self.iter().filter(|(_, c)| c.close_at().is_some_and(|at| at <= now)).map(|(id, _)| id).collect()
    }

    /// Keeps a connection that belongs to no network, or lets go of it.
    pub fn hold(&mut self, id: ConnId, held: bool, now: Duration) {
        if let Some(connection) = self.all.get_mut(&id) {
            connection.held = held;
            connection.unjoined_since = now;
        }
    }

    /// Takes a network from the connections for which `which` holds; returns those.
    pub fn expel(
        &mut self,
        network: &NetworkName,
        now: Duration,
        which: impl Fn(&Connection, Proof) -> bool,
    ) -> Vec<ConnId> {
        let mut expelled = Vec::new();
        for (id, connection) in &mut self.all {
            let Some(proof) = connection.joined.get(network).copied() else { continue };
            if which(connection, proof) {
                connection.joined.remove(network);
                connection.compare_at.remove(network);
                connection.unjoined_since = now;
                expelled.push(*id);
            }
        }
        expelled
    }

    /// The password by which connections joined a network is now the one before the last.
    pub fn outdate(&mut self, network: &NetworkName) {
        self.all.values_mut().filter_map(|c| c.joined.get_mut(network)).for_each(|proof| *proof = Proof::Old);
    }

    /// Forgets everything about a network that is left.
    pub fn forget(&mut self, network: &NetworkName, now: Duration) {
        self.all.values_mut().for_each(|connection| {
            connection.asks.remove(network);
            connection.take_early(network);
        });
        self.expel(network, now, |_, _| true);
    }

    /// The next moment at which something here is due.
    pub fn next(&self) -> Option<Duration> {
        self.all.values().filter_map(Connection::next).min()
    }
}
