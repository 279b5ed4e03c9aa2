//! The streams of this node's ingresses that can resume: who may come back for which, and where it is then led.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hive_core::stream::attempts::Latest;
use hive_protocol::{NetworkName, NodeId, PathRule, tunnel::Resume};
use smol::channel::{self, Receiver, Sender};

use super::{
    carrier::Carrier,
    past::{End, Past},
};

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
    past: Past,
}

/// A stream that may wait for its next carrier.
struct Live {
    arrivals: Sender<Arrival>,
    latest: Latest,
    /// Of which its peer has to be a member.
    network: NetworkName,
    /// By which it has to come.
    paths: PathRule,
}

/// Why a stream cannot begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It has begun already: this OPEN was lost for a while, or the one before was.
    Live,
    /// It was here and has ended.
    Past,
}

/// What became of an arrival.
pub enum Led {
    /// Its stream's task has it.
    On,
    /// A later attempt was taken before: the carrier is of no use to anybody.
    Overtaken,
    /// Its stream has ended here, with so many bytes and the end; the carrier comes back.
    Ended(Carrier, u64),
    /// There is no such stream; the carrier comes back.
    Unknown(Carrier),
}

impl Waiting {
    /// Enters a stream that this attempt opens.
    ///
    /// # Errors
    /// If there is, or was, a stream of this name.
    pub fn enter(self: &Arc<Self>, name: Name, network: NetworkName, attempt: Option<u32>) -> Result<Place, Taken> {
        let mut inner = self.lock();
        if inner.live.contains_key(&name) {
            return Err(Taken::Live);
        }
        if inner.past.get(&name).is_some() {
            return Err(Taken::Past);
        }
        let (sender, arrivals) = channel::bounded(1);
        inner
            .live
            .insert(name, Live { arrivals: sender, latest: Latest::opened(attempt), network, paths: PathRule::Any });
        Ok(Place { waiting: self.clone(), name, arrivals, end: None })
    }

    /// On what a stream that lives is taken back: the network its peer is a member of, and the paths it may come by.
    pub fn terms(&self, name: &Name) -> Option<(NetworkName, PathRule)> {
        self.lock().live.get(name).map(|live| (live.network.clone(), live.paths))
    }

    /// Leads a carrier to its stream.
    pub fn lead(&self, peer: NodeId, resume: &Resume, carrier: Carrier) -> Led {
        let name = (peer, resume.stream);
        let mut inner = self.lock();
        if let Some(live) = inner.live.get_mut(&name) {
            if !live.latest.take(resume.attempt) {
                return Led::Overtaken;
            }
            return match live.arrivals.force_send(Arrival { carrier, delivered: resume.delivered }) {
                // One that waits already is from an attempt that the peer has given up.
                Ok(_given_up) => Led::On,
                Err(error) => Led::Unknown(error.into_inner().carrier),
            };
        }
        match inner.past.get(&name) {
            Some(End::Well(count)) => Led::Ended(carrier, count),
            Some(End::Broken) | None => Led::Unknown(carrier),
        }
    }

    /// The peer has gone on to its next stream: it misses nothing of this one.
    pub fn forget(&self, name: &Name) {
        self.lock().past.remove(name);
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
    /// What is remembered of it.
    end: Option<End>,
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

    /// The carrier that has come meanwhile, if one has: the egress listens on no other.
    pub fn latest(&self, carrier: Carrier) -> Carrier {
        self.arrivals.try_recv().map_or(carrier, |arrival| arrival.carrier)
    }

    /// The stream may come back by these paths alone.
    pub fn keep_to(&self, paths: PathRule) {
        if let Some(live) = self.waiting.lock().live.get_mut(&self.name) {
            live.paths = paths;
        }
    }

    /// The target is connected: from now on the stream has been, however it ends.
    pub fn connected(&mut self) {
        self.end = Some(End::Broken);
    }

    /// The stream ended well, with `count` got here.
    pub fn end(mut self, count: u64) {
        self.end = Some(End::Well(count));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.waiting.lock();
        inner.live.remove(&self.name);
        if let Some(end) = self.end {
            inner.past.insert(self.name, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn enter(waiting: &Arc<Waiting>, name: Name) -> Result<Place, Taken> {
        waiting.enter(name, "home".parse().unwrap(), None)
    }

    #[test]
    fn a_name_is_taken_while_its_stream_lives_and_while_its_end_is_remembered() {
        let waiting = Arc::<Waiting>::default();
        let name = (peer(1), [7; 16]);
        let place = enter(&waiting, name).unwrap();
        assert_eq!(enter(&waiting, name).err(), Some(Taken::Live));
        assert!(enter(&waiting, (peer(2), [7; 16])).is_ok(), "a name belongs to one peer");
        place.end(5);
        assert_eq!(waiting.lock().past.get(&name), Some(End::Well(5)));
        assert_eq!(enter(&waiting, name).err(), Some(Taken::Past));
        waiting.forget(&name);
        assert!(enter(&waiting, name).is_ok());
    }

    #[test]
    fn only_a_stream_whose_target_was_connected_has_been() {
        let waiting = Arc::<Waiting>::default();
        let name = (peer(1), [7; 16]);
        drop(enter(&waiting, name).unwrap());
        let mut place = enter(&waiting, name).unwrap();
        place.connected();
        drop(place);
        assert_eq!(enter(&waiting, name).err(), Some(Taken::Past));
    }
}
