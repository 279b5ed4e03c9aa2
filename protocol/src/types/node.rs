//! Rows of the peer table and of the networks.

use minicbor::{Decode, Encode};
use multiaddr::Multiaddr;

use crate::{NetworkName, NodeId, NodeName, Timestamp, codec};

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
