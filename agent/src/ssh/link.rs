//! One client's connection: the socket as `russh` sees it, and what is shared between it and the session.
//!
//! `russh` grants a client new credit when data arrives, whether or not anybody has taken it. So the credit is bounded
//! from here: while a program's input is piled up, [`Link::window`] names a window of [`TRICKLE`] bytes, and the client
//! soon has no more than that to send. Nothing but its control messages can come then, above all the credit for output
//! that a program may be waiting for, so nothing deadlocks; and each trickle that does come is an occasion for `russh`
//! to ask for the window again. The socket pauses between trickles, so that a stalled program costs next to nothing.

use std::{
    io,
    net::TcpStream,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use async_io::Timer;
use futures::io::{AsyncRead, AsyncWrite};
use hive_transport::source::Source;
use tokio::io::ReadBuf;

use super::{KEYS_TIME, LOGIN_TIME, WINDOW, strangers::Place};
use crate::tunnel::Counters;

/// Input held for programs above which a client gets no more credit than a trickle, in bytes.
const HIGH: usize = 512 * 1024;
/// Input held below which it gets credit again.
const LOW: usize = HIGH / 2;
/// The least window with which `russh` goes on asking: it grants credit when less than half is left.
const TRICKLE: u32 = 2;
/// Pauses between trickles: from the first to the longest, each twice the one before.
const FIRST_PAUSE: u64 = 2;
const LONGEST_PAUSE: u64 = 256;

/// What a session and its socket know of each other.
pub struct Link {
    /// Input that is held for programs.
    held: AtomicUsize,
    /// Whether the client is kept at a trickle.
    stalled: AtomicBool,
    /// The next pause, in milliseconds; 0 for none.
    pause: AtomicU64,
    /// The pause before.
    paused: AtomicU64,
    /// The place of one who has not logged in yet.
    stranger: Mutex<Option<Place>>,
    /// Whether the client has agreed on keys and the socket has not heard of it.
    keyed: AtomicBool,
}

impl Link {
    /// A link of somebody who has not logged in yet.
    pub fn new(stranger: Place) -> Arc<Self> {
        Arc::new(Self {
            held: AtomicUsize::new(0),
            stalled: AtomicBool::new(false),
            pause: AtomicU64::new(0),
            paused: AtomicU64::new(0),
            stranger: Mutex::new(Some(stranger)),
            keyed: AtomicBool::new(false),
        })
    }

    /// The client has agreed on keys.
    pub fn keyed(&self) {
        self.keyed.store(true, Ordering::Relaxed);
        if let Some(place) = &*self.stranger() {
            place.keyed();
        }
    }

    /// The client has logged in.
    pub fn logged_in(&self) {
        self.stranger().take();
    }

    fn stranger(&self) -> MutexGuard<'_, Option<Place>> {
        self.stranger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many bytes came for a program.
    pub fn received(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        if bytes <= TRICKLE as usize && self.stalled.load(Ordering::Relaxed) {
            let pause = (self.paused.load(Ordering::Relaxed) * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            self.paused.store(pause, Ordering::Relaxed);
            self.pause.store(pause, Ordering::Relaxed);
        }
    }

    /// A program took so many bytes, or will never take them.
    pub fn taken(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The window of a channel at this moment, in bytes.
    pub fn window(&self) -> u32 {
        let limit = if self.stalled.load(Ordering::Relaxed) { LOW } else { HIGH };
        let stalled = self.held.load(Ordering::Relaxed) > limit;
        self.stalled.store(stalled, Ordering::Relaxed);
        if !stalled {
            self.paused.store(0, Ordering::Relaxed);
        }
        if stalled { TRICKLE } else { WINDOW }
    }

    fn take_pause(&self) -> Option<Duration> {
        let pause = self.pause.swap(0, Ordering::Relaxed);
        (pause > 0).then(|| Duration::from_millis(pause))
    }
}

/// The socket for `russh`: it ends when nobody has logged in by the deadline, and counts.
pub struct Socket {
    inner: Arc<Source<TcpStream>>,
    link: Arc<Link>,
    counters: Arc<Counters>,
    deadline: Option<Timer>,
    pause: Option<Timer>,
}

impl Socket {
    /// A socket on which somebody agrees on keys, and then logs in, in time.
    pub fn new(inner: Arc<Source<TcpStream>>, link: Arc<Link>, counters: Arc<Counters>) -> Self {
        Self { inner, link, counters, deadline: Some(Timer::after(KEYS_TIME)), pause: None }
    }

    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.deadline.is_none() {
            return Ok(());
        }
        if self.link.stranger().is_none() {
            self.deadline = None;
        } else if self.link.keyed.swap(false, Ordering::Relaxed) {
            self.deadline = Some(Timer::after(LOGIN_TIME));
        }
        match self.deadline.as_mut().map(|deadline| Pin::new(deadline).poll(cx)) {
            Some(Poll::Ready(_)) => Err(io::Error::new(io::ErrorKind::TimedOut, "nobody logged in")),
            _ => Ok(()),
        }
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = self.link.take_pause() {
            self.pause = Some(Timer::after(pause));
        }
        if let Some(pause) = &mut self.pause {
            ready!(Pin::new(pause).poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }
}

impl tokio::io::AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx)?;
        ready!(self.poll_pause(cx));
        let read = ready!(Pin::new(&mut &*self.inner).poll_read(cx, buffer.initialize_unfilled()))?;
        buffer.advance(read);
        self.counters.received(read);
        if self.deadline.is_some()
            && let Some(place) = &*self.link.stranger()
        {
            place.heard();
        }
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.in_time(cx)?;
        let written = ready!(Pin::new(&mut &*self.inner).poll_write(cx, bytes))?;
        self.counters.sent(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Arc<Link> {
        Link::new(Place::for_test())
    }

    #[test]
    fn a_client_is_kept_at_a_trickle_until_most_of_it_is_taken() {
        let link = link();
        link.received(HIGH);
        assert_eq!(link.window(), WINDOW);
        link.received(1);
        assert_eq!(link.window(), TRICKLE);
        link.taken(HIGH - LOW);
        assert_eq!(link.window(), TRICKLE);
        link.taken(1);
        assert_eq!(link.window(), WINDOW);
    }

    #[test]
    fn pauses_grow_with_the_stall_and_begin_anew_after_it() {
        let link = link();
        link.received(1);
        assert_eq!(link.take_pause(), None, "a keystroke is no trickle");
        link.received(HIGH);
        link.window();
        let pauses: Vec<u128> = (0..9)
            .filter_map(|_| {
                link.received(2);
                Some(link.take_pause()?.as_millis())
            })
            .collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 256]);
        link.taken(HIGH);
        link.window();
        link.received(HIGH);
        link.window();
        link.received(2);
        assert_eq!(link.take_pause(), Some(Duration::from_millis(2)));
    }
}
