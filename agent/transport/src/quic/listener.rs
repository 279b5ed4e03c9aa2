//! One listening UDP socket: what comes in and the addresses it can be reached at.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::future::{BoxFuture, FutureExt};
use libp2p::core::transport::{ListenerId, TransportEvent};
use quinn::{Endpoint, Incoming};

use super::{Event, address::to_multiaddr, config::Config, connection::establish};
use crate::interfaces::{Change, Interfaces};

/// Handshakes at once with callers who have not shown that they are where they say; further ones have to show it first
/// (RFC 9000, section 8.1.2), for a round trip more. So whoever forges addresses takes nobody's place for long.
const UNPROVEN: usize = 4;

pub(super) struct Listener {
    id: ListenerId,
    config: Config,
    endpoint: Endpoint,
    local: SocketAddr,
    reach: Reach,
    accept: BoxFuture<'static, Option<Incoming>>,
    /// Held by each handshake with a caller whose address is not proven.
    unproven: Arc<()>,
}

/// Where the listener can be reached.
enum Reach {
    /// At its one address, which has (or has not) been reported.
    Fixed { reported: bool },
    /// At every address of the machine.
    Interfaces(Box<Interfaces>),
}

impl Listener {
    /// Listens on `local`; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// Says in words when the port is taken or may not be bound.
    pub fn bind(id: ListenerId, local: SocketAddr, config: &Config) -> io::Result<Self> {
        let endpoint = config.endpoint(local, true)?;
        let local = endpoint.local_addr()?;
        let reach = match local.ip() {
            ip if ip.is_unspecified() => Reach::Interfaces(Box::new(Interfaces::watch(ip))),
            _ => Reach::Fixed { reported: false },
        };
        let accept = accept(endpoint.clone());
        Ok(Self { id, config: config.clone(), endpoint, local, reach, accept, unproven: Arc::default() })
    }

    pub fn id(&self) -> ListenerId {
        self.id
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether a dial to `remote` can leave from here: of the same family, and reachable from there.
    pub fn reaches(&self, remote: SocketAddr) -> bool {
        let ip = self.local.ip();
        ip.is_ipv4() == remote.is_ipv4() && (ip.is_unspecified() || ip.is_loopback() == remote.ip().is_loopback())
    }

    /// The next event. After [`TransportEvent::ListenerClosed`] there is none.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Poll::Ready(event) = self.poll_addresses(cx) {
            return Poll::Ready(event);
        }
        loop {
            let Some(incoming) = ready!(self.accept.poll_unpin(cx)) else {
                let reason = Err(io::Error::other("the UDP socket failed"));
                return Poll::Ready(TransportEvent::ListenerClosed { listener_id: self.id, reason });
            };
            self.accept = accept(self.endpoint.clone());
            if incoming.remote_address_validated() || Arc::strong_count(&self.unproven) <= UNPROVEN {
                return Poll::Ready(self.incoming(incoming));
            }
            // That of a validated address alone fails, and this one is not.
            let _ = incoming.retry();
        }
    }

    fn poll_addresses(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let change = match &mut self.reach {
            Reach::Fixed { reported: true } => return Poll::Pending,
            Reach::Fixed { reported } => {
                *reported = true;
                Change::Up(self.local.ip())
            }
            Reach::Interfaces(interfaces) => ready!(interfaces.poll(cx)),
        };
        let listener_id = self.id;
        let at = |ip| to_multiaddr(SocketAddr::new(ip, self.local.port()));
        Poll::Ready(match change {
            Change::Up(ip) => TransportEvent::NewAddress { listener_id, listen_addr: at(ip) },
            Change::Down(ip) => TransportEvent::AddressExpired { listener_id, listen_addr: at(ip) },
        })
    }

    /// The handshake begins with the upgrade: for whom the swarm turns away nothing is computed.
    fn incoming(&self, incoming: Incoming) -> Event {
        let remote = incoming.remote_address();
        let ip = incoming.local_ip().unwrap_or(self.local.ip());
        let limit = self.config.handshake_timeout;
        let counted = (!incoming.remote_address_validated()).then(|| self.unproven.clone());
        TransportEvent::Incoming {
            listener_id: self.id,
            local_addr: to_multiaddr(SocketAddr::new(ip, self.local.port())),
            send_back_addr: to_multiaddr(remote),
            upgrade: async move {
                let _counted = counted;
                establish(incoming.into_future(), limit).await
            }
            .boxed(),
        }
    }
}

fn accept(endpoint: Endpoint) -> BoxFuture<'static, Option<Incoming>> {
    async move { endpoint.accept().await }.boxed()
}
