//! Ingress: streams that peers open or resume, admitted or refused against the rules of this moment, and their local
//! targets.

use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use hive_core::{ConnId, share::share};
use hive_protocol::{
    KeyPrefix, NetworkName, NodeId, PathRule, ProxySpec,
    tunnel::{self, Header, Kind, Open, Refusal, RefuseReason, Resume},
};
use hive_transport::{bulk::Accepted, source::Source, streams::Stream};
use smol::future::or;

use super::{
    Cause, Counters, Entry,
    broken::Broken,
    carrier::{Carrier, Reader},
    lookout::Watch,
    pair::{Inner, Outer},
    pump::Session,
    tls::{self, TlsError},
    waiting::{Arrival, Led, Name, Place, Taken},
};
use crate::{exec, net::registry::Connection, node::Handle, time::within};

/// From a libp2p stream's opening to its OPEN frame.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a channel may wait for its next stream: longer than the end that dialled it keeps it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// From a join that the peer has finished to this node's having heard of it.
const JOIN_LAG: Duration = Duration::from_secs(2);
/// For connecting to the target.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Tunnelled connections of the node at once; one member may have as many as are free.
const MAX_STREAMS: usize = 4096;
/// Addresses of a target's name that are tried.
const MAX_ADDRESSES: usize = 4;
/// The longest grace that is granted.
const MOST_GRACE: u32 = 600;

/// Serves a libp2p stream.
pub async fn serve_stream(node: Handle, connection: Connection, stream: Stream) {
    let (peer, conn, relayed) = (connection.peer, Some(connection.conn), connection.relayed());
    Ingress { node, peer, conn, relayed }.serve(stream.into()).await;
}

/// Serves a channel, if its peer is a member of some network on a libp2p connection.
pub async fn serve_channel(node: Handle, peer: NodeId, accepted: Accepted) {
    let member = node.routes.wait_for(|routes| routes.is_member_peer(&peer).then_some(()));
    if within(JOIN_LAG, member).await.is_none() {
        return log::debug!("{peer} wants a channel and belongs to no network here");
    }
    drop(accepted.place);
    Ingress { node, peer, conn: None, relayed: false }.serve(accepted.channel.into()).await;
}

/// Where streams come from.
struct Ingress {
    node: Handle,
    /// Proven by the handshake.
    peer: NodeId,
    /// The libp2p connection, if it is a stream of one.
    conn: Option<ConnId>,
    /// Whether a relay carries them.
    relayed: bool,
}

/// The first frame of a stream on a carrier.
enum First {
    Open(Open),
    Resume(Resume),
}

impl Ingress {
    /// Serves one stream after another.
    async fn serve(self, mut carrier: Carrier) {
        let mut last: Option<Name> = None;
        let mut patience = OPEN_TIMEOUT;
        loop {
            let Some(Ok(first)) = within(patience, first_frame(&mut carrier.reader)).await else { return };
            if let Some(name) = last.take() {
                self.node.waiting.forget(&name);
            }
            let served = match first {
                First::Open(open) => {
                    // Of one that was opened again, the first OPEN may still be under way.
                    last = open.attempt.is_none().then_some((self.peer, open.stream));
                    Box::pin(self.open(open, carrier)).await
                }
                First::Resume(resume) => self.resume(&resume, carrier).await,
            };
            let Some(free) = served else { return };
            if !free.is_bulk() {
                return free.retire().await;
            }
            carrier = free;
            patience = IDLE_TIMEOUT;
        }
    }

    /// Admits and carries a new stream; gives the carrier back if the stream ended well.
    async fn open(&self, open: Open, carrier: Carrier) -> Option<Carrier> {
        let conn = self.connection(&open.network).await;
        let place = match self.node.waiting.enter((self.peer, open.stream), open.network.clone(), open.attempt) {
            Ok(place) => place,
            // The egress asks for the stream that it finds here when this carrier is closed.
            Err(Taken::Live) => return None,
            Err(Taken::Past) => {
                refuse(carrier, &unknown()).await;
                return None;
            }
        };
        match self.admit(conn, &open) {
            Ok((conn, spec)) => self.carry(conn, &spec, &open, carrier, place).await,
            Err(refusal) => {
                let Open { origin_port, target_port, .. } = open;
                log::debug!("refused {} port {origin_port} -> {target_port}: {}", self.peer, refusal.text);
                refuse(carrier, &refusal).await;
                None
            }
        }
    }

    /// The libp2p connection that gives this stream its right: a channel has none of its own.
    ///
    /// The peer counts a connection as joined once its last message of the join has left, and may open streams at once;
    /// this node's loop hears of it a moment later. A stream of a connection that does not join is judged as it is.
    async fn connection(&self, network: &NetworkName) -> Option<ConnId> {
        let routes = &self.node.routes;
        let joined = async {
            match self.conn {
                Some(conn) => routes.wait_for(|routes| routes.joined(conn, network).then_some(conn)).await,
                None => routes.wait_for(|routes| routes.path(network, &self.peer, PathRule::Any)).await,
            }
        };
        within(JOIN_LAG, joined).await.or(self.conn)
    }

    fn admit(&self, conn: Option<ConnId>, open: &Open) -> Result<(ConnId, Arc<ProxySpec>), Refusal> {
        let (all, yours) = (self.node.tunnels.streams(), self.node.tunnels.opened_by(&self.peer));
        if yours >= share(all, MAX_STREAMS) {
            let text = format!("{all} tunnelled connections are open there, {yours} of them yours: that is your share");
            return Err(Refusal { reason: RefuseReason::Busy, text });
        }
        // No such connection: the routes refuse any number that is none of theirs.
        let conn = conn.unwrap_or(ConnId(u64::MAX));
        Ok((conn, self.node.routes.get().admit(conn, &self.peer, self.relayed, open)?))
    }

    async fn carry(
        &self,
        conn: ConnId,
        spec: &ProxySpec,
        open: &Open,
        mut carrier: Carrier,
        mut place: Place,
    ) -> Option<Carrier> {
        place.keep_to(spec.paths());
        let grace = open.grace.unwrap_or(0).min(MOST_GRACE);
        let lasting = Duration::from_secs(grace.into());
        let Some(entry) = self.node.tunnels.enter(spec, Some(conn), lasting, &self.node.routes) else {
            log::debug!("proxy {}: the right of {} went as its stream opened", spec.id, self.peer);
            return None;
        };
        let local = match self.target(spec, &entry.counters).await {
            Ok(local) => local,
            Err(text) => {
                let cause = if text.contains(UNRESOLVED) { Cause::Name } else { Cause::Target };
                entry.counters.failed(cause, &text);
                refuse(place.latest(carrier), &Refusal { reason: RefuseReason::Target, text }).await;
                return None;
            }
        };
        place.connected();
        entry.counters.succeeded();
        match grace {
            0 => carrier.writer.put(&Header { kind: Kind::Accept, len: 0 }.to_bytes()),
            grace => carrier.writer.put(&tunnel::encode_u32(Kind::Accept, grace)),
        }
        let session = Session::granting(local, entry.counters.clone(), grace);
        match self.run(&session, &mut carrier, &place, &entry).await {
            Ok(()) => {
                place.end(session.delivered());
                session.close();
                Some(carrier)
            }
            Err(broken) => {
                log::debug!("proxy {}: {broken}", spec.id);
                if let Some(cause) = broken.cause() {
                    entry.counters.failed(cause, broken.to_string());
                }
                session.fail(carrier, &broken).await;
                None
            }
        }
    }

    /// Carries a stream to its end, on one carrier after another if it is lasting.
    async fn run(&self, session: &Session, carrier: &mut Carrier, place: &Place, entry: &Entry) -> Result<(), Broken> {
        loop {
            let line = carrier.line().filter(|_| !session.grace().is_zero());
            let watch = match line {
                Some(line) => Watch::over(&self.node, Some(line), self.peer, None),
                None => Watch::off(&self.node),
            };
            let cut = async { Next::CutShort(session.cut_short(entry).await) };
            let arrived = async { Next::Arrived(place.arrival().await) };
            let pumped = async { Next::Pumped(session.pump(carrier, &watch).await) };
            let arrival = match or(cut, or(arrived, pumped)).await {
                Next::CutShort(broken) => return Err(broken),
                Next::Arrived(arrival) => arrival,
                Next::Pumped(Err(Broken::Carrier(error))) if !session.grace().is_zero() => {
                    log::debug!("a stream waits for its egress: {error}");
                    drop(watch);
                    carrier.cut();
                    come_back(session, place, entry).await?
                }
                Next::Pumped(outcome) => return outcome,
            };
            *carrier = arrival.carrier;
            carrier.writer.put(&tunnel::encode_count(Kind::Resumed, session.delivered()));
            session.resume(arrival.delivered)?;
        }
    }

    /// What an admitted stream leads to: the target itself, or TLS that ends here and leads there.
    async fn target(&self, spec: &ProxySpec, counters: &Arc<Counters>) -> Result<Outer, String> {
        let Some(prefix) = spec.key_prefix.clone() else {
            return connect(&spec.host, spec.port).await.map(Outer::from);
        };
        let (outer, inner) = tls::pair()?;
        exec::spawn(terminated(self.node.clone(), spec.clone(), prefix, inner, counters.clone())).detach();
        Ok(outer)
    }

    /// Whether the peer is, or within a moment becomes, a member of the network that a stream of its belongs to, and comes
    /// by a path that the stream may take. A channel of its may stand on another network, and the right to this one be
    /// gone.
    async fn is_entitled(&self, name: &Name) -> bool {
        let Some((network, paths)) = self.node.waiting.terms(name) else { return true };
        let member = self.node.routes.wait_for(|routes| routes.path(&network, &self.peer, PathRule::Any).map(drop));
        paths.allows(self.relayed) && within(JOIN_LAG, member).await.is_some()
    }

    /// Leads a carrier to the stream that it is for.
    async fn resume(&self, resume: &Resume, carrier: Carrier) -> Option<Carrier> {
        if !self.is_entitled(&(self.peer, resume.stream)).await {
            // It may be again while the stream's grace lasts, and asks again. A right that is taken away ends the stream.
            log::debug!("{} asks for a stream that it may not have now, or not by this path", self.peer);
            return None;
        }
        match self.node.waiting.lead(self.peer, resume, carrier) {
            Led::On | Led::Overtaken => None,
            Led::Ended(mut carrier, count) => {
                let resumed = tunnel::encode_count(Kind::Resumed, count);
                carrier.writer.send(&resumed).await.is_ok().then_some(carrier)
            }
            Led::Unknown(carrier) => {
                refuse(carrier, &unknown()).await;
                None
            }
        }
    }
}

fn unknown() -> Refusal {
    Refusal { reason: RefuseReason::Unknown, text: "there is no such stream any more".to_owned() }
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

async fn first_frame(reader: &mut Reader) -> Result<First, Broken> {
    let header = reader.header().await?;
    match header.kind {
        Kind::Open => Ok(First::Open(reader.cbor(header).await?)),
        Kind::Resume => Ok(First::Resume(reader.cbor(header).await?)),
        other => Err(Broken::Unexpected(other)),
    }
}

/// What happens next to a stream that is carried.
enum Next {
    Pumped(Result<(), Broken>),
    Arrived(Arrival),
    CutShort(Broken),
}

/// Waits for the egress, while the right holds and the grace lasts.
async fn come_back(session: &Session, place: &Place, entry: &Entry) -> Result<Arrival, Broken> {
    let cut = async { Err(session.cut_short(entry).await) };
    let back = async { within(session.grace(), place.arrival()).await.ok_or(Broken::Ended) };
    or(cut, back).await
}

/// How a target whose host has no address is told from one that does not answer.
const UNRESOLVED: &str = "cannot be resolved";

/// Connects to a local target by name or address.
pub async fn connect(host: &str, port: u16) -> Result<Source<TcpStream>, String> {
    let what = |why: String| format!("the target {host}:{port} {why}");
    let attempt = async {
        let found = async_net::resolve((host, port)).await.map_err(|e| what(format!("{UNRESOLVED}: {e}")))?;
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

async fn connect_to(address: SocketAddr) -> std::io::Result<Source<TcpStream>> {
    let socket = Source::connect(address).await?;
    socket.get_ref().set_nodelay(true)?;
    Ok(socket)
}

/// Says why not.
async fn refuse(carrier: Carrier, refusal: &Refusal) {
    carrier.end_with(&tunnel::encode_cbor(Kind::Refuse, refusal)).await;
}
