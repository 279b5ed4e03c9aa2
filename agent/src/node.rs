//! The one loop of a node: takes one input, lets the core decide, stores, then acts.
//!
//! Each turn: (1) the core handles one input; (2) what changed is committed, off the executor; (3) only then are
//! messages sent and callers answered; (4) one timer is armed. Nothing else owns the core or the swarm; other tasks
//! hold a [`Handle`]. Bulk bytes never pass through here.

mod act;
mod handle;
mod listeners;
mod relays;
mod unwritten;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use async_io::Timer;
use futures::StreamExt;
use hive_core::{Change, ConnId, Core, Event, Now, Output};
use hive_protocol::{NetworkName, NodeId, Timestamp, peer::PeerMessage};
use hive_transport::quic::is_quic;
use libp2p::{
    Multiaddr, Swarm, identify,
    swarm::{ConnectionId, DialError, SwarmEvent},
};
use smol::{
    channel::{self, Sender},
    future::or,
};

pub use handle::{Handle, NotStored};
use handle::{Input, Registration, Reply};
pub use listeners::{DEFAULT_PORT, stored as stored_listeners};
use listeners::{Listeners, Ports};
use relays::Relays;
use unwritten::Unwritten;

use crate::{
    net::{self, Behaviour, BehaviourEvent, Handles},
    ssh,
    store::{Store, StoreError},
    update::Updates,
};

/// Inputs that wait for the loop; senders wait beyond it.
const INBOX: usize = 256;
/// Pause before what could not be stored is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(10);

/// A node: its core, its swarm, its store and the tasks around them.
pub struct Node {
    core: Core,
    net: Swarm<Behaviour>,
    store: Arc<Store>,
    /// Changes that could not be written yet: the disk was full, or worse.
    unwritten: Unwritten,
    /// When to try again to write them, on [`Now::mono`].
    store_again: Option<Duration>,
    handle: Handle,
    inbox: channel::Receiver<Input>,
    listeners: Listeners,
    ports: Ports,
    /// Reservations held with relays, or asked for.
    relays: Relays,
    /// Dials under way.
    dials: HashMap<ConnectionId, Dial>,
    /// Those for members that asked for them, and who waits.
    dials_back: HashMap<ConnectionId, Sender<ConnectionId>>,
    /// Connections that were members' when the routes were last published.
    members: BTreeSet<ConnId>,
    /// Table sync that waits to be sent, by connection.
    writers: BTreeMap<ConnId, Sender<PeerMessage>>,
    /// Callers that wait for a registration to end.
    registrations: HashMap<(NodeId, NetworkName), Vec<Sender<Registration>>>,
}

/// A dial under way.
struct Dial {
    peer: NodeId,
    dialled: Dialled,
    /// Addresses to be dialled beside it when it takes long, or fails.
    beside: Vec<Multiaddr>,
}

impl Dial {
    fn of(peer: NodeId, dialled: Dialled) -> Self {
        Self { peer, dialled, beside: Vec::new() }
    }
}

/// What a dial is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialled {
    /// Asked for by the core, at addresses without a relay.
    Direct,
    /// Asked for by the core, over relays.
    Circuit,
    /// At the addresses that the first dial left out: the first one's failure is told.
    Beside,
    /// For a better path than the one there is: that it fails is nothing new.
    Better,
    /// A hole punch: that it fails is nothing new.
    Punch,
}

/// Which of the loop's sources spoke.
enum Turn {
    Input(Input),
    Net(Box<SwarmEvent<BehaviourEvent>>),
    Timer,
}

impl Node {
    /// Puts a node together; nothing runs yet.
    pub fn new(
        core: Core,
        net: Swarm<Behaviour>,
        handles: Handles,
        store: Arc<Store>,
        announced: Vec<Multiaddr>,
        updates: Updates,
    ) -> Result<Self, StoreError> {
        let (sender, inbox) = channel::bounded(INBOX);
        let (tls, ssh) = (handle::Tls::load(&store)?, ssh::Server::load(&store)?);
        let handle = Handle::new(&core, sender, handles, tls, ssh, updates);
        Ok(Self {
            core,
            net,
            ports: Ports::load(&store)?,
            store,
            unwritten: Unwritten::default(),
            store_again: None,
            handle,
            inbox,
            listeners: Listeners::new(announced),
            relays: Relays::default(),
            dials: HashMap::new(),
            dials_back: HashMap::new(),
            members: BTreeSet::new(),
            writers: BTreeMap::new(),
            registrations: HashMap::new(),
        })
    }

    /// A handle for other tasks.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stores what was set up before the loop runs.
    pub async fn store_setup(&mut self) -> Result<(), NotStored> {
        let (changes, actions) = self.drain();
        let stored = self.commit(changes).await;
        actions.into_iter().for_each(|action| self.act(action));
        stored
    }

    /// Runs until somebody calls [`Handle::stop`].
    pub async fn run(mut self) {
        self.settle(Reply::none()).await;
        loop {
            let reply = match self.next().await {
                Turn::Input(Input::Stop(done)) => {
                    self.store_last().await;
                    return drop(done);
                }
                Turn::Input(input) => self.input(input),
                Turn::Net(event) => {
                    self.swarm_event(*event);
                    Reply::none()
                }
                Turn::Timer => {
                    self.store_due().await;
                    self.event(Event::Timeout)
                }
            };
            self.settle(reply).await;
        }
    }

    /// Waits for whichever source speaks first. What members ask for goes before new connections, the timer last.
    async fn next(&mut self) -> Turn {
        let due = self.core.poll_timeout().into_iter().chain(self.store_again).min();
        let timeout = due.map(|at| at.saturating_sub(now().mono));
        let timer = async {
            match timeout {
                Some(after) => Timer::after(after.max(Duration::from_millis(1))).await,
                None => std::future::pending().await,
            };
            Turn::Timer
        };
        let input = async {
            match self.inbox.recv().await {
                Ok(input) => Turn::Input(input),
                // Never happens: this node holds a handle itself.
                Err(_) => std::future::pending().await,
            }
        };
        let net = async { Turn::Net(Box::new(self.net.select_next_some().await)) };
        or(input, or(net, timer)).await
    }

    fn input(&mut self, input: Input) -> Reply {
        match input {
            Input::Event(event) => self.event(event),
            Input::Call(call) => call(&mut self.core, now()),
            Input::Register { identity, network, reply } => self.register(&identity, network, reply),
            Input::Punch { peer, addresses, part } => self.dial_through_hole(peer, addresses, part),
            Input::DialTakingLong(id) => self.dial_taking_long(id),
            Input::DialBack { peer, address, reply } => self.dial_back(peer, address, reply),
            Input::Close(id) => self.close_now(id),
            Input::Mapped(addresses) => self.mapped(addresses),
            Input::Listen { addresses, reply } => self.listen(&addresses, reply),
            Input::Stop(_) => Reply::none(),
        }
    }

    fn event(&mut self, event: Event) -> Reply {
        self.core.handle(event, now());
        Reply::none()
    }

    /// Commits, acts, and answers: steps two and three of a turn. Acting may give the core more to say.
    async fn settle(&mut self, reply: Reply) {
        let mut stored = Ok(());
        loop {
            let (changes, actions) = self.drain();
            if changes.is_empty() && actions.is_empty() {
                break;
            }
            stored = stored.and(self.commit(changes).await);
            actions.into_iter().for_each(|action| self.act(action));
        }
        reply.send(stored);
    }

    /// The core's outputs: what to store, and what to do then.
    fn drain(&mut self) -> (Vec<Change>, Vec<Output>) {
        let (mut changes, mut actions) = (Vec::new(), Vec::new());
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Persist(change) => changes.push(change),
                action => actions.push(action),
            }
        }
        (changes, actions)
    }

    /// Stores changes. What cannot be written is kept and tried again, with the next change or after a while: a full disk
    /// loses nothing that was stored, and this node goes on with what it has in memory.
    async fn commit(&mut self, changes: Vec<Change>) -> Result<(), NotStored> {
        if changes.is_empty() {
            return Ok(());
        }
        changes.into_iter().for_each(|change| self.unwritten.add(change));
        self.write().await
    }

    /// Writes what is unwritten, on a thread of its own.
    async fn write(&mut self) -> Result<(), NotStored> {
        let (store, batch) = (self.store.clone(), self.unwritten.changes());
        match blocking::unblock(move || store.commit(&batch)).await {
            Ok(()) => {
                self.unwritten.clear();
                self.store_again = None;
                self.handle.set_store_problem(None);
                Ok(())
            }
            Err(error) => Err(self.not_stored(&error)),
        }
    }

    fn not_stored(&mut self, error: &StoreError) -> NotStored {
        log::error!("cannot store {} changes: {error}", self.unwritten.len());
        self.store_again = Some(now().mono + STORE_AGAIN);
        self.handle.set_store_problem(Some(error.to_string()));
        NotStored(error.to_string())
    }

    /// Tries again to write, if it is time. A failure is logged, shown as a problem of this node, and tried again.
    async fn store_due(&mut self) {
        if self.store_again.is_some_and(|at| at <= now().mono) {
            let _ = self.write().await;
        }
    }

    /// Writes what is still unwritten when the loop ends.
    async fn store_last(&mut self) {
        if !self.unwritten.is_empty()
            && let Err(problem) = self.write().await
        {
            log::error!("{} changes are lost: {problem}", self.unwritten.len());
        }
    }

    fn swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { connection_id, .. } => self.connected(connection_id),
            SwarmEvent::ConnectionClosed { connection_id, cause, .. } => {
                self.disconnected(connection_id, cause.as_ref())
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => self.dial_failed(connection_id, &error),
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                log::debug!("a connection from {send_back_addr} came to nothing: {error}");
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping)) => self.pinged(&ping),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => self.identified(event),
            SwarmEvent::Behaviour(BehaviourEvent::Circuits(event)) => self.circuit_event(&event),
            other => self.listener_event(other),
        }
    }

    fn connected(&mut self, id: ConnectionId) {
        if let Some(waiting) = self.dials_back.remove(&id) {
            // It carries one number and is closed, at once if it came too late; the core has no use for it.
            if waiting.try_send(id).is_err() {
                self.net.close_connection(id);
            }
            return;
        }
        let dial = self.dials.remove(&id);
        let Some(connection) = self.handle.registry.by_id(id) else { return };
        let beside = dial.is_some_and(|dial| dial.dialled == Dialled::Beside);
        if beside && self.handle.registry.is_direct_beside(&connection.peer, id) {
            // The first dial got there, too. This one would only be a path that dies without a word when the peer does.
            self.net.close_connection(id);
            return;
        }
        log::debug!("connected to {} at {}", connection.peer, connection.address);
        if connection.dialled && !connection.relayed() && !is_quic(&connection.address) {
            // Where libp2p's TCP gets through, the bulk plane does.
            self.handle.pool.revive(&connection.peer);
        }
        let (conn, peer, dialled, relayed) =
            (connection.conn, connection.peer, connection.dialled, connection.relayed());
        let event = Event::Connected { conn, peer, dialled, relayed, address: connection.address };
        self.core.handle(event, now());
    }

    fn disconnected(&mut self, id: ConnectionId, cause: Option<&impl std::fmt::Display>) {
        let Some(connection) = self.handle.registry.remove(id) else { return };
        let cause = cause.map_or_else(|| "closed here".to_owned(), ToString::to_string);
        log::debug!("disconnected from {}: {cause}", connection.peer);
        self.writers.remove(&connection.conn);
        self.core.handle(Event::Disconnected { conn: connection.conn }, now());
    }

    fn dial_failed(&mut self, id: ConnectionId, error: &DialError) {
        self.dials_back.remove(&id);
        if let Some(dial) = self.dials.remove(&id) {
            self.dial_ended(dial, error);
        }
    }

    fn dial_ended(&mut self, dial: Dial, error: &DialError) {
        let Dial { peer, dialled, beside } = dial;
        self.dial_beside(peer, beside);
        let reason = net::dial_reason(error);
        log::debug!("{dialled:?} dial of {peer} failed: {reason}");
        if matches!(dialled, Dialled::Direct | Dialled::Circuit) {
            let relayed = dialled == Dialled::Circuit;
            self.core.handle(Event::DialFailed { peer, relayed, reason }, now());
        }
    }

    /// What a peer says of this node; of itself it has said everything in its record.
    fn identified(&mut self, event: identify::Event) {
        let identify::Event::Received { connection_id, info, .. } = event else { return };
        let Some(connection) = self.handle.registry.by_id(connection_id) else { return };
        let event = Event::Observed { conn: connection.conn, address: info.observed_addr };
        self.core.handle(event, now());
    }

    fn pinged(&mut self, ping: &libp2p::ping::Event) {
        let (Ok(rtt), Some(connection)) = (&ping.result, self.handle.registry.by_id(ping.connection)) else { return };
        self.core.handle(Event::RoundTrip { conn: connection.conn, rtt: *rtt }, now());
    }
}

/// The only place where the agent's core learns the time. The first clock goes on while the machine sleeps, so a wake-up
/// shows as a jump; the second is the wall's.
pub fn now() -> Now {
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let mono = Duration::new(u64::try_from(up.tv_sec).unwrap_or(0), u32::try_from(up.tv_nsec).unwrap_or(0));
    Now { mono, wall: Timestamp::from(std::time::SystemTime::now()) }
}
