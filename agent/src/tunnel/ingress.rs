//! Ingress: streams that peers open, admitted or refused against the rules of this moment, and their local targets.

use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use async_io::Async;
use futures::AsyncReadExt;
use hive_protocol::{
    KeyPrefix, ProxySpec,
    tunnel::{Kind, Open, Refusal, RefuseReason},
};
use hive_transport::streams::Stream;
use smol::future::or;

use super::{
    Cause, Counters,
    carrier::{self, CarrierError},
    copy::{self, Broken, Peer},
    pair::{Cut, Inner},
    tls::{self, TlsError},
};
use crate::{exec, net::registry::Connection, node::Handle, time::within};

/// From the stream's opening to its OPEN frame.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// From a join that the peer has finished to this node's having heard of it.
const JOIN_LAG: Duration = Duration::from_secs(2);
/// For connecting to the target.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Tunnelled connections of the node at once.
const MAX_STREAMS: usize = 4096;
/// Addresses of a target's name that are tried.
const MAX_ADDRESSES: usize = 4;

/// Serves one stream from its OPEN frame to its end.
pub async fn serve(node: Handle, connection: Connection, mut stream: Stream) {
    let Some(Ok(open)) = within(OPEN_TIMEOUT, read_open(&mut stream)).await else {
        return log::debug!("a stream from {} did not open", connection.peer);
    };
    await_join(&node, &connection, &open).await;
    match admit(&node, &connection, &open) {
        Ok(spec) => carry(&node, &connection, &spec, stream).await,
        Err(refusal) => {
            log::debug!(
                "refused {} port {} -> {}: {}",
                connection.peer,
                open.origin_port,
                open.target_port,
                refusal.text
            );
            refuse(&mut stream, &refusal).await;
        }
    }
}

/// The peer counts a connection as joined once its last message of the join has left, and may open streams at once; this
/// node's loop hears of it a moment later.
async fn await_join(node: &Handle, connection: &Connection, open: &Open) {
    let joined = node.routes.wait_for(|routes| routes.joined(connection.conn, &open.network).then_some(()));
    // Without an answer the stream is judged as it is: refused.
    let _ = within(JOIN_LAG, joined).await;
}

async fn read_open(stream: &mut Stream) -> Result<Open, CarrierError> {
    let header = carrier::read_header(stream).await?;
    if header.kind != Kind::Open {
        return Err(CarrierError::Unexpected(header.kind));
    }
    carrier::read_cbor(stream, header).await
}

fn admit(node: &Handle, connection: &Connection, open: &Open) -> Result<Arc<ProxySpec>, Refusal> {
    if node.tunnels.streams() >= MAX_STREAMS {
        let text = format!("{MAX_STREAMS} tunnelled connections are open");
        return Err(Refusal { reason: RefuseReason::Busy, text });
    }
    node.routes.get().admit(connection.conn, &connection.peer, open)
}

async fn carry(node: &Handle, connection: &Connection, spec: &ProxySpec, mut stream: Stream) {
    let entry = node.tunnels.enter(spec.id, Some(connection.conn));
    let counters = entry.counters.clone();
    // The rule may have gone between admission and entry.
    if !node.routes.get().allows(spec.id, Some(connection.conn)) {
        return;
    }
    let (local, cut) = match target(node, spec, &counters).await {
        Ok(target) => target,
        Err(text) => {
            counters.failed(Cause::Target, &text);
            return refuse(&mut stream, &Refusal { reason: RefuseReason::Target, text }).await;
        }
    };
    counters.succeeded();
    if let Err(broken) = pump(stream, local, &counters, or(entry.ended(), cut.happened())).await {
        log::debug!("proxy {}: {broken}", spec.id);
        if let Some(cause) = broken.cause() {
            counters.failed(cause, broken.to_string());
        }
    }
}

/// What an admitted stream leads to: the target itself, or TLS that ends here and leads there.
async fn target(node: &Handle, spec: &ProxySpec, counters: &Arc<Counters>) -> Result<(Async<TcpStream>, Cut), String> {
    let Some(prefix) = spec.key_prefix.clone() else {
        return Ok((connect(&spec.host, spec.port).await?, Cut::never()));
    };
    let (outer, inner) = tls::pair()?;
    let (node, spec, counters) = (node.clone(), spec.clone(), counters.clone());
    exec::spawn(terminated(node, spec, prefix, inner, counters)).detach();
    Ok((outer.socket, outer.cut))
}

/// The client's TLS ends here; what it held goes to the target, which is connected once there is something to tell it.
async fn terminated(node: Handle, spec: ProxySpec, prefix: KeyPrefix, client: Inner, counters: Arc<Counters>) {
    let (host, port) = (spec.host.clone(), spec.port);
    let connect: tls::Connect = Box::new(move || {
        let host = host.clone();
        Box::pin(async move { connect(&host, port).await.map(Inner::from) })
    });
    match node.termination.serve((spec.id, &prefix), client, connect).await {
        Err(TlsError::Behind(why)) => counters.failed(Cause::Target, why),
        Err(e) => log::debug!("proxy {}: {e}", spec.id),
        Ok(()) => {}
    }
}

/// Accepts and carries a connection whose target is connected.
async fn pump(
    mut stream: Stream,
    local: Async<TcpStream>,
    counters: &Counters,
    ended: impl Future<Output = ()>,
) -> Result<(), Broken> {
    carrier::write_empty(&mut stream, Kind::Accept).await.map_err(CarrierError::from)?;
    copy::run(local, stream.split(), counters, ended, Peer::Ready).await
}

/// Connects to a local target by name or address.
pub async fn connect(host: &str, port: u16) -> Result<Async<TcpStream>, String> {
    let what = |why: String| format!("the target {host}:{port} {why}");
    let attempt = async {
        let found = async_net::resolve((host, port)).await.map_err(|e| what(format!("cannot be resolved: {e}")))?;
        let mut last = what("has no address".to_owned());
        for address in found.into_iter().take(MAX_ADDRESSES) {
            match connect_to(address).await {
                Ok(socket) => return Ok(socket),
                Err(e) => last = what(format!("does not accept connections: {e}")),
            }
        }
        Err(last)
    };
    let late = || Err(what(format!("did not answer within {} s", CONNECT_TIMEOUT.as_secs())));
    within(CONNECT_TIMEOUT, attempt).await.unwrap_or_else(late)
}

async fn connect_to(address: SocketAddr) -> std::io::Result<Async<TcpStream>> {
    let socket = Async::<TcpStream>::connect(address).await?;
    socket.get_ref().set_nodelay(true)?;
    Ok(socket)
}

/// Says why not, and waits for the peer to close: a stream that is dropped is reset, and the reset may overtake the words.
async fn refuse(stream: &mut Stream, refusal: &Refusal) {
    let say = async {
        carrier::write_cbor(stream, Kind::Refuse, refusal).await?;
        futures::io::copy(&mut *stream, &mut futures::io::sink()).await
    };
    let _ = within(Duration::from_secs(5), say).await;
}
