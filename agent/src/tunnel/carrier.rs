//! Carriers: what a stream's frames travel on. A TLS channel of the bulk plane, or a libp2p stream.
//!
//! Both read into buffers that exist only while there are bytes, hand out what arrived without copying it, and write
//! many frames at once. This module knows frames' places and none of their meaning.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{
    AsyncReadExt,
    io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf},
};
use hive_protocol::{
    frame::DecodeError,
    tunnel::{self, CBOR_MAX, HEADER_LEN, Header, HeaderError},
};
use hive_transport::{
    buffers::{Buffer, Pool},
    bulk::{self, Channel, Line},
    streams::Stream,
};
use minicbor::Decode;
use smol::future::yield_now;

use crate::time::within;

/// Bytes of one read or write of a libp2p stream: yamux splits larger ones.
const STREAM_LEN: usize = 64 * 1024;
static STREAM_BUFFERS: Pool = Pool::new(STREAM_LEN, 8);

/// How long the last frame may take to leave before the carrier is dropped with it.
pub const LAST_WORDS: Duration = Duration::from_secs(5);

/// A carrier's two halves.
pub struct Carrier {
    /// From the peer.
    pub reader: Reader,
    /// To the peer.
    pub writer: Writer,
}

/// Why a carrier is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It broke or ended.
    #[error("the path broke: {0}")]
    Io(#[from] io::Error),
    /// The peer does not keep to the format.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A payload that is no message.
    #[error(transparent)]
    Payload(#[from] DecodeError),
    /// Nothing on it was answered for a while, and its path is alive.
    #[error("the peer answers elsewhere and not here")]
    Stuck,
}

impl From<Channel> for Carrier {
    fn from(Channel { reader, writer }: Channel) -> Self {
        Self { reader: Reader::Bulk(reader), writer: Writer::Bulk(writer) }
    }
}

impl From<Stream> for Carrier {
    fn from(stream: Stream) -> Self {
        let (read, write) = stream.split();
        let reader = StreamReader { inner: read, buffer: None, start: 0, end: 0 };
        let writer = StreamWriter { inner: write, buffer: None, len: 0, written: 0, flush: false };
        Self { reader: Reader::Stream(Box::new(reader)), writer: Writer::Stream(Box::new(writer)) }
    }
}

impl Carrier {
    /// The channel, if it is one and nothing of the last stream is left in it.
    pub fn into_channel(self) -> Option<Channel> {
        let (Reader::Bulk(reader), Writer::Bulk(writer)) = (self.reader, self.writer) else { return None };
        Some(Channel { reader, writer }).filter(Channel::is_quiet)
    }

    /// Closes it after its last stream, once what was said has left.
    pub async fn retire(mut self) {
        // The peer may be gone; there is nobody left to tell.
        let _ = within(LAST_WORDS, self.writer.close()).await;
    }

    /// Ends it with one more frame, and waits for the peer to let go of it: what is dropped with bytes unread or unsent
    /// is reset, and the reset may overtake the frame.
    pub async fn end_with(mut self, frame: &[u8]) {
        let say = async {
            self.writer.send(frame).await?;
            loop {
                self.reader.skip();
                self.reader.fill().await?;
                // Whoever goes on talking does not keep the time from running out.
                yield_now().await;
            }
        };
        let _: Option<io::Result<()>> = within(LAST_WORDS, say).await;
    }

    /// Its connection, if it has one of its own.
    pub fn line(&self) -> Option<Line> {
        if let Writer::Bulk(writer) = &self.writer { Some(writer.line()) } else { None }
    }

    /// Ends it at once, whatever waits in it.
    pub fn cut(&self) {
        if let Some(Err(error)) = self.line().map(|line| line.cut()) {
            log::debug!("a carrier was gone before it was cut: {error}");
        }
    }

    /// Whether it may carry another stream after this one.
    pub fn is_bulk(&self) -> bool {
        matches!(self.reader, Reader::Bulk(_))
    }
}

/// The receiving half.
pub enum Reader {
    /// Of a channel.
    Bulk(bulk::Reader),
    /// Of a libp2p stream.
    Stream(Box<StreamReader>),
}

/// What [`Reader::Stream`] holds.
pub struct StreamReader {
    inner: ReadHalf<Stream>,
    buffer: Option<Buffer>,
    start: usize,
    end: usize,
}

impl Reader {
    /// What has arrived, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let (bulk, stream) = match self {
            Self::Bulk(reader) => (Some(reader.slices()), None),
            Self::Stream(reader) => (None, Some(reader.bytes())),
        };
        bulk.into_iter().flatten().chain(stream)
    }

    /// Takes `len` bytes of it off the front.
    pub fn consume(&mut self, len: usize) {
        match self {
            Self::Bulk(reader) => reader.consume(len),
            Self::Stream(reader) => reader.start += len,
        }
    }

    /// Whether nothing has arrived that was not consumed.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Bulk(reader) => reader.is_empty(),
            Self::Stream(reader) => reader.start == reader.end,
        }
    }

    /// Waits for more, when all was consumed.
    pub async fn fill(&mut self) -> io::Result<()> {
        let more = match self {
            Self::Bulk(reader) => poll_fn(|cx| reader.poll_fill(cx)).await?,
            Self::Stream(reader) => poll_fn(|cx| reader.poll_fill(cx)).await?,
        };
        if more { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Drops what has arrived.
    pub fn skip(&mut self) {
        self.consume(self.slices().map(<[u8]>::len).sum());
    }

    /// The next frame's header.
    pub async fn header(&mut self) -> Result<Header, Error> {
        let mut header = [0; HEADER_LEN];
        self.exact(&mut header).await?;
        Ok(Header::parse(header)?)
    }

    /// The payload of a frame whose header was read.
    pub async fn cbor<T: for<'b> Decode<'b, ()>>(&mut self, header: Header) -> Result<T, Error> {
        let mut payload = vec![0; header.len.min(CBOR_MAX)];
        self.exact(&mut payload).await?;
        Ok(tunnel::decode_cbor(&payload)?)
    }

    /// The eight bytes of an EOF, ACK or RESUMED frame.
    pub async fn count(&mut self) -> Result<u64, Error> {
        let mut count = [0; 8];
        self.exact(&mut count).await?;
        Ok(u64::from_be_bytes(count))
    }

    /// The four bytes of a WINDOW frame or of an ACCEPT frame that grants a grace.
    pub async fn number(&mut self) -> Result<u32, Error> {
        let mut number = [0; 4];
        self.exact(&mut number).await?;
        Ok(u32::from_be_bytes(number))
    }

    async fn exact(&mut self, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            if self.is_empty() {
                self.fill().await?;
            }
            let slice = self.slices().next().unwrap_or_default();
            let (now, later) = into.split_at_mut(slice.len().min(into.len()));
            now.copy_from_slice(&slice[..now.len()]);
            self.consume(now.len());
            into = later;
        }
        Ok(())
    }
}

impl StreamReader {
    fn bytes(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[self.start..self.end])
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let buffer = self.buffer.get_or_insert_with(|| STREAM_BUFFERS.take());
        (self.start, self.end) = (0, 0);
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if read.is_pending() {
            self.buffer = None;
        }
        self.end = ready!(read)?;
        Poll::Ready(Ok(self.end > 0))
    }
}

/// The sending half.
pub enum Writer {
    /// Of a channel.
    Bulk(bulk::Writer),
    /// Of a libp2p stream.
    Stream(Box<StreamWriter>),
}

/// What [`Writer::Stream`] holds.
pub struct StreamWriter {
    inner: WriteHalf<Stream>,
    buffer: Option<Buffer>,
    len: usize,
    written: usize,
    flush: bool,
}

impl Writer {
    /// Bytes that [`Self::put`] takes now.
    pub fn room(&self) -> usize {
        match self {
            Self::Bulk(writer) => writer.room(),
            Self::Stream(writer) => writer.room(),
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Bulk(writer) => writer.is_empty(),
            Self::Stream(writer) => writer.len == 0 && !writer.flush,
        }
    }

    /// Takes bytes into the next write; the caller knows that there is room.
    pub fn put(&mut self, bytes: &[u8]) {
        match self {
            Self::Bulk(writer) => drop(writer.put(bytes)),
            Self::Stream(writer) => writer.put(bytes),
        }
    }

    /// Sends what waits.
    pub async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Bulk(writer) => poll_fn(|cx| writer.poll_flush(cx)).await,
            Self::Stream(writer) => poll_fn(|cx| writer.poll_flush(cx)).await,
        }
    }

    /// Sends a whole small frame and all before it.
    pub async fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        if self.room() < frame.len() {
            self.flush().await?;
        }
        self.put(frame);
        self.flush().await
    }

    /// Says that nothing more comes, after everything was flushed.
    pub async fn close(&mut self) -> io::Result<()> {
        match self {
            Self::Bulk(writer) => writer.close(),
            Self::Stream(writer) => poll_fn(|cx| Pin::new(&mut writer.inner).poll_close(cx)).await?,
        }
        Ok(())
    }
}

impl StreamWriter {
    fn room(&self) -> usize {
        if self.written > 0 { 0 } else { STREAM_LEN - self.len }
    }

    fn put(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(self.room());
        let buffer = self.buffer.get_or_insert_with(|| STREAM_BUFFERS.take());
        buffer[self.len..self.len + len].copy_from_slice(&bytes[..len]);
        self.len += len;
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(buffer) = self.buffer.as_deref().filter(|_| self.written < self.len) {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &buffer[self.written..self.len]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.written += len,
            }
            self.flush = true;
        }
        (self.buffer, self.len, self.written) = (None, 0, 0);
        if self.flush {
            ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
            self.flush = false;
        }
        Poll::Ready(Ok(()))
    }
}
