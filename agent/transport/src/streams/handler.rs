//! One connection's end of [`streams`](super): offers protocols, opens what is asked for, hands on what comes in.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_channel::Receiver;
use futures::{
    Stream as _,
    channel::{mpsc, oneshot},
    future::{Ready, ready},
};
use libp2p::{
    PeerId, StreamProtocol,
    core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo},
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, ConnectionId, StreamUpgradeError, SubstreamProtocol,
        handler::{ConnectionEvent, DialUpgradeError},
    },
};

use super::{
    Incoming, Shared, Stream,
    control::OpenError,
    table::{Link, Request, Slot},
};

/// Streams being opened at once: yamux lets no more go unacknowledged.
const OPENING: usize = 256;

type Reply = oneshot::Sender<Result<Stream, OpenError>>;

/// The caller who waits for a stream, and the place that the stream takes.
pub struct Opening {
    reply: Reply,
    slot: Slot,
}

type Negotiated = (libp2p::Stream, StreamProtocol);

/// The handler of one connection.
pub struct Handler {
    peer: PeerId,
    connection: ConnectionId,
    link: Arc<Link>,
    shared: Arc<Shared>,
    requests: Pin<Box<Receiver<Request>>>,
    opening: usize,
    incoming: mpsc::Sender<Incoming>,
    /// Waiting for room in `incoming`, in order of arrival.
    held: VecDeque<Incoming>,
}

impl Handler {
    pub(super) fn new(
        (peer, connection): (PeerId, ConnectionId),
        link: Arc<Link>,
        shared: Arc<Shared>,
        requests: Receiver<Request>,
        incoming: mpsc::Sender<Incoming>,
    ) -> Self {
        let requests = Box::pin(requests);
        Self { peer, connection, link, shared, requests, opening: 0, incoming, held: VecDeque::new() }
    }

    /// Takes in a stream that the remote opened, or drops it, which resets it.
    fn receive(&mut self, (stream, protocol): Negotiated) {
        let admitted = self.link.is_admitted();
        // The connection may have been expelled while the stream negotiated.
        if !self.shared.protocols.accepted(admitted).contains(&protocol) {
            return;
        }
        let limits = self.shared.limits;
        if self.held.len() >= limits.held_per_connection {
            log::debug!("reset a stream of {} for {protocol}: too many wait", self.peer);
            return;
        }
        let few = match admitted {
            true => None,
            false => match Slot::take(&self.link, |link| &link.streams_of_stranger, limits.streams_of_stranger) {
                None => return,
                slot => slot,
            },
        };
        let all = Slot::take(&self.link, |link| &link.streams, usize::MAX);
        let (peer, connection, stream) = (self.peer, self.connection, Stream::new(stream, (all, few)));
        self.held.push_back(Incoming { peer, connection, protocol, stream });
    }

    /// Hands on held streams while there is room.
    fn deliver(&mut self, cx: &mut Context<'_>) {
        while !self.held.is_empty() {
            match self.incoming.poll_ready(cx) {
                Poll::Pending => return,
                Poll::Ready(Err(_)) => self.held.clear(),
                Poll::Ready(Ok(())) => {
                    // Fails only if the receiver has gone this instant, which the next turn sees.
                    let _sent = self.held.pop_front().map(|incoming| self.incoming.start_send(incoming));
                }
            }
        }
    }

    /// The next stream to open, if another may be opened now.
    fn next_request(&mut self, cx: &mut Context<'_>) -> Option<(StreamProtocol, Opening)> {
        while self.opening < OPENING {
            let Poll::Ready(Some(Request { protocol, reply })) = self.requests.as_mut().poll_next(cx) else {
                return None;
            };
            if reply.is_canceled() {
                continue;
            }
            let limit = self.shared.limits.streams_per_connection;
            match Slot::take(&self.link, |link| &link.streams, limit) {
                Some(slot) => return Some((protocol, Opening { reply, slot })),
                None => drop(reply.send(Err(OpenError::TooManyStreams))),
            }
        }
        None
    }

    fn opened(&mut self, Opening { reply, slot }: Opening, stream: libp2p::Stream) {
        self.opening -= 1;
        // A caller that gave up drops the stream, which resets it.
        drop(reply.send(Ok(Stream::new(stream, (Some(slot), None)))));
    }

    fn failed(&mut self, opening: Opening, error: OpenError) {
        self.opening -= 1;
        drop(opening.reply.send(Err(error)));
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Opening;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        let offered = self.shared.protocols.accepted(self.link.is_admitted());
        SubstreamProtocol::new(Offer(offered.clone()), ())
    }

    /// Closing is decided elsewhere.
    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Offer, Opening, Infallible>> {
        self.link.waker.register(cx.waker());
        self.deliver(cx);
        let Some((protocol, opening)) = self.next_request(cx) else { return Poll::Pending };
        self.opening += 1;
        let protocol =
            SubstreamProtocol::new(Offer([protocol].into()), opening).with_timeout(self.shared.limits.open_timeout);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offer, Offer, (), Opening>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(event) => self.receive(event.protocol),
            ConnectionEvent::FullyNegotiatedOutbound(event) => self.opened(event.info, event.protocol.0),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.failed(info, open_error(error));
            }
            _ => {}
        }
    }
}

fn open_error(error: StreamUpgradeError<Infallible>) -> OpenError {
    match error {
        StreamUpgradeError::Timeout => OpenError::Timeout,
        StreamUpgradeError::NegotiationFailed => OpenError::Refused,
        StreamUpgradeError::Io(_) => OpenError::Closed,
        StreamUpgradeError::Apply(never) => match never {},
    }
}

impl Drop for Handler {
    /// Requests that reached the queue are refused at once: dropping one tells its caller.
    fn drop(&mut self) {
        self.requests.close();
        while self.requests.try_recv().is_ok() {}
    }
}

/// The protocols offered to the remote, or asked of it.
#[derive(Debug, Clone)]
pub struct Offer(Arc<[StreamProtocol]>);

/// The names in an [`Offer`], without copying the list: the swarm asks on every turn.
#[derive(Debug, Clone)]
pub struct Names {
    protocols: Arc<[StreamProtocol]>,
    next: usize,
}

impl Iterator for Names {
    type Item = StreamProtocol;

    fn next(&mut self) -> Option<StreamProtocol> {
        let name = self.protocols.get(self.next).cloned();
        self.next += 1;
        name
    }
}

impl UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter = Names;

    fn protocol_info(&self) -> Names {
        Names { protocols: self.0.clone(), next: 0 }
    }
}

impl InboundUpgrade<libp2p::Stream> for Offer {
    type Output = Negotiated;
    type Error = Infallible;
    type Future = Ready<Result<Negotiated, Infallible>>;

    fn upgrade_inbound(self, stream: libp2p::Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<libp2p::Stream> for Offer {
    type Output = Negotiated;
    type Error = Infallible;
    type Future = Ready<Result<Negotiated, Infallible>>;

    fn upgrade_outbound(self, stream: libp2p::Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
