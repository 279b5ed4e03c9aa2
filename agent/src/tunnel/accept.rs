//! Taking local connections from a listening socket, no more at once than there are places for.
//!
//! A connection holds its place from before it is taken to its end, whatever it waits for meanwhile. It never takes one
//! only to refuse it: what has no place waits in the kernel's queue.

use std::{
    io,
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use async_io::Timer;
use hive_transport::source::Source;
use smol::lock::{Semaphore, SemaphoreGuardArc};

/// Pauses after a failed accept: the kernel keeps the connection queued, so trying at once would spin.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A condition that comes and goes is told no more often than this.
const QUIET: Duration = Duration::from_secs(60);

/// A listening socket and the places for its connections.
pub struct Acceptor {
    socket: Source<TcpListener>,
    /// What listens, for the log.
    name: String,
    places: Arc<Semaphore>,
    pause: Duration,
    full: Rarely,
    failing: Rarely,
}

/// A connection's place, free again when dropped.
pub type Place = SemaphoreGuardArc;

impl Acceptor {
    /// Takes at most `places` connections at once.
    pub fn new(socket: Source<TcpListener>, name: String, places: usize) -> Self {
        let places = Arc::new(Semaphore::new(places));
        Self { socket, name, places, pause: FIRST_PAUSE, full: Rarely::default(), failing: Rarely::default() }
    }

    /// The next connection, however long it takes.
    pub async fn next(&mut self) -> (Source<TcpStream>, Place) {
        let place = self.place().await;
        loop {
            match self.socket.accept().await {
                Ok((local, _)) => {
                    self.pause = FIRST_PAUSE;
                    return (local, place);
                }
                Err(e) if gone_early(&e) => {}
                Err(e) => {
                    let pause = self.back_off(&e);
                    Timer::after(pause).await;
                }
            }
        }
    }

    async fn place(&mut self) -> Place {
        if let Some(place) = self.places.try_acquire_arc() {
            return place;
        }
        if self.full.is_due() {
            log::warn!("{}: as many connections are open as may be, further ones wait", self.name);
        }
        self.places.acquire_arc().await
    }

    /// How long to leave the socket alone now.
    fn back_off(&mut self, error: &io::Error) -> Duration {
        if self.failing.is_due() {
            log::warn!("{}: cannot accept a connection, will try again: {error}", self.name);
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// Gone between its handshake and our accept: nothing is wrong here.
fn gone_early(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionReset)
}

/// Keeps a line of the log from filling it.
#[derive(Default)]
struct Rarely {
    last: Option<Instant>,
}

impl Rarely {
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.last.is_none_or(|last| now.duration_since(last) >= QUIET);
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use futures::FutureExt;

    use super::*;

    fn acceptor(places: usize) -> (Acceptor, SocketAddr) {
        let socket = Source::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = socket.get_ref().local_addr().unwrap();
        (Acceptor::new(socket, "test".to_owned(), places), address)
    }

    #[test]
    fn a_connection_that_only_waits_keeps_its_place() {
        let (mut acceptor, address) = acceptor(1);
        let _clients = [TcpStream::connect(address).unwrap(), TcpStream::connect(address).unwrap()];
        let (_waiting, place) = smol::block_on(acceptor.next());
        assert!(acceptor.next().now_or_never().is_none(), "the second waits in the kernel's queue");
        drop(place);
        smol::block_on(acceptor.next());
    }

    #[test]
    fn pauses_grow_and_are_bounded_and_the_log_is_not_flooded() {
        let (mut acceptor, address) = acceptor(1);
        assert!(acceptor.failing.is_due());
        let error = io::Error::other("no file descriptors");
        let pauses: Vec<Duration> = (0..10).map(|_| acceptor.back_off(&error)).collect();
        assert_eq!((pauses[0], pauses[1], pauses[9]), (FIRST_PAUSE, FIRST_PAUSE * 2, LONGEST_PAUSE));
        assert!(!acceptor.failing.is_due());
        let _client = TcpStream::connect(address).unwrap();
        smol::block_on(acceptor.next());
        assert_eq!(acceptor.back_off(&error), FIRST_PAUSE);
    }
}
