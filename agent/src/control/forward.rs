//! Passing a local program's control stream on to another node.
//!
//! Of what the node says only the greeting is read: it must name the node whose key the connection proved. Otherwise a
//! hostile node could greet in the name of another, pass that one's challenge on, and so use a login that is meant for
//! the other. Everything after the greeting goes both ways unread.

use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWriteExt, io::copy};
use hive_core::{Core, Now};
use hive_protocol::{
    CONTROL_PROTOCOL, NetworkName, NodeId, PathRule,
    frame::{self, CONTROL_MAX},
    message::{ClientMessage, Failure, FailureCode, ServerMessage},
};
use hive_transport::streams::Stream;
use libp2p::StreamProtocol;
use smol::future::or;

use super::server::{Bytes, Control, End, called};
use crate::{frames, net::registry::Connection, node::Handle, time::within};

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
    let who = called(&control.node, target).await;
    let node = control.node.clone();
    let (connection, mut remote) = match open(node.clone(), target, network, &who).await {
        Ok(opened) => opened,
        Err(failure) => return control.refuse(failure).await,
    };
    let _conversation = node.conversations.begin(connection.conn);
    let hello = ClientMessage::Hello { min, max, node: None, network: None };
    frames::write(&mut remote, &hello, CONTROL_MAX).await?;
    match within(PATIENCE, greeting(&mut remote, target, &who)).await.unwrap_or_else(|| Err(unreachable(&who))) {
        Ok(greeting) => frames::write_body(&mut control.stream, &greeting).await?,
        Err(failure) => return control.refuse(failure).await,
    }
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
    who: &str,
) -> Result<(Connection, Stream), Failure> {
    let connection = connection(node.clone(), target, network).await.ok_or_else(|| unreachable(who))?;
    let opened = node.streams.open_on(connection.id, StreamProtocol::new(CONTROL_PROTOCOL)).await;
    let opened = opened.map(|stream| (connection, stream));
    opened.map_err(|e| Failure::new(FailureCode::Unreachable, format!("node {who} cannot be reached: {e}")))
}

/// The node's answer to the greeting, as it came, if it speaks for itself.
async fn greeting(remote: &mut (impl AsyncRead + Unpin), target: NodeId, who: &str) -> Result<Vec<u8>, Failure> {
    let answer = frames::read_body(remote, CONTROL_MAX).await.map_err(|_| unreachable(who))?;
    match frame::decode(&answer) {
        Ok(ServerMessage::Welcome { node, .. }) if node != target => Err(impostor(who, node)),
        Ok(ServerMessage::Welcome { .. } | ServerMessage::Response(_)) => Ok(answer),
        _ => Err(Failure::new(FailureCode::Version, format!("node {who} does not greet as this version does"))
            .hint("update the older of the two")),
    }
}

/// A joined connection in the network named, or in any network shared with the target.
async fn connection(node: Handle, target: NodeId, network: Option<NetworkName>) -> Option<Connection> {
    let networks = match network {
        Some(network) => vec![network],
        None => node.ask(move |core, now| shared(core, target, now)).await.ok()?,
    };
    node.connection_in(networks, target, PathRule::Any, PATIENCE).await
}

/// Networks in whose tables the node stands.
fn shared(core: &Core, target: NodeId, now: Now) -> Vec<NetworkName> {
    core.nodes(now).into_iter().filter(|row| row.peer_id == target).map(|row| row.network).collect()
}

fn impostor(who: &str, claimed: NodeId) -> Failure {
    Failure::new(FailureCode::NotAuthorised, format!("node {who} claims to be {claimed}: nothing was told to it"))
        .hint("do not trust it: see `hivectl networks ban`")
}

fn unreachable(who: &str) -> Failure {
    Failure::new(FailureCode::Unreachable, format!("node {who} cannot be reached"))
        .hint("see `hivectl nodes` and `hivectl status`: is its agent running, and is a path open?")
}

#[cfg(test)]
mod tests {
    use hive_protocol::message::Response;

    use super::*;

    fn greeted(message: &ServerMessage) -> Result<Vec<u8>, FailureCode> {
        let bytes = frame::encode(message, CONTROL_MAX).unwrap();
        let answer = smol::block_on(greeting(&mut &bytes[..], NodeId::from_bytes([1; 32]), "shed"));
        answer.map_err(|failure| failure.code)
    }

    fn welcome(node: u8) -> ServerMessage {
        let (node, name) = (NodeId::from_bytes([node; 32]), "shed".parse().unwrap());
        ServerMessage::Welcome { version: 1, node, name, authorised: false, challenge: [7; 32] }
    }

    #[test]
    fn a_node_greets_in_its_own_name_alone() {
        let body = frame::encode(&welcome(1), CONTROL_MAX).unwrap().split_off(frame::PREFIX);
        assert_eq!(greeted(&welcome(1)), Ok(body), "passed on as it came");
        assert_eq!(greeted(&welcome(2)), Err(FailureCode::NotAuthorised));
    }

    #[test]
    fn a_refusal_is_passed_on_and_anything_else_is_not() {
        assert!(greeted(&ServerMessage::Response(Response::Done)).is_ok());
        assert_eq!(greeted(&ServerMessage::Proven), Err(FailureCode::Version));
    }
}
