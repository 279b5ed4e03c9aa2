//! A node at a glance, its sessions and its log.

use std::net::IpAddr;

use minicbor::{Decode, Encode};
use multiaddr::Multiaddr;

use crate::{NodeId, NodeName, Timestamp, codec};

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
