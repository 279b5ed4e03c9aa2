//! Passing a local program's control stream on to another node: bytes go both ways, unread.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt, io::copy};
use hive_core::{Core, Now};
use hive_protocol::{
    CONTROL_PROTOCOL, NetworkName, NodeId,
    frame::CONTROL_MAX,
    message::{ClientMessage, Failure, FailureCode},
};
use libp2p::StreamProtocol;
use smol::future::or;

use super::server::{Bytes, Control, End};
use crate::{frames, net::registry::Connection, node::Handle};

/// How long a node may take to be connected.
const PATIENCE: Duration = Duration::from_secs(15);

/// The node a greeting means; none when that is this one.
pub(super) async fn target(
    node: Handle,
    who: Option<String>,
    network: Option<NetworkName>,
) -> Result<Option<NodeId>, Failure> {
    let Some(who) = who else { return Ok(None) };
    let found = node.ask(move |core, _| core.resolve(&who, network.as_ref())).await??;
    Ok((found != node.id).then_some(found))
}

/// Opens a control stream to `target` and passes everything on until either side is done.
pub(super) async fn run<S: Bytes>(
    control: &mut Control<S>,
    target: NodeId,
    network: Option<NetworkName>,
    (min, max): (u16, u16),
) -> Result<(), End> {
    let mut remote = match open(control.node.clone(), target, network).await {
        Ok(stream) => stream,
        Err(failure) => return control.refuse(failure).await,
    };
    let hello = ClientMessage::Hello { min, max, node: None, network: None };
    frames::write(&mut remote, &hello, CONTROL_MAX).await?;
    let (from_remote, mut to_remote) = remote.split();
    let (from_local, mut to_local) = (&mut control.stream).split();
    let outward = async {
        copy(from_local, &mut to_remote).await?;
        to_remote.close().await
    };
    let inward = async {
        copy(from_remote, &mut to_local).await?;
        to_local.close().await
    };
    // The node ends the conversation: what the client still says after that, nobody reads.
    or(inward, async {
        outward.await?;
        std::future::pending().await
    })
    .await?;
    Err(End::Done)
}

async fn open(
    node: Handle,
    target: NodeId,
    network: Option<NetworkName>,
) -> Result<hive_transport::streams::Stream, Failure> {
    let connection = connection(node.clone(), target, network).await.ok_or_else(|| unreachable(target))?;
    let opened = node.streams.open_on(connection.id, StreamProtocol::new(CONTROL_PROTOCOL)).await;
    opened.map_err(|e| Failure::new(FailureCode::Unreachable, format!("node {target} cannot be reached: {e}")))
}

/// A joined connection in the network named, or in any network shared with the target.
async fn connection(node: Handle, target: NodeId, network: Option<NetworkName>) -> Option<Connection> {
    let networks = match network {
        Some(network) => vec![network],
        None => node.ask(move |core, now| shared(core, target, now)).await.ok()?,
    };
    node.connection_in(networks, target, PATIENCE).await
}

/// Networks in whose tables the node stands.
fn shared(core: &Core, target: NodeId, now: Now) -> Vec<NetworkName> {
    core.nodes(now).into_iter().filter(|row| row.peer_id == target).map(|row| row.network).collect()
}

fn unreachable(target: NodeId) -> Failure {
    Failure::new(FailureCode::Unreachable, format!("node {target} cannot be reached"))
        .hint("see `hivectl nodes` and `hivectl status`: is its agent running, and is a path open?")
}
