//! What nodes tell their users: tables, states, counters. Field names are the keys of `hivectl --json`.

use std::net::{IpAddr, Ipv4Addr};

use minicbor::{Decode, Encode};
use multiaddr::Multiaddr;

use crate::{HostPattern, KeyPrefix, NetworkName, NodeId, NodeName, PathRule, Timestamp, codec};

/// Number of a proxy on its node; never used twice there.
pub type ProxyId = u64;

/// One row of the peer table.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct NodeInfo {
    /// The node.
    #[n(0)]
    pub peer_id: NodeId,
    /// Its name.
    #[n(1)]
    pub node_name: NodeName,
    /// Network in whose table the row stands.
    #[n(2)]
    pub network: NetworkName,
    /// When the answering node last heard of it, directly or by a record.
    #[n(3)]
    pub latest_contact: Timestamp,
    /// Whether it is believed to be up.
    #[n(4)]
    pub online: bool,
    /// How the answering node reaches it now.
    #[n(5)]
    pub path: PathKind,
    /// What carries that path.
    #[n(6)]
    pub transport: Option<Carrier>,
    /// Measured round trip, in milliseconds.
    #[n(7)]
    pub rtt_ms: Option<f64>,
    /// Where it says it can be dialled.
    #[cbor(n(8), with = "codec::multiaddrs")]
    pub addresses: Vec<Multiaddr>,
    /// Agent version.
    #[n(9)]
    pub version: String,
    /// Target triple.
    #[n(10)]
    pub target: String,
    /// The node that carries a relayed path.
    #[n(11)]
    pub relay: Option<NodeId>,
    /// Why a relayed path is not direct yet, as far as it was seen.
    #[n(12)]
    pub why_relayed: Option<String>,
}

/// How a node is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[cbor(index_only)]
pub enum PathKind {
    /// It is the answering node.
    #[n(0)]
    #[cfg_attr(feature = "serde", serde(rename = "self"))]
    This,
    /// Without a relay.
    #[n(1)]
    Direct,
    /// Over a relay.
    #[n(2)]
    Relayed,
    /// No connection at the moment.
    #[n(3)]
    None,
}

/// What carries a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[cbor(index_only)]
pub enum Carrier {
    /// TCP.
    #[n(0)]
    Tcp,
    /// QUIC over UDP.
    #[n(1)]
    Quic,
}

/// A network of the answering node.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct NetworkInfo {
    /// Its name.
    #[n(0)]
    pub name: NetworkName,
    /// Members known, this node among them.
    #[n(1)]
    pub members: u32,
    /// Members believed to be up, this node among them.
    #[n(2)]
    pub online: u32,
    /// Join attempts refused here since the agent started.
    #[n(3)]
    pub refused_joins: u64,
    /// Until when the password before the last rotation is still accepted.
    #[n(4)]
    pub old_password_until: Option<Timestamp>,
    /// Nodes this node does not let in.
    #[n(5)]
    pub banned: Vec<NodeId>,
}

/// Which end of a tunnel a proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[cbor(index_only)]
pub enum Direction {
    /// Listens for local connections and sends them to the peer.
    #[n(0)]
    Egress,
    /// Takes connections from the peer to a local target.
    #[n(1)]
    Ingress,
}

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[cbor(index_only)]
pub enum ProxyKind {
    /// Any protocol over TCP, passed through.
    #[n(0)]
    Tcp,
    /// SSH, served by the agent itself: the egress leads to this node and to no peer.
    #[n(1)]
    Ssh,
}

/// Who may log in at a proxy that speaks SSH.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SshLogin {
    /// The user name to log in with, whatever the account that the agent runs as is called.
    #[n(0)]
    pub user: String,
    /// PHC string of the password; none: only keys log in.
    #[n(1)]
    pub password: Option<String>,
    /// Public keys that may log in, each a line as in `authorized_keys` without options.
    #[n(2)]
    pub keys: Vec<String>,
}

/// Neither the name nor the hash belongs into a log.
impl std::fmt::Debug for SshLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SshLogin(…)")
    }
}

/// By what a client knows an SSH server again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct SshHost {
    /// The host's public key as in `known_hosts`, without a name: `ssh-ed25519 AAAA…`.
    #[n(0)]
    pub key: String,
    /// Its fingerprint as OpenSSH writes it: `SHA256:…`.
    #[n(1)]
    pub fingerprint: String,
}

/// The other end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(map)]
pub struct Remote {
    /// Network that gives the right.
    #[n(0)]
    pub network: NetworkName,
    /// The peer.
    #[n(1)]
    pub node: NodeId,
    /// At an egress the peer's port that is asked for; at an ingress the peer's listening port that is let in.
    #[n(2)]
    pub port: u16,
}

/// One side of a tunnel, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ProxySpec {
    /// Its number on the node.
    #[n(0)]
    pub id: ProxyId,
    /// Which end.
    #[n(1)]
    pub direction: Direction,
    /// What it speaks.
    #[n(2)]
    pub kind: ProxyKind,
    /// At an egress the local listening port, at an ingress the local target's port.
    #[n(3)]
    pub port: u16,
    /// Address an egress listens on.
    #[cbor(n(4), with = "codec::ip")]
    pub bind: IpAddr,
    /// Host of an ingress' target: a name or an IP address.
    #[n(5)]
    pub host: String,
    /// The other end; none where the proxy leads to this node.
    #[n(6)]
    pub remote: Option<Remote>,
    /// Whether it serves.
    #[n(7)]
    pub enabled: bool,
    /// Whether it ends with the session that made it; such a proxy is never stored.
    #[n(8)]
    pub temporary: bool,
    /// Seconds for which an egress' connections outlive the path under them, 0 for not at all; else
    /// [`DEFAULT_RESUME`].
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

impl ProxySpec {
    /// Which paths it may take.
    #[must_use]
    pub fn paths(&self) -> PathRule {
        self.path_rule.unwrap_or_default()
    }
}

/// Seconds for which a tunnelled connection outlives its path, unless told otherwise.
pub const DEFAULT_RESUME: u32 = 60;
/// The address an egress listens on unless told otherwise.
pub const DEFAULT_BIND: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The target host of an ingress unless told otherwise.
pub const DEFAULT_HOST: &str = "127.0.0.1";

/// What a proxy is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[cbor(index_only)]
pub enum ProxyState {
    /// An egress that listens while its peer is not connected.
    #[n(0)]
    Listening,
    /// The peer is connected.
    #[n(1)]
    Connected,
    /// Disabled, or an ingress whose peer is not connected.
    #[n(2)]
    Waiting,
    /// Cannot serve; `last_error` says why.
    #[n(3)]
    Failed,
}

/// A proxy with its live state.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct ProxyInfo {
    /// See [`ProxySpec`].
    #[n(0)]
    pub id: ProxyId,
    /// Which end.
    #[n(1)]
    pub direction: Direction,
    /// What it speaks.
    #[n(2)]
    pub kind: ProxyKind,
    /// Local port.
    #[n(3)]
    pub port: u16,
    /// Address of an egress.
    #[cbor(n(4), with = "codec::ip")]
    pub bind: IpAddr,
    /// Target host of an ingress.
    #[n(5)]
    pub host: String,
    /// The peer; none where the proxy leads to this node.
    #[n(6)]
    pub peer_id: Option<NodeId>,
    /// The peer's name, where known.
    #[n(7)]
    pub peer_name: Option<NodeName>,
    /// The peer's port.
    #[n(8)]
    pub peer_port: Option<u16>,
    /// The network.
    #[n(9)]
    pub network: Option<NetworkName>,
    /// Whether TLS is terminated here.
    #[n(10)]
    pub tls: bool,
    /// Names the certificate.
    #[n(11)]
    pub key_prefix: Option<String>,
    /// Whether it serves.
    #[n(12)]
    pub enabled: bool,
    /// Whether it ends with its session.
    #[n(13)]
    pub temporary: bool,
    /// What it is doing.
    #[n(14)]
    pub state: ProxyState,
    /// How the peer is reached.
    #[n(15)]
    pub path: PathKind,
    /// Connections open now.
    #[n(16)]
    pub streams: u32,
    /// Connections served since the agent started.
    #[n(17)]
    pub streams_total: u64,
    /// Bytes that came from the peer since the agent started.
    #[n(18)]
    pub bytes_in: u64,
    /// Bytes that went to the peer since the agent started.
    #[n(19)]
    pub bytes_out: u64,
    /// The last failure, cleared by a success.
    #[n(20)]
    pub last_error: Option<String>,
    /// Host name by which TLS clients ask for an egress.
    #[n(21)]
    pub sni: Option<HostPattern>,
    /// The host key, where it speaks SSH.
    #[n(22)]
    pub ssh: Option<SshHost>,
    /// Which paths it may take; none where it takes none, or the node is too old to say.
    #[n(23)]
    pub path_rule: Option<PathRule>,
}

/// A node at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct StatusInfo {
    /// The node.
    #[n(0)]
    pub peer_id: NodeId,
    /// Its name.
    #[n(1)]
    pub node_name: NodeName,
    /// Agent version.
    #[n(2)]
    pub version: String,
    /// Seconds since the agent started.
    #[n(3)]
    pub uptime_s: u64,
    /// Whether others can dial it.
    #[n(4)]
    pub reachability: Reachability,
    /// Relays that hold a reservation for it.
    #[n(5)]
    pub relays: Vec<NodeId>,
    /// Connections to members.
    #[n(6)]
    pub connections: ConnectionCounts,
    /// Tunnelled connections.
    #[n(7)]
    pub tunnels: TunnelCounts,
    /// Addresses it listens on.
    #[cbor(n(8), with = "codec::multiaddrs")]
    pub listening: Vec<Multiaddr>,
    /// What is wrong, and what to do about it.
    #[n(9)]
    pub problems: Vec<Problem>,
    /// What the router in front was asked for; none where none is needed, known or to be asked.
    #[n(10)]
    pub port_mapping: Option<PortMapping>,
}

/// Ports of a node that its router maps.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct PortMapping {
    /// The router.
    #[cbor(n(0), with = "codec::ip")]
    pub gateway: IpAddr,
    /// What it speaks; none while it has not answered.
    #[n(1)]
    pub protocol: Option<MappingProtocol>,
    /// Where others can dial the node by what was mapped.
    #[cbor(n(2), with = "codec::multiaddrs")]
    pub addresses: Vec<Multiaddr>,
    /// What is in the way.
    #[n(3)]
    pub problem: Option<String>,
}

/// How a router is asked for a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[cbor(index_only)]
pub enum MappingProtocol {
    /// RFC 6887.
    #[n(0)]
    Pcp,
    /// RFC 6886.
    #[n(1)]
    NatPmp,
}

/// Whether others can dial a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[cbor(index_only)]
pub enum Reachability {
    /// Members reached it from outside.
    #[n(0)]
    Public,
    /// Members failed to.
    #[n(1)]
    Private,
    /// Nobody tried yet.
    #[n(2)]
    Unknown,
}

/// Connections to members by path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct ConnectionCounts {
    /// Without a relay.
    #[n(0)]
    pub direct: u32,
    /// Over a relay.
    #[n(1)]
    pub relayed: u32,
}

/// Tunnelled connections in sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct TunnelCounts {
    /// Open now.
    #[n(0)]
    pub active: u32,
    /// Bytes that came from peers since the agent started.
    #[n(1)]
    pub bytes_in: u64,
    /// Bytes that went to peers since the agent started.
    #[n(2)]
    pub bytes_out: u64,
}

/// Something wrong, in words.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct Problem {
    /// What is wrong.
    #[n(0)]
    pub what: String,
    /// What to do about it.
    #[n(1)]
    pub hint: String,
}

/// A login session of a node.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct SessionInfo {
    /// First eight hexadecimal digits of the client's key.
    #[n(0)]
    pub id: String,
    /// The user.
    #[n(1)]
    pub user: String,
    /// When it logged in.
    #[n(2)]
    pub created: Timestamp,
    /// When the session ends.
    #[n(3)]
    pub expires: Timestamp,
    /// When it was last used.
    #[n(4)]
    pub last_used: Timestamp,
}

/// A line of the agent's log.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct LogLine {
    /// When it was written.
    #[n(0)]
    pub time: Timestamp,
    /// How grave it is.
    #[n(1)]
    pub level: LogLevel,
    /// What it says.
    #[n(2)]
    pub text: String,
}

/// How grave a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[cbor(index_only)]
pub enum LogLevel {
    /// Something does not work.
    #[n(0)]
    Error,
    /// Something may not work.
    #[n(1)]
    Warn,
    /// What a person wants to know.
    #[n(2)]
    Info,
    /// What a developer wants to know.
    #[n(3)]
    Debug,
    /// Everything.
    #[n(4)]
    Trace,
}
