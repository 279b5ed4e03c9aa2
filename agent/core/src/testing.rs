//! A core on a bench: clocks that the test moves, peers with known keys, and what the core said.

use std::time::Duration;

use hive_protocol::{
    Direction, NetworkName, NodeId, PeerRecord, ProxyKind, SignedRecord, Timestamp,
    message::ProxyRequest,
    password::Secret,
    peer::{PeerMessage, SyncMessage},
};
use libp2p_identity::ed25519;
use multiaddr::Multiaddr;

use crate::{Change, Config, ConnId, Core, Event, Now, Output, RelayMode, Stored};

pub(crate) const START: u64 = 1_760_000_000_000;

/// A core that is a member of `lab`, and the outputs of the last call.
pub(crate) struct Bench {
    pub core: Core,
    pub now: Now,
    pub said: Vec<Output>,
    next_conn: u64,
}

pub(crate) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) fn lab() -> NetworkName {
    "lab".parse().unwrap()
}

pub(crate) fn secret(n: u8) -> Secret {
    Secret::from_bytes([n; 32])
}

/// The key of a peer; 0 is the core's own.
pub(crate) fn key(n: u8) -> ed25519::Keypair {
    ed25519::SecretKey::try_from_bytes([n; 32]).unwrap().into()
}

pub(crate) fn id(n: u8) -> NodeId {
    NodeId::from(&key(n).public())
}

pub(crate) fn address(n: u8) -> Multiaddr {
    format!("/ip4/192.0.2.{n}/tcp/4180").parse().unwrap()
}

/// What peer `n` says of itself in `lab`, made at `seq` milliseconds after [`START`].
pub(crate) fn said_by(n: u8, seq: u64) -> PeerRecord {
    PeerRecord {
        network: lab(),
        node: id(n),
        seq: START + seq,
        issued: Timestamp(START + seq),
        name: format!("peer{n}").parse().unwrap(),
        addresses: vec![address(n)],
        version: "0.1.0".into(),
        target: "test".into(),
        relay: false,
        left: false,
    }
}

pub(crate) fn signed(n: u8, record: &PeerRecord) -> SignedRecord {
    SignedRecord::sign(record, &key(n))
}

/// A core that stored nothing yet.
pub(crate) fn nothing_stored() -> Stored {
    Stored {
        name: "bench".parse().unwrap(),
        networks: Vec::new(),
        records: Vec::new(),
        proxies: Vec::new(),
        next_proxy: 1,
        admin: None,
        sessions: Vec::new(),
    }
}

impl Bench {
    pub fn new() -> Self {
        let mut bench = Self::with(nothing_stored());
        bench.core.join_network(&lab(), secret(1), bench.now).unwrap();
        bench.tell(Event::Addresses(vec![address(0)]));
        bench.pass(secs(1));
        bench
    }

    pub fn with(stored: Stored) -> Self {
        let now = Now { mono: secs(1), wall: Timestamp(START) };
        let config = Config { key: key(0), version: "0.1.0".into(), target: "test".into(), relay: RelayMode::Auto };
        let mut bench = Self { core: Core::new(config, stored, [7; 32], now), now, said: Vec::new(), next_conn: 1 };
        bench.listen();
        bench
    }

    /// Takes what the core said since the last call.
    pub fn listen(&mut self) {
        self.said.clear();
        while let Some(output) = self.core.poll_output() {
            self.said.push(output);
        }
    }

    pub fn tell(&mut self, event: Event) {
        self.core.handle(event, self.now);
        self.listen();
    }

    /// Lets time pass, waking the core when it asks to be woken; keeps all it said.
    pub fn pass(&mut self, span: Duration) {
        let end = self.now.mono + span;
        let mut all = Vec::new();
        let mut turns = 0;
        while let Some(due) = self.core.poll_timeout().filter(|due| *due <= end) {
            let step = due.saturating_sub(self.now.mono).max(millis(1)).min(end.saturating_sub(self.now.mono));
            self.advance(step);
            self.tell(Event::Timeout);
            all.append(&mut self.said);
            turns += 1;
            assert!(turns < 100_000, "the core asks to be woken without end");
        }
        self.advance(end.saturating_sub(self.now.mono));
        self.tell(Event::Timeout);
        all.append(&mut self.said);
        self.said = all;
    }

    pub fn advance(&mut self, span: Duration) {
        self.now.mono += span;
        self.now.wall.0 += u64::try_from(span.as_millis()).unwrap();
    }

    pub fn connect(&mut self, peer: u8, dialled: bool) -> ConnId {
        self.connect_over(peer, dialled, false)
    }

    /// A direct connection with a peer at this address.
    pub fn connect_from(&mut self, peer: u8, dialled: bool, address: Multiaddr) -> ConnId {
        self.connected(peer, dialled, address, false)
    }

    /// From an address of the local network, which proves nothing to others.
    pub fn connect_over(&mut self, peer: u8, dialled: bool, relayed: bool) -> ConnId {
        self.connected(peer, dialled, format!("/ip4/10.0.0.{peer}/tcp/4180").parse().unwrap(), relayed)
    }

    fn connected(&mut self, peer: u8, dialled: bool, address: Multiaddr, relayed: bool) -> ConnId {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.tell(Event::Connected { conn, peer: id(peer), dialled, address, relayed });
        conn
    }

    /// A connection that has joined `lab`.
    pub fn member(&mut self, peer: u8) -> ConnId {
        let conn = self.connect(peer, false);
        self.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
        conn
    }

    pub fn hear(&mut self, conn: ConnId, body: SyncMessage) {
        self.tell(Event::Sync { conn, message: PeerMessage { network: lab(), body } });
    }

    /// Hears the record of peer `n`, made `seq` milliseconds after [`START`].
    pub fn hear_of(&mut self, conn: ConnId, n: u8, seq: u64) {
        self.hear_record(conn, signed(n, &said_by(n, seq)));
    }

    pub fn hear_record(&mut self, conn: ConnId, record: SignedRecord) {
        self.hear(conn, SyncMessage::Records { records: vec![record] });
    }

    pub fn dials(&self) -> Vec<NodeId> {
        self.find(|output| if let Output::Dial { peer, .. } = output { Some(*peer) } else { None })
    }

    pub fn joins(&self) -> Vec<ConnId> {
        self.find(|output| if let Output::Join { conn, .. } = output { Some(*conn) } else { None })
    }

    pub fn closes(&self) -> Vec<ConnId> {
        self.find(|output| if let Output::Close { conn, .. } = output { Some(*conn) } else { None })
    }

    pub fn idle_closes(&self) -> Vec<ConnId> {
        self.find(|output| if let Output::CloseIfIdle { conn } = output { Some(*conn) } else { None })
    }

    pub fn changes(&self) -> Vec<Change> {
        self.find(|output| if let Output::Persist(change) = output { Some(change.clone()) } else { None })
    }

    /// The messages sent, with the connections.
    pub fn sent(&self) -> Vec<(ConnId, SyncMessage)> {
        let sent = |output: &Output| match output {
            Output::Send { conn, message } => Some((*conn, message.body.clone())),
            _ => None,
        };
        self.find(sent)
    }

    /// The records sent, with the connections.
    pub fn records_sent(&self) -> Vec<(ConnId, PeerRecord)> {
        let records = |(conn, body)| match body {
            SyncMessage::Records { records } => records.into_iter().map(|r| (conn, r.verify().unwrap())).collect(),
            _ => Vec::new(),
        };
        self.sent().into_iter().flat_map(records).collect()
    }

    pub fn find<T>(&self, which: impl Fn(&Output) -> Option<T>) -> Vec<T> {
        self.said.iter().filter_map(which).collect()
    }

    pub fn names(&self) -> Vec<String> {
        self.core.nodes(self.now).into_iter().map(|row| row.node_name.to_string()).collect()
    }
}

/// One side of a tunnel from a peer's port 18080 to port 8080 here.
pub(crate) fn ingress(peer: &str) -> ProxyRequest {
    ProxyRequest {
        direction: Direction::Ingress,
        kind: ProxyKind::Tcp,
        port: 8080,
        peer: peer.into(),
        peer_port: 18_080,
        network: None,
        bind: None,
        host: None,
        temporary: false,
        resume: None,
        key_prefix: None,
        sni: None,
        ssh: None,
        path_rule: None,
    }
}

/// The other side of such a tunnel.
pub(crate) fn egress(peer: &str) -> ProxyRequest {
    ProxyRequest { direction: Direction::Egress, port: 18_080, peer_port: 8080, ..ingress(peer) }
}
