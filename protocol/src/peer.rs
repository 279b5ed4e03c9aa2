//! Messages between nodes: joining a network on a connection, and keeping the peer table in step.

use minicbor::{Decode, Encode};
use multiaddr::Multiaddr;

use crate::{NetworkName, SignedRecord, codec, pake};

/// One step of a join exchange, on a stream of [`JOIN_PROTOCOL`](crate::JOIN_PROTOCOL).
///
/// The initiator sends `Open`, then `Confirm`, then `Done`; the responder `Answer`, then `Confirm`, or `Refused` at any
/// point. `Done` tells the responder that both sides now count the connection as joined.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum JoinMessage {
    /// Asks to join.
    #[n(0)]
    Open {
        /// The network.
        #[n(0)]
        network: NetworkName,
        /// Which of the responder's passwords to prove: 0 the current one, 1 the one before a rotation.
        #[n(1)]
        slot: u8,
        /// SPAKE2 message.
        #[cbor(n(2), with = "minicbor::bytes")]
        opening: [u8; pake::MESSAGE_LEN],
    },
    /// The responder's SPAKE2 message.
    #[n(1)]
    Answer {
        /// SPAKE2 message.
        #[cbor(n(0), with = "minicbor::bytes")]
        answer: [u8; pake::MESSAGE_LEN],
    },
    /// Key confirmation, of either side.
    #[n(2)]
    Confirm {
        /// Confirmation code.
        #[cbor(n(0), with = "minicbor::bytes")]
        code: [u8; pake::CONFIRMATION_LEN],
    },
    /// The responder does not go on. An unknown network and a wrong password look the same.
    #[n(3)]
    Refused {
        /// Why.
        #[n(0)]
        reason: JoinRefusal,
    },
    /// The initiator took the responder's confirmation.
    #[n(4)]
    Done,
}

/// Why a join was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum JoinRefusal {
    /// Network or password not accepted, or the node is banned.
    #[n(0)]
    NotAccepted,
    /// Too many failed attempts lately.
    #[n(1)]
    TryLater,
}

/// One step of a hole punch, on a stream of [`PUNCH_PROTOCOL`](crate::PUNCH_PROTOCOL): the exchange of DCUtR (libp2p
/// specs, `relay/DCUtR.md`), between members only.
///
/// The side that was dialled over the relay sends `Connect`, gets `Connect`, measures the round trip, and sends `Sync`. The
/// other side dials when `Sync` comes, the first half a round trip after sending it, so that both meet in between.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum PunchMessage {
    /// Where the sender may be reached.
    #[n(0)]
    Connect {
        /// Addresses under which others see it, best first.
        #[cbor(n(0), with = "codec::multiaddrs")]
        addresses: Vec<Multiaddr>,
    },
    /// Dial now.
    #[n(1)]
    Sync {
        /// Whether the receiver takes the listener's part in the handshake of the new connection.
        #[n(0)]
        listen: bool,
    },
}

/// A message of one network's table sync, on a stream of [`PEERS_PROTOCOL`](crate::PEERS_PROTOCOL).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PeerMessage {
    /// Network it speaks of; both sides must have joined it on this connection.
    #[n(0)]
    pub network: NetworkName,
    /// What it says.
    #[n(1)]
    pub body: SyncMessage,
}

/// Table sync: ranges of the table are compared by fingerprint and split where they differ, until short lists of
/// sequence numbers show which records to send.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum SyncMessage {
    /// "This is what I have": the receiver answers for each range that differs.
    #[n(0)]
    Compare {
        /// Ranges, at most [`MAX_RANGES`].
        #[n(0)]
        ranges: Vec<Range>,
    },
    /// "Send me these": short node ids.
    #[n(1)]
    Want {
        /// [`NodeId::short`](crate::NodeId::short) of each record wanted, at most [`MAX_ENTRIES`].
        #[n(0)]
        nodes: Vec<u64>,
    },
    /// Records, asked for or pushed on change.
    #[n(2)]
    Records {
        /// Signed by their owners, at most [`MAX_RECORDS`].
        #[n(0)]
        records: Vec<SignedRecord>,
    },
}

/// Most ranges of one message.
pub const MAX_RANGES: usize = 256;
/// Most entries of one leaf or request.
pub const MAX_ENTRIES: usize = 1024;
/// Most records of one message.
pub const MAX_RECORDS: usize = 16;

/// What the sender has in one range of node ids: those whose first `4 * depth` bits are those of `prefix`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Range {
    /// First nibbles of [`NodeId::short`](crate::NodeId::short), the rest zero.
    #[n(0)]
    pub prefix: u64,
    /// Number of nibbles, 0 to 16.
    #[n(1)]
    pub depth: u8,
    /// The sender's holdings there.
    #[n(2)]
    pub content: RangeContent,
}

/// A fingerprint of many records or a list of few.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum RangeContent {
    /// Too many to list.
    #[n(0)]
    Digest {
        /// Sum, modulo 2^128, of each record's fingerprint: BLAKE3 of node id and sequence number.
        #[cbor(n(0), with = "minicbor::bytes")]
        fingerprint: [u8; 16],
        /// Number of records.
        #[n(1)]
        count: u32,
    },
    /// All of them.
    #[n(1)]
    List {
        /// Each record's short node id and sequence number.
        #[n(0)]
        entries: Vec<Entry>,
    },
}

/// One record in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// [`NodeId::short`](crate::NodeId::short).
    #[n(0)]
    pub node: u64,
    /// Sequence number held.
    #[n(1)]
    pub seq: u64,
}
