//! A stream as its user sees it.

use std::{
    io::{self, IoSlice, IoSliceMut},
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::upgrade::NegotiationError;

use super::table::Slot;

/// One stream of a connection.
///
/// The protocol is agreed while the first bytes travel, so a remote that does not speak it (or does not count us
/// as a member) shows at the first read: [`io::ErrorKind::ConnectionRefused`]. After a failed read the stream is
/// over: reads and writes repeat that error. Dropping it resets it unless it was closed.
#[derive(Debug)]
pub struct Stream {
    inner: libp2p::Stream,
    /// Set by the first failed read. The negotiation inside must not be touched after its failure.
    over: Option<io::ErrorKind>,
    _slots: Slots,
}

/// Where a stream is counted: in its connection's total, and perhaps among a stranger's few.
pub(super) type Slots = (Option<Slot>, Option<Slot>);

impl Stream {
    pub(super) fn new(inner: libp2p::Stream, slots: Slots) -> Self {
        Self { inner, over: None, _slots: slots }
    }

    fn live(&mut self) -> io::Result<Pin<&mut libp2p::Stream>> {
        match self.over {
            Some(kind) => Err(describe(kind)),
            None => Ok(Pin::new(&mut self.inner)),
        }
    }

    fn note(&mut self, outcome: io::Result<usize>) -> io::Result<usize> {
        outcome.map_err(|error| {
            let kind = if refused(&error) { io::ErrorKind::ConnectionRefused } else { error.kind() };
            self.over = Some(kind);
            if refused(&error) { describe(kind) } else { error }
        })
    }
}

fn refused(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<NegotiationError>());
    matches!(cause, Some(NegotiationError::Failed))
}

fn describe(kind: io::ErrorKind) -> io::Error {
    match kind {
        io::ErrorKind::ConnectionRefused => io::Error::new(kind, "the remote refused the protocol"),
        _ => kind.into(),
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let outcome = ready!(self.live()?.poll_read(cx, buf));
        Poll::Ready(self.note(outcome))
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = ready!(self.live()?.poll_read_vectored(cx, bufs));
        Poll::Ready(self.note(outcome))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.live()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.live()?.poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.live()?.poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.live()?.poll_close(cx)
    }
}
