//! Streams between peers: who may open which protocol, and how a stream gets from one end to the other.
//!
//! Owns a [`Behaviour`] for the swarm, a [`Control`] to open streams and to admit connections, and the queue of
//! [`Incoming`] streams. A connection begins as a stranger's: only protocols open to strangers are offered to
//! it, and few streams at once. An admitted connection may use every protocol. Requests and streams pass
//! between callers and connection handlers directly, never through the swarm's loop. This module never decides
//! whom to admit, never closes a connection, and gives no stream a meaning.
//!
//! Nothing waits in an unbounded queue, and nothing is lost silently: a stream beyond the bounds is reset, which
//! its opener sees, and every request to open one is answered.

mod behaviour;
mod control;
mod handler;
mod stream;
mod table;

use std::{sync::Arc, time::Duration};

use futures::channel::mpsc;
use libp2p::{PeerId, StreamProtocol, swarm::ConnectionId};

pub use behaviour::Behaviour;
pub(crate) use control::Admission;
pub use control::{Control, OpenError};
pub use stream::Stream;

/// A protocol that streams are opened for.
#[derive(Debug, Clone)]
pub struct Protocol {
    name: StreamProtocol,
    open_to_strangers: bool,
    accepted: bool,
}

impl Protocol {
    /// A protocol for admitted connections alone.
    pub fn for_members(name: StreamProtocol) -> Self {
        Self { name, open_to_strangers: false, accepted: true }
    }

    /// A protocol for every connection.
    pub fn for_strangers(name: StreamProtocol) -> Self {
        Self { name, open_to_strangers: true, accepted: true }
    }

    /// The same protocol, opened from here but never accepted.
    #[must_use]
    pub fn outbound_only(self) -> Self {
        Self { accepted: false, ..self }
    }
}

/// Bounds on streams.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Incoming streams that wait for their receiver.
    pub incoming: usize,
    /// Incoming streams that one connection holds back while that queue is full; more are reset.
    pub held_per_connection: usize,
    /// Requests to open a stream that wait for one connection; more callers wait their turn.
    pub requests_per_connection: usize,
    /// Streams of one connection, both directions together, from which on none is opened from here. Keep it far
    /// below [`Options::max_streams`](crate::Options::max_streams): meeting that ends the whole connection, and the
    /// remote may be slow to drop what we have closed.
    pub streams_per_connection: usize,
    /// Streams of one stranger's connection at once, counted until they are dropped; more are reset.
    pub streams_of_stranger: usize,
    /// From asking for a stream to having it.
    pub open_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            incoming: 256,
            held_per_connection: 1024,
            requests_per_connection: 256,
            // 2,048 tunnelled streams and a quarter more for control and for those that end.
            streams_per_connection: 2560,
            streams_of_stranger: 4,
            open_timeout: Duration::from_secs(10),
        }
    }
}

/// A stream that the remote opened.
#[derive(Debug)]
pub struct Incoming {
    /// Who opened it.
    pub peer: PeerId,
    /// Over which connection.
    pub connection: ConnectionId,
    /// For what.
    pub protocol: StreamProtocol,
    /// The stream; the protocol is agreed.
    pub stream: Stream,
}

/// The parts of a node's streams: for the swarm, for whoever opens streams, and for whoever serves them.
pub fn new(
    protocols: impl IntoIterator<Item = Protocol>,
    limits: Limits,
) -> (Behaviour, Control, mpsc::Receiver<Incoming>) {
    let shared = Arc::new(Shared { table: table::Table::default(), protocols: Protocols::new(protocols), limits });
    let (sender, receiver) = mpsc::channel(limits.incoming);
    (Behaviour::new(shared.clone(), sender), Control::new(shared), receiver)
}

/// What the behaviour, its handlers and every control hold in common.
#[derive(Debug)]
struct Shared {
    table: table::Table,
    protocols: Protocols,
    limits: Limits,
}

/// The declared protocols, sorted by who may use them.
#[derive(Debug)]
struct Protocols {
    for_members: Arc<[StreamProtocol]>,
    for_strangers: Arc<[StreamProtocol]>,
    opened_to_strangers: Vec<StreamProtocol>,
}

impl Protocols {
    fn new(declared: impl IntoIterator<Item = Protocol>) -> Self {
        let declared: Vec<Protocol> = declared.into_iter().collect();
        let names = |keep: fn(&Protocol) -> bool| {
            let kept = declared.iter().filter(|protocol| keep(protocol));
            kept.map(|protocol| protocol.name.clone()).collect::<Vec<_>>()
        };
        Self {
            for_members: names(|protocol| protocol.accepted).into(),
            for_strangers: names(|protocol| protocol.accepted && protocol.open_to_strangers).into(),
            opened_to_strangers: names(|protocol| protocol.open_to_strangers),
        }
    }

    /// What is accepted from a connection.
    fn accepted(&self, admitted: bool) -> &Arc<[StreamProtocol]> {
        if admitted { &self.for_members } else { &self.for_strangers }
    }

    /// Whether a stream for this protocol may be opened on a stranger's connection. An undeclared one may not.
    fn may_open_to_stranger(&self, protocol: &StreamProtocol) -> bool {
        self.opened_to_strangers.contains(protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_of_a_protocol_has_its_own_rule() {
        let [member, stranger, outbound] = ["/m", "/s", "/o"].map(StreamProtocol::new);
        let protocols = Protocols::new([
            Protocol::for_members(member.clone()),
            Protocol::for_strangers(stranger.clone()),
            Protocol::for_strangers(outbound.clone()).outbound_only(),
        ]);
        assert_eq!(protocols.accepted(true)[..], [member.clone(), stranger.clone()]);
        assert_eq!(protocols.accepted(false)[..], *std::slice::from_ref(&stranger));
        assert!(protocols.may_open_to_stranger(&stranger) && protocols.may_open_to_stranger(&outbound));
        assert!(!protocols.may_open_to_stranger(&member));
        assert!(!protocols.may_open_to_stranger(&StreamProtocol::new("/undeclared")));
    }
}
