//! Looking after carriers whose peer owes an answer: notices those that are stuck, tries whether their path is back, and
//! has streams leave them once it is.
//!
//! What is stuck, and when to try, is decided by [`hive_core::stream::pulse`]. One task of the node looks at the sockets to
//! which something was written, until all of it is acknowledged; a node whose streams are silent has no such task. Paths
//! are tried peer by peer, however many streams wait. The egress goes on with what it tried; the ingress can only end
//! the carrier, which the egress is then told by a RST: the path is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use async_io::Timer;
use futures::task::AtomicWaker;
use hive_core::stream::pulse::{Pulse, Trial};
use hive_protocol::NodeId;
use hive_transport::bulk::{Channel, Line};
use smol::channel::{self, Sender};

use super::pool::{candidates, tcp_address};
use crate::{exec, net::registry::Connection, node::Handle, random, time::within};

/// How often what owes an answer is looked at.
const LOOK: Duration = Duration::from_millis(400);
/// Looks at a libp2p stream in vain after which nothing is expected of it any more, half a minute's worth: its reader
/// may be slow, and the bulk plane out of reach.
const MOST_LOOKS: u32 = 75;
/// Dials in vain, six seconds of them, after which a carrier without a line is left to itself.
const IN_VAIN: u32 = 15;
/// Carriers that are asked at a time where to dial.
const MOST_ASKED: usize = 16;
/// For one attempt at a new connection: enough for a long path, and little enough that few are under way at once.
const ATTEMPT: Duration = Duration::from_secs(2);

/// The carriers of a node that owe an answer.
#[derive(Default)]
pub struct Lookout(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    next: u64,
    /// Those to which something was written since they were last found calm.
    owing: BTreeMap<u64, Arc<Looked>>,
    /// The task that looks at them runs.
    looking: bool,
    /// Peers whose path is being tried.
    trials: BTreeSet<NodeId>,
}

/// One carrier of one stream.
struct Looked {
    number: u64,
    /// None of a libp2p stream, whose own frames must tell.
    line: Option<Line>,
    /// Without a line: the peer has bytes to acknowledge, and how many looks ago it was last heard.
    awaited: AtomicBool,
    looks: AtomicU32,
    peer: NodeId,
    /// At an egress, the connection beside which the carrier was dialled.
    beside: Option<Connection>,
    /// It is among those that owe.
    owes: AtomicBool,
    /// Nobody looks after it any more.
    done: AtomicBool,
    /// The stream is to leave it.
    left: AtomicBool,
    leaves: AtomicWaker,
}

/// Has a carrier looked after while a stream uses it.
pub struct Watch<'a> {
    node: &'a Handle,
    looked: Option<Arc<Looked>>,
}

impl<'a> Watch<'a> {
    /// Over a carrier to this peer; an egress dialled it `beside` a connection.
    pub fn over(node: &'a Handle, line: Option<Line>, peer: NodeId, beside: Option<&Connection>) -> Self {
        let number = node.lookout.number();
        let beside = beside.cloned();
        let (awaited, looks, owes, done, left, leaves) = Default::default();
        let looked = Looked { number, line, awaited, looks, peer, beside, owes, done, left, leaves };
        Self { node, looked: Some(Arc::new(looked)) }
    }

    /// Over nothing: where the stream ends with its carrier, or only other means help.
    pub fn off(node: &'a Handle) -> Self {
        Self { node, looked: None }
    }

    /// Something is being written; `awaited`, whether the peer has bytes to acknowledge.
    pub fn wrote(&self, awaited: bool) {
        let Some(looked) = self.looked.as_ref().filter(|looked| !looked.is_done()) else { return };
        looked.awaited.store(awaited, Ordering::Relaxed);
        if (awaited || looked.line.is_some()) && !looked.owes.swap(true, Ordering::AcqRel) {
            looked.looks.store(0, Ordering::Relaxed);
            self.node.lookout.owes(self.node, looked);
        }
    }

    /// A frame has come.
    pub fn heard(&self) {
        if let Some(looked) = &self.looked {
            looked.looks.store(0, Ordering::Relaxed);
        }
    }

    /// The peer has acknowledged; `awaited`, whether it has more to.
    pub fn acknowledged(&self, awaited: bool) {
        if let Some(looked) = &self.looked {
            looked.awaited.store(awaited, Ordering::Relaxed);
        }
    }

    /// The stream turns out to end with its carrier: nobody looks after it any more.
    pub fn end(&self) {
        if let Some(looked) = &self.looked {
            looked.done.store(true, Ordering::Release);
            self.node.lookout.lock().owing.remove(&looked.number);
        }
    }

    /// Waits until the carrier is stuck and the path under it is back.
    pub async fn is_to_leave(&self) {
        poll_fn(|cx| {
            let Some(looked) = &self.looked else { return Poll::Pending };
            looked.leaves.register(cx.waker());
            if looked.left.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        // Whether it owes may just be being found out: what stayed behind would keep its socket open.
        if let Some(looked) = &self.looked {
            self.node.lookout.lock().owing.remove(&looked.number);
        }
    }
}

impl Looked {
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Nothing of a socket that cannot be asked any more.
    fn pulse(&self) -> Pulse {
        if self.is_done() {
            return Pulse::default();
        }
        let Some(line) = &self.line else { return self.pulse_of_frames() };
        let Ok(info) = line.info() else { return Pulse::default() };
        Pulse {
            owed: info.unsent.into(),
            under_way: info.unacked,
            again: info.retransmits.into(),
            silence: info.silence,
        }
    }

    /// That a reader is slow looks the same: then a channel of the bulk plane serves it as well, if there is one.
    fn pulse_of_frames(&self) -> Pulse {
        let looks = self.looks.load(Ordering::Relaxed);
        let awaited = self.awaited.load(Ordering::Relaxed) && looks < MOST_LOOKS;
        let silence = LOOK * looks;
        Pulse { owed: awaited.into(), under_way: awaited.into(), again: looks, silence }
    }

    /// Has the stream leave.
    fn leave(&self) {
        self.left.store(!self.is_done(), Ordering::Release);
        self.leaves.wake();
    }

    /// The path was tried in vain. What frames alone say may be a slow reader's silence, for which nobody dials again.
    fn give_up(&self) {
        if self.line.is_none() {
            self.done.store(true, Ordering::Release);
        }
    }

    /// Where a new connection to the peer would take the path of this one.
    async fn target(&self, node: &Handle) -> Option<SocketAddr> {
        let here = match (&self.line, &self.beside) {
            (Some(line), Some(_)) => return line.peer_addr().ok(),
            (Some(line), None) => line.peer_addr().ok()?,
            (None, Some(connection)) => return candidates(node, connection, None).await.first().copied(),
            (None, None) => return None,
        };
        // Dialled by the peer, from a port on which it does not listen, and perhaps through a NAT that lets nobody in.
        let peer = self.peer;
        let published = node.ask(move |core, _| core.addresses_of(&peer)).await.ok()?;
        let canonical = |at: &SocketAddr| at.ip().to_canonical();
        published.iter().filter_map(tcp_address).find(|at| canonical(at) == canonical(&here))
    }
}

impl Lookout {
    fn number(&self) -> u64 {
        let mut inner = self.lock();
        inner.next += 1;
        inner.next
    }

    /// Looks after a carrier from now on, until it is found calm.
    fn owes(&self, node: &Handle, looked: &Arc<Looked>) {
        let mut inner = self.lock();
        inner.owing.insert(looked.number, looked.clone());
        if !std::mem::replace(&mut inner.looking, true) {
            drop(inner);
            exec::spawn(look(node.clone())).detach();
        }
    }

    /// Lets go of what is calm; answers the peers to whom something is stuck and whose path nobody tries yet. None if nothing
    /// owes an answer any more.
    fn look(&self) -> Option<Vec<NodeId>> {
        let mut inner = self.lock();
        let Inner { owing, trials, looking, .. } = &mut *inner;
        let mut found = Vec::new();
        owing.retain(|_, looked| {
            // Before the kernel is asked: what is written meanwhile has it looked after again.
            looked.owes.store(false, Ordering::Release);
            looked.looks.fetch_add(1, Ordering::Relaxed);
            let pulse = looked.pulse();
            if pulse.is_calm() {
                return false;
            }
            looked.owes.store(true, Ordering::Release);
            if pulse.is_stuck() && trials.insert(looked.peer) {
                found.push(looked.peer);
            }
            true
        });
        *looking = !owing.is_empty();
        looking.then_some(found)
    }

    /// What is stuck of the carriers to a peer.
    fn stuck(&self, peer: &NodeId) -> Vec<Arc<Looked>> {
        let inner = self.lock();
        inner.owing.values().filter(|looked| looked.peer == *peer && looked.pulse().is_stuck()).cloned().collect()
    }

    fn tried(&self, peer: &NodeId) {
        self.lock().trials.remove(peer);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks until nothing owes an answer.
async fn look(node: Handle) {
    loop {
        Timer::after(LOOK).await;
        let Some(stuck) = node.lookout.look() else { return };
        for peer in stuck {
            exec::spawn(try_path(node.clone(), peer)).detach();
        }
    }
}

/// Tries the path to a peer while anything on it is stuck, and has the streams leave what is once it is found alive.
async fn try_path(node: Handle, peer: NodeId) {
    log::debug!("{peer} answers nothing: trying its path");
    let mut trial = Trial::new(random::bytes());
    let (proof, proven) = channel::bounded(1);
    // Those without a line for which it was dialled, by number, and how often. Whoever keeps a line keeps its socket open.
    let mut dialled: BTreeMap<u64, (Arc<Looked>, u32)> = BTreeMap::new();
    for turn in 0.. {
        let stuck = node.lookout.stuck(&peer);
        if stuck.is_empty() {
            break;
        }
        let pause = trial.tried();
        if let Some((looked, at)) = next_target(&node, &stuck, turn).await {
            exec::spawn(attempt(node.clone(), peer, at, looked.beside.clone(), proof.clone())).detach();
            if looked.line.is_none() {
                dialled.entry(looked.number).or_insert((looked, 0)).1 += 1;
            }
        }
        if let Some(Ok(found)) = within(pause, proven.recv()).await {
            let stuck = node.lookout.stuck(&peer);
            log::debug!("the path to {peer} is back, {} streams go on elsewhere", stuck.len());
            found.keep(&node);
            stuck.iter().for_each(|looked| looked.leave());
            return node.lookout.tried(&peer);
        }
    }
    dialled.values().filter(|(_, times)| *times >= IN_VAIN).for_each(|(looked, _)| looked.give_up());
    node.lookout.tried(&peer);
}

/// The carriers take turns to say where to dial, as they may have come by different addresses; some know of none.
async fn next_target(node: &Handle, stuck: &[Arc<Looked>], turn: usize) -> Option<(Arc<Looked>, SocketAddr)> {
    let (before, from) = stuck.split_at(turn % stuck.len());
    for looked in from.iter().chain(before).take(MOST_ASKED) {
        if let Some(at) = looked.target(node).await {
            return Some((looked.clone(), at));
        }
    }
    None
}

/// A path that was tried, and lives.
struct Found {
    at: SocketAddr,
    /// What an egress' carrier was dialled beside.
    beside: Option<Connection>,
    channel: Channel,
}

async fn attempt(node: Handle, peer: NodeId, at: SocketAddr, beside: Option<Connection>, proof: Sender<Found>) {
    match within(ATTEMPT, node.pool.try_at(peer, at)).await {
        Some(Ok(channel)) => drop(proof.try_send(Found { at, beside, channel })),
        Some(Err(error)) => log::debug!("no channel to {peer} at {at}: {error}"),
        None => {}
    }
}

impl Found {
    /// An egress has use for what was tried.
    fn keep(mut self, node: &Handle) {
        match &self.beside {
            Some(connection) => node.pool.proven(connection, self.at, self.channel),
            None => self.channel.writer.close(),
        }
    }
}
