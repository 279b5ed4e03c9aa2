//! What the core is told, what it says, and what it keeps: the whole boundary between decisions and I/O.

use std::{net::IpAddr, time::Duration};

use hive_protocol::{
    NetworkName, NodeId, NodeName, PathRule, ProxyId, ProxySpec, SignedRecord, Timestamp,
    message::Failure,
    password::{PasswordHashed, Secret},
    peer::{JoinRefusal, PeerMessage},
};
use multiaddr::Multiaddr;

use crate::Probed;

/// A moment, as the shell's two clocks have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Time since the agent started; never goes back.
    pub mono: Duration,
    /// Wall clock; may jump either way.
    pub wall: Timestamp,
}

/// Names a connection to a node; given by the shell, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// What a node is, apart from what it stored.
#[derive(Debug, Clone)]
pub struct Config {
    /// Signs this node's records.
    pub key: libp2p_identity::ed25519::Keypair,
    /// Agent version, for records.
    pub version: String,
    /// Target triple, for records.
    pub target: String,
    /// Whether to relay for members.
    pub relay: RelayMode,
}

/// Whether a node relays for members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RelayMode {
    /// When it is reachable from outside.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a node stored before, all of it already verified by whoever stored it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The node's name.
    pub name: NodeName,
    /// Networks.
    pub networks: Vec<StoredNetwork>,
    /// Peer records, this node's own among them, with the time of the latest contact.
    pub records: Vec<(SignedRecord, Timestamp)>,
    /// Proxies.
    pub proxies: Vec<ProxySpec>,
    /// Next proxy number.
    pub next_proxy: ProxyId,
    /// The admin account.
    pub admin: Option<Admin>,
    /// Enrolled sessions.
    pub sessions: Vec<StoredSession>,
}

/// A network as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredNetwork {
    /// Its name.
    pub name: NetworkName,
    /// Its stretched password.
    pub secret: Secret,
    /// The one before the last rotation, and until when it is accepted.
    pub previous: Option<(Secret, Timestamp)>,
    /// Nodes kept out.
    pub banned: Vec<NodeId>,
}

/// The admin account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// User name.
    pub user: String,
    /// Salt, cost and hash of the password.
    pub password: PasswordHashed,
}

/// A login session as stored: bound to the client's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSession {
    /// The client's Ed25519 public key.
    pub key: [u8; 32],
    /// User who logged in.
    pub user: String,
    /// When.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// When it was last used.
    pub last_used: Timestamp,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A connection is up; the peer's key is proven, nothing else.
    Connected {
        /// Its new name.
        conn: ConnId,
        /// The peer.
        peer: NodeId,
        /// Whether this node dialled.
        dialled: bool,
        /// Where the peer is.
        address: Multiaddr,
        /// Whether a relay carries it.
        relayed: bool,
    },
    /// A connection is gone.
    Disconnected {
        /// Which.
        conn: ConnId,
    },
    /// A dial asked for by [`Output::Dial`] failed at every address.
    DialFailed {
        /// Whom.
        peer: NodeId,
        /// Whether it went over relays.
        relayed: bool,
        /// Why, for people.
        reason: String,
    },
    /// Both sides of a connection proved a network's password to each other.
    Joined {
        /// Connection.
        conn: ConnId,
        /// Network.
        network: NetworkName,
        /// The secret that was proven. The password may have been changed while the proof was on its way.
        secret: Secret,
    },
    /// A join begun by [`Output::Join`] failed.
    JoinFailed {
        /// Connection.
        conn: ConnId,
        /// Network.
        network: NetworkName,
        /// The peer's answer, or none when the exchange broke or the peer failed to prove the password.
        refusal: Option<JoinRefusal>,
    },
    /// A peer's attempt to join was refused here.
    JoinRefused {
        /// Network it named.
        network: NetworkName,
        /// The peer.
        peer: NodeId,
    },
    /// A message of table sync came in.
    Sync {
        /// Connection.
        conn: ConnId,
        /// Message.
        message: PeerMessage,
    },
    /// The addresses under which this node can be dialled changed (interfaces, listeners, announcements).
    Addresses(Vec<Multiaddr>),
    /// The machine no longer has this address.
    AddressGone(IpAddr),
    /// Somebody local needs a connection to this peer soon (an egress with a waiting client, `--node`).
    Wanted {
        /// Whom.
        peer: NodeId,
        /// Over which paths.
        paths: PathRule,
    },
    /// A round trip was measured.
    RoundTrip {
        /// Connection.
        conn: ConnId,
        /// How long.
        rtt: Duration,
    },
    /// A peer tells under which address it sees this node.
    Observed {
        /// Connection.
        conn: ConnId,
        /// What it sees.
        address: Multiaddr,
    },
    /// A member has tried, or would not, to dial an address; see [`Output::Probe`].
    Probed {
        /// The connection over which it was asked.
        conn: ConnId,
        /// The address.
        address: Multiaddr,
        /// What came of it.
        probed: Probed,
    },
    /// A relay holds a reservation asked for by [`Output::Reserve`].
    Reserved {
        /// The relay.
        relay: NodeId,
    },
    /// A relay refused a reservation, or it ended.
    ReservationLost {
        /// The relay.
        relay: NodeId,
    },
    /// The moment named by [`Core::poll_timeout`](crate::Core::poll_timeout) has come.
    Timeout,
}

/// Something to do, in this order.
#[derive(Debug, Clone)]
pub enum Output {
    /// Store this before any later output is carried out.
    Persist(Change),
    /// Connect to a peer, demanding its key.
    Dial {
        /// Whom.
        peer: NodeId,
        /// Where, best first; either all through relays or none.
        addresses: Vec<Multiaddr>,
    },
    /// Connect to a peer that is connected already, on a better path; that it fails is not told.
    Upgrade {
        /// Whom.
        peer: NodeId,
        /// Where, best first, none through a relay.
        addresses: Vec<Multiaddr>,
    },
    /// Ask a connected relay for a reservation; report [`Event::Reserved`] or [`Event::ReservationLost`].
    Reserve {
        /// The relay.
        relay: NodeId,
        /// `ADDRESS/p2p/RELAY/p2p-circuit`.
        address: Multiaddr,
    },
    /// Give up a reservation, or the attempt.
    Unreserve {
        /// The relay.
        relay: NodeId,
    },
    /// Relay for members, or no longer.
    ServeRelay {
        /// Which.
        serving: bool,
        /// Where this node can be dialled.
        addresses: Vec<Multiaddr>,
    },
    /// Ask a member to dial this node at an address of its own; report [`Event::Probed`].
    Probe {
        /// The member's connection.
        conn: ConnId,
        /// Where.
        address: Multiaddr,
    },
    /// Begin a hole punch over a relayed connection.
    Punch {
        /// Connection.
        conn: ConnId,
        /// Where this node may be reached, best first.
        addresses: Vec<Multiaddr>,
        /// Whether this node is to speak first on the new connection, or the peer.
        speak_first: bool,
    },
    /// Prove a network's password on a connection, as initiator; report [`Event::Joined`] or [`Event::JoinFailed`].
    Join {
        /// Connection.
        conn: ConnId,
        /// Network.
        network: NetworkName,
    },
    /// Send a message of table sync.
    Send {
        /// Connection.
        conn: ConnId,
        /// Message.
        message: PeerMessage,
    },
    /// Close a connection: nobody on it belongs here.
    Close {
        /// Connection.
        conn: ConnId,
        /// Why, for the log.
        reason: &'static str,
    },
    /// Close a connection if no stream lives on it: another serves as well.
    CloseIfIdle {
        /// Connection.
        conn: ConnId,
    },
    /// [`Core::routes`](crate::Core::routes) changed: start and stop listeners, end streams that lost their right.
    RoutesChanged,
    /// A registration ended.
    Registered {
        /// The node it was for.
        node: NodeId,
        /// The network it was for.
        network: NetworkName,
        /// The node's name and the number of members known, or why not.
        result: Result<(NodeName, u32), Failure>,
    },
    /// A session ended: close the control streams that use it.
    SessionEnded {
        /// The client's key.
        key: [u8; 32],
    },
}

/// A change of stored state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The node's name.
    Name(NodeName),
    /// A network, new or altered.
    Network(StoredNetwork),
    /// A network is gone, and all its records.
    NetworkGone(NetworkName),
    /// A record, new or newer.
    Record {
        /// Its network.
        network: NetworkName,
        /// Its node.
        node: NodeId,
        /// It.
        record: SignedRecord,
        /// Latest contact.
        contact: Timestamp,
    },
    /// The latest contact of a node; written at most once a minute.
    Contact {
        /// Network.
        network: NetworkName,
        /// Node.
        node: NodeId,
        /// When.
        contact: Timestamp,
    },
    /// A record is gone.
    RecordGone {
        /// Its network.
        network: NetworkName,
        /// Its node.
        node: NodeId,
    },
    /// A proxy, new or altered.
    Proxy(ProxySpec),
    /// The next proxy number.
    NextProxy(ProxyId),
    /// A proxy is gone.
    ProxyGone(ProxyId),
    /// The admin account.
    Admin(Admin),
    /// A session, new or used.
    Session(StoredSession),
    /// A session is gone.
    SessionGone([u8; 32]),
}

/// What an attempt is for: each password is guarded by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// To log in as admin.
    Login,
    /// To join a network.
    Join(NetworkName),
}

/// Whose attempt to join or log in is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Peer id at the other end of the connection; none on the local socket.
    pub peer: Option<NodeId>,
    /// Its IP address; none on the local socket or over a relay.
    pub ip: Option<IpAddr>,
}
