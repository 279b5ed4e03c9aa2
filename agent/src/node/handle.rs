//! What other tasks hold of a node: a way to ask its loop, and the snapshots it publishes.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_io::Timer;
use hive_core::{ConnId, Core, Event, Now, Purpose, Routes, Source};
use hive_protocol::{
    Identity, NetworkName, NodeId, NodeName, PathRule, PortMapping,
    message::{Failure, FailureCode},
    password::Secret,
};
use hive_transport::streams::Control;
use libp2p::{Multiaddr, swarm::ConnectionId};
use smol::channel::{self, Sender};

use crate::{
    acme::{Acme, answers::Answers},
    control::{Conversations, Sessions},
    keys::Keys,
    net::{
        Handles, Part,
        registry::{Connection, Registry},
    },
    probe::Nonces,
    ssh,
    store::{Store, StoreError},
    time::within,
    tunnel::{Tunnels, listen::Prepared, lookout::Lookout, pool::Pool, tls::Termination, waiting::Waiting},
    update::Updates,
    watched::Watched,
};

/// The head start of the first addresses of a dial (RFC 8305, section 5).
const BESIDE: Duration = Duration::from_millis(250);

/// How a registration ended: the node's name and the number of members known, or why not.
pub type Registration = Result<(NodeName, u32), Failure>;

/// A question or a command for the core, and how its answer is sent.
type Call = Box<dyn FnOnce(&mut Core, Now) -> Reply + Send>;
/// Sends an answer, given whether the turn's changes were stored.
type Answer = Box<dyn FnOnce(Result<(), NotStored>) + Send>;

/// What the loop is asked.
pub enum Input {
    /// Something happened.
    Event(Event),
    /// A question or a command for the core.
    Call(Call),
    /// Register a node; answered when the core says how it ended.
    Register { identity: Identity, network: NetworkName, reply: Sender<Registration> },
    /// Dial through a hole that the peer punches now.
    Punch { peer: NodeId, addresses: Vec<Multiaddr>, part: Part },
    /// Dial a member that asked for it.
    DialBack { peer: NodeId, address: Multiaddr, reply: Sender<ConnectionId> },
    /// Close this connection.
    Close(ConnectionId),
    /// This dial has had its head start.
    DialTakingLong(ConnectionId),
    /// The router leads these addresses to this node, and no others.
    Mapped(Vec<Multiaddr>),
    /// Listen on these addresses from now on.
    Listen { addresses: Vec<Multiaddr>, reply: Sender<Result<(), Failure>> },
    /// End the loop; the sender is dropped when it has.
    Stop(Sender<()>),
}

/// An answer that waits until its turn's changes are stored.
pub struct Reply(Option<Answer>);

impl Reply {
    /// Nobody waits.
    pub fn none() -> Self {
        Self(None)
    }

    /// Calls `send` when the turn's changes are stored, or with the reason why they are not.
    pub fn with(send: impl FnOnce(Result<(), NotStored>) + Send + 'static) -> Self {
        Self(Some(Box::new(send)))
    }

    /// Answers.
    pub fn send(self, stored: Result<(), NotStored>) {
        if let Some(send) = self.0 {
            send(stored);
        }
    }
}

/// A change is in force but not on disk; it will be lost if the agent ends before there is room.
#[derive(Debug, Clone, thiserror::Error)]
#[error("in force, but not stored: {0}")]
pub struct NotStored(pub String);

/// The node is shutting down.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the agent is shutting down")]
pub struct Stopped;

impl From<Stopped> for Failure {
    fn from(stopped: Stopped) -> Self {
        Failure::new(FailureCode::Failed, stopped.to_string())
    }
}

impl From<NotStored> for Failure {
    fn from(problem: NotStored) -> Self {
        Failure::new(FailureCode::Failed, problem.to_string())
            .hint("see to the disk of the state folder; it is tried again")
    }
}

/// What TLS is served with.
pub struct Tls {
    keys: Arc<Keys>,
    acme: Arc<Acme>,
    answers: Arc<Answers>,
}

impl Tls {
    /// Takes up what is stored.
    pub fn load(store: &Arc<Store>) -> Result<Self, StoreError> {
        let answers = Arc::<Answers>::default();
        let keys = Arc::new(Keys::load(store.clone())?);
        let acme = Arc::new(Acme::load(store.clone(), answers.clone(), &keys)?);
        Ok(Self { keys, acme, answers })
    }
}

/// A handle on a running node. Cheap to clone.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

/// What all handles share.
pub struct Shared {
    /// This node.
    pub id: NodeId,
    /// When it started.
    pub started: Instant,
    /// Streams to and from peers.
    pub streams: Control,
    /// The live connections.
    pub registry: Registry,
    /// The routes in force.
    pub routes: Watched<Routes>,
    /// Live tunnelled connections and their counters.
    pub tunnels: Arc<Tunnels>,
    /// Channels of the bulk plane that are ready for use.
    pub pool: Pool,
    /// Looks after carriers whose peer owes an answer.
    pub lookout: Lookout,
    /// Streams that their egress may come back for.
    pub waiting: Arc<Waiting>,
    /// Sockets bound for proxies that are about to be.
    pub prepared: Prepared,
    /// Control streams of logged-in sessions.
    pub sessions: Arc<Sessions>,
    /// Conversations of programs with this node, and with others through it.
    pub conversations: Conversations,
    /// Numbers of the probes under way.
    pub nonces: Nonces,
    /// Addresses this node listens on.
    pub listening: Watched<Vec<Multiaddr>>,
    /// What the router was asked for.
    pub port_mapping: Watched<Option<PortMapping>>,
    /// TLS ends here, for proxies that say so.
    pub termination: Termination,
    /// The key store.
    pub keys: Arc<Keys>,
    /// The certificates that renew themselves.
    pub acme: Arc<Acme>,
    /// SSH is served here, for proxies that say so.
    pub ssh: ssh::Server,
    /// Updates of this agent.
    pub updates: Updates,
    inbox: Sender<Input>,
    store_problem: Mutex<Option<String>>,
}

impl std::ops::Deref for Handle {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Handle {
    pub(super) fn new(
        core: &Core,
        inbox: Sender<Input>,
        handles: Handles,
        certificates: Tls,
        ssh: ssh::Server,
        updates: Updates,
    ) -> Self {
        let Handles { streams, registry, tls } = handles;
        let Tls { keys, acme, answers } = certificates;
        Self(Arc::new(Shared {
            id: core.id(),
            started: Instant::now(),
            streams,
            registry,
            routes: Watched::new(core.routes()),
            tunnels: Arc::default(),
            pool: Pool::new(tls),
            lookout: Lookout::default(),
            conversations: Conversations::default(),
            waiting: Arc::default(),
            prepared: Prepared::default(),
            sessions: Arc::default(),
            nonces: Nonces::default(),
            listening: Watched::new(Arc::default()),
            port_mapping: Watched::new(Arc::default()),
            termination: Termination::new(keys.clone(), answers),
            keys,
            acme,
            ssh,
            updates,
            inbox,
            store_problem: Mutex::new(None),
        }))
    }

    /// Asks the core something.
    pub async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Core, Now) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        self.call(question).await.map(|(answer, _)| answer)
    }

    /// Has the core carry out a command; the answer comes when its changes are stored.
    pub async fn command<R: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Core, Now) -> Result<R, Failure> + Send + 'static,
    ) -> Result<R, Failure> {
        let (outcome, stored) = self.call(command).await?;
        let done = outcome?;
        stored?;
        Ok(done)
    }

    async fn call<R: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Core, Now) -> R + Send + 'static,
    ) -> Result<(R, Result<(), NotStored>), Stopped> {
        let (sender, receiver) = channel::bounded(1);
        let call = move |core: &mut Core, now: Now| {
            let answer = call(core, now);
            Reply::with(move |stored| drop(sender.try_send((answer, stored))))
        };
        self.inbox.send(Input::Call(Box::new(call))).await.map_err(|_| Stopped)?;
        receiver.recv().await.map_err(|_| Stopped)
    }

    /// Tells the core that something happened.
    pub async fn event(&self, event: Event) {
        // When the loop has ended nobody needs to know any more.
        let _ = self.inbox.send(Input::Event(event)).await;
    }

    /// Dials through a hole that the peer punches at this moment.
    pub async fn punch(&self, peer: NodeId, addresses: Vec<Multiaddr>, part: Part) {
        let _ = self.inbox.send(Input::Punch { peer, addresses, part }).await;
    }

    /// Tells, a moment from now, that a dial's head start is over.
    pub async fn dial_beside_later(self, first: ConnectionId) {
        Timer::after(BESIDE).await;
        let _ = self.inbox.send(Input::DialTakingLong(first)).await;
    }

    /// Tells where the router's public ports lead here.
    pub async fn mapped(&self, addresses: Vec<Multiaddr>) {
        let _ = self.inbox.send(Input::Mapped(addresses)).await;
    }

    /// Dials a member that asked for it, from another port than this node's; the connection is the caller's to close. One
    /// that comes after `limit` is closed here or by the loop.
    pub async fn dial_back(&self, peer: NodeId, address: Multiaddr, limit: Duration) -> Option<ConnectionId> {
        let (reply, dialled) = channel::bounded(1);
        self.inbox.send(Input::DialBack { peer, address, reply }).await.ok()?;
        if let Some(answered) = within(limit, dialled.recv()).await {
            return answered.ok();
        }
        dialled.close();
        if let Ok(late) = dialled.try_recv() {
            self.close(late).await;
        }
        None
    }

    /// Closes a connection.
    pub async fn close(&self, id: ConnectionId) {
        let _ = self.inbox.send(Input::Close(id)).await;
    }

    /// Registers a node and waits for the outcome.
    pub async fn register(&self, identity: Identity, network: NetworkName) -> Registration {
        let (reply, outcome) = channel::bounded(1);
        self.inbox.send(Input::Register { identity, network, reply }).await.map_err(|_| Stopped)?;
        outcome.recv().await.map_err(|_| Stopped)?
    }

    /// Listens on `addresses` instead of the present ones.
    pub async fn listen(&self, addresses: Vec<Multiaddr>) -> Result<(), Failure> {
        let (reply, outcome) = channel::bounded(1);
        self.inbox.send(Input::Listen { addresses, reply }).await.map_err(|_| Stopped)?;
        outcome.recv().await.map_err(|_| Stopped)?
    }

    /// Keeps a stranger's connection open while a logged-in session lives on it.
    pub async fn hold(&self, conn: ConnId, hold: bool) {
        let _ = self.ask(move |core, _| core.hold(conn, hold)).await;
    }

    /// Ends the loop and waits until it has ended.
    pub async fn stop(&self) {
        let (sender, ended) = channel::bounded(1);
        if self.inbox.send(Input::Stop(sender)).await.is_ok() {
            let _ = ended.recv().await;
        }
    }

    /// The stretched passwords with which a peer may prove membership; see [`Core::join_secrets`].
    pub async fn join_secrets(&self, network: &NetworkName, peer: NodeId) -> Vec<Secret> {
        let network = network.clone();
        self.ask(move |core, now| core.join_secrets(&network, &peer, now)).await.unwrap_or_default()
    }

    /// Counts an attempt to join or log in; the error says how long to wait.
    pub async fn attempt(&self, purpose: Purpose, source: Source) -> Result<(), Duration> {
        self.ask(move |core, now| core.attempt(&purpose, source, now)).await.unwrap_or(Err(Duration::from_secs(1)))
    }

    /// Gives back an attempt that succeeded.
    pub async fn succeeded(&self, purpose: Purpose, source: Source) {
        let _ = self.ask(move |core, now| core.succeeded(&purpose, source, now)).await;
    }

    /// The best joined connection that the rule allows to a member of any of these networks, dialling and waiting for one
    /// up to `limit`.
    pub async fn connection_in(
        &self,
        networks: Vec<NetworkName>,
        peer: NodeId,
        paths: PathRule,
        limit: Duration,
    ) -> Option<Connection> {
        let registry = self.registry.clone();
        let find = move |routes: &Routes| {
            let conn = networks.iter().find_map(|network| routes.path(network, &peer, paths));
            conn.and_then(|conn| registry.by_conn(conn))
        };
        if let Some(found) = find(&self.routes.get()) {
            return Some(found);
        }
        self.event(Event::Wanted { peer, paths }).await;
        within(limit, self.routes.wait_for(find)).await
    }

    /// What keeps changes from being stored, if something does.
    pub fn store_problem(&self) -> Option<String> {
        self.store_problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_store_problem(&self, problem: Option<String>) {
        *self.store_problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}

impl Connection {
    /// Whose attempts count against this connection. An IPv4 address in IPv6 clothes counts as itself.
    pub fn source(&self) -> Source {
        Source { peer: Some(self.peer), ip: self.ip().map(|ip| ip.to_canonical()) }
    }
}
