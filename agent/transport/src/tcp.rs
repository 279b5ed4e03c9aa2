//! TCP for libp2p on async-io.
//!
//! Owns the listening sockets, the dials and the addresses that the local interfaces give a listener. A dial
//! leaves from the listening port where it can, so that a NAT's mapping of that port serves both directions
//! and a hole punch can succeed; it falls back to a port of the kernel's choice. This module never resolves
//! names ([`crate::dns`]) and never looks at the bytes.

mod address;
pub mod kernel;
mod listener;
pub(crate) mod socket;

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use async_channel::Sender;
use futures::future::{BoxFuture, FutureExt};
use libp2p::{
    Multiaddr,
    core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
};

use listener::Listener;
pub use socket::TcpStream;

use crate::bulk;

/// Connects to `remote` from a port of the kernel's choice.
pub(crate) async fn connect(remote: SocketAddr) -> io::Result<TcpStream> {
    socket::connect(None, remote).await
}

/// A libp2p transport for `/ip4/…/tcp/…` and `/ip6/…/tcp/…`, with or without `/p2p/…` at the end.
#[derive(Default)]
pub struct Transport {
    listeners: VecDeque<Listener>,
    closed: VecDeque<ListenerId>,
    bulk: Option<Sender<TcpStream>>,
}

type Upgrade = BoxFuture<'static, io::Result<TcpStream>>;
type Event = TransportEvent<Upgrade, io::Error>;

impl Transport {
    /// A transport that neither listens nor dials yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, handing accepted sockets that begin with TLS to the bulk plane. Until its first byte a socket counts
    /// among libp2p's pending connections, with their limits and their time limit.
    pub fn with_bulk(bulk: Option<Sender<TcpStream>>) -> Self {
        Self { bulk, ..Self::default() }
    }

    /// The listening address a dial to `remote` can leave from: of the same family, and reachable from there.
    fn dial_source(&self, remote: SocketAddr) -> Option<SocketAddr> {
        self.listeners.iter().map(Listener::local).find(|local| {
            let ip = local.ip();
            local.is_ipv4() == remote.is_ipv4()
                && (ip.is_unspecified() || ip.is_loopback() == remote.ip().is_loopback())
        })
    }
}

impl libp2p::Transport for Transport {
    type Output = TcpStream;
    type Error = io::Error;
    type ListenerUpgrade = Upgrade;
    type Dial = BoxFuture<'static, io::Result<TcpStream>>;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        let local = address::to_socket_addr(&addr).ok_or(TransportError::MultiaddrNotSupported(addr))?;
        let listener = Listener::bind(id, local, self.bulk.clone()).map_err(TransportError::Other)?;
        self.listeners.push_back(listener);
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let before = self.listeners.len();
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
        let source = match opts.port_use {
            PortUse::Reuse => self.dial_source(remote),
            PortUse::New => None,
        };
        Ok(socket::connect(source, remote).boxed())
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Event> {
        let this = self.get_mut();
        if let Some(listener_id) = this.closed.pop_front() {
            return Poll::Ready(TransportEvent::ListenerClosed { listener_id, reason: Ok(()) });
        }
        for position in 0..this.listeners.len() {
            if let Poll::Ready(event) = this.listeners[position].poll(cx) {
                // The next poll begins behind this listener: a busy one cannot starve the others.
                this.listeners.rotate_left(position + 1);
                return Poll::Ready(event);
            }
        }
        Poll::Pending
    }
}

/// Keeps a socket for libp2p, or hands it to the bulk plane and says so.
async fn sort(stream: io::Result<TcpStream>, bulk: Option<Sender<TcpStream>>) -> io::Result<TcpStream> {
    let stream = stream?;
    let Some(bulk) = bulk else { return Ok(stream) };
    if stream.first_byte().await? != Some(bulk::FIRST_BYTE) {
        return Ok(stream);
    }
    let why = match bulk.try_send(stream) {
        Ok(()) => "handed to the bulk plane",
        Err(_) => "the bulk plane has no room",
    };
    Err(io::Error::new(io::ErrorKind::ConnectionRefused, why))
}
