//! Egress: listening for local connections and opening a stream for each.
//!
//! One task per enabled egress proxy; [`Listeners`] starts and stops them as the routes change. A port that cannot be
//! bound is tried again, so a proxy recovers when the other program goes away.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_io::{Async, Timer};
use hive_core::Routes;
use hive_protocol::{
    DEFAULT_RESUME, Direction, ProxyId, ProxySpec, TUNNEL_PROTOCOL,
    tunnel::{self, Kind, Open, Resume},
};
use libp2p::StreamProtocol;
use smol::{Task, future::or};

use super::{
    Cause, Counters, Entry, abort,
    accept::{Acceptor, Place},
    carrier::Carrier,
    pump::{Broken, Session},
};
use crate::{exec, net::registry::Connection, node::Handle, random, time::within};

/// How long a local connection waits for its peer to be connected.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between attempts to bind a port that is taken.
const RETRY_BIND: Duration = Duration::from_secs(3);
/// For the answer to RESUME.
const RESUME_TIMEOUT: Duration = Duration::from_secs(5);
/// Between attempts to open a stream.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections that wait to be accepted; the kernel may cap it lower (`net.core.somaxconn`).
const BACKLOG: i32 = 1024;
/// Connections of one proxy at once, those that wait for the peer too; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;

/// The running egress listeners of a node.
#[derive(Default)]
pub struct Listeners {
    running: BTreeMap<ProxyId, (Arc<ProxySpec>, Task<()>)>,
}

/// Sockets bound before their proxy existed, so that a port that is taken is an answer and not a later surprise.
#[derive(Clone, Default)]
pub struct Prepared(Arc<Mutex<BTreeMap<SocketAddr, Async<TcpListener>>>>);

impl Prepared {
    /// Binds now what a proxy is about to listen on.
    pub fn bind(&self, address: SocketAddr) -> io::Result<()> {
        let socket = open_port(address)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(address, socket);
        Ok(())
    }

    /// The socket bound before, if any.
    pub fn take(&self, address: SocketAddr) -> Option<Async<TcpListener>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&address)
    }
}

/// Keeps the listeners in step with the routes, for as long as the node lives.
pub async fn keep(node: Handle) {
    let mut listeners = Listeners::default();
    let mut seen: Option<Arc<Routes>> = None;
    loop {
        let newer = |now: &Arc<Routes>| seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, now));
        let routes = node.routes.wait_for_snapshot(newer).await;
        listeners.follow(&node, &routes);
        seen = Some(routes);
    }
}

impl Listeners {
    fn follow(&mut self, node: &Handle, routes: &Routes) {
        let wanted = |spec: &Arc<ProxySpec>| spec.direction == Direction::Egress;
        let egress: BTreeMap<ProxyId, &Arc<ProxySpec>> =
            routes.proxies.iter().filter(|spec| wanted(spec)).map(|spec| (spec.id, spec)).collect();
        self.running.retain(|id, (spec, _)| egress.get(id).is_some_and(|now| **now == *spec));
        for (id, spec) in egress {
            self.running.entry(id).or_insert_with(|| {
                let socket = node.prepared.take(address(spec));
                (spec.clone(), exec::spawn(listen(node.clone(), spec.clone(), socket)))
            });
        }
    }
}

/// Where an egress listens.
pub fn address(spec: &ProxySpec) -> SocketAddr {
    SocketAddr::new(spec.bind, spec.port)
}

async fn listen(node: Handle, spec: Arc<ProxySpec>, prepared: Option<Async<TcpListener>>) {
    let counters = node.tunnels.counters(spec.id);
    let socket = match prepared {
        Some(socket) => socket,
        None => bind(address(&spec), &counters).await,
    };
    counters.listening(None);
    log::info!("proxy {}: listening on {} for {}", spec.id, address(&spec), spec.remote.node);
    let mut acceptor = Acceptor::new(socket, format!("proxy {}", spec.id), MAX_CONNECTIONS);
    loop {
        let (local, place) = acceptor.next().await;
        exec::spawn(connection(node.clone(), spec.clone(), local, place)).detach();
    }
}

/// Binds a port, with room for a burst of connections before the first is taken.
fn open_port(address: SocketAddr) -> io::Result<Async<TcpListener>> {
    let socket = Async::<TcpListener>::bind(address)?;
    // A second `listen` only changes the queue's length; the standard library asks for 128.
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Binds, however long it takes.
async fn bind(address: SocketAddr, counters: &Counters) -> Async<TcpListener> {
    let mut told = false;
    loop {
        match open_port(address) {
            Ok(socket) => return socket,
            Err(e) => {
                if !std::mem::replace(&mut told, true) {
                    log::warn!("cannot listen on {address}, will try again: {e}");
                }
                counters.listening(Some(format!("cannot listen on {address}: {e}")));
                Timer::after(RETRY_BIND).await;
            }
        }
    }
}

/// One local connection, from its acceptance to its end.
async fn connection(node: Handle, spec: Arc<ProxySpec>, local: Async<TcpStream>, _place: Place) {
    let counters = node.tunnels.counters(spec.id);
    if let Err(e) = local.get_ref().set_nodelay(true) {
        log::debug!("no TCP_NODELAY: {e}");
    }
    let (connection, mut carrier) = match within(PATIENCE, path(&node, &spec)).await.ok_or_else(|| late(&spec)) {
        Ok(Ok(found)) => found,
        Ok(Err(why)) | Err(why) => {
            counters.failed(Cause::Path, why);
            return abort(&local);
        }
    };
    let grace = spec.resume.unwrap_or(DEFAULT_RESUME);
    let entry = node.tunnels.enter(&spec, connection.conn, Duration::from_secs(grace.into()));
    // The routes may have changed while the path was found, before there was an entry to strike out.
    if !node.routes.get().allows(spec.id, connection.conn) {
        return abort(&local);
    }
    let open = Open {
        stream: random::bytes(),
        network: spec.remote.network.clone(),
        origin_port: spec.port,
        target_port: spec.remote.port,
        grace: Some(grace).filter(|grace| *grace > 0),
    };
    // It leaves with the first bytes of the application, if there are any yet.
    carrier.writer.put(&tunnel::encode_cbor(Kind::Open, &open));
    let egress = Egress { node: &node, spec: &spec, stream: open.stream };
    let session = Session::asking(local, counters.clone(), grace);
    let lost = async {
        entry.ended().await;
        Err(Broken::Ended)
    };
    match or(lost, egress.carry(&session, &mut carrier, &entry)).await {
        Ok(()) => egress.done(carrier).await,
        Err(broken) => {
            log::debug!("proxy {}: {broken}", spec.id);
            if let Some(cause) = broken.cause() {
                counters.failed(cause, broken.to_string());
            }
            session.fail(carrier, &broken).await;
        }
    }
}

/// One stream of an egress.
struct Egress<'a> {
    node: &'a Handle,
    spec: &'a ProxySpec,
    stream: [u8; 16],
}

impl Egress<'_> {
    /// Carries the stream to its end, on one carrier after another if it is lasting.
    async fn carry(&self, session: &Session, carrier: &mut Carrier, entry: &Entry) -> Result<(), Broken> {
        loop {
            let doubted = async {
                entry.doubted().await;
                Err(io::Error::other("the connection beside it is gone").into())
            };
            let broken = match or(doubted, session.pump(carrier)).await {
                Err(Broken::Carrier(error)) if !session.grace().is_zero() => Broken::Carrier(error),
                outcome => return outcome,
            };
            log::debug!("proxy {}: {broken}, the stream waits for another carrier", self.spec.id);
            // Other channels to this peer went over the same path.
            self.node.pool.clear(&self.spec.remote.node);
            *carrier = within(session.grace(), self.resume(session)).await.unwrap_or(Err(broken))?;
        }
    }

    /// Finds a carrier and the other end of the stream on it.
    async fn resume(&self, session: &Session) -> Result<Carrier, Broken> {
        loop {
            if let Ok((_, mut carrier)) = path(self.node, self.spec).await {
                match within(RESUME_TIMEOUT, self.ask(session, &mut carrier)).await {
                    Some(Ok(())) => return Ok(carrier),
                    Some(Err(refused @ (Broken::Refused(_) | Broken::Violation(_)))) => return Err(refused),
                    Some(Err(broken)) => log::debug!("proxy {}: {broken}, trying again", self.spec.id),
                    None => log::debug!("proxy {}: no answer to RESUME, trying again", self.spec.id),
                }
            }
            Timer::after(PAUSE).await;
        }
    }

    async fn ask(&self, session: &Session, carrier: &mut Carrier) -> Result<(), Broken> {
        let resume = Resume { stream: self.stream, delivered: session.delivered() };
        carrier.writer.send(&tunnel::encode_cbor(Kind::Resume, &resume)).await?;
        let header = carrier.reader.header().await?;
        match header.kind {
            Kind::Resumed => Ok(session.resume(carrier.reader.count().await?)?),
            Kind::Refuse => Err(Broken::Refused(carrier.reader.cbor(header).await?)),
            other => Err(Broken::Unexpected(other)),
        }
    }

    /// The carrier is free: a channel for the next stream, a libp2p stream for nothing more.
    async fn done(&self, carrier: Carrier) {
        if !carrier.is_bulk() {
            return carrier.retire().await;
        }
        if let Some(channel) = carrier.into_channel() {
            self.node.pool.give(self.spec.remote.node, channel);
        }
    }
}

/// The best path to the peer and a carrier on it. A connection that dies meanwhile is replaced by the next.
async fn path(node: &Handle, spec: &ProxySpec) -> Result<(Connection, Carrier), String> {
    loop {
        let networks = vec![spec.remote.network.clone()];
        let connection = node.connection_in(networks, spec.remote.node, PATIENCE).await;
        let connection = connection.ok_or_else(|| format!("{} is not connected", spec.remote.node))?;
        if let Some(channel) = node.pool.take(node, &connection).await {
            return Ok((connection, channel.into()));
        }
        match node.streams.open_on(connection.id, StreamProtocol::new(TUNNEL_PROTOCOL)).await {
            Ok(stream) => return Ok((connection, stream.into())),
            Err(e) => log::debug!("proxy {}: {e}, trying again", spec.id),
        }
        Timer::after(PAUSE).await;
    }
}

fn late(spec: &ProxySpec) -> String {
    format!("no path to {} within {} s", spec.remote.node, PATIENCE.as_secs())
}
