//! Where the node listens: starting and replacing listeners, keeping the port that a zero was given, and telling the
//! core under which addresses the node can be dialled.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use hive_core::Event;
use hive_protocol::message::{Failure, FailureCode};
use libp2p::{Multiaddr, Swarm, TransportError, core::transport::ListenerId, multiaddr::Protocol, swarm::SwarmEvent};
use smol::channel::Sender;

use super::{Node, Reply, now};
use crate::{
    net::{
        Behaviour, BehaviourEvent,
        addresses::{ip, published},
    },
    store::{Store, StoreError},
    time::within,
};

/// Default port of a hive node, TCP and UDP.
pub const DEFAULT_PORT: u16 = 4180;
/// How long listeners may take to tell their addresses; the kernel answers in milliseconds.
const FIRST_ADDRESSES: Duration = Duration::from_secs(2);
const STORED_PORTS: &str = "ports";
const STORED_LISTEN: &str = "listen";

/// The node's listeners and the addresses they have.
pub struct Listeners {
    announced: Vec<Multiaddr>,
    /// Where the router's public ports lead here.
    mapped: Vec<Multiaddr>,
    /// What each listener was asked for, and the addresses it has.
    live: BTreeMap<ListenerKey, Listener>,
    /// Whether what is known is worth saying: while the first listeners tell their addresses one by one, it is not.
    gathered: bool,
}

/// [`ListenerId`] has no order; its debug form is unique.
type ListenerKey = String;

struct Listener {
    id: ListenerId,
    asked: Multiaddr,
    addresses: Vec<Multiaddr>,
}

impl Listeners {
    /// No listener yet; `announced` is published whatever the listeners are.
    pub fn new(announced: Vec<Multiaddr>) -> Self {
        Self { announced, mapped: Vec::new(), live: BTreeMap::new(), gathered: false }
    }

    /// Starts one listener.
    pub fn start(&mut self, net: &mut Swarm<Behaviour>, asked: &Multiaddr, ports: &Ports) -> Result<(), Failure> {
        let kept = ports.apply(asked);
        let started = net.listen_on(kept.clone()).or_else(|error| {
            // The port that a zero was given before may be taken now; any other does as well.
            if kept == *asked { Err(error) } else { net.listen_on(asked.clone()) }
        });
        let id = started.map_err(|error| cannot_listen(asked, &error))?;
        self.live.insert(key(id), Listener { id, asked: asked.clone(), addresses: Vec::new() });
        Ok(())
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        self.live.values().flat_map(|listener| listener.addresses.iter().cloned()).collect()
    }
}

/// Ports that listeners with port zero were given, by the address asked for: kept for later starts.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ports(BTreeMap<String, u16>);

impl Ports {
    /// As stored.
    pub fn load(store: &Store) -> Result<Self, StoreError> {
        Ok(Self(store.get(STORED_PORTS)?.unwrap_or_default()))
    }

    /// The address with its kept port, if it asks for any.
    fn apply(&self, asked: &Multiaddr) -> Multiaddr {
        let Some(port) = self.0.get(&asked.to_string()) else { return asked.clone() };
        let keep = |part| match part {
            Protocol::Tcp(0) => Protocol::Tcp(*port),
            Protocol::Udp(0) => Protocol::Udp(*port),
            other => other,
        };
        asked.iter().map(keep).collect()
    }

    /// Learns the port that a listener got; true if that is news.
    fn learn(&mut self, asked: &Multiaddr, got: &Multiaddr) -> bool {
        let any = asked.iter().any(|part| matches!(part, Protocol::Tcp(0) | Protocol::Udp(0)));
        let port = got.iter().find_map(|part| match part {
            Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
            _ => None,
        });
        let Some(port) = port.filter(|_| any) else { return false };
        self.0.insert(asked.to_string(), port) != Some(port)
    }
}

/// The addresses chosen at run time by `hivectl listen`, as stored.
pub fn stored(store: &Store) -> Result<Vec<Multiaddr>, StoreError> {
    let texts: Option<Vec<String>> = store.get(STORED_LISTEN)?;
    Ok(texts.unwrap_or_default().iter().filter_map(|text| text.parse().ok()).collect())
}

impl Node {
    /// Starts a listener; for use before the loop runs.
    pub fn start_listener(&mut self, asked: &Multiaddr) -> Result<(), Failure> {
        self.listeners.start(&mut self.net, asked, &self.ports)
    }

    /// Waits until each listener has told its addresses, for a moment at most; for use before the loop runs. Whoever asks
    /// this node for its identity first gets it whole, and so does the first member that hears its record.
    pub async fn wait_for_addresses(&mut self) {
        let told = async {
            while self.listeners.live.values().any(|listener| listener.addresses.is_empty()) {
                let event = self.net.select_next_some().await;
                self.swarm_event(event);
            }
            // A listener on all interfaces tells them one by one, without a pause.
            while let Some(event) = self.net.select_next_some().now_or_never() {
                self.swarm_event(event);
            }
        };
        if within(FIRST_ADDRESSES, told).await.is_none() {
            log::warn!("no address to be reached at is known yet");
        }
        self.listeners.gathered = true;
        self.addresses_changed();
    }

    /// Replaces the listeners: new ones first, so an error leaves everything as it was.
    pub(super) fn listen(&mut self, addresses: &[Multiaddr], reply: Sender<Result<(), Failure>>) -> Reply {
        let outcome = self.replace_listeners(addresses);
        Reply::with(move |stored| drop(reply.try_send(outcome.and_then(|()| stored.map_err(Failure::from)))))
    }

    fn replace_listeners(&mut self, addresses: &[Multiaddr]) -> Result<(), Failure> {
        if addresses.is_empty() {
            return Err(Failure::new(FailureCode::Usage, "no address to listen on"));
        }
        let before: Vec<ListenerKey> = self.listeners.live.keys().cloned().collect();
        let known: Vec<Multiaddr> = self.listeners.live.values().map(|l| l.asked.clone()).collect();
        for address in addresses.iter().filter(|address| !known.contains(address)) {
            if let Err(failure) = self.start_listener(address) {
                self.stop_listeners(|key, _| !before.contains(key));
                return Err(failure);
            }
        }
        self.stop_listeners(|key, asked| before.contains(key) && !addresses.contains(asked));
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        self.store.put(STORED_LISTEN, &texts).map_err(|e| super::NotStored(e.to_string()).into())
    }

    fn stop_listeners(&mut self, doomed: impl Fn(&ListenerKey, &Multiaddr) -> bool) {
        let gone: Vec<ListenerId> =
            self.listeners.live.iter().filter(|(key, l)| doomed(key, &l.asked)).map(|(_, l)| l.id).collect();
        for id in gone {
            self.net.remove_listener(id);
            self.listeners.live.remove(&key(id));
        }
        self.addresses_changed();
    }

    pub(super) fn listener_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { listener_id, address } => self.new_address(listener_id, address),
            SwarmEvent::ExpiredListenAddr { listener_id, address } => {
                if let Some(listener) = self.listeners.live.get_mut(&key(listener_id)) {
                    listener.addresses.retain(|known| *known != address);
                    // Told of interfaces only: a listener that ends takes its addresses along without a word.
                    if let Some(ip) = ip(&address) {
                        self.core.handle(Event::AddressGone(ip), now());
                    }
                }
            }
            SwarmEvent::ListenerClosed { listener_id, .. } if self.reservation_closed(listener_id) => return,
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let (Some(listener), Err(e)) = (self.listeners.live.remove(&key(listener_id)), reason) {
                    log::error!("no longer listening on {}: {e}", listener.asked);
                }
            }
            SwarmEvent::ListenerError { error, .. } => log::warn!("listener: {error}"),
            _ => return,
        }
        self.addresses_changed();
    }

    fn new_address(&mut self, id: ListenerId, address: Multiaddr) {
        let Some(listener) = self.listeners.live.get_mut(&key(id)) else { return };
        log::info!("listening on {address}");
        if self.ports.learn(&listener.asked, &address)
            && let Err(e) = self.store.put(STORED_PORTS, &self.ports.0)
        {
            log::warn!("cannot store the port of {address}: {e}");
        }
        listener.addresses.push(address);
    }

    /// The router's public ports lead here at these addresses.
    pub(super) fn mapped(&mut self, addresses: Vec<Multiaddr>) -> Reply {
        self.listeners.mapped = addresses;
        self.addresses_changed();
        Reply::none()
    }

    fn addresses_changed(&mut self) {
        if !self.listeners.gathered {
            return;
        }
        let listening = self.listeners.addresses();
        let given: Vec<Multiaddr> = self.listeners.announced.iter().chain(&self.listeners.mapped).cloned().collect();
        let addresses = published(&given, &listening);
        self.handle.listening.set(Arc::new(listening));
        self.core.handle(Event::Addresses(addresses), now());
    }
}

fn key(id: ListenerId) -> ListenerKey {
    format!("{id:?}")
}

fn cannot_listen(asked: &Multiaddr, error: &TransportError<io::Error>) -> Failure {
    let failed = |why: &str| Failure::new(FailureCode::Failed, format!("cannot listen on {asked}: {why}"));
    let TransportError::Other(error) = error else {
        return failed("no transport for this address").hint("write for example /ip4/0.0.0.0/tcp/4180");
    };
    match cause(error) {
        Some(ErrorKind::AddrInUse) => {
            failed("the port is taken").hint("stop the other program, or choose another port")
        }
        Some(ErrorKind::PermissionDenied) => {
            failed("not permitted").hint("ports below 1024 need root or CAP_NET_BIND_SERVICE")
        }
        Some(ErrorKind::AddrNotAvailable) => {
            failed("this machine has no such address").hint("give one that it has, or 0.0.0.0 or :: for all of them")
        }
        _ => Failure::new(FailureCode::Failed, error.to_string()),
    }
}

/// The system's kind of error, under what libp2p wrapped around it.
fn cause(error: &io::Error) -> Option<ErrorKind> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = next {
        match current.downcast_ref::<io::Error>() {
            Some(io) if io.kind() != ErrorKind::Other => return Some(io.kind()),
            // An `io::Error` passes over what it wraps when asked for its source.
            Some(io) => next = io.get_ref().map(|inner| inner as _),
            None => next = current.source(),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_error_keeps_its_cause() {
        let wrapped = io::Error::other(io::Error::other(io::Error::new(ErrorKind::AddrInUse, "taken")));
        assert_eq!(cause(&wrapped), Some(ErrorKind::AddrInUse));
        assert_eq!(cause(&io::Error::other("something else")), None);
    }

    #[test]
    fn a_port_once_given_is_kept() {
        let asked: Multiaddr = "/ip4/0.0.0.0/tcp/0".parse().unwrap();
        let mut ports = Ports::default();
        assert_eq!(ports.apply(&asked), asked);
        assert!(ports.learn(&asked, &"/ip4/10.0.0.1/tcp/5001".parse().unwrap()));
        assert!(!ports.learn(&asked, &"/ip4/10.0.0.2/tcp/5001".parse().unwrap()));
        assert_eq!(ports.apply(&asked).to_string(), "/ip4/0.0.0.0/tcp/5001");
        let fixed: Multiaddr = "/ip4/0.0.0.0/tcp/4180".parse().unwrap();
        assert!(!ports.learn(&fixed, &fixed));
    }
}
