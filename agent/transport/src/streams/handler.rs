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
        if self.held.len() >= self.shared.limits.held_per_connection {
            log::debug!("reset a stream of {} for {protocol}: too many wait", self.peer);
            return;
        }
        let slot = match admitted {
            true => None,
            false => match Slot::take(&self.link, self.shared.limits.streams_of_stranger) {
                None => return,
                slot => slot,
            },
        };
        let (peer, connection, stream) = (self.peer, self.connection, Stream::new(stream, slot));
        self.held.push_back(Incoming { peer, connection, protocol, stream });
    }

    /// Hands on held streams while there is room.
    fn deliver(&mut self, cx: &mut Context<'_>) {
        while !self.held.is_empty() {
            match self.incoming.poll_ready(cx) {
                Poll::Pending => return,
                Poll::Ready(Err(_)) => self.held.clear(),
                Poll::Ready(Ok(())) => {
                    let sent = self.held.pop_front().map(|incoming| self.incoming.start_send(incoming));
                    debug_assert!(matches!(sent, Some(Ok(()))), "the queue was ready");
                }
            }
        }
    }

    /// The next request whose caller still waits, if another stream may be opened now.
    fn next_request(&mut self, cx: &mut Context<'_>) -> Option<Request> {
        while self.opening < OPENING {
            match self.requests.as_mut().poll_next(cx) {
                Poll::Ready(Some(request)) if request.reply.is_canceled() => {}
                Poll::Ready(request) => return request,
                Poll::Pending => return None,
            }
        }
        None
    }

    fn answer(&mut self, reply: Reply, outcome: Result<Stream, OpenError>) {
        self.opening -= 1;
        // A caller that gave up drops the stream, which resets it.
        drop(reply.send(outcome));
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Reply;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        let offered = self.shared.protocols.accepted(self.link.is_admitted());
        SubstreamProtocol::new(Offer(offered.clone()), ())
    }

    /// Closing is decided elsewhere.
    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Offer, Reply, Infallible>> {
        self.link.waker.register(cx.waker());
        self.deliver(cx);
        let Some(Request { protocol, reply }) = self.next_request(cx) else { return Poll::Pending };
        self.opening += 1;
        let protocol =
            SubstreamProtocol::new(Offer([protocol].into()), reply).with_timeout(self.shared.limits.open_timeout);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offer, Offer, (), Reply>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(event) => self.receive(event.protocol),
            ConnectionEvent::FullyNegotiatedOutbound(event) => {
                self.answer(event.info, Ok(Stream::new(event.protocol.0, None)));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.answer(info, Err(open_error(error)));
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
