//! Two joined sockets, by which one task hands a connection to another as if it came from outside.
//!
//! A kernel's socket pair keeps a half-close apart, but not an abort: closing looks like an end to the other side. So
//! both ends say in so many words what the kernel does not: the [`Inner`] one that it aborts, the [`Outer`] one, when it
//! has closed, that both directions had come to their ends.

use std::{
    io,
    net::{Shutdown, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    pin::Pin,
    task::{Context, Poll},
};

use futures::io::{AsyncRead, AsyncWrite};
use hive_transport::source::Source;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smol::channel::{self, Receiver, Sender};

use super::abort;

/// The end that is handed over: a socket like any other, and a word when the other end aborts. A connection of the
/// network is one, too, whose other end needs no words.
pub struct Outer {
    /// The socket. (It is a Unix socket; reading, writing and shutting down are the same.)
    pub socket: Source<TcpStream>,
    /// Tells that the other end aborted.
    pub cut: Cut,
}

/// Tells an abort of the inner end, and that end how the outer one came to its own.
pub struct Cut {
    aborted: Receiver<()>,
    regular: Option<Sender<()>>,
}

impl From<Source<TcpStream>> for Outer {
    fn from(socket: Source<TcpStream>) -> Self {
        Self { socket, cut: Cut { aborted: channel::bounded(1).1, regular: None } }
    }
}

impl Cut {
    /// Both directions came to their ends. Dropped without this, the connection was cut.
    pub fn regular(self) {
        // Room for one word; whoever does not wait for it does not need it.
        if let Some(regular) = self.regular {
            let _ = regular.try_send(());
        }
    }

    /// Waits for the abort; for ever if there is none.
    pub async fn happened(&self) {
        if self.aborted.recv().await.is_err() {
            std::future::pending().await
        }
    }
}

/// A connection that can be ended, aborted, and asked how its peer left it: one end of a pair, or a connection of the
/// network.
pub struct Inner {
    socket: Source<TcpStream>,
    pair: Option<Words>,
}

/// What the kernel does not say to the other end of a pair.
struct Words {
    abort: Sender<()>,
    regular: Receiver<()>,
}

/// Makes a pair.
pub fn pair() -> io::Result<(Outer, Inner)> {
    let (outer, inner) = UnixStream::pair()?;
    let socket = |stream: UnixStream| {
        stream.set_nonblocking(true)?;
        Source::new(TcpStream::from(OwnedFd::from(stream)))
    };
    let ((abort, aborted), (end, regular)) = (channel::bounded(1), channel::bounded(1));
    let outer = Outer { socket: socket(outer)?, cut: Cut { aborted, regular: Some(end) } };
    Ok((outer, Inner { socket: socket(inner)?, pair: Some(Words { abort, regular }) }))
}

impl From<Source<TcpStream>> for Inner {
    fn from(socket: Source<TcpStream>) -> Self {
        Self { socket, pair: None }
    }
}

impl Inner {
    /// Ends the connection so that the other side cannot take it for a regular end.
    pub fn abort(&self) {
        match &self.pair {
            // Room for one word, which says it all.
            Some(words) => {
                let _ = words.abort.try_send(());
            }
            None => abort(&self.socket),
        }
    }

    /// No more bytes will be written.
    pub fn end(&self) -> io::Result<()> {
        self.socket.get_ref().shutdown(Shutdown::Write)
    }

    /// Whether an end that was read is one, and not a peer that was cut off. (An abort of the network's is an error of
    /// reading.)
    pub async fn is_regular_end(&self) -> bool {
        match &self.pair {
            Some(words) if self.is_hung_up() => words.regular.recv().await.is_ok(),
            _ => true,
        }
    }

    fn is_hung_up(&self) -> bool {
        let mut asked = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&now)).is_ok() && asked[0].revents().contains(PollFlags::HUP)
    }
}

impl AsyncRead for &Inner {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_read(cx, buf)
    }
}

impl AsyncWrite for &Inner {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.end())
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn an_end_a_cut_and_an_abort_are_told_apart() {
        smol::block_on(async {
            let (outer, inner) = pair().unwrap();
            (&outer.socket).write_all(b"x").await.unwrap();
            outer.socket.get_ref().shutdown(Shutdown::Write).unwrap();
            let mut all = Vec::new();
            (&inner).read_to_end(&mut all).await.unwrap();
            assert!(all == b"x" && inner.is_regular_end().await, "an end leaves the other direction open");
            (&inner).write_all(b"y").await.unwrap();
            inner.abort();
            outer.cut.happened().await;
            drop(outer);
            assert!(!inner.is_regular_end().await, "it closed without a word");
            let (outer, inner) = pair().unwrap();
            drop(outer.socket);
            outer.cut.regular();
            assert!(inner.is_regular_end().await);
        });
    }
}
