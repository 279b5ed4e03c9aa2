//! Few large system calls under a cipher and a multiplexer that ask for many small ones.
//!
//! [`ReadAhead`] stands between socket and cipher: rustls takes 4 KiB at a time. [`Gather`] stands between cipher and
//! multiplexer: yamux writes a header of twelve bytes and its body apart and flushes after each frame, so every frame
//! would cost two TLS records and two system calls. Both hold memory only while bytes are under way: an idle
//! connection costs nothing here.

use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};

/// Bytes read ahead at most: two full TLS records.
const AHEAD: usize = 32 * 1024;
/// Bytes gathered at most: what rustls takes in at once.
const FULL: usize = 64 * 1024;

/// Reads from the socket in large pieces, whatever is asked for.
pub struct ReadAhead<S> {
    inner: S,
    /// What was read and not asked for yet lies from `at` on.
    buffer: Vec<u8>,
    at: usize,
}

impl<S> ReadAhead<S> {
    /// Reads ahead on this stream.
    pub fn new(inner: S) -> Self {
        Self { inner, buffer: Vec::new(), at: 0 }
    }
}

impl<S: AsyncRead + Unpin> ReadAhead<S> {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Dropped where nothing has come.
        let mut buffer = mem::take(&mut self.buffer);
        self.at = 0;
        buffer.resize(AHEAD, 0);
        let length = ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buffer))?;
        buffer.truncate(length);
        self.buffer = buffer;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.at == this.buffer.len() {
            ready!(this.poll_fill(cx))?;
        }
        let rest = &this.buffer[this.at..];
        let length = rest.len().min(into.len());
        into[..length].copy_from_slice(&rest[..length]);
        this.at += length;
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// Gathers what is written and passes it on in large pieces.
///
/// A flush right after a write is put off until the task runs again, by which time it may have written more. Whoever
/// has nothing more to write is woken at once, and that flush is carried out.
pub struct Gather<S> {
    inner: S,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were passed on.
    passed: usize,
    /// Something was written since the last flush.
    fresh: bool,
}

impl<S> Gather<S> {
    /// Gathers for this stream.
    pub fn new(inner: S) -> Self {
        Self { inner, buffer: Vec::new(), passed: 0, fresh: false }
    }
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    fn poll_pass_on(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.passed < self.buffer.len() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &self.buffer[self.passed..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => self.passed += length,
            }
        }
        self.buffer.clear();
        self.passed = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.buffer.len() == FULL {
            ready!(this.poll_pass_on(cx))?;
        }
        this.buffer.reserve_exact(FULL - this.buffer.len());
        let length = bytes.len().min(FULL - this.buffer.len());
        this.buffer.extend_from_slice(&bytes[..length]);
        this.fresh = true;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if mem::take(&mut this.fresh) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(this.poll_pass_on(cx))?;
        this.buffer = Vec::new();
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_pass_on(cx))?;
        Pin::new(&mut this.inner).poll_close(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read(cx, into)
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt, AsyncWriteExt, io::Cursor, task::noop_waker};

    use super::*;

    /// Notes the size of every write, takes at most `most` bytes of each, and every second one not at all.
    #[derive(Default)]
    struct Pieces {
        sizes: Vec<usize>,
        bytes: Vec<u8>,
        most: Option<usize>,
        asked: usize,
    }

    impl AsyncWrite for Pieces {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.asked += 1;
            if self.most.is_some() && self.asked.is_multiple_of(2) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let length = self.most.unwrap_or(usize::MAX).min(bytes.len());
            self.sizes.push(length);
            self.bytes.extend_from_slice(&bytes[..length]);
            Poll::Ready(Ok(length))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Counts reads and gives what there is.
    struct Source(Cursor<Vec<u8>>, usize);

    impl AsyncRead for Source {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
            self.1 += 1;
            Pin::new(&mut self.0).poll_read(cx, into)
        }
    }

    fn numbers(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n % 251) as u8).collect()
    }

    #[test]
    fn header_and_body_leave_together() {
        smol::block_on(async {
            let mut gather = Gather::new(Pieces::default());
            gather.write_all(&[1; 12]).await.unwrap();
            gather.write_all(&[2; 16_384]).await.unwrap();
            gather.flush().await.unwrap();
            assert_eq!(gather.inner.sizes, [12 + 16_384]);
            assert_eq!(gather.buffer.capacity(), 0, "nothing is held while idle");
        });
    }

    #[test]
    fn a_flush_waits_for_what_is_written_in_the_same_turn() {
        let (mut gather, waker) = (Gather::new(Pieces::default()), noop_waker());
        let mut cx = Context::from_waker(&waker);
        for _ in 0..3 {
            assert!(Pin::new(&mut gather).poll_write(&mut cx, &[0; 100]).is_ready());
            assert!(Pin::new(&mut gather).poll_flush(&mut cx).is_pending());
        }
        assert!(gather.inner.sizes.is_empty());
        assert!(Pin::new(&mut gather).poll_flush(&mut cx).is_ready());
        assert_eq!(gather.inner.sizes, [300]);
    }

    #[test]
    fn everything_arrives_in_order_past_a_slow_stream() {
        smol::block_on(async {
            let sent = numbers(5 * FULL + 17);
            let mut gather = Gather::new(Pieces { most: Some(1000), ..Pieces::default() });
            for piece in sent.chunks(7777) {
                gather.write_all(piece).await.unwrap();
                assert!(gather.buffer.capacity() <= FULL);
            }
            gather.close().await.unwrap();
            assert!(gather.inner.bytes == sent);
        });
    }

    #[test]
    fn many_small_reads_are_few_large_ones() {
        smol::block_on(async {
            let sent = numbers(3 * AHEAD);
            let mut ahead = ReadAhead::new(Source(Cursor::new(sent.clone()), 0));
            let (mut received, mut piece) = (Vec::new(), [0; 1000]);
            loop {
                match ahead.read(&mut piece).await.unwrap() {
                    0 => break,
                    length => received.extend_from_slice(&piece[..length]),
                }
            }
            assert!(received == sent);
            assert_eq!(ahead.inner.1, 4, "three full ones and the end");
        });
    }
}
