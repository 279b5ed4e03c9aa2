//! The control protocol: `hivectl` and the node it acts on, on the local socket or on a libp2p stream.
//!
//! The client says [`ClientMessage::Hello`] and learns whether it is authorised. If not, it either proves an enrolled
//! session key or logs in; then it sends requests, one after the other, each answered by one or more responses. Lists
//! come in pages ([`Response`] variants with `more`). After [`Response::Connected`] the stream carries tunnel frames
//! ([`crate::tunnel`]) until it ends.
//!
//! With a `node` in the greeting, the local agent opens a control stream to that node and passes bytes on; there the
//! same server answers. A node reached this way refuses to pass on again.

use std::net::IpAddr;

use minicbor::{Decode, Encode};
use multiaddr::Multiaddr;

use crate::{
    Direction, HostPattern, Identity, KeyEntry, KeyInfo, KeyName, KeyPrefix, LogLine, Metrics, NetworkInfo,
    NetworkName, NodeId, NodeInfo, NodeName, ProxyId, ProxyInfo, ProxyKind, SessionInfo, SshLogin, StatusInfo, codec,
    keys::TlsRequest, pake, password::Cost,
};

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ClientMessage {
    /// First message of a stream.
    #[n(0)]
    Hello {
        /// Oldest version the client speaks.
        #[n(0)]
        min: u16,
        /// Newest version the client speaks.
        #[n(1)]
        max: u16,
        /// Node to act on: a peer id or a name; none for the node that reads this.
        #[n(2)]
        node: Option<String>,
        /// Network in which to look the node up.
        #[n(3)]
        network: Option<NetworkName>,
    },
    /// Proves an enrolled session key: signature over [`session_challenge`].
    #[n(1)]
    Prove {
        /// The client's public key.
        #[cbor(n(0), with = "minicbor::bytes")]
        key: [u8; 32],
        /// Ed25519 signature.
        #[cbor(n(1), with = "minicbor::bytes")]
        signature: [u8; 64],
    },
    /// Begins a login; answered by [`ServerMessage::LoginSalt`].
    #[n(2)]
    Login {
        /// The user.
        #[n(0)]
        user: String,
        /// Public key that the session will be bound to.
        #[cbor(n(1), with = "minicbor::bytes")]
        key: [u8; 32],
    },
    /// Opens the key exchange; answered by [`ServerMessage::LoginAnswer`].
    #[n(3)]
    LoginOpen {
        /// SPAKE2 message.
        #[cbor(n(0), with = "minicbor::bytes")]
        opening: [u8; pake::MESSAGE_LEN],
    },
    /// Proves the password; answered by [`ServerMessage::LoginDone`].
    #[n(4)]
    LoginConfirm {
        /// Confirmation code.
        #[cbor(n(0), with = "minicbor::bytes")]
        code: [u8; pake::CONFIRMATION_LEN],
    },
    /// Asks for something.
    #[n(5)]
    Request(#[n(0)] Request),
}

/// What a node sends to a client.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum ServerMessage {
    /// Answers the greeting.
    #[n(0)]
    Welcome {
        /// Version both will speak.
        #[n(0)]
        version: u16,
        /// The node that answers; the client acts only if it is the one it meant.
        #[n(1)]
        node: NodeId,
        /// Its name.
        #[n(2)]
        name: NodeName,
        /// Whether the client needs no login (local socket, root or the agent's own user).
        #[n(3)]
        authorised: bool,
        /// Fresh random bytes for [`ClientMessage::Prove`].
        #[cbor(n(4), with = "minicbor::bytes")]
        challenge: [u8; 32],
    },
    /// The session key was accepted.
    #[n(1)]
    Proven,
    /// How to stretch the password. The same for a user that does not exist.
    #[n(2)]
    LoginSalt {
        /// Argon2 salt.
        #[cbor(n(0), with = "minicbor::bytes")]
        salt: Vec<u8>,
        /// Argon2 cost.
        #[n(1)]
        cost: Cost,
    },
    /// The node's SPAKE2 message.
    #[n(3)]
    LoginAnswer {
        /// SPAKE2 message.
        #[cbor(n(0), with = "minicbor::bytes")]
        answer: [u8; pake::MESSAGE_LEN],
    },
    /// The node accepted the password and proves that it knows its hash. The client's key is enrolled.
    #[n(4)]
    LoginDone {
        /// Confirmation code.
        #[cbor(n(0), with = "minicbor::bytes")]
        code: [u8; pake::CONFIRMATION_LEN],
        /// How long the session lives, in seconds.
        #[n(1)]
        expires_in_s: u64,
    },
    /// Answers a request, or refuses a step before it ([`Response::Error`]).
    #[n(5)]
    Response(#[n(0)] Response),
}

/// What [`ClientMessage::Prove`] signs: bound to the node, the challenge and the key.
#[must_use]
pub fn session_challenge(node: &NodeId, challenge: &[u8; 32], key: &[u8; 32]) -> Vec<u8> {
    [b"hive session v1\0", &node.as_bytes()[..], challenge, key].concat()
}

/// What a client asks of a node.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// The node's identity. Answer: [`Response::Identity`].
    #[n(0)]
    Identity,
    /// Add a node, dial it and join it. Answer: [`Response::Registered`].
    #[n(1)]
    Register {
        /// Who and where it is.
        #[n(0)]
        identity: Identity,
        /// Network to join it in.
        #[n(1)]
        network: NetworkName,
    },
    /// The node's networks. Answer: [`Response::Networks`].
    #[n(2)]
    Networks,
    /// Join or create a network. Answer: [`Response::Done`].
    #[n(3)]
    NetworkJoin {
        /// Its name.
        #[n(0)]
        network: NetworkName,
        /// Its password.
        #[n(1)]
        password: String,
    },
    /// Leave a network and forget it. Answer: [`Response::Done`].
    #[n(4)]
    NetworkLeave {
        /// Its name.
        #[n(0)]
        network: NetworkName,
    },
    /// Change a network's password on this node. Answer: [`Response::Done`].
    #[n(5)]
    NetworkRotate {
        /// Its name.
        #[n(0)]
        network: NetworkName,
        /// The new password.
        #[n(1)]
        password: String,
        /// How long the old one is accepted beside it, in seconds.
        #[n(2)]
        grace_s: u64,
    },
    /// Keep a node out of a network, on this node. Answer: [`Response::Done`].
    #[n(6)]
    Ban {
        /// The network; every network of this node where none is named.
        #[n(0)]
        network: Option<NetworkName>,
        /// The node.
        #[n(1)]
        node: NodeId,
        /// False lifts the ban.
        #[n(2)]
        banned: bool,
    },
    /// The peer table. Answer: [`Response::Nodes`].
    #[n(7)]
    Nodes,
    /// The node at a glance. Answer: [`Response::Status`].
    #[n(8)]
    Status,
    /// Add one side of a tunnel. Answer: [`Response::ProxyAdded`].
    #[n(9)]
    ProxyAdd(#[n(0)] ProxyRequest),
    /// The proxies with their state. Answer: [`Response::Proxies`].
    #[n(10)]
    Proxies,
    /// Remove a proxy and end its streams. Answer: [`Response::Done`].
    #[n(11)]
    ProxyRemove {
        /// Its number.
        #[n(0)]
        id: ProxyId,
    },
    /// Start or stop a proxy; stopping ends its streams. Answer: [`Response::Done`].
    #[n(12)]
    ProxyEnable {
        /// Its number.
        #[n(0)]
        id: ProxyId,
        /// Whether it shall serve.
        #[n(1)]
        enabled: bool,
    },
    /// Connect this stream to a port of the node. Answer: [`Response::Connected`], then tunnel frames.
    #[n(13)]
    Connect {
        /// Host, as the node sees it.
        #[n(0)]
        host: String,
        /// Port there.
        #[n(1)]
        port: u16,
    },
    /// End the session that this stream proved. Answer: [`Response::Done`].
    #[n(14)]
    Logout,
    /// The node's login sessions. Answer: [`Response::Sessions`].
    #[n(15)]
    Sessions,
    /// End a session. Answer: [`Response::Done`].
    #[n(16)]
    SessionRevoke {
        /// [`SessionInfo::id`].
        #[n(0)]
        id: String,
    },
    /// Give the node another name. Answer: [`Response::Done`].
    #[n(17)]
    Rename {
        /// The new name.
        #[n(0)]
        name: NodeName,
    },
    /// Listen on these addresses instead of the present ones. Answer: [`Response::Done`].
    #[n(18)]
    Listen {
        /// `/ip4|ip6/…/tcp/…` addresses.
        #[cbor(n(0), with = "codec::multiaddrs")]
        addresses: Vec<Multiaddr>,
    },
    /// The key store, without the texts. Answer: [`Response::Keys`].
    #[n(40)]
    Keys,
    /// Store entries, all or none, in place of those of the same names. Answer: [`Response::KeysStored`].
    #[n(41)]
    KeysPut {
        /// At most [`crate::keys::ENTRIES_MAX`].
        #[n(0)]
        entries: Vec<KeyEntry>,
    },
    /// Remove entries, all or none. Answer: [`Response::Done`].
    #[n(42)]
    KeysRemove {
        /// Their names.
        #[n(0)]
        names: Vec<KeyName>,
    },
    /// An entry with its text. Answer: [`Response::KeyEntry`].
    #[n(43)]
    KeyShow {
        /// Its name.
        #[n(0)]
        name: KeyName,
        /// Whether a private key may be told.
        #[n(1)]
        reveal: bool,
    },
    /// Obtain a certificate, and renew it from then on. Answer: any number of [`Response::TlsStep`], then
    /// [`Response::KeysStored`]. The order goes on when the client goes away.
    #[n(44)]
    TlsObtain(#[n(0)] TlsRequest),
    // Keys 60 to 79 are for operating the machine behind the node.
    /// The machine's figures. Answer: [`Response::Metrics`].
    #[n(60)]
    Metrics,
    /// The agent's last log lines, and with `follow` those to come until the client closes the stream. Answers:
    /// [`Response::Logs`].
    #[n(61)]
    Logs {
        /// How many of the lines held, at most.
        #[n(0)]
        lines: u32,
        /// Whether to go on.
        #[n(1)]
        follow: bool,
    },
    /// Run a program as the agent's user. Answer: [`Response::Started`], then frames of [`crate::process`].
    #[n(62)]
    Run(#[n(0)] RunRequest),
    /// Write a file. Answer: [`Response::FileReady`]; then the client sends the bytes from there on as tunnel frames
    /// ([`crate::tunnel`]: DATA, then EOF), and the node answers [`Response::Done`] when the file is in its place.
    #[n(63)]
    FilePut {
        /// Where to; a folder gets a file of the name given. Relative to the home of the agent's user.
        #[n(0)]
        path: String,
        /// Name of the file that is sent.
        #[n(1)]
        name: String,
        /// What it is.
        #[n(2)]
        file: FileInfo,
    },
    /// What a file is. Answer: [`Response::File`].
    #[n(64)]
    FileStat {
        /// The file, relative to the home of the agent's user.
        #[n(0)]
        path: String,
    },
    /// Read a file. Answer: [`Response::FileReady`], then the bytes as tunnel frames: DATA, then EOF.
    #[n(65)]
    FileGet {
        /// The file, as in [`Request::FileStat`].
        #[n(0)]
        path: String,
        /// Bytes that the client has already.
        #[n(1)]
        offset: u64,
    },
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RunRequest {
    /// The program and its arguments, with no shell between; empty: the login shell of the agent's user.
    #[n(0)]
    pub command: Vec<String>,
    /// The terminal it runs on; none: its three streams are kept apart.
    #[n(1)]
    pub terminal: Option<TerminalInfo>,
}

/// A terminal.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TerminalInfo {
    /// Its kind: TERM.
    #[n(0)]
    pub kind: String,
    /// Characters in a line.
    #[n(1)]
    pub columns: u16,
    /// Lines.
    #[n(2)]
    pub rows: u16,
}

/// What a file is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FileInfo {
    /// Bytes.
    #[n(0)]
    pub size: u64,
    /// Permissions, `0o777` at most.
    #[n(1)]
    pub mode: u32,
    /// BLAKE3 of its content.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub hash: [u8; 32],
}

/// One side of a tunnel, as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ProxyRequest {
    /// Which end.
    #[n(0)]
    pub direction: Direction,
    /// What it speaks.
    #[n(1)]
    pub kind: ProxyKind,
    /// Local port; 0 at an egress for any that is free.
    #[n(2)]
    pub port: u16,
    /// The peer: a peer id or a name that the node resolves. Empty where the proxy leads to the node itself.
    #[n(3)]
    pub peer: String,
    /// The peer's port; 0 where there is no peer.
    #[n(4)]
    pub peer_port: u16,
    /// The network; needed where the peer is a member of several.
    #[n(5)]
    pub network: Option<NetworkName>,
    /// Address an egress listens on.
    #[n(6)]
    pub bind: Option<BindAddr>,
    /// Host of an ingress' target.
    #[n(7)]
    pub host: Option<String>,
    /// Whether it ends with this stream.
    #[n(8)]
    pub temporary: bool,
    /// The certificate with which TLS is terminated here; none to pass bytes on as they are.
    #[n(20)]
    pub key_prefix: Option<KeyPrefix>,
    /// At an egress, the host name by which TLS clients ask for this proxy, among others on the same port.
    #[n(21)]
    pub sni: Option<HostPattern>,
    /// Who may log in, where it speaks SSH.
    #[n(22)]
    pub ssh: Option<SshLogin>,
}

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct BindAddr(#[cbor(n(0), with = "codec::ip")] pub IpAddr);

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Response {
    /// Done, nothing to tell.
    #[n(0)]
    Done,
    /// Not done.
    #[n(1)]
    Error(#[n(0)] Failure),
    /// The node's identity.
    #[n(2)]
    Identity(#[n(0)] Identity),
    /// The other node accepted.
    #[n(3)]
    Registered {
        /// The node.
        #[n(0)]
        node: NodeId,
        /// Its name.
        #[n(1)]
        name: NodeName,
        /// Members of the network known now.
        #[n(2)]
        members: u32,
    },
    /// The node's networks.
    #[n(4)]
    Networks(#[n(0)] Vec<NetworkInfo>),
    /// Rows of the peer table.
    #[n(5)]
    Nodes {
        /// At most [`PAGE`] rows.
        #[n(0)]
        rows: Vec<NodeInfo>,
        /// Whether another page follows.
        #[n(1)]
        more: bool,
    },
    /// The node at a glance.
    #[n(6)]
    Status(#[n(0)] StatusInfo),
    /// The new proxy's number.
    #[n(7)]
    ProxyAdded {
        /// Its number.
        #[n(0)]
        id: ProxyId,
    },
    /// Proxies with their state.
    #[n(8)]
    Proxies {
        /// At most [`PAGE`] rows.
        #[n(0)]
        rows: Vec<ProxyInfo>,
        /// Whether another page follows.
        #[n(1)]
        more: bool,
    },
    /// The target is connected; tunnel frames follow.
    #[n(9)]
    Connected,
    /// The node's login sessions.
    #[n(10)]
    Sessions(#[n(0)] Vec<SessionInfo>),
    /// Entries of the key store.
    #[n(40)]
    Keys {
        /// At most [`PAGE`] rows.
        #[n(0)]
        rows: Vec<KeyInfo>,
        /// Whether another page follows.
        #[n(1)]
        more: bool,
    },
    /// An entry of the key store with its text.
    #[n(41)]
    KeyEntry(#[n(0)] KeyEntry),
    /// What was stored.
    #[n(42)]
    KeysStored(#[n(0)] Vec<KeyInfo>),
    /// A step towards a certificate, in a sentence.
    #[n(43)]
    TlsStep {
        /// The sentence, without a full stop.
        #[n(0)]
        text: String,
    },
    // Keys 60 to 79 are for operating the machine behind the node.
    /// The machine's figures.
    #[n(60)]
    Metrics(#[n(0)] Box<Metrics>),
    /// Log lines, oldest first.
    #[n(61)]
    Logs {
        /// The lines.
        #[n(0)]
        lines: Vec<LogLine>,
        /// Lines that are lost because the reader was too slow for the ring.
        #[n(1)]
        missed: u64,
        /// Whether another answer follows.
        #[n(2)]
        more: bool,
    },
    /// The program runs; frames of [`crate::process`] follow.
    #[n(62)]
    Started,
    /// The bytes of the file follow, from here on.
    #[n(63)]
    FileReady {
        /// Bytes that are there already.
        #[n(0)]
        offset: u64,
    },
    /// What a file is.
    #[n(64)]
    File(#[n(0)] FileInfo),
}

/// Most rows of one page of a list; each row is well under 3 KiB.
pub const PAGE: usize = 64;

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[error("{what}")]
#[cbor(map)]
pub struct Failure {
    /// Kind, for scripts.
    #[n(0)]
    pub code: FailureCode,
    /// What went wrong, in a sentence without a full stop.
    #[n(1)]
    pub what: String,
    /// What to do about it.
    #[n(2)]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(code: FailureCode, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), hint: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Kinds of failure; `hivectl`'s exit status follows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum FailureCode {
    /// The operation failed.
    #[n(0)]
    Failed,
    /// The request makes no sense here.
    #[n(1)]
    Usage,
    /// A login is needed, or it was refused.
    #[n(2)]
    NotAuthorised,
    /// The node acted on cannot be reached.
    #[n(3)]
    Unreachable,
    /// The two versions have nothing in common, or the message is of a newer one.
    #[n(4)]
    Version,
    /// Too many attempts or too much at once; try again later.
    #[n(5)]
    Busy,
}
