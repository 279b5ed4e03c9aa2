//! Moving bytes between a local socket and a carrier, both ways at once, with TCP's endings kept apart.
//!
//! The local FIN becomes EOF and the peer's EOF becomes a FIN, each direction on its own; RST and RESET likewise. What
//! is sent, kept and acknowledged is decided by [`hive_core::stream`]; this module does its I/O. A [`Session`] lives as
//! long as the connection, [`Session::pump`] as long as one carrier. Dropping the latter at any moment loses nothing:
//! every byte that was read from the local socket is in the stream, and every byte written to it is counted.

mod outbound;
mod run;

use std::{
    future::{Future, pending, poll_fn},
    io,
    net::TcpStream,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use async_io::Timer;
use hive_core::stream::{Stream, Violation, window::Window};
use hive_protocol::tunnel::{Header, Kind};
use hive_transport::source::{Side, Source};
use smol::future::{or, yield_now};

use super::{
    Counters, Entry,
    broken::Broken,
    carrier::{self, Carrier, LAST_WORDS, Reader},
    lookout::Watch,
    memory::{self, Chunk},
    pair::{Cut, Outer},
};

/// How often the local socket is asked for an error while its bytes wait for the peer.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// Bytes after which a busy stream lets others go first.
const TURN: usize = 256 * 1024;
/// What a frame counts for beside its bytes, so that many small ones do not hold up others either.
const FRAME_COST: usize = 256;

/// One tunnelled connection at one of its ends.
pub struct Session {
    local: Source<TcpStream>,
    cut: Cut,
    state: Mutex<State>,
    /// Seconds for which it may be without a carrier: asked for, then granted.
    grace: AtomicU32,
    /// The ingress has yet to answer OPEN.
    awaited: AtomicBool,
    began: Instant,
    counters: Arc<Counters>,
}

struct State {
    stream: Stream<Chunk>,
    window: Window,
}

impl Session {
    /// An egress' session, which asks for this grace in seconds and awaits the ingress' word.
    pub fn asking(local: Outer, counters: Arc<Counters>, grace: u32) -> Self {
        Self::new(local, counters, grace, true)
    }

    /// An ingress' session with this grace in seconds.
    pub fn granting(local: Outer, counters: Arc<Counters>, grace: u32) -> Self {
        Self::new(local, counters, grace, false)
    }

    fn new(local: Outer, counters: Arc<Counters>, grace: u32, awaited: bool) -> Self {
        let state = State { stream: Stream::new(), window: Window::new() };
        let (grace, awaited) = (AtomicU32::new(grace), AtomicBool::new(awaited));
        let Outer { socket: local, cut } = local;
        Self { local, cut, state: Mutex::new(state), grace, awaited, began: Instant::now(), counters }
    }

    /// For how long it may be without a carrier; zero means that it ends with its carrier.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace.load(Ordering::Relaxed).into())
    }

    fn is_lasting(&self) -> bool {
        self.grace.load(Ordering::Relaxed) > 0
    }

    /// What the application here has got, to be told when resuming.
    pub fn delivered(&self) -> u64 {
        self.state().stream.incoming.count()
    }

    /// Goes on behind what the peer has got; see [`Stream::resume`].
    pub fn resume(&self, theirs: u64) -> Result<(), Violation> {
        self.awaited.store(false, Ordering::Relaxed);
        let mut state = self.state();
        state.window.restart();
        state.stream.resume(theirs)
    }

    /// Begins again where the ingress never heard of it; see [`Stream::reopen`].
    pub fn reopen(&self) {
        let mut state = self.state();
        state.window.restart();
        state.stream.reopen();
    }

    /// Whether the ingress has the stream.
    pub fn is_answered(&self) -> bool {
        !self.awaited.load(Ordering::Relaxed)
    }

    /// Whether both applications have closed and got everything: what is missing at most is the proof of it.
    fn is_over(&self) -> bool {
        let state = self.state();
        state.stream.outgoing.is_finished() && state.stream.incoming.is_ended()
    }

    /// Waits until the connection must end before its time, whatever its carrier does.
    pub async fn cut_short(&self, entry: &Entry) -> Broken {
        let ended = async {
            entry.ended().await;
            Broken::Ended
        };
        let aborted = async {
            self.cut.happened().await;
            Broken::Local(io::ErrorKind::ConnectionReset.into())
        };
        self.unless_over(or(ended, aborted)).await
    }

    /// A connection that both applications have ended has nothing left to cut: it gets time to come to its end by itself.
    /// The peer may be through with it already, and a RESET would hit its next stream on the same carrier.
    async fn unless_over(&self, cut: impl Future<Output = Broken>) -> Broken {
        let broken = cut.await;
        if self.is_over() {
            Timer::after(LAST_WORDS).await;
        }
        broken
    }

    /// Closes the local side, where both directions have come to their ends.
    pub fn close(self) {
        drop(self.local);
        self.cut.regular();
    }

    /// Ends both sides in the way that what happened asks for.
    pub async fn fail(self, carrier: Carrier, broken: &Broken) {
        // Both applications may have everything, and only the proof of it be missing.
        if self.is_over() {
            return self.close();
        }
        super::abort(&self.local);
        drop(self);
        if matches!(broken, Broken::Local(_) | Broken::Ended) {
            carrier.end_with(&Header { kind: Kind::Reset, len: 0 }.to_bytes()).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries the connection to its end on this carrier.
    ///
    /// # Errors
    /// [`Broken::Carrier`] leaves the session as it is, to go on with another carrier.
    pub async fn pump(&self, carrier: &mut Carrier, watch: &Watch<'_>) -> Result<(), Broken> {
        let Carrier { reader, writer } = carrier;
        let mut inbound = pin!(self.inbound(reader, watch));
        let mut outbound = pin!(or(self.outbound(writer, watch), self.local_abort()));
        // In this order: what inbound changes, outbound sees in the same turn, and inbound waits for nothing of outbound.
        let pumped = poll_fn(|cx| match inbound.as_mut().poll(cx) {
            Poll::Ready(Err(broken)) => Poll::Ready(Err(broken)),
            Poll::Ready(Ok(never)) => match never {},
            Poll::Pending => outbound.as_mut().poll(cx),
        });
        let stuck = async {
            watch.is_to_leave().await;
            Err(carrier::Error::Stuck.into())
        };
        or(stuck, pumped).await
    }

    /// Waits until the application has aborted though nothing was read from it, as when the window is full: its bytes
    /// lie in the socket, so that readability says nothing, and no other event tells of an error alone.
    async fn local_abort(&self) -> Result<(), Broken> {
        loop {
            self.stalled().await;
            Timer::after(LOOK_AFTER).await;
            if let Some(error) = self.local.get_ref().take_error().unwrap_or_else(Some) {
                return Err(Broken::Local(error));
            }
        }
    }

    /// Waits until the peer's slowness keeps this side from reading. Every turn of [`Self::pump`] looks.
    async fn stalled(&self) {
        poll_fn(|_| {
            if self.wants_more() || self.state().stream.outgoing.is_finished() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    /// Frames from the peer, as long as there can be any.
    async fn inbound(&self, reader: &mut Reader, watch: &Watch<'_>) -> Result<std::convert::Infallible, Broken> {
        let mut turn = Turn::default();
        loop {
            let header = reader.header().await?;
            watch.heard();
            turn.used(FRAME_COST + header.len).await;
            match header.kind {
                Kind::Data => self.deliver(reader, header.len, &mut turn).await?,
                Kind::Eof => self.end(reader.count().await?)?,
                Kind::Ack => watch.acknowledged(self.acknowledged(reader.count().await?)?),
                Kind::Window => {
                    let window = reader.number().await?;
                    self.state().stream.incoming.peer_window(window);
                }
                Kind::Accept if self.awaited.swap(false, Ordering::Relaxed) => {
                    let granted = if header.len == 4 { reader.number().await? } else { 0 };
                    self.granted(granted);
                    if !self.is_lasting() {
                        watch.end();
                    }
                }
                Kind::Refuse => return Err(Broken::Refused(reader.cbor(header).await?)),
                Kind::Reset => return Err(Broken::Remote),
                other => return Err(Broken::Unexpected(other)),
            }
            if self.state().stream.is_finished() {
                // What comes next belongs to the carrier's next stream; outbound ends this one.
                pending::<()>().await;
            }
        }
    }

    /// Writes a DATA frame's payload to the application as it comes in, without waiting for all of it, and with it what
    /// has come of the DATA frames right behind it.
    async fn deliver(&self, reader: &mut Reader, mut left: usize, turn: &mut Turn) -> Result<(), Broken> {
        while left > 0 {
            if reader.is_empty() {
                reader.fill().await?;
            }
            let write = |local: &TcpStream| run::write(local, reader, left);
            let written = self.local.io(Side::Write, write).await.map_err(Broken::Local)?;
            let (after, behind) = run::consume(reader, left, written);
            self.state().stream.incoming.deliver(written)?;
            self.counters.received(written);
            left = after;
            turn.used(behind).await;
        }
        Ok(())
    }

    fn granted(&self, seconds: u32) {
        self.counters.succeeded();
        if self.grace.fetch_min(seconds, Ordering::Relaxed) > 0 && seconds == 0 {
            let mut state = self.state();
            state.stream.outgoing.trust_carrier();
            state.stream.incoming.acknowledged();
        }
    }

    fn end(&self, announced: u64) -> Result<(), Broken> {
        let mut state = self.state();
        state.stream.incoming.end(announced)?;
        if !self.is_lasting() {
            state.stream.incoming.acknowledged();
        }
        self.local.end().map_err(Broken::Local)
    }

    /// Notes what the peer has; says whether it has more to acknowledge.
    fn acknowledged(&self, count: u64) -> Result<bool, Broken> {
        let (share, now) = (memory::share(), self.began.elapsed());
        let mut state = self.state();
        let State { stream, window } = &mut *state;
        let was_full = stream.outgoing.is_full(window.bytes(share));
        stream.outgoing.acknowledged(count)?;
        window.acknowledged(count, was_full, share, now);
        Ok(stream.outgoing.unacknowledged() > 0)
    }
}

/// What a busy stream has done since others last had their turn.
#[derive(Default)]
struct Turn(usize);

impl Turn {
    /// So many bytes more; lets others go first if that was enough.
    async fn used(&mut self, bytes: usize) {
        self.0 += bytes;
        if self.0 >= TURN {
            self.0 = 0;
            yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use futures::FutureExt;

    use super::{super::pair, *};

    #[test]
    fn what_both_applications_ended_is_not_cut() {
        let (outer, _inner) = pair::pair().unwrap();
        let session = Session::granting(outer, Arc::default(), 60);
        let is_cut = || session.unless_over(ready(Broken::Ended)).now_or_never().is_some();
        assert!(is_cut());
        session.state().stream.outgoing.finish();
        assert!(is_cut(), "the peer is not through with a stream whose own end it has not said");
        session.state().stream.incoming.end(0).unwrap();
        assert!(!is_cut());
    }
}
