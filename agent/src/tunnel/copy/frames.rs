//! Frames on a carrier: [`hive_protocol::tunnel`] with I/O, over any ordered byte stream.

use std::{io, ops::Range};

use futures::{AsyncReadExt, AsyncWriteExt, io::AsyncRead, io::AsyncWrite};
use hive_protocol::tunnel::{self, DATA_MAX, HEADER_LEN, Header, HeaderError, Kind};
use hive_transport::buffers::Buffer;

use crate::tunnel::memory;

/// Why a carrier is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum CarrierError {
    /// It broke or ended.
    #[error("the path broke: {0}")]
    Io(#[from] io::Error),
    /// The peer does not keep to the format.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A frame that must not come here.
    #[error("unexpected {0:?} frame")]
    Unexpected(Kind),
    /// EOF announced another number of bytes than came.
    #[error("the peer sent {announced} bytes, {received} arrived")]
    Count {
        /// Bytes announced.
        announced: u64,
        /// Bytes received.
        received: u64,
    },
}

/// Reads the next frame's header.
pub async fn read_header(carrier: &mut (impl AsyncRead + Unpin)) -> Result<Header, CarrierError> {
    let mut header = [0; HEADER_LEN];
    carrier.read_exact(&mut header).await?;
    Ok(Header::parse(header)?)
}

/// Reads the byte count of an EOF frame whose header was read.
pub async fn read_count(carrier: &mut (impl AsyncRead + Unpin)) -> Result<u64, CarrierError> {
    let mut count = [0; 8];
    carrier.read_exact(&mut count).await?;
    Ok(u64::from_be_bytes(count))
}

/// The writing half of a carrier. A frame whose writing was given up half-way is finished before the next: otherwise
/// the peer would take a RESET for bytes of the connection.
pub struct Writer<W> {
    carrier: W,
    /// The frame being written and the part of it that is left.
    unfinished: Option<(Buffer, Range<usize>)>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// A writer at the beginning of a frame.
    pub fn new(carrier: W) -> Self {
        Self { carrier, unfinished: None }
    }

    /// Writes the `len` bytes that stand behind the header's place in `buffer` as one DATA frame, in one piece.
    pub async fn data(&mut self, mut buffer: Buffer, len: usize) -> io::Result<()> {
        let len = len.min(DATA_MAX);
        buffer[..HEADER_LEN].copy_from_slice(&Header { kind: Kind::Data, len }.to_bytes());
        self.frame(buffer, HEADER_LEN + len).await
    }

    /// Writes EOF after `sent` bytes of DATA.
    pub async fn eof(&mut self, sent: u64) -> io::Result<()> {
        self.short(&tunnel::encode_eof(sent)).await
    }

    /// Writes RESET.
    pub async fn reset(&mut self) -> io::Result<()> {
        self.short(&Header { kind: Kind::Reset, len: 0 }.to_bytes()).await
    }

    /// Closes the carrier.
    pub async fn close(&mut self) -> io::Result<()> {
        self.carrier.close().await
    }

    async fn short(&mut self, frame: &[u8]) -> io::Result<()> {
        let mut buffer = memory::frame_buffer();
        buffer[..frame.len()].copy_from_slice(frame);
        self.frame(buffer, frame.len()).await
    }

    async fn frame(&mut self, buffer: Buffer, len: usize) -> io::Result<()> {
        self.finish().await?;
        self.unfinished = Some((buffer, 0..len));
        self.finish().await?;
        self.carrier.flush().await
    }

    async fn finish(&mut self) -> io::Result<()> {
        while let Some((buffer, left)) = &mut self.unfinished {
            match self.carrier.write(&buffer[left.clone()]).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => left.start += written,
            }
            if left.start == left.end {
                self.unfinished = None;
            }
        }
        Ok(())
    }
}
