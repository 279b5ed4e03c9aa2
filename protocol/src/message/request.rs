//! What a client asks for, and the types that only a question has.

use std::net::IpAddr;

use minicbor::{Decode, Encode};
use multiaddr::Multiaddr;

#[cfg(doc)]
use super::Response;
#[cfg(doc)]
use crate::SessionInfo;
use crate::{
    Direction, HostPattern, Identity, KeyEntry, KeyName, KeyPrefix, NetworkName, NodeId, NodeName, PathRule, ProxyId,
    ProxyKind, SshLogin, codec, keys::TlsRequest,
};

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
    // Keys 66 to 79 are for updates of the agent.
    /// Replace the node's agent. Answer: [`Response::FileReady`]; then the client sends the bytes from there on as tunnel
    /// frames, as for [`Request::FilePut`], and the node answers [`Response::Done`] when the new agent is about to be
    /// tried. How that ends, [`Request::UpdateStatus`] tells.
    #[n(66)]
    Update(#[n(0)] UpdateRequest),
    /// Which agent runs, and how the last update went. Answer: [`Response::UpdateStatus`].
    #[n(67)]
    UpdateStatus,
}

/// Another agent, as offered.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct UpdateRequest {
    /// The binary; its mode is not looked at.
    #[n(0)]
    pub file: FileInfo,
    /// What its mark says; the node compares.
    #[n(1)]
    pub version: String,
    /// Target triple, likewise.
    #[n(2)]
    pub target: String,
    /// Whether it may be older than the one that runs.
    #[n(3)]
    pub downgrade: bool,
    /// Ed25519 signature over the whole binary, for a node that has a release key.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub signature: Option<[u8; 64]>,
    /// How long the new agent may take to rejoin a member, in seconds.
    #[n(5)]
    pub patience_s: u32,
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
    /// Seconds for which an egress' connections outlive their path; [`ProxySpec::resume`](crate::ProxySpec::resume).
    #[n(9)]
    pub resume: Option<u32>,
    /// The certificate with which TLS is terminated here; none to pass bytes on as they are.
    #[n(20)]
    pub key_prefix: Option<KeyPrefix>,
    /// At an egress, the host name by which TLS clients ask for this proxy, among others on the same port.
    #[n(21)]
    pub sni: Option<HostPattern>,
    /// Who may log in, where it speaks SSH.
    #[n(22)]
    pub ssh: Option<SshLogin>,
    /// Which paths it may take; none for any.
    #[n(23)]
    pub path_rule: Option<PathRule>,
}

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct BindAddr(#[cbor(n(0), with = "codec::ip")] pub IpAddr);
