//! Whole CBOR messages over any byte stream: [`hive_protocol::frame`] with I/O.

use std::io;

use futures::{AsyncReadExt, AsyncWriteExt, io::AsyncRead, io::AsyncWrite};
use hive_protocol::frame::{self, DecodeError};
use minicbor::{Decode, Encode};

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream ended or broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Its bytes are no message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl ReadError {
    /// Whether the stream ended where a message would have begun or within one.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof)
    }
}

/// Reads one message of at most `max` bytes.
pub async fn read<T: for<'b> Decode<'b, ()>>(
    stream: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> Result<T, ReadError> {
    Ok(frame::decode(&read_body(stream, max).await?)?)
}

/// Reads the body of one frame of at most `max` bytes, undecoded.
pub async fn read_body(stream: &mut (impl AsyncRead + Unpin), max: usize) -> Result<Vec<u8>, ReadError> {
    let mut prefix = [0; frame::PREFIX];
    stream.read_exact(&mut prefix).await?;
    let mut body = vec![0; frame::body_len(prefix, max)?];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// Writes one message of at most `max` bytes and flushes it.
pub async fn write<T: Encode<()>>(stream: &mut (impl AsyncWrite + Unpin), message: &T, max: usize) -> io::Result<()> {
    let bytes = frame::encode(message, max).map_err(io::Error::other)?;
    stream.write_all(&bytes).await?;
    stream.flush().await
}

/// Writes the body of a frame that was read with [`read_body`].
pub async fn write_body(stream: &mut (impl AsyncWrite + Unpin), body: &[u8]) -> io::Result<()> {
    let len = u32::try_from(body.len()).map_err(io::Error::other)?;
    stream.write_all(&len.to_be_bytes()).await?;
    stream.write_all(body).await?;
    stream.flush().await
}
