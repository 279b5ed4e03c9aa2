//! What a node answers, refusals among it, and the types that only an answer has.

use minicbor::{Decode, Encode};

use super::FileInfo;
#[cfg(doc)]
use super::Request;
use crate::{
    Identity, KeyEntry, KeyInfo, LogLine, Metrics, NetworkInfo, NodeId, NodeInfo, NodeName, ProxyId, ProxyInfo,
    SessionInfo, StatusInfo,
};

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
    /// Which agent runs, and how the last update went.
    #[n(66)]
    UpdateStatus(#[n(0)] UpdateStatus),
}

/// Which agent runs, and how the last update went.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct UpdateStatus {
    /// Version of the agent that runs.
    #[n(0)]
    pub version: String,
    /// Its target triple.
    #[n(1)]
    pub target: String,
    /// BLAKE3 of its executable; none where that cannot be read any more.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub hash: Option<[u8; 32]>,
    /// The last update, if there was one.
    #[n(3)]
    pub last: Option<UpdateRecord>,
}

/// One update of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct UpdateRecord {
    /// Counts the updates of this executable, from 1.
    #[n(0)]
    pub number: u64,
    /// How far it is.
    #[n(1)]
    pub stage: UpdateStage,
    /// Version before.
    #[n(2)]
    pub from: String,
    /// Version of the new agent.
    #[n(3)]
    pub to: String,
    /// Why it was rolled back.
    #[n(4)]
    pub why: Option<String>,
}

/// How far an update is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum UpdateStage {
    /// The new agent has yet to prove itself.
    #[n(0)]
    Trial,
    /// It has, and takes the place of the old one.
    #[n(1)]
    Confirmed,
    /// It is in its place.
    #[n(2)]
    Kept,
    /// The old one is back.
    #[n(3)]
    RolledBack,
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
