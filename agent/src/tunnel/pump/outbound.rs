//! The way to the peer: what the application writes, what the peer is owed, and when to say either.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_io::Timer;
use hive_protocol::tunnel::{self, HEADER_LEN, Header, Kind};
use hive_transport::{buffers::Buffer, source::Side};

use super::{Session, State, Turn};
use crate::tunnel::{
    broken::Broken,
    carrier::Writer,
    lookout::Watch,
    memory::{self, Chunk},
};

/// How long a peer may be left without an acknowledgement that it is not waiting for.
const ACK_DELAY: Duration = Duration::from_millis(200);

impl Session {
    /// Frames to the peer, until everything is said and heard.
    pub(super) async fn outbound(&self, writer: &mut Writer, watch: &Watch<'_>) -> Result<(), Broken> {
        let mut delay = None;
        let mut quiet = false;
        let mut turn = Turn::default();
        loop {
            let read = poll_fn(|cx| Poll::Ready(self.read(cx, writer.room()))).await?;
            self.load(writer, std::mem::take(&mut quiet));
            if !writer.is_empty() {
                watch.wrote(self.state().stream.outgoing.unacknowledged() > 0);
                writer.flush().await?;
                // Once more: it may have been found calm between the word and the bytes.
                watch.wrote(self.state().stream.outgoing.unacknowledged() > 0);
                self.taken();
            }
            if self.state().stream.is_finished() {
                return Ok(());
            }
            turn.used(read).await;
            if read == 0 {
                quiet = self.more_to_say(&mut delay).await?;
            }
        }
    }

    /// Reads what the application has, up to what one write can take and the window allows; says how much.
    /// Where that is nothing, this task is woken when there is more.
    fn read(&self, cx: &mut Context<'_>, room: usize) -> Result<usize, Broken> {
        let mut read = 0;
        // The first read may not fit whole behind what waits already: the rest goes with the next write.
        while (read == 0 || read + memory::READ_LEN <= room) && self.wants_more() {
            let Poll::Ready(outcome) = self.poll_chunk(cx) else { break };
            let (buffer, len) = outcome.map_err(Broken::Local)?;
            if len == 0 {
                self.state().stream.outgoing.finish();
                break;
            }
            self.state().stream.outgoing.push(Chunk::new(buffer, len));
            self.counters.sent(len);
            read += len;
        }
        Ok(read)
    }

    fn poll_chunk(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Buffer, usize)>> {
        ready!(self.local.poll_ready(Side::Read, cx))?;
        let mut buffer = memory::read_buffer();
        self.local.poll_read(cx, &mut buffer).map_ok(|len| (buffer, len))
    }

    pub(super) fn wants_more(&self) -> bool {
        let state = self.state();
        state.stream.outgoing.room(state.window.bytes(memory::share())) > 0
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
            if writer.room() > 2 * HEADER_LEN
                && let Some(bytes) = window.take_news()
            {
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
        if taken > 0 && window.is_curious() {
            let (sent, acked) = stream.outgoing.progress();
            window.sent(sent, acked, self.began.elapsed());
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
            if self.wants_more() && self.local.poll_ready(Side::Read, cx).map_err(Broken::Local)?.is_ready() {
                return Poll::Ready(Ok(false));
            }
            self.poll_quiet(delay, cx).map(Ok)
        })
        .await
    }

    fn has_to_say(&self) -> bool {
        let state = self.state();
        let State { stream, window } = &*state;
        let acks = self.is_lasting() && (stream.incoming.ack_due().is_some() || window.has_news());
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
