//! The streams of this node's ingresses that can resume: who may come back for which, and where it is then led.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hive_protocol::{NetworkName, NodeId, PathRule, ProxySpec, tunnel::Open};
use smol::channel::{self, Receiver, Sender};

use super::carrier::Carrier;

/// Ended streams that are remembered for a peer that missed the last acknowledgement.
const REMEMBERED: usize = 1024;

/// A stream as its egress named it, and that egress' node: nobody else can ask for it.
pub type Name = (NodeId, [u8; 16]);

/// A further carrier for a stream.
pub struct Arrival {
    /// Its frames go on here.
    pub carrier: Carrier,
    /// What the egress has got.
    pub delivered: u64,
}

/// The streams of all ingresses of a node.
#[derive(Default)]
pub struct Waiting(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    live: BTreeMap<Name, Live>,
    /// What this side had got of streams that ended well.
    ended: BTreeMap<Name, u64>,
    order: VecDeque<Name>,
}

/// A stream that may wait for its next carrier.
struct Live {
    arrivals: Sender<Arrival>,
    terms: Terms,
}

/// On what a stream is taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Of which its peer has to be a member.
    pub network: NetworkName,
    /// By which it has to come.
    pub paths: PathRule,
}

impl Terms {
    /// Those of a stream that an ingress admits.
    pub fn of(spec: &ProxySpec, open: &Open) -> Self {
        Self { network: open.network.clone(), paths: spec.paths() }
    }
}

/// What became of an arrival.
pub enum Led {
    /// Its stream's task has it.
    On,
    /// Its stream has ended here, with so many bytes and the end; the carrier comes back.
    Ended(Arrival, u64),
    /// There is no such stream; the carrier comes back.
    Unknown(Arrival),
}

impl Waiting {
    /// Enters a stream; none if its name is taken.
    pub fn enter(self: &Arc<Self>, name: Name, terms: Terms) -> Option<Place> {
        let mut inner = self.lock();
        if inner.live.contains_key(&name) || inner.ended.contains_key(&name) {
            return None;
        }
        let (sender, arrivals) = channel::bounded(1);
        inner.live.insert(name, Live { arrivals: sender, terms });
        Some(Place { waiting: self.clone(), name, arrivals, ended: None })
    }

    /// The terms of a stream that lives.
    pub fn terms(&self, name: &Name) -> Option<Terms> {
        self.lock().live.get(name).map(|live| live.terms.clone())
    }

    /// Leads a carrier to its stream.
    pub fn lead(&self, name: &Name, arrival: Arrival) -> Led {
        let inner = self.lock();
        if let Some(live) = inner.live.get(name) {
            return match live.arrivals.force_send(arrival) {
                // One that waits already is from an attempt that the peer has given up.
                Ok(_given_up) => Led::On,
                Err(error) => Led::Unknown(error.into_inner()),
            };
        }
        match inner.ended.get(name) {
            Some(count) => Led::Ended(arrival, *count),
            None => Led::Unknown(arrival),
        }
    }

    /// The peer has gone on to its next stream: it misses nothing of this one.
    pub fn forget(&self, name: &Name) {
        self.lock().ended.remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's place; leaving it means that it resumes no more.
pub struct Place {
    waiting: Arc<Waiting>,
    name: Name,
    arrivals: Receiver<Arrival>,
    ended: Option<u64>,
}

impl Place {
    /// The next carrier.
    pub async fn arrival(&self) -> Arrival {
        match self.arrivals.recv().await {
            Ok(arrival) => arrival,
            // Never happens: the sender lives as long as this place.
            Err(_) => std::future::pending().await,
        }
    }

    /// The stream ended well, with `count` got here: remembered for a while.
    pub fn end(mut self, count: u64) {
        self.ended = Some(count);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.waiting.lock();
        inner.live.remove(&self.name);
        let Some(count) = self.ended else { return };
        inner.ended.insert(self.name, count);
        inner.order.push_back(self.name);
        while inner.order.len() > REMEMBERED {
            let Some(oldest) = inner.order.pop_front() else { return };
            inner.ended.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> NodeId {
        let key = libp2p::identity::Keypair::ed25519_from_bytes([n; 32]).unwrap();
        NodeId::from_peer_id(&key.public().to_peer_id()).unwrap()
    }

    fn terms() -> Terms {
        Terms { network: "home".parse().unwrap(), paths: PathRule::Any }
    }

    #[test]
    fn a_name_is_taken_while_its_stream_lives_and_while_its_end_is_remembered() {
        let waiting = Arc::<Waiting>::default();
        let name = (peer(1), [7; 16]);
        let place = waiting.enter(name, terms()).unwrap();
        assert!(waiting.enter(name, terms()).is_none());
        assert!(waiting.enter((peer(2), [7; 16]), terms()).is_some(), "a name belongs to one peer");
        place.end(5);
        assert_eq!(waiting.lock().ended.get(&name), Some(&5));
        assert!(waiting.enter(name, terms()).is_none());
        waiting.forget(&name);
        assert!(waiting.enter(name, terms()).is_some());
    }

    #[test]
    fn a_bounded_number_of_ends_is_remembered() {
        let waiting = Arc::<Waiting>::default();
        for n in 0..2 * REMEMBERED as u64 {
            let mut stream = [0; 16];
            stream[..8].copy_from_slice(&n.to_be_bytes());
            waiting.enter((peer(1), stream), terms()).unwrap().end(n);
        }
        assert_eq!(waiting.lock().ended.len(), REMEMBERED);
        assert_eq!(waiting.lock().order.len(), REMEMBERED);
    }
}
