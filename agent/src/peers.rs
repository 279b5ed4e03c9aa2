//! Table sync on the wire: one stream in each direction of a connection, each written by the side that opened it.

use std::io;

use futures::io::{AsyncRead, AsyncWriteExt};
use hive_core::Event;
use hive_protocol::{
    PEERS_PROTOCOL,
    frame::{DecodeError, PEER_MAX},
    peer::PeerMessage,
};
use hive_transport::streams::{Control, Stream};
use libp2p::{StreamProtocol, swarm::ConnectionId};
use smol::channel::{self, Sender};

use crate::{
    exec,
    frames::{self, ReadError},
    net::registry::Connection,
    node::Handle,
};

/// Messages that wait for a slow peer; further ones are dropped, and found missing at the next comparison.
const WAITING: usize = 64;

/// Starts the task that writes to a connection. Its stream is opened at once, while the connection is a member's: what is
/// said last may be said as the right to open streams goes. The task ends when the sender is dropped or no stream is to be
/// had; the sender is closed then.
pub fn writer(streams: Control, connection: ConnectionId) -> Sender<PeerMessage> {
    let (sender, messages) = channel::bounded(WAITING);
    let write = async move {
        let mut stream = open(&streams, connection).await.ok();
        while let Ok(message) = messages.recv().await {
            match write(&streams, connection, stream.take(), &message).await {
                Ok(written) => stream = Some(written),
                Err(e) => return log::debug!("table sync to a peer broke off: {e}"),
            }
        }
    };
    exec::spawn(write).detach();
    sender
}

/// Writes to the stream at hand, or to a new one where that is broken: a peer that let us go and took us in again has
/// ended the old one, and says so only when it is written to.
async fn write(
    streams: &Control,
    connection: ConnectionId,
    stream: Option<Stream>,
    message: &PeerMessage,
) -> io::Result<Stream> {
    if let Some(mut stream) = stream
        && frames::write(&mut stream, message, PEER_MAX).await.is_ok()
    {
        return Ok(stream);
    }
    let mut stream = open(streams, connection).await?;
    frames::write(&mut stream, message, PEER_MAX).await?;
    Ok(stream)
}

/// Opens a stream, and says so at once: libp2p names the protocol with the first bytes only, and by then the other side
/// may have let us go.
async fn open(streams: &Control, connection: ConnectionId) -> io::Result<Stream> {
    let opened = streams.open_on(connection, StreamProtocol::new(PEERS_PROTOCOL)).await;
    let mut stream = opened.map_err(io::Error::other)?;
    stream.flush().await?;
    Ok(stream)
}

/// Reads what a member writes, until it stops or says something that is no message.
pub async fn read(node: Handle, connection: Connection, mut stream: Stream) {
    loop {
        match next(&mut stream).await {
            Ok(message) => node.event(Event::Sync { conn: connection.conn, message }).await,
            Err(e) if e.is_end() => return,
            Err(e) => return log::warn!("table sync from {} broke off: {e}", connection.peer),
        }
    }
}

/// The next message that this build knows. A newer member may send others; each is a whole frame, so what follows is
/// in its place.
async fn next(stream: &mut (impl AsyncRead + Unpin)) -> Result<PeerMessage, ReadError> {
    loop {
        match frames::read(stream, PEER_MAX).await {
            Err(ReadError::Decode(e @ DecodeError::Newer(_))) => log::debug!("table sync: skipped a {e}"),
            read => return read,
        }
    }
}

#[cfg(test)]
mod tests {
    use hive_protocol::peer::SyncMessage;

    use super::*;

    #[test]
    fn a_message_of_a_newer_version_is_skipped() {
        let message = PeerMessage { network: "home".parse().unwrap(), body: SyncMessage::Want { nodes: Vec::new() } };
        let known = hive_protocol::frame::encode(&message, PEER_MAX).unwrap();
        // The body is a variant's number and its fields; no version has number 200 yet.
        let newer = b"\0\0\0\x0c\xa2\x00\x64home\x01\x82\x18\xc8\x80";
        let mut stream = futures::io::Cursor::new([newer, &known[..]].concat());
        assert_eq!(smol::block_on(next(&mut stream)).unwrap(), message);
        assert!(smol::block_on(next(&mut stream)).unwrap_err().is_end());
    }
}
