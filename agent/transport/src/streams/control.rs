//! Opening streams and admitting connections, from any task.

use std::{pin::pin, sync::Arc};

use async_io::Timer;
use futures::{
    channel::oneshot,
    future::{self, Either},
};
use libp2p::{PeerId, StreamProtocol, swarm::ConnectionId};

use super::{
    Shared, Stream,
    table::{Link, Request},
};

/// Why no stream was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is no connection to that peer, or no longer this one.
    #[error("not connected")]
    NotConnected,
    /// The protocol is for members, and no connection to that peer is admitted.
    #[error("the connection is not admitted to a network")]
    NotAdmitted,
    /// The remote does not accept the protocol from us.
    #[error("the remote refused the protocol")]
    Refused,
    /// [`Limits::streams_per_connection`](super::Limits::streams_per_connection) are open.
    #[error("too many streams are open on the connection")]
    TooManyStreams,
    /// The connection ended meanwhile.
    #[error("the connection closed")]
    Closed,
    /// The remote did not answer in time.
    #[error("the remote did not answer in time")]
    Timeout,
}

/// Whether one connection is a member's, at any moment.
#[derive(Debug, Clone)]
pub(crate) struct Admission(Option<Arc<Link>>);

impl Admission {
    pub(crate) fn is_admitted(&self) -> bool {
        self.0.as_ref().is_some_and(|link| link.is_admitted())
    }

    #[cfg(test)]
    pub(crate) fn of_a_member() -> Self {
        let link = Arc::<Link>::default();
        link.set_admitted(true);
        Self(Some(link))
    }
}

/// A handle on all connections of the swarm. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Opens a stream on the best connection to `peer`: direct before relayed, then the oldest; for a protocol
    /// that is not open to strangers, admitted ones only. A connection that is full or ends meanwhile is replaced by
    /// the next.
    ///
    /// # Errors
    /// See [`OpenError`]; it never takes longer than [`Limits::open_timeout`](super::Limits::open_timeout).
    pub async fn open(&self, peer: PeerId, protocol: StreamProtocol) -> Result<(ConnectionId, Stream), OpenError> {
        self.in_time(async {
            let candidates = self.shared.table.candidates(peer, self.strangers_too(&protocol))?;
            let mut last = OpenError::Closed;
            for connection in candidates {
                match self.request(connection, protocol.clone()).await {
                    Err(error @ (OpenError::Closed | OpenError::NotConnected | OpenError::TooManyStreams)) => {
                        last = error;
                    }
                    outcome => return Ok((connection, outcome?)),
                }
            }
            Err(last)
        })
        .await
    }

    /// Opens a stream on this very connection.
    ///
    /// # Errors
    /// As [`Control::open`].
    pub async fn open_on(&self, connection: ConnectionId, protocol: StreamProtocol) -> Result<Stream, OpenError> {
        self.in_time(self.request(connection, protocol)).await
    }

    /// Makes the connection a member's: it may use every protocol from now on. False if there is no such
    /// connection.
    pub fn admit(&self, connection: ConnectionId) -> bool {
        self.shared.table.set_admitted(connection, true)
    }

    /// Makes the connection a stranger's again. Streams that are open stay so: close the connection, or them.
    /// False if there is no such connection.
    pub fn expel(&self, connection: ConnectionId) -> bool {
        self.shared.table.set_admitted(connection, false)
    }

    /// Whether the connection exists and is a member's.
    pub fn is_admitted(&self, connection: ConnectionId) -> bool {
        self.shared.table.is_admitted(connection)
    }

    /// Watches whether this connection is a member's, for a handler that asks often. A connection that is not known
    /// never is.
    pub(crate) fn admission(&self, connection: ConnectionId) -> Admission {
        Admission(self.shared.table.link(connection))
    }

    /// How many of these connections are members'.
    pub(crate) fn count_admitted<'a>(&self, connections: impl Iterator<Item = &'a ConnectionId>) -> usize {
        self.shared.table.count_admitted(connections)
    }

    async fn request(&self, connection: ConnectionId, protocol: StreamProtocol) -> Result<Stream, OpenError> {
        let requests = self.shared.table.requests(connection, self.strangers_too(&protocol))?;
        let (reply, answer) = oneshot::channel();
        let sent = requests.send(Request { protocol, reply }).await;
        // Held any longer, this end would keep a closed connection's queue, and the request in it, alive.
        drop(requests);
        sent.map_err(|_| OpenError::Closed)?;
        answer.await.unwrap_or(Err(OpenError::Closed))
    }

    fn strangers_too(&self, protocol: &StreamProtocol) -> bool {
        self.shared.protocols.may_open_to_stranger(protocol)
    }

    async fn in_time<T>(&self, open: impl Future<Output = Result<T, OpenError>>) -> Result<T, OpenError> {
        match future::select(pin!(open), Timer::after(self.shared.limits.open_timeout)).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => Err(OpenError::Timeout),
        }
    }
}
