//! The bulk plane: TLS 1.3 connections of their own, beside libp2p's, for bytes that should travel fast.
//!
//! Owns the handshake (rustls, the certificates and rules of [`crate::tls`] under a protocol name of its own), the
//! record layer (sealed and opened in place, many records to a system call, keys renewed within the cipher's limits)
//! and the sorting of accepted sockets: they share libp2p's port, and a first byte of 0x16 is a TLS handshake where
//! multistream-select begins with 0x13. It never reads what a [`Channel`] carries and knows no members: the user asks
//! who the peer is, and drops the channel if that is not good enough.

mod accept;
mod channel;
mod handshake;
mod line;
mod records;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use async_io::Timer;
use futures::future::{Either, select};
use libp2p::PeerId;

pub use accept::{Accepted, Acceptor, Limits, Place};
pub use channel::{Channel, Reader, Writer};
pub use line::Line;

use crate::{source::Source, tcp, tls};

/// The application protocol that both ends must name (ALPN), so that neither plane's handshake serves the other.
pub const PROTOCOL: &[u8] = b"hive-bulk/1";
/// First byte of a TLS record that begins a handshake (RFC 8446, section 5.1).
pub const FIRST_BYTE: u8 = 22;

/// From the first packet to a channel, for either end.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no channel, or no more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The handshake, or keys that do not fit.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The other end is not who it must be.
    #[error(transparent)]
    Peer(#[from] tls::Error),
    /// The other end took too long.
    #[error("the TLS handshake took more than {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Slow,
    /// Something that a TLS 1.3 peer does not send.
    #[error("the other end does not keep to TLS 1.3")]
    Malformed,
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// Connects to `remote` and demands the peer that `tls` expects.
///
/// # Errors
/// If nobody answers there in time, or somebody else.
pub async fn connect(remote: SocketAddr, tls: &tls::Config) -> Result<Channel, Error> {
    let work = async {
        let socket = tcp::connect(remote).await?.into_bulk();
        handshake::client(socket, tls).await
    };
    within(work).await
}

/// Answers the handshake on an accepted socket: who is there, and the channel.
async fn accept(socket: tcp::TcpStream, tls: &tls::Config) -> Result<(PeerId, Channel), Error> {
    within(handshake::server(socket.into_bulk(), tls)).await
}

async fn within<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let deadline = Timer::after(HANDSHAKE_TIMEOUT);
    match select(std::pin::pin!(work), deadline).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right(_) => Err(Error::Slow),
    }
}

/// A socket that both halves of a channel use.
type Socket = Arc<Source<std::net::TcpStream>>;

#[cfg(test)]
mod tests;
