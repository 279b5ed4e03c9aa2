//! Taking channels from whoever calls: what a stranger may cost.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_channel::{Receiver, Sender};
use libp2p::PeerId;

use super::{Channel, accept};
use crate::{limits::Prefix, tcp::TcpStream, tls, workers};

/// Bounds on callers of whom the user has not said that they are welcome: what strangers may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In all.
    pub strangers: usize,
    /// From one IPv4 address or one IPv6 /56.
    pub per_prefix: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { strangers: 128, per_prefix: 32 }
    }
}

/// A channel that somebody else dialled.
pub struct Accepted {
    /// The proven peer.
    pub peer: PeerId,
    /// What it is after.
    pub channel: Channel,
    /// Counts the peer among the strangers until this is dropped.
    pub place: Place,
}

/// Answers the handshakes of sockets that the listeners sorted out.
pub struct Acceptor {
    tls: tls::Config,
    sockets: Receiver<TcpStream>,
    limits: Limits,
    running: Running,
}

impl Acceptor {
    /// Serves `sockets` with the certificate of `tls`, each on a task of its own.
    #[must_use]
    pub fn new(tls: tls::Config, sockets: Receiver<TcpStream>, limits: Limits) -> Self {
        Self { tls, sockets, limits, running: Arc::default() }
    }

    /// Runs until the listeners or the receiver of `channels` are gone.
    pub async fn run(self, channels: Sender<Accepted>) {
        while let Ok(socket) = self.sockets.recv().await {
            let Some(place) = self.place(&socket) else { continue };
            let (tls, channels) = (self.tls.clone(), channels.clone());
            let serving = workers::spawn(async move {
                match accept(socket, &tls).await {
                    // A full queue means that its reader is busy: the caller dials again.
                    Ok((peer, channel)) => drop(channels.try_send(Accepted { peer, channel, place })),
                    Err(error) => log::debug!("a caller of the bulk plane: {error}"),
                }
            });
            serving.detach();
        }
    }

    /// A place for one more stranger, or none: the socket is dropped then.
    fn place(&self, socket: &TcpStream) -> Option<Place> {
        let place = Place::take(&self.running, self.limits, socket.peer_addr().ok()?.ip().into());
        if place.is_none() {
            log::debug!("too many strangers call the bulk plane, a caller is turned away");
        }
        place
    }
}

/// How many strangers of each prefix there are; of none that has none.
type Running = Arc<Mutex<HashMap<Prefix, usize>>>;

/// Counts one stranger while it lives.
pub struct Place {
    running: Running,
    prefix: Prefix,
}

impl Place {
    fn take(running: &Running, limits: Limits, prefix: Prefix) -> Option<Self> {
        let mut strangers = running.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, here): (usize, usize) =
            (strangers.values().sum(), strangers.get(&prefix).copied().unwrap_or_default());
        if all >= limits.strangers || here >= limits.per_prefix {
            return None;
        }
        strangers.insert(prefix, here + 1);
        Some(Self { running: running.clone(), prefix })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(&self.prefix) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.prefix);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn those_turned_away_leave_no_trace() {
        let running = Running::default();
        let from = |n: u32| std::net::IpAddr::from(Ipv4Addr::from(n)).into();
        let limits = Limits { strangers: 3, per_prefix: 2 };
        let take = |n| Place::take(&running, limits, from(n));
        let mut places: Vec<Place> = [1, 1, 1, 2].into_iter().filter_map(take).collect();
        assert_eq!(places.len(), 3, "two of the first address, one of the second");
        assert!((3..1000).all(|n| take(n).is_none()));
        assert_eq!(running.lock().unwrap().len(), 2);
        places.clear();
        assert!(running.lock().unwrap().is_empty());
    }
}
