//! Moving bytes between a local socket and a carrier, both ways at once, with TCP's endings kept apart.
//!
//! The local FIN becomes EOF and the peer's EOF becomes a FIN, each direction on its own; RST and RESET likewise. What
//! is sent, kept and acknowledged is decided by [`hive_core::stream`]; this module does its I/O. A [`Session`] lives as
//! long as the connection, [`Session::pump`] as long as one carrier. Dropping the latter at any moment loses nothing:
//! every byte that was read from the local socket is in the stream, and every byte written to it is counted.

use std::{
    future::{Future, pending, poll_fn},
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, TcpStream},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use async_io::{Async, Timer};
use hive_core::stream::{Stream, Violation};
use hive_protocol::tunnel::{self, HEADER_LEN, Header, Kind, Refusal, RefuseReason};
use smol::future::{or, yield_now};

use super::{
    Cause, Counters, Entry,
    carrier::{self, Carrier, Reader, Writer},
    memory::{self, Chunk},
    pair::{Cut, Outer},
};

/// How long a peer may be left without an acknowledgement that it is not waiting for.
const ACK_DELAY: Duration = Duration::from_millis(200);
/// How often the local socket is asked for an error while its bytes wait for the peer.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// Bytes after which a busy stream lets others go first.
const TURN: usize = 256 * 1024;
/// Records of one read, and as many slices of one write.
const SLICES: usize = 10;

/// Why a stream cannot go on, or not on this carrier.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The application here aborted its connection.
    #[error("the local application aborted the connection")]
    Local(#[source] io::Error),
    /// The application there aborted its connection.
    #[error("the application at the peer aborted the connection")]
    Remote,
    /// The peer's ingress did not connect, or does not resume.
    #[error("refused by the peer: {}", .0.text)]
    Refused(Refusal),
    /// The carrier failed under it.
    #[error(transparent)]
    Carrier(#[from] carrier::Error),
    /// The peer does not keep count.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// A frame that must not come here.
    #[error("unexpected {0:?} frame")]
    Unexpected(Kind),
    /// The right to it was taken away, or nobody came back for it in time.
    #[error("no longer allowed")]
    Ended,
}

impl Broken {
    /// What to tell the people here, unless an application ended its connection or the right to it is gone.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::Refused(refusal) => match refusal.reason {
                RefuseReason::NoRule => Some(Cause::NoRule),
                RefuseReason::Target => Some(Cause::Target),
                RefuseReason::Busy => Some(Cause::Busy),
                RefuseReason::Unknown => Some(Cause::Path),
            },
            Self::Carrier(_) | Self::Violation(_) | Self::Unexpected(_) => Some(Cause::Path),
            Self::Local(_) | Self::Remote | Self::Ended => None,
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Carrier(error.into())
    }
}

/// One tunnelled connection at one of its ends.
pub struct Session {
    local: Async<TcpStream>,
    cut: Cut,
    state: Mutex<State>,
    /// Seconds for which it may be without a carrier: asked for, then granted.
    grace: AtomicU32,
    /// The ingress has yet to answer OPEN.
    awaited: AtomicBool,
    counters: Arc<Counters>,
}

struct State {
    stream: Stream<Chunk>,
    /// A grown window that the peer has not been told.
    window: Option<usize>,
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
        let state = State { stream: Stream::new(), window: None };
        let (grace, awaited) = (AtomicU32::new(grace), AtomicBool::new(awaited));
        let Outer { socket: local, cut } = local;
        Self { local, cut, state: Mutex::new(state), grace, awaited, counters }
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
        self.state().stream.resume(theirs)
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
        or(ended, aborted).await
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
            self.close();
        } else {
            super::abort(&self.local);
            drop(self);
        }
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
    pub async fn pump(&self, carrier: &mut Carrier) -> Result<(), Broken> {
        let Carrier { reader, writer } = carrier;
        let mut inbound = pin!(self.inbound(reader));
        let mut outbound = pin!(or(self.outbound(writer), self.local_abort()));
        // In this order: what inbound changes, outbound sees in the same turn, and inbound waits for nothing of outbound.
        poll_fn(|cx| match inbound.as_mut().poll(cx) {
            Poll::Ready(Err(broken)) => Poll::Ready(Err(broken)),
            Poll::Ready(Ok(never)) => match never {},
            Poll::Pending => outbound.as_mut().poll(cx),
        })
        .await
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
    async fn inbound(&self, reader: &mut Reader) -> Result<std::convert::Infallible, Broken> {
        let mut turn = 0;
        loop {
            let header = reader.header().await?;
            match header.kind {
                Kind::Data => {
                    self.deliver(reader, header.len).await?;
                    turn += header.len;
                    if turn >= TURN {
                        turn = 0;
                        yield_now().await;
                    }
                }
                Kind::Eof => self.end(reader.count().await?)?,
                Kind::Ack => self.acknowledged(reader.count().await?)?,
                Kind::Window => {
                    let window = reader.number().await?;
                    self.state().stream.incoming.peer_window(window);
                }
                Kind::Accept if self.awaited.swap(false, Ordering::Relaxed) => {
                    let granted = if header.len == 4 { reader.number().await? } else { 0 };
                    self.granted(granted);
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

    /// Writes one DATA frame's payload to the application as it comes in, without waiting for all of it.
    async fn deliver(&self, reader: &mut Reader, mut left: usize) -> Result<(), Broken> {
        while left > 0 {
            if reader.is_empty() {
                reader.fill().await?;
            }
            match reader.with_slices(|slices| write_some(&self.local, slices, left)) {
                Ok(written) => {
                    self.state().stream.incoming.deliver(written)?;
                    self.counters.received(written);
                    left -= written;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|cx| self.local.poll_writable(cx)).await.map_err(Broken::Local)?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Broken::Local(e)),
            }
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
        self.local.get_ref().shutdown(Shutdown::Write).or_else(ignore_not_connected).map_err(Broken::Local)
    }

    fn acknowledged(&self, count: u64) -> Result<(), Broken> {
        let mut state = self.state();
        // An acknowledgement that finds the window full means that the path would take more.
        if memory::is_plenty() {
            state.window = state.stream.outgoing.grow().or(state.window);
        }
        Ok(state.stream.outgoing.acknowledged(count)?)
    }

    /// Frames to the peer, until everything is said and heard.
    async fn outbound(&self, writer: &mut Writer) -> Result<(), Broken> {
        let mut delay = None;
        let mut quiet = false;
        let mut turn = 0;
        loop {
            let read = self.read(writer.room())?;
            self.load(writer, std::mem::take(&mut quiet));
            if !writer.is_empty() {
                writer.flush().await?;
                self.taken();
            }
            if self.state().stream.is_finished() {
                return Ok(());
            }
            turn += read;
            if turn >= TURN {
                turn = 0;
                yield_now().await;
            }
            if read == 0 {
                quiet = self.more_to_say(&mut delay).await?;
            }
        }
    }

    /// Reads what the application has, up to what one write can take and the window allows; says how much.
    fn read(&self, room: usize) -> Result<usize, Broken> {
        let mut read = 0;
        // The first read may not fit whole behind what waits already: the rest goes with the next write.
        while (read == 0 || read + memory::READ_LEN <= room) && self.wants_more() {
            let mut buffer = memory::read_buffer();
            match self.local.get_ref().read(&mut buffer) {
                Ok(0) => {
                    self.state().stream.outgoing.finish();
                    return Ok(read);
                }
                Ok(len) => {
                    let whole = len == buffer.len();
                    self.state().stream.outgoing.push(Chunk::new(buffer, len));
                    self.counters.sent(len);
                    read += len;
                    if !whole {
                        return Ok(read);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(read),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Broken::Local(e)),
            }
        }
        Ok(read)
    }

    fn wants_more(&self) -> bool {
        let state = self.state();
        let outgoing = &state.stream.outgoing;
        outgoing.room() > 0 && (!memory::is_short() || outgoing.unacknowledged() < memory::FLOOR)
    }

    /// Puts what the peer should hear into the next write.
    fn load(&self, writer: &mut Writer, quiet: bool) {
        let mut state = self.state();
        let State { stream, window } = &mut *state;
        if self.is_lasting() {
            let incoming = &mut stream.incoming;
            let owed = if quiet { incoming.ack_owed() } else { incoming.ack_due() };
            if let Some(count) = owed.filter(|_| writer.room() > 2 * HEADER_LEN + 12) {
                writer.put(&tunnel::encode_count(Kind::Ack, count));
                incoming.acknowledged();
            }
            if let Some(bytes) = window.take_if(|_| writer.room() > 2 * HEADER_LEN) {
                writer.put(&tunnel::encode_u32(Kind::Window, u32::try_from(bytes).unwrap_or(u32::MAX)));
            }
        }
        let mut taken = 0;
        for slice in stream.outgoing.to_send() {
            let room = writer.room().saturating_sub(HEADER_LEN);
            let slice = &slice[..slice.len().min(room)];
            if slice.is_empty() {
                break;
            }
            writer.put(&Header { kind: Kind::Data, len: slice.len() }.to_bytes());
            writer.put(slice);
            taken += slice.len();
        }
        stream.outgoing.sent(taken);
        if let Some(total) = stream.outgoing.end_to_send().filter(|_| writer.room() >= HEADER_LEN + 8) {
            writer.put(&tunnel::encode_eof(total));
            stream.outgoing.end_sent();
        }
    }

    /// The carrier has taken what was loaded.
    fn taken(&self) {
        if !self.is_lasting() {
            self.state().stream.outgoing.trust_carrier();
        }
    }

    /// Waits until there is something to say or to read; true if it is an acknowledgement after a quiet moment.
    async fn more_to_say(&self, delay: &mut Option<Timer>) -> Result<bool, Broken> {
        poll_fn(|cx| {
            if self.has_to_say() {
                return Poll::Ready(Ok(false));
            }
            if self.wants_more() && self.local.poll_readable(cx).map_err(Broken::Local)?.is_ready() {
                return Poll::Ready(Ok(false));
            }
            self.poll_quiet(delay, cx).map(Ok)
        })
        .await
    }

    fn has_to_say(&self) -> bool {
        let state = self.state();
        let State { stream, window } = &*state;
        let acks = self.is_lasting() && (stream.incoming.ack_due().is_some() || window.is_some());
        acks || stream.outgoing.unsent() > 0 || stream.outgoing.end_to_send().is_some() || stream.is_finished()
    }

    fn poll_quiet(&self, delay: &mut Option<Timer>, cx: &mut Context<'_>) -> Poll<bool> {
        if !self.is_lasting() || self.state().stream.incoming.ack_owed().is_none() {
            return Poll::Pending;
        }
        // One timer for all that comes within the delay: arming one wakes the reactor.
        let timer = delay.get_or_insert_with(|| Timer::after(ACK_DELAY));
        ready!(Pin::new(timer).poll(cx));
        *delay = None;
        Poll::Ready(true)
    }
}

/// One write of at most `most` bytes to the application, from several slices.
fn write_some(local: &Async<TcpStream>, slices: &mut dyn Iterator<Item = &[u8]>, mut most: usize) -> io::Result<usize> {
    let mut gathered = [IoSlice::new(&[]); SLICES];
    let mut count = 0;
    for slice in slices.take(SLICES) {
        let slice = &slice[..slice.len().min(most)];
        if slice.is_empty() {
            break;
        }
        most -= slice.len();
        gathered[count] = IoSlice::new(slice);
        count += 1;
    }
    local.get_ref().write_vectored(&gathered[..count])
}

/// The application closed its socket for good before our FIN: nothing is left to end.
fn ignore_not_connected(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected { Ok(()) } else { Err(error) }
}
