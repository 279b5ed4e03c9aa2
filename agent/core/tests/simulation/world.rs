//! The made-up world: clocks, a network, disks, and the cores in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Duration,
};

use hive_core::{ConnId, Core, Event, Now, Output, Purpose, Source, Stored};
pub use hive_protocol::NetworkName;
use hive_protocol::{
    NodeId, NodeName, Timestamp, frame,
    password::Secret,
    peer::{JoinRefusal, PeerMessage, SyncMessage},
};
use libp2p_identity::ed25519;
use multiaddr::Multiaddr;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::disk;

const EPOCH: u64 = 1_760_000_000_000;
/// After this a node notices that the other end is silent.
pub const DEAD: Duration = Duration::from_secs(12);

/// What is going to happen, to whom.
pub enum Happening {
    Timer {
        node: usize,
        life: u32,
    },
    Tell {
        node: usize,
        life: u32,
        event: Event,
    },
    /// A dial arrives.
    Dial {
        from: usize,
        life: u32,
        peer: NodeId,
        addresses: Vec<Multiaddr>,
    },
    /// An opening of a join arrives at the other side.
    Join {
        conn: ConnId,
        network: NetworkName,
        secrets: Vec<Secret>,
    },
    /// A message arrives.
    Message {
        conn: ConnId,
        message: PeerMessage,
        /// Messages in a row, each because of the one before.
        hop: u32,
    },
    Down {
        conn: ConnId,
    },
}

pub struct Node {
    pub key: ed25519::Keypair,
    pub id: NodeId,
    pub core: Option<Core>,
    /// Counts starts: what was meant for an earlier life never arrives.
    pub life: u32,
    pub started: Duration,
    pub skew: u64,
    pub disk: Stored,
    pub address: Multiaddr,
    pub side: u8,
    pub timer: Option<Duration>,
    pub registered: BTreeSet<bool>,
}

/// One end of a connection: whose it is, and the other end.
#[derive(Clone, Copy)]
pub struct End {
    pub node: usize,
    pub other: ConnId,
}

pub struct World {
    pub time: Duration,
    pub order: u64,
    queue: BTreeMap<(Duration, u64), Happening>,
    pub nodes: Vec<Node>,
    pub ends: BTreeMap<ConnId, End>,
    /// Where each address leads now.
    pub places: BTreeMap<Multiaddr, usize>,
    next_conn: u64,
    next_place: u32,
    pub parted: bool,
    pub rng: StdRng,
    /// Who was ever a member by the right password, and who is kept out by whom.
    pub members: BTreeMap<NetworkName, BTreeSet<usize>>,
    pub ever: BTreeMap<NetworkName, BTreeSet<usize>>,
    pub bans: BTreeSet<(usize, usize, NetworkName)>,
    pub meter: Meter,
    /// Whether what a core stores is kept for its next start.
    pub disks: bool,
    /// Between any two nodes, if it is the same everywhere.
    pub latency: Option<Duration>,
}

/// What travels between the nodes.
#[derive(Default)]
pub struct Meter {
    pub messages: u64,
    pub bytes: u64,
    /// By the end of a connection that sent them.
    pub sent: BTreeMap<ConnId, u64>,
    /// The row of messages with which records first came to a node.
    pub hops: BTreeMap<usize, u32>,
    hop: u32,
}

pub fn secret(password: &str) -> Secret {
    let mut bytes = [0; 32];
    bytes[..password.len()].copy_from_slice(password.as_bytes());
    Secret::from_bytes(bytes)
}

impl World {
    pub fn new(seed: u64, count: usize) -> Self {
        let mut world = Self {
            time: Duration::from_secs(1),
            order: 0,
            queue: BTreeMap::new(),
            nodes: Vec::new(),
            ends: BTreeMap::new(),
            places: BTreeMap::new(),
            next_conn: 1,
            next_place: 1,
            parted: false,
            rng: StdRng::seed_from_u64(seed),
            members: BTreeMap::new(),
            ever: BTreeMap::new(),
            bans: BTreeSet::new(),
            meter: Meter::default(),
            disks: true,
            latency: None,
        };
        (0..count).for_each(|index| world.add(index));
        (0..count).for_each(|index| world.start(index));
        world
    }

    pub fn add(&mut self, index: usize) {
        let secret = ed25519::SecretKey::try_from_bytes(self.rng.random::<[u8; 32]>()).unwrap();
        let key = ed25519::Keypair::from(secret);
        let address = self.place(index);
        let name = format!("node{index}").parse().unwrap();
        let disk = Stored {
            name,
            networks: Vec::new(),
            records: Vec::new(),
            proxies: Vec::new(),
            next_proxy: 1,
            admin: None,
            sessions: Vec::new(),
        };
        self.nodes.push(Node {
            id: NodeId::from(&key.public()),
            key,
            core: None,
            life: 0,
            started: Duration::ZERO,
            skew: self.rng.random_range(0..4000),
            disk,
            address,
            side: 0,
            timer: None,
            registered: BTreeSet::new(),
        });
    }

    pub fn place(&mut self, node: usize) -> Multiaddr {
        let [_, a, b, c] = self.next_place.to_be_bytes();
        self.next_place += 1;
        let address: Multiaddr = format!("/ip4/10.{a}.{b}.{c}/tcp/4180").parse().unwrap();
        self.places.insert(address.clone(), node);
        address
    }

    pub fn pick(&mut self, from: Range<usize>) -> usize {
        self.rng.random_range(from)
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn id(&self, node: usize) -> NodeId {
        self.nodes[node].id
    }

    pub fn index(&self, id: &NodeId) -> usize {
        self.nodes.iter().position(|n| n.id == *id).unwrap()
    }

    pub fn name(&self, node: usize) -> NodeName {
        self.nodes[node].disk.name.clone()
    }

    /// As the node itself has it, stored or not.
    pub fn name_in_use(&self, node: usize) -> NodeName {
        self.core(node).name().clone()
    }

    pub fn address(&self, node: usize) -> &Multiaddr {
        &self.nodes[node].address
    }

    pub fn is_up(&self, node: usize) -> bool {
        self.nodes[node].core.is_some()
    }

    pub fn core(&self, node: usize) -> &Core {
        self.nodes[node].core.as_ref().unwrap()
    }

    pub fn registered(&self, node: usize) -> BTreeSet<bool> {
        self.nodes[node].registered.clone()
    }

    pub fn conns(&self, node: usize) -> impl Iterator<Item = ConnId> {
        self.ends.iter().filter(move |(_, end)| end.node == node).map(|(conn, _)| *conn)
    }

    /// Connections of a node that have joined a network, as it sees it.
    pub fn joined(&self, node: usize, network: &NetworkName) -> usize {
        let routes = self.core(node).routes();
        self.conns(node).filter(|conn| routes.joined(*conn, network)).count()
    }

    pub fn knows(&self, node: usize, name: &NodeName) -> bool {
        self.core(node).nodes(self.now(node)).iter().any(|row| row.node_name == *name)
    }

    pub fn now(&self, node: usize) -> Now {
        let node = &self.nodes[node];
        let wall = EPOCH + node.skew + u64::try_from(self.time.as_millis()).unwrap();
        Now { mono: self.time - node.started, wall: Timestamp(wall) }
    }

    /// Lets time pass.
    pub fn run(&mut self, span: Duration) {
        let end = self.time + span;
        while let Some(next) = self.queue.first_entry().filter(|e| e.key().0 <= end) {
            self.time = next.key().0;
            let happening = next.remove();
            self.happen(happening);
        }
        self.time = end;
    }

    pub fn later(&mut self, after: Duration, happening: Happening) {
        self.order += 1;
        self.queue.insert((self.time + after, self.order), happening);
    }

    /// One way between two nodes; always the same for a pair, so messages keep their order.
    fn latency(&self, a: usize, b: usize) -> Duration {
        if let Some(latency) = self.latency {
            return latency;
        }
        Duration::from_millis(5 + (a * 7 + b * 7 + a * b) as u64 % 60)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Timer { node, life } => {
                let due = self.nodes[node].life == life && self.nodes[node].timer == Some(self.time);
                if due {
                    self.tell(node, Event::Timeout);
                }
            }
            Happening::Tell { node, life, event } => {
                if self.nodes[node].life == life {
                    self.tell(node, event);
                }
            }
            Happening::Dial { from, life, peer, addresses } => self.dialled(from, life, peer, &addresses),
            Happening::Join { conn, network, secrets } => self.join_arrived(conn, network, &secrets),
            Happening::Message { conn, message, hop } => {
                let Some(end) = self.ends.get(&conn).copied() else { return };
                if matches!(message.body, SyncMessage::Records { .. }) {
                    self.meter.hops.entry(end.node).or_insert(hop);
                }
                self.meter.hop = hop;
                self.tell(end.node, Event::Sync { conn, message });
                self.meter.hop = 0;
            }
            Happening::Down { conn } => {
                if let Some(end) = self.ends.remove(&conn) {
                    self.tell(end.node, Event::Disconnected { conn });
                }
            }
        }
    }

    pub fn tell(&mut self, node: usize, event: Event) {
        self.command(node, |core, now| core.handle(event, now));
    }

    /// Calls a core, then carries out what it says, as the shell does.
    pub fn command<T>(&mut self, node: usize, call: impl FnOnce(&mut Core, Now) -> T) -> Option<T> {
        let now = self.now(node);
        let core = self.nodes[node].core.as_mut()?;
        let result = call(core, now);
        let mut outputs = Vec::new();
        while let Some(output) = core.poll_output() {
            outputs.push(output);
        }
        let due = core.poll_timeout();
        for output in outputs {
            self.carry_out(node, output);
        }
        self.arm(node, due);
        Some(result)
    }

    fn arm(&mut self, node: usize, due: Option<Duration>) {
        let started = self.nodes[node].started;
        let Some(at) = due.map(|due| (started + due).max(self.time + Duration::from_millis(1))) else { return };
        if self.nodes[node].timer != Some(at) {
            self.nodes[node].timer = Some(at);
            let life = self.nodes[node].life;
            self.later(at - self.time, Happening::Timer { node, life });
        }
    }

    fn carry_out(&mut self, node: usize, output: Output) {
        let life = self.nodes[node].life;
        match output {
            Output::Persist(change) if self.disks => disk::apply(&mut self.nodes[node].disk, change),
            Output::Persist(_) => {}
            Output::Dial { peer, addresses } => {
                assert!(!addresses.is_empty() && peer != self.nodes[node].id);
                self.later(Duration::from_millis(40), Happening::Dial { from: node, life, peer, addresses });
            }
            Output::Join { conn, network } => self.open_join(node, conn, network),
            Output::Send { conn, message } => self.send(conn, message),
            Output::Close { conn, .. } | Output::CloseIfIdle { conn } => self.cut(conn, Duration::from_millis(1)),
            Output::Registered { result, .. } => {
                self.nodes[node].registered.insert(result.is_ok());
            }
            Output::RoutesChanged | Output::SessionEnded { .. } | Output::ServeRelay { .. } => {}
            Output::Reserve { relay, .. } => self.tell(node, Event::Reserved { relay }),
            // The simulated network has no NATs: every node is dialled directly.
            Output::Unreserve { .. } | Output::Punch { .. } | Output::Upgrade { .. } | Output::Probe { .. } => {}
        }
    }

    fn send(&mut self, conn: ConnId, message: PeerMessage) {
        let bytes = frame::encode(&message, frame::PEER_MAX).expect("a message fits its frame").len() as u64;
        self.meter.messages += 1;
        self.meter.bytes += bytes;
        *self.meter.sent.entry(conn).or_default() += bytes;
        let hop = self.meter.hop + 1;
        let Some(end) = self.ends.get(&conn).copied() else { return };
        let Some(other) = self.ends.get(&end.other).copied() else { return };
        if self.reaches(end.node, other.node) {
            self.later(self.latency(end.node, other.node), Happening::Message { conn: end.other, message, hop });
        }
    }

    pub fn reaches(&self, a: usize, b: usize) -> bool {
        !self.parted || self.nodes[a].side == self.nodes[b].side
    }

    fn dialled(&mut self, from: usize, life: u32, peer: NodeId, addresses: &[Multiaddr]) {
        if self.nodes[from].life != life {
            return;
        }
        let at = addresses.iter().filter_map(|address| Some((address, *self.places.get(address)?)));
        let there =
            |(_, to): &(&Multiaddr, usize)| self.is_up(*to) && self.nodes[*to].id == peer && self.reaches(from, *to);
        let Some((address, to)) = at.into_iter().find(there) else {
            let event = Event::DialFailed { peer, relayed: false, reason: "no route to host".into() };
            self.later(Duration::from_millis(500), Happening::Tell { node: from, life, event });
            return;
        };
        let (near, far) = (ConnId(self.next_conn), ConnId(self.next_conn + 1));
        self.next_conn += 2;
        self.ends.insert(near, End { node: from, other: far });
        self.ends.insert(far, End { node: to, other: near });
        let address = address.clone();
        let back = self.nodes[from].address.clone();
        let caller = self.nodes[from].id;
        let far_event = Event::Connected { conn: far, peer: caller, dialled: false, address: back, relayed: false };
        self.tell(to, far_event);
        self.tell(from, Event::Connected { conn: near, peer, dialled: true, address, relayed: false });
    }

    fn open_join(&mut self, node: usize, conn: ConnId, network: NetworkName) {
        let Some(end) = self.ends.get(&conn).copied() else { return };
        let Some(other) = self.ends.get(&end.other).copied() else { return };
        let secrets = self.core(node).join_secrets(&network, &self.nodes[other.node].id, self.now(node));
        if self.reaches(node, other.node) {
            let happening = Happening::Join { conn: end.other, network, secrets };
            self.later(self.latency(node, other.node), happening);
        }
    }

    /// The key exchange, in essence: both learn whether they share a password, and which one.
    fn join_arrived(&mut self, conn: ConnId, network: NetworkName, theirs: &[Secret]) {
        let Some(here) = self.ends.get(&conn).copied() else { return };
        let Some(there) = self.ends.get(&here.other).copied() else { return };
        let way = self.latency(here.node, there.node);
        let purpose = Purpose::Join(network.clone());
        let source = Source { peer: Some(self.nodes[there.node].id), ip: None };
        let asked = self.command(here.node, |core, now| core.attempt(&purpose, source, now));
        let ours = self.core(here.node).join_secrets(&network, &self.nodes[there.node].id, self.now(here.node));
        let shared = theirs.iter().find(|secret| ours.contains(secret)).cloned();
        let to_them = match (asked, shared) {
            (Some(Err(_)), _) => refused(here.other, &network, JoinRefusal::TryLater),
            (_, None) => {
                let peer = self.nodes[there.node].id;
                self.tell(here.node, Event::JoinRefused { network: network.clone(), peer });
                refused(here.other, &network, JoinRefusal::NotAccepted)
            }
            (_, Some(secret)) => {
                self.command(here.node, |core, now| core.succeeded(&purpose, source, now));
                // The last step of the exchange may be overtaken by the first message of table sync.
                let late = way * 2 + Duration::from_millis(3);
                let event = Event::Joined { conn, network: network.clone(), secret: secret.clone() };
                let life = self.nodes[here.node].life;
                self.later(late, Happening::Tell { node: here.node, life, event });
                Event::Joined { conn: here.other, network: network.clone(), secret }
            }
        };
        let life = self.nodes[there.node].life;
        self.later(way, Happening::Tell { node: there.node, life, event: to_them });
    }

    pub fn cut(&mut self, conn: ConnId, after: Duration) {
        let Some(end) = self.ends.get(&conn).copied() else { return };
        self.later(after, Happening::Down { conn });
        let way = self.ends.get(&end.other).map_or(after, |other| self.latency(end.node, other.node));
        self.later(after + way, Happening::Down { conn: end.other });
    }
}

fn refused(conn: ConnId, network: &NetworkName, why: JoinRefusal) -> Event {
    Event::JoinFailed { conn, network: network.clone(), refusal: Some(why) }
}
