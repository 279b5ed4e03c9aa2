//! One listening socket: what it accepts and the addresses it can be reached at.

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_channel::Sender;
use async_io::Timer;
use libp2p::core::transport::{ListenerId, TransportEvent};
use rustix::io::Errno;

use super::{Event, TcpStream, address::to_multiaddr, socket, sort};
use crate::{
    interfaces::{Change, Interfaces},
    source::{Side, Source},
};

/// Pauses after a failed accept: the kernel keeps the connection queued, so trying at once would spin.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Listener {
    id: ListenerId,
    socket: Source<TcpListener>,
    local: SocketAddr,
    reach: Reach,
    pause: Duration,
    resume: Option<Timer>,
    bulk: Option<Sender<TcpStream>>,
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
    pub(super) fn bind(id: ListenerId, local: SocketAddr, bulk: Option<Sender<TcpStream>>) -> io::Result<Self> {
        let socket = socket::listen(local)?;
        let local = socket.get_ref().local_addr()?;
        let reach = match local.ip() {
            ip if ip.is_unspecified() => Reach::Interfaces(Box::new(Interfaces::watch(ip))),
            _ => Reach::Fixed { reported: false },
        };
        Ok(Self { id, socket, local, reach, pause: FIRST_PAUSE, resume: None, bulk })
    }

    pub(super) fn id(&self) -> ListenerId {
        self.id
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// The next event; a listener never ends by itself.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Poll::Ready(event) = self.poll_addresses(cx) {
            return Poll::Ready(event);
        }
        if let Some(resume) = &mut self.resume {
            ready!(Pin::new(resume).poll(cx));
            self.resume = None;
        }
        match ready!(self.poll_accept(cx)) {
            Ok((stream, remote)) => Poll::Ready(self.incoming(stream, remote)),
            Err(error) => Poll::Ready(self.back_off(error)),
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
        Poll::Ready(self.address_event(change))
    }

    fn address_event(&self, change: Change) -> Event {
        let listener_id = self.id;
        let at = |ip| to_multiaddr(SocketAddr::new(ip, self.local.port()));
        match change {
            Change::Up(ip) => TransportEvent::NewAddress { listener_id, listen_addr: at(ip) },
            Change::Down(ip) => TransportEvent::AddressExpired { listener_id, listen_addr: at(ip) },
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(std::net::TcpStream, SocketAddr)>> {
        loop {
            match ready!(self.socket.poll_io(Side::Read, cx, TcpListener::accept)) {
                // Gone between its handshake and our accept: nothing is wrong here.
                Err(error) if gone_early(&error) => {}
                accepted => return Poll::Ready(accepted),
            }
        }
    }

    fn incoming(&mut self, stream: std::net::TcpStream, remote: SocketAddr) -> Event {
        self.pause = FIRST_PAUSE;
        TransportEvent::Incoming {
            listener_id: self.id,
            local_addr: to_multiaddr(stream.local_addr().unwrap_or(self.local)),
            send_back_addr: to_multiaddr(remote),
            upgrade: Box::pin(sort(TcpStream::accepted(stream), self.bulk.clone())),
        }
    }

    fn back_off(&mut self, error: io::Error) -> Event {
        let hint = if out_of_files(&error) { " (raise the limit on open files)" } else { "" };
        log::warn!("cannot accept on {}: {error}{hint}; next try in {:?}", self.local, self.pause);
        self.resume = Some(Timer::after(self.pause));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        TransportEvent::ListenerError { listener_id: self.id, error }
    }
}

fn gone_early(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn out_of_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(listener: &mut Listener) -> Poll<Event> {
        listener.poll(&mut Context::from_waker(futures::task::noop_waker_ref()))
    }

    #[test]
    fn a_failed_accept_pauses_and_keeps_the_listener() {
        let local = "127.0.0.1:0".parse().unwrap();
        let mut listener = Listener::bind(ListenerId::next(), local, None).unwrap();
        assert!(matches!(poll(&mut listener), Poll::Ready(TransportEvent::NewAddress { .. })));
        let event = listener.back_off(Errno::MFILE.into());
        assert!(matches!(event, TransportEvent::ListenerError { .. }));
        assert_eq!(listener.pause, FIRST_PAUSE * 2);
        let _client = std::net::TcpStream::connect(listener.local()).unwrap();
        let accepted = smol::block_on(std::future::poll_fn(|cx| listener.poll(cx)));
        assert!(matches!(accepted, TransportEvent::Incoming { .. }));
        assert_eq!(listener.pause, FIRST_PAUSE);
    }

    #[test]
    fn the_pause_is_bounded() {
        let mut listener = Listener::bind(ListenerId::next(), "127.0.0.1:0".parse().unwrap(), None).unwrap();
        for _ in 0..20 {
            listener.back_off(Errno::NFILE.into());
        }
        assert_eq!(listener.pause, LONGEST_PAUSE);
    }
}
