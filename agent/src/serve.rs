//! Streams that peers open, each to the task that serves its protocol.

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt, channel::mpsc::Receiver};
use hive_protocol::{CONTROL_PROTOCOL, JOIN_PROTOCOL, NodeId, PEERS_PROTOCOL, PUNCH_PROTOCOL, TUNNEL_PROTOCOL};
use hive_transport::{
    autonat::{DIAL_BACK, DIAL_REQUEST},
    bulk::Accepted,
    streams::Incoming,
};
use smol::channel;

use crate::{control, exec, join, node::Handle, peers, probe, punch, tunnel};

/// Channels of the bulk plane that one peer may keep open: a burst, and its next one.
const CHANNELS_PER_PEER: usize = 2048;

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
            DIAL_REQUEST => exec::spawn(probe::serve(node, connection, stream)).detach(),
            DIAL_BACK => exec::spawn(probe::hear(node, stream)).detach(),
            TUNNEL_PROTOCOL => exec::spawn(tunnel::ingress::serve_stream(node, connection, stream)).detach(),
            CONTROL_PROTOCOL => exec::spawn(control::remote(node, connection, stream)).detach(),
            other => log::warn!("nobody serves {other}"),
        }
    }
}

/// Serves the channels of the bulk plane that peers dial.
pub async fn channels(node: Handle, accepted: channel::Receiver<Accepted>) {
    // One token a channel: how many there are of one peer is its reference count.
    let mut tokens: HashMap<NodeId, Arc<()>> = HashMap::new();
    while let Ok(accepted) = accepted.recv().await {
        let Some(peer) = NodeId::from_peer_id(&accepted.peer) else { continue };
        tokens.retain(|_, token| Arc::strong_count(token) > 1);
        let token = tokens.entry(peer).or_default().clone();
        if Arc::strong_count(&token) > CHANNELS_PER_PEER {
            log::warn!("{peer} has {CHANNELS_PER_PEER} channels, one more is refused");
            continue;
        }
        let node = node.clone();
        let serving = async move {
            tunnel::ingress::serve_channel(node, peer, accepted).await;
            drop(token);
        };
        exec::spawn(serving).detach();
    }
}
