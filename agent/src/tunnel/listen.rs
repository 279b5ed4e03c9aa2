//! Egress: listening for local connections and opening a stream for each.
//!
//! One task per port; [`Listeners`] starts and stops them as the routes change. Proxies that differ by the host name of
//! their TLS clients share one ([`sni`]). A port that cannot be bound is tried again, so a proxy recovers when the other
//! program goes away.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_io::Timer;
use hive_core::{
    ConnId, Routes,
    stream::attempts::{First, Seeker},
};
use hive_protocol::{
    DEFAULT_RESUME, Direction, KeyPrefix, ProxyKind, ProxySpec, Remote, TUNNEL_PROTOCOL,
    tunnel::{self, Kind, Open, Refusal, RefuseReason, Resume},
};
use hive_transport::source::Source;
use libp2p::StreamProtocol;
use smol::{Task, future::or};

use super::{
    Cause, Entry, abort,
    accept::{Acceptor, Place},
    broken::Broken,
    carrier::{self, Carrier},
    lookout::Watch,
    pair::Outer,
    pump::Session,
    sni, tls,
};
use crate::{exec, net::registry::Connection, node::Handle, random, time::within, watched::Watched};

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
    running: BTreeMap<SocketAddr, (Arc<Watched<Group>>, Task<()>)>,
}

/// The proxies on one port: one, or several with host names.
type Group = Vec<Arc<ProxySpec>>;

/// Sockets bound before their proxy existed, so that a port that is taken is an answer and not a later surprise.
#[derive(Clone, Default)]
pub struct Prepared(Arc<Mutex<BTreeMap<SocketAddr, Source<TcpListener>>>>);

impl Prepared {
    /// Binds now what a proxy is about to listen on; answers the address, with the port found where it was 0.
    pub fn bind(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let socket = open_port(address)?;
        let bound = socket.get_ref().local_addr()?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(bound, socket);
        Ok(bound)
    }

    /// The socket bound before, if any.
    pub fn take(&self, address: SocketAddr) -> Option<Source<TcpListener>> {
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
        let mut groups: BTreeMap<SocketAddr, Group> = BTreeMap::new();
        for spec in routes.proxies.iter().filter(|spec| spec.direction == Direction::Egress) {
            groups.entry(address(spec)).or_default().push(spec.clone());
        }
        self.running.retain(|address, _| groups.contains_key(address));
        for (address, group) in groups {
            let group = Arc::new(group);
            if let Some((running, _)) = self.running.get(&address) {
                running.set(group);
                continue;
            }
            let (group, socket) = (Arc::new(Watched::new(group)), node.prepared.take(address));
            let task = exec::spawn(listen(node.clone(), address, group.clone(), socket));
            self.running.insert(address, (group, task));
        }
    }
}

/// Where an egress listens.
pub fn address(spec: &ProxySpec) -> SocketAddr {
    SocketAddr::new(spec.bind, spec.port)
}

async fn listen(node: Handle, address: SocketAddr, group: Arc<Watched<Group>>, prepared: Option<Source<TcpListener>>) {
    let socket = match prepared {
        Some(socket) => socket,
        None => bind(&node, address, &group).await,
    };
    tell(&node, &group, None);
    log::info!("listening on {address} for {}", names(&group.get()));
    let mut acceptor = Acceptor::new(socket, address.to_string(), MAX_CONNECTIONS);
    loop {
        let (local, place) = acceptor.next().await;
        exec::spawn(accepted(node.clone(), group.get(), local, place)).detach();
    }
}

/// Binds a port, with room for a burst of connections before the first is taken.
fn open_port(address: SocketAddr) -> io::Result<Source<TcpListener>> {
    let socket = Source::bind(address)?;
    // A second `listen` only changes the queue's length; the standard library asks for 128.
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Lets all proxies on a port know whether it is listened on.
fn tell(node: &Handle, group: &Watched<Group>, problem: Option<&str>) {
    for spec in group.get().iter() {
        node.tunnels.counters(spec.id).listening(problem.map(str::to_owned));
    }
}

fn names(group: &[Arc<ProxySpec>]) -> String {
    group.iter().map(|spec| format!("proxy {}", spec.id)).collect::<Vec<_>>().join(", ")
}

/// Binds, however long it takes.
async fn bind(node: &Handle, address: SocketAddr, group: &Watched<Group>) -> Source<TcpListener> {
    let mut told = false;
    loop {
        match open_port(address) {
            Ok(socket) => return socket,
            Err(e) => {
                if !std::mem::replace(&mut told, true) {
                    log::warn!("cannot listen on {address}, will try again: {e}");
                }
                tell(node, group, Some(&format!("cannot listen on {address}: {e}")));
                Timer::after(RETRY_BIND).await;
            }
        }
    }
}

/// A connection from outside: to the proxy it is for, through TLS where that ends here.
async fn accepted(node: Handle, group: Arc<Group>, local: Source<TcpStream>, _place: Place) {
    if let Err(e) = local.get_ref().set_nodelay(true) {
        log::debug!("no TCP_NODELAY: {e}");
    }
    let spec = match group.as_slice() {
        [only] if only.sni.is_none() => only.clone(),
        several => match sni::route(&local, several).await {
            Ok(spec) => spec,
            Err(e) => return log::debug!("{}: {e}", names(several)),
        },
    };
    match (&spec.kind, &spec.key_prefix) {
        (ProxyKind::Ssh, _) => node.ssh.serve(&node, &spec, local).await,
        (ProxyKind::Tcp, Some(prefix)) => terminated(&node, &spec, prefix, local).await,
        (ProxyKind::Tcp, None) => connection(node, spec, local.into()).await,
    }
}

/// TLS ends here: what it held goes on as a connection of its own.
async fn terminated(node: &Handle, spec: &Arc<ProxySpec>, prefix: &KeyPrefix, client: Source<TcpStream>) {
    let onward = (node.clone(), spec.clone());
    let connect: tls::Connect = Box::new(move || {
        let (node, spec) = onward.clone();
        let opened = tls::pair().map(|(outer, inner)| {
            exec::spawn(connection(node, spec, outer)).detach();
            inner
        });
        Box::pin(std::future::ready(opened))
    });
    if let Err(e) = node.termination.serve((spec.id, prefix), client.into(), connect).await {
        log::debug!("proxy {}: {e}", spec.id);
    }
}

/// One connection to carry, from its acceptance to its end.
async fn connection(node: Handle, spec: Arc<ProxySpec>, local: Outer) {
    let counters = node.tunnels.counters(spec.id);
    let Some(remote) = &spec.remote else { return };
    let found = within(PATIENCE, path(&node, &spec, remote)).await.flatten();
    let Some((connection, mut carrier)) = found else {
        counters.failed(Cause::Path, late(&node, &spec, remote).await);
        return abort(&local.socket);
    };
    let grace = spec.resume.unwrap_or(DEFAULT_RESUME);
    let lasting = Duration::from_secs(grace.into());
    let Some(entry) = node.tunnels.enter(&spec, Some(connection.conn), lasting, &node.routes) else {
        log::debug!("proxy {}: the right to {} went while its path was found", spec.id, remote.node);
        return abort(&local.socket);
    };
    let open = Open {
        stream: random::bytes(),
        network: remote.network.clone(),
        origin_port: spec.port,
        target_port: remote.port,
        grace: Some(grace).filter(|grace| *grace > 0),
        attempt: None,
    };
    // It leaves with the first bytes of the application, if there are any yet.
    carrier.writer.put(&tunnel::encode_cbor(Kind::Open, &open));
    let seeker = Seeker::default();
    let mut egress = Egress { node: &node, spec: &spec, remote, open, seeker, beside: connection };
    let session = Session::asking(local, counters.clone(), grace);
    let cut = async { Err(session.cut_short(&entry).await) };
    match or(cut, egress.carry(&session, &mut carrier, &entry)).await {
        Ok(()) => {
            session.close();
            egress.done(carrier).await;
        }
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
    remote: &'a Remote,
    /// How the stream began.
    open: Open,
    seeker: Seeker,
    /// The connection that its carrier belongs to, or was made beside.
    beside: Connection,
}

impl<'a> Egress<'a> {
    /// Carries the stream to its end, on one carrier after another if it is lasting.
    async fn carry(&mut self, session: &Session, carrier: &mut Carrier, entry: &Entry) -> Result<(), Broken> {
        loop {
            let doubted = async {
                entry.doubted().await;
                Err(io::Error::other("the connection beside it is gone").into())
            };
            let watch = self.watch(session, carrier);
            let error = match or(doubted, session.pump(carrier, &watch)).await {
                Err(Broken::Carrier(error)) if !session.grace().is_zero() => error,
                outcome => return outcome,
            };
            drop(watch);
            log::debug!("proxy {}: {error}, the stream waits for another carrier", self.spec.id);
            carrier.cut();
            if !matches!(error, carrier::Error::Stuck) {
                // Other channels to this peer went over the same path.
                self.node.pool.clear(&self.remote.node);
            }
            let broken = Broken::Carrier(error);
            *carrier = within(patience(session), self.resume(session, entry)).await.unwrap_or(Err(broken))?;
        }
    }

    /// Has a carrier looked after, unless nothing could come of it.
    fn watch(&self, session: &Session, carrier: &Carrier) -> Watch<'a> {
        if session.grace().is_zero() || self.beside.relayed() {
            return Watch::off(self.node);
        }
        Watch::over(self.node, carrier.line(), self.remote.node, Some(&self.beside))
    }

    /// Finds a carrier and the other end of the stream on it.
    async fn resume(&mut self, session: &Session, entry: &Entry) -> Result<Carrier, Broken> {
        loop {
            if let Some((connection, carrier)) = path(self.node, self.spec, self.remote).await {
                entry.settle_doubt();
                // The one that was there may be as dead as the last, and nobody have noticed yet.
                let better = better_than(self.node, self.spec, self.remote, connection.conn);
                self.beside = connection;
                match or(better, self.first(session, carrier)).await {
                    Ok(carrier) => return Ok(carrier),
                    Err(Broken::Refused(refusal)) if self.is_lost(&refusal, session) => {}
                    Err(Broken::Refused(refusal)) if refusal.reason == RefuseReason::Path => {
                        log::debug!("proxy {}: {}, trying again", self.spec.id, refusal.text);
                    }
                    Err(refused @ (Broken::Refused(_) | Broken::Violation(_))) => return Err(refused),
                    Err(broken) => log::debug!("proxy {}: {broken}, trying again", self.spec.id),
                }
            }
            Timer::after(PAUSE).await;
        }
    }

    /// Says what comes first on a further carrier.
    async fn first(&mut self, session: &Session, mut carrier: Carrier) -> Result<Carrier, Broken> {
        match self.seeker.again() {
            First::Open { attempt } => {
                session.reopen();
                let open = Open { attempt: Some(attempt), ..self.open.clone() };
                carrier.writer.put(&tunnel::encode_cbor(Kind::Open, &open));
            }
            First::Resume { attempt } => {
                let late = || Err(io::Error::from(io::ErrorKind::TimedOut).into());
                within(RESUME_TIMEOUT, self.ask(session, attempt, &mut carrier)).await.unwrap_or_else(late)?;
            }
        }
        Ok(carrier)
    }

    /// Whether the ingress knows nothing of the stream only because it has never heard of it.
    fn is_lost(&mut self, refusal: &Refusal, session: &Session) -> bool {
        refusal.reason == RefuseReason::Unknown && self.seeker.unknown(session.is_answered())
    }

    async fn ask(&self, session: &Session, attempt: u32, carrier: &mut Carrier) -> Result<(), Broken> {
        let delivered = session.delivered();
        let resume = Resume { stream: self.open.stream, delivered, attempt: Some(attempt) };
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
            self.node.pool.give(&self.beside, channel);
        }
    }
}

/// How long a stream is without a carrier. One that the ingress has not let in may be one that it never will.
fn patience(session: &Session) -> Duration {
    if session.is_answered() { session.grace() } else { session.grace().min(PATIENCE) }
}

/// The best path to the peer that the proxy may take, and a carrier on it. A connection that dies meanwhile is replaced
/// by the next.
async fn path(node: &Handle, spec: &ProxySpec, remote: &Remote) -> Option<(Connection, Carrier)> {
    loop {
        let networks = vec![remote.network.clone()];
        let connection = node.connection_in(networks, remote.node, spec.paths(), PATIENCE).await?;
        if let Some(channel) = node.pool.take(node, &connection).await {
            return Some((connection, channel.into()));
        }
        match node.streams.open_on(connection.id, StreamProtocol::new(TUNNEL_PROTOCOL)).await {
            Ok(stream) => return Some((connection, stream.into())),
            Err(e) => log::debug!("proxy {}: {e}, trying again", spec.id),
        }
        Timer::after(PAUSE).await;
    }
}

/// Waits until there is another connection to the peer than this one, and a better that the proxy may take.
async fn better_than<T>(node: &Handle, spec: &ProxySpec, remote: &Remote, conn: ConnId) -> Result<T, Broken> {
    let paths = spec.paths();
    let other = |routes: &Routes| routes.path(&remote.network, &remote.node, paths).filter(|best| *best != conn);
    node.routes.wait_for(other).await;
    Err(io::Error::other("there is a better connection").into())
}

/// Why a connection was given up that waited for a path.
async fn late(node: &Handle, spec: &ProxySpec, remote: &Remote) -> String {
    let (asked, paths) = (remote.clone(), spec.paths());
    let why = node.ask(move |core, _| core.no_path(&asked, paths)).await;
    let why = why.unwrap_or_else(|_| format!("no path to {}", remote.node));
    format!("{why}, after {} s", PATIENCE.as_secs())
}
