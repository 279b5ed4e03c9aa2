//! QUIC for libp2p (libp2p specs, `quic/README.md`) on quinn and the workers.
//!
//! Owns the UDP sockets, one for each address that is listened on, and dials from them, so that a NAT's mapping of that
//! port serves both directions. Security and streams are QUIC's own, with the certificates of [`crate::tls`].
//!
//! A dial in the listener's role dials all the same: for a hole punch both ends send their first packets, each of which
//! opens the NAT in front of its sender, and whichever connection comes up first is used. Two may come up; it also works
//! where one end cannot foresee the port of the other, which sending without dialling would not.

mod address;
mod config;
mod connection;
mod listener;
mod runtime;
mod socket;
mod stream;

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::{BoxFuture, FutureExt};
use libp2p::{
    Multiaddr, PeerId,
    core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
    identity::Keypair,
};
use quinn::Endpoint;

pub use address::is_quic;
use config::Config;
pub use config::Error as ConfigError;
pub use connection::Connection;
use listener::Listener;
pub use stream::Stream;

use crate::Options;

/// A libp2p transport for `/ip4/…/udp/…/quic-v1` and `/ip6/…/udp/…/quic-v1`, with or without `/p2p/…` at the end.
pub struct Transport {
    config: Config,
    dial_timeout: Duration,
    listeners: VecDeque<Listener>,
    closed: VecDeque<ListenerId>,
    /// Where dials leave from while nothing listens, for IPv4 and IPv6.
    diallers: [Option<Endpoint>; 2],
}

/// What a connection becomes when its handshake is done.
pub type Output = (PeerId, Connection);
type Upgrade = BoxFuture<'static, io::Result<Output>>;
type Event = TransportEvent<Upgrade, io::Error>;

impl Transport {
    /// A transport that neither listens nor dials yet.
    ///
    /// # Errors
    /// If the system gives no randomness, or the identity cannot sign.
    pub fn new(identity: &Keypair, options: &Options) -> Result<Self, ConfigError> {
        Ok(Self {
            config: Config::new(identity, options)?,
            dial_timeout: options.dial_timeout,
            listeners: VecDeque::new(),
            closed: VecDeque::new(),
            diallers: [None, None],
        })
    }

    /// The endpoint a dial to `remote` leaves from.
    fn dial_from(&mut self, remote: SocketAddr, port_use: PortUse) -> io::Result<Endpoint> {
        if port_use == PortUse::New {
            return self.config.endpoint(any_port(remote), false);
        }
        if let Some(listener) = self.listeners.iter().find(|listener| listener.reaches(remote)) {
            return Ok(listener.endpoint().clone());
        }
        let kept = &mut self.diallers[usize::from(remote.is_ipv6())];
        match kept {
            Some(endpoint) => Ok(endpoint.clone()),
            None => Ok(kept.insert(self.config.endpoint(any_port(remote), false)?).clone()),
        }
    }
}

/// The unspecified address of the same family, with a port of the kernel's choice.
fn any_port(remote: SocketAddr) -> SocketAddr {
    if remote.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() }
}

impl libp2p::Transport for Transport {
    type Output = Output;
    type Error = io::Error;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        let local = address::to_socket_addr(&addr).ok_or(TransportError::MultiaddrNotSupported(addr))?;
        let listener = Listener::bind(id, local, &self.config).map_err(TransportError::Other)?;
        self.listeners.push_back(listener);
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let before = self.listeners.len();
        // Connections that came in over it live on: each holds the socket.
        self.listeners.retain(|listener| listener.id() != id);
        let removed = self.listeners.len() < before;
        if removed {
            self.closed.push_back(id);
        }
        removed
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let remote = address::to_socket_addr(&addr)
            .filter(|remote| remote.port() != 0 && !remote.ip().is_unspecified())
            .ok_or(TransportError::MultiaddrNotSupported(addr))?;
        let endpoint = self.dial_from(remote, opts.port_use).map_err(TransportError::Other)?;
        // The name is neither sent nor compared; quinn wants one.
        let connecting =
            endpoint.connect(remote, "hive").map_err(|error| TransportError::Other(io::Error::other(error)))?;
        Ok(connection::establish(connecting, self.dial_timeout).boxed())
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Event> {
        let this = self.get_mut();
        if let Some(listener_id) = this.closed.pop_front() {
            return Poll::Ready(TransportEvent::ListenerClosed { listener_id, reason: Ok(()) });
        }
        for position in 0..this.listeners.len() {
            if let Poll::Ready(event) = this.listeners[position].poll(cx) {
                if let TransportEvent::ListenerClosed { .. } = event {
                    this.listeners.remove(position);
                    return Poll::Ready(event);
                }
                // The next poll begins behind this listener: a busy one cannot starve the others.
                this.listeners.rotate_left(position + 1);
                return Poll::Ready(event);
            }
        }
        Poll::Pending
    }
}
