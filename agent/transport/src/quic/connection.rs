//! One QUIC connection as libp2p's multiplexer.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use async_io::Timer;
use futures::future::{self, BoxFuture, Either, FutureExt};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use quinn::{RecvStream, SendStream};
use rustls::pki_types::CertificateDer;

use super::{Output, Stream, address::to_multiaddr};
use crate::tls;

type Opened = BoxFuture<'static, Result<(SendStream, RecvStream), quinn::ConnectionError>>;

/// An established connection.
pub struct Connection {
    inner: quinn::Connection,
    remote: SocketAddr,
    inbound: Option<Opened>,
    outbound: Option<Opened>,
    closed: Option<BoxFuture<'static, quinn::ConnectionError>>,
}

/// Waits until the handshake is done and says who is at the other end.
pub(super) async fn establish(
    connecting: impl Future<Output = Result<quinn::Connection, quinn::ConnectionError>>,
    limit: Duration,
) -> io::Result<Output> {
    let inner = match future::select(pin!(connecting), Timer::after(limit)).await {
        Either::Left((outcome, _)) => outcome.map_err(|error| failed(&error))?,
        Either::Right(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let shown = inner.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let peer = tls::peer_of(&shown.unwrap_or_default()).map_err(io::Error::other)?;
    let remote = inner.remote_address();
    Ok((peer, Connection { inner, remote, inbound: None, outbound: None, closed: None }))
}

/// What it was like, for whoever looks for a reason why it was slow.
impl Drop for Connection {
    fn drop(&mut self) {
        if log::log_enabled!(log::Level::Debug) {
            let quinn::ConnectionStats { path, udp_tx, udp_rx, .. } = self.inner.stats();
            log::debug!(
                "QUIC with {}: {} of {} packets lost, {} times congested, window {} bytes, round trip {:?}, {} bytes a \
                 packet, sent {} bytes in {} calls, received {} bytes in {} calls",
                self.remote,
                path.lost_packets,
                path.sent_packets,
                path.congestion_events,
                path.cwnd,
                path.rtt,
                path.current_mtu,
                udp_tx.bytes,
                udp_tx.ios,
                udp_rx.bytes,
                udp_rx.ios,
            );
        }
    }
}

/// In words as TCP's, where there are some.
fn failed(error: &quinn::ConnectionError) -> io::Error {
    let kind = match error {
        quinn::ConnectionError::TimedOut => io::ErrorKind::TimedOut,
        quinn::ConnectionError::Reset => io::ErrorKind::ConnectionReset,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error.to_string())
}

impl StreamMuxer for Connection {
    type Substream = Stream;
    type Error = io::Error;

    fn poll_inbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let this = self.get_mut();
        let connection = &this.inner;
        let accept = || {
            let connection = connection.clone();
            async move { connection.accept_bi().await }.boxed()
        };
        let outcome = ready!(this.inbound.get_or_insert_with(accept).poll_unpin(cx));
        this.inbound = None;
        Poll::Ready(outcome.map(Stream::from).map_err(|error| failed(&error)))
    }

    fn poll_outbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let this = self.get_mut();
        let connection = &this.inner;
        let open = || {
            let connection = connection.clone();
            async move { connection.open_bi().await }.boxed()
        };
        let outcome = ready!(this.outbound.get_or_insert_with(open).poll_unpin(cx));
        this.outbound = None;
        Poll::Ready(outcome.map(Stream::from).map_err(|error| failed(&error)))
    }

    /// Nothing wakes for a change of address alone; whatever arrives from the new one does.
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        let this = self.get_mut();
        let remote = this.inner.remote_address();
        if std::mem::replace(&mut this.remote, remote) == remote {
            return Poll::Pending;
        }
        Poll::Ready(Ok(StreamMuxerEvent::AddressChange(to_multiaddr(remote))))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let connection = &this.inner;
        let close = || {
            connection.close(0u32.into(), &[]);
            let connection = connection.clone();
            async move { connection.closed().await }.boxed()
        };
        ready!(this.closed.get_or_insert_with(close).poll_unpin(cx));
        Poll::Ready(Ok(()))
    }
}
