//! Table sync on the wire: one stream in each direction of a connection, each written by the side that opened it.

use hive_core::Event;
use hive_protocol::{PEERS_PROTOCOL, frame::PEER_MAX, peer::PeerMessage};
use hive_transport::streams::{Control, Stream};
use libp2p::{StreamProtocol, swarm::ConnectionId};
use smol::channel::{self, Sender};

use crate::{exec, frames, net::registry::Connection, node::Handle};

/// Messages that wait for a slow peer; further ones are dropped, and found missing at the next comparison.
const WAITING: usize = 64;

/// Starts the task that writes to a connection. It ends when the sender is dropped or the stream breaks.
pub fn writer(streams: Control, connection: ConnectionId) -> Sender<PeerMessage> {
    let (sender, messages) = channel::bounded(WAITING);
    let write = async move {
        let Ok(mut stream) = streams.open_on(connection, StreamProtocol::new(PEERS_PROTOCOL)).await else { return };
        while let Ok(message) = messages.recv().await {
            if let Err(e) = frames::write(&mut stream, &message, PEER_MAX).await {
                log::debug!("table sync to a peer broke off: {e}");
                return;
            }
        }
    };
    exec::spawn(write).detach();
    sender
}

/// Reads what a member writes, until it stops or says something that is no message.
pub async fn read(node: Handle, connection: Connection, mut stream: Stream) {
    loop {
        match frames::read(&mut stream, PEER_MAX).await {
            Ok(message) => node.event(Event::Sync { conn: connection.conn, message }).await,
            Err(e) if e.is_end() => return,
            Err(e) => return log::warn!("table sync from {} broke off: {e}", connection.peer),
        }
    }
}
