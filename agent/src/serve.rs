//! Streams that peers open, each to the task that serves its protocol.

use futures::{StreamExt, channel::mpsc::Receiver};
use hive_protocol::{CONTROL_PROTOCOL, JOIN_PROTOCOL, PEERS_PROTOCOL, PUNCH_PROTOCOL, TUNNEL_PROTOCOL};
use hive_transport::streams::Incoming;

use crate::{control, exec, join, node::Handle, peers, punch, tunnel};

/// Runs until the swarm is gone. How many streams there can be is bounded by the connections' limits.
pub async fn streams(node: Handle, mut incoming: Receiver<Incoming>) {
    while let Some(Incoming { connection, protocol, stream, .. }) = incoming.next().await {
        // No entry: the connection closed while the stream waited in the queue.
        let Some(connection) = node.registry.by_id(connection) else { continue };
        let node = node.clone();
        match protocol.as_ref() {
            JOIN_PROTOCOL => exec::spawn(join::respond(node, connection, stream)).detach(),
            PEERS_PROTOCOL => exec::spawn(peers::read(node, connection, stream)).detach(),
            PUNCH_PROTOCOL => exec::spawn(punch::respond(node, connection, stream)).detach(),
            TUNNEL_PROTOCOL => exec::spawn(tunnel::ingress::serve(node, connection, stream)).detach(),
            CONTROL_PROTOCOL => exec::spawn(control::remote(node, connection, stream)).detach(),
            other => log::warn!("nobody serves {other}"),
        }
    }
}
