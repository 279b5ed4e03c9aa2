//! The bytes of one tunnelled connection, numbered at both ends so that it outlives the carrier under it.
//!
//! Each direction is a sequence of bytes with one more number for its end (EOF), as TCP counts a FIN. [`Outgoing`]
//! keeps what the peer has not acknowledged and knows what the present carrier has taken; [`Incoming`] counts what the
//! application got. When a carrier breaks, both ends tell each other their counts on the next one and go on from
//! there: nothing is lost, doubled or reordered, whatever was under way. This module holds no socket, reads no clock
//! and copies no byte; `agent/core/tests/stream.rs` tries every interleaving of a small stream's life.
//!
//! An acknowledgement means "delivered to the application's socket", so it is flow control too: a reader that stops
//! stops its own sender, at one window, and nobody else.

pub mod attempts;
pub mod pulse;
pub mod window;

use std::collections::VecDeque;

/// Bytes that a stream may have unacknowledged before it has proven that more helps.
pub const FIRST_WINDOW: usize = 256 * 1024;
/// Most bytes that a stream may ever have unacknowledged: 2 Gbit/s at 60 ms.
pub const MOST_WINDOW: usize = 16 * 1024 * 1024;
/// What every stream may have unacknowledged, however little memory is left.
pub const LEAST_WINDOW: usize = 16 * 1024;
/// The receiver acknowledges after this part of the sender's window.
const ACK_PART: u64 = 4;

/// What no correct peer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// It acknowledges what was never sent, or takes back what it acknowledged.
    #[error("the peer counts {count} bytes, {acked} to {sent} is possible")]
    Count {
        /// What it says to have.
        count: u64,
        /// What it had before.
        acked: u64,
        /// What was sent.
        sent: u64,
    },
    /// It ends the stream at another number of bytes than came.
    #[error("the peer sent {announced} bytes, {delivered} arrived")]
    Length {
        /// Bytes it says to have sent.
        announced: u64,
        /// Bytes that came.
        delivered: u64,
    },
    /// Bytes after the end.
    #[error("the peer sends bytes after the end of its stream")]
    AfterEnd,
}

/// Both directions of a stream, as one of its ends sees them. `C` is whatever holds a run of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stream<C> {
    /// From the application here to the peer.
    pub outgoing: Outgoing<C>,
    /// From the peer to the application here.
    pub incoming: Incoming,
}

impl<C: AsRef<[u8]>> Stream<C> {
    /// A stream of which nothing was carried yet.
    #[must_use]
    pub fn new() -> Self {
        Self { outgoing: Outgoing::new(), incoming: Incoming::new() }
    }

    /// Whether nothing is left to say or hear: both ends are acknowledged.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.outgoing.is_done() && self.incoming.is_ended() && self.incoming.ack_owed().is_none()
    }

    /// Continues on a new carrier after both ends exchanged their counts: `theirs` is the peer's, ours was told.
    ///
    /// # Errors
    /// If the peer's count is impossible; the stream is then of no further use.
    pub fn resume(&mut self, theirs: u64) -> Result<(), Violation> {
        self.outgoing.resume(theirs)?;
        self.incoming.acknowledged();
        Ok(())
    }

    /// Begins again on a new carrier: the peer never knew of this stream.
    pub fn reopen(&mut self) {
        self.outgoing.sent = self.outgoing.acked;
    }
}

impl<C: AsRef<[u8]>> Default for Stream<C> {
    fn default() -> Self {
        Self::new()
    }
}

/// The bytes from the application here, until the peer has acknowledged them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outgoing<C> {
    /// Bytes `base..end`.
    chunks: VecDeque<C>,
    base: u64,
    /// What the peer has; `end + 1` includes the end. `base <= acked`, unless it does.
    acked: u64,
    /// What the present carrier has taken, or the peer had when it began.
    sent: u64,
    end: u64,
    finished: bool,
}

impl<C: AsRef<[u8]>> Outgoing<C> {
    fn new() -> Self {
        Self { chunks: VecDeque::new(), base: 0, acked: 0, sent: 0, end: 0, finished: false }
    }

    /// Bytes that may be taken from the application now, where `window` bytes may be unacknowledged.
    #[must_use]
    pub fn room(&self, window: usize) -> usize {
        if self.finished { 0 } else { window.saturating_sub(self.unacknowledged()) }
    }

    /// Whether the window is what holds the application up: the carrier has taken all that it allows.
    #[must_use]
    pub fn is_full(&self, window: usize) -> bool {
        !self.finished && self.room(window) == 0 && self.unsent() == 0
    }

    /// Bytes that the peer has not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        usize::try_from(self.end.saturating_sub(self.acked)).unwrap_or(usize::MAX)
    }

    /// Takes bytes from the application, none of them being no end.
    pub fn push(&mut self, chunk: C) {
        self.end += chunk.as_ref().len() as u64;
        self.chunks.push_back(chunk);
    }

    /// The application sends no more.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Whether the application sends no more.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether the peer has everything, the end included.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.finished && self.acked == self.end + 1
    }

    /// Bytes that this carrier has not taken yet.
    #[must_use]
    pub fn unsent(&self) -> usize {
        usize::try_from(self.end.saturating_sub(self.sent)).unwrap_or(usize::MAX)
    }

    /// The bytes that this carrier has not taken yet, in order.
    pub fn to_send(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = self.base;
        self.chunks.iter().filter_map(move |chunk| {
            let bytes = chunk.as_ref();
            let skip = usize::try_from(self.sent.saturating_sub(at)).unwrap_or(usize::MAX);
            at += bytes.len() as u64;
            bytes.get(skip..).filter(|rest| !rest.is_empty())
        })
    }

    /// The carrier has taken `len` bytes of [`Self::to_send`].
    pub fn sent(&mut self, len: usize) {
        let most = self.end.max(self.sent);
        self.sent = most.min(self.sent + len as u64);
    }

    /// The number of bytes to announce, if the end is what the carrier takes next.
    #[must_use]
    pub fn end_to_send(&self) -> Option<u64> {
        (self.finished && self.sent == self.end).then_some(self.end)
    }

    /// What the carrier has taken, and what of it the peer has.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.sent, self.acked)
    }

    /// The carrier has taken the end.
    pub fn end_sent(&mut self) {
        self.sent = self.end + 1;
    }

    /// The carrier is all the peer needs: what it has taken counts as acknowledged. For streams that do not resume.
    pub fn trust_carrier(&mut self) {
        self.advance(self.sent);
    }

    /// The peer has `count`.
    ///
    /// # Errors
    /// If it has more than was sent, or less than it had.
    pub fn acknowledged(&mut self, count: u64) -> Result<(), Violation> {
        if !(self.acked..=self.sent).contains(&count) {
            return Err(Violation::Count { count, acked: self.acked, sent: self.sent });
        }
        self.advance(count);
        Ok(())
    }

    /// Goes on behind what the peer has, on a new carrier.
    fn resume(&mut self, count: u64) -> Result<(), Violation> {
        // An earlier carrier may have delivered any of what it took, but never more than there is.
        let most = self.end + u64::from(self.finished);
        if !(self.acked..=most).contains(&count) {
            return Err(Violation::Count { count, acked: self.acked, sent: most });
        }
        self.sent = count;
        self.advance(count);
        Ok(())
    }

    fn advance(&mut self, count: u64) {
        self.acked = count;
        while let Some(front) = self.chunks.front() {
            let behind = self.base + front.as_ref().len() as u64;
            if behind > count {
                break;
            }
            self.base = behind;
            self.chunks.pop_front();
        }
    }
}

/// Counts the bytes from the peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Incoming {
    delivered: u64,
    ended: bool,
    told: u64,
    /// The peer's window.
    window: u64,
}

impl Incoming {
    fn new() -> Self {
        Self { delivered: 0, ended: false, told: 0, window: FIRST_WINDOW as u64 }
    }

    /// The application's socket has taken `len` bytes.
    ///
    /// # Errors
    /// If the peer had ended its stream.
    pub fn deliver(&mut self, len: usize) -> Result<(), Violation> {
        if self.ended {
            return Err(Violation::AfterEnd);
        }
        self.delivered += len as u64;
        Ok(())
    }

    /// The peer ends its stream after `announced` bytes.
    ///
    /// # Errors
    /// If another number came, or it had ended before.
    pub fn end(&mut self, announced: u64) -> Result<(), Violation> {
        if self.ended {
            return Err(Violation::AfterEnd);
        }
        if announced != self.delivered {
            return Err(Violation::Length { announced, delivered: self.delivered });
        }
        self.ended = true;
        Ok(())
    }

    /// Whether the peer has ended its stream.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// What the application has, the end being one more: what to tell the peer.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.delivered + u64::from(self.ended)
    }

    /// The count to tell, if the peer does not know it.
    #[must_use]
    pub fn ack_owed(&self) -> Option<u64> {
        (self.told < self.count()).then_some(self.count())
    }

    /// The count to tell, if the peer may be waiting for it.
    #[must_use]
    pub fn ack_due(&self) -> Option<u64> {
        let due = self.ended || self.delivered - self.told.min(self.delivered) >= self.window / ACK_PART;
        self.ack_owed().filter(|_| due)
    }

    /// The carrier has taken an acknowledgement of [`Self::count`].
    pub fn acknowledged(&mut self) {
        self.told = self.count();
    }

    /// The peer's window is now `bytes`.
    pub fn peer_window(&mut self, bytes: u32) {
        self.window = u64::from(bytes).clamp(LEAST_WINDOW as u64, MOST_WINDOW as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Bytes = Vec<u8>;

    #[test]
    fn a_window_full_of_bytes_waits_for_the_peer() {
        let mut stream = Stream::<Bytes>::new();
        stream.outgoing.push(vec![0; FIRST_WINDOW]);
        assert!(stream.outgoing.room(FIRST_WINDOW) == 0 && !stream.outgoing.is_full(FIRST_WINDOW));
        stream.outgoing.sent(FIRST_WINDOW);
        assert!(stream.outgoing.is_full(FIRST_WINDOW) && !stream.outgoing.is_full(2 * FIRST_WINDOW));
        stream.outgoing.acknowledged(1000).unwrap();
        assert_eq!(stream.outgoing.room(FIRST_WINDOW), 1000);
    }

    #[test]
    fn what_was_not_acknowledged_is_sent_again() {
        let mut stream = Stream::<Bytes>::new();
        stream.outgoing.push(b"abc".to_vec());
        stream.outgoing.push(b"def".to_vec());
        stream.outgoing.sent(5);
        stream.outgoing.acknowledged(1).unwrap();
        stream.resume(4).unwrap();
        assert_eq!(stream.outgoing.to_send().collect::<Vec<_>>(), [b"ef"]);
    }

    #[test]
    fn the_end_is_sent_once() {
        let mut stream = Stream::<Bytes>::new();
        stream.outgoing.finish();
        assert_eq!(stream.outgoing.end_to_send(), Some(0));
        stream.outgoing.end_sent();
        stream.outgoing.sent(0);
        assert_eq!(stream.outgoing.end_to_send(), None);
    }

    #[test]
    fn impossible_counts_are_refused() {
        let mut stream = Stream::<Bytes>::new();
        stream.outgoing.push(b"abc".to_vec());
        stream.outgoing.sent(2);
        assert!(stream.outgoing.acknowledged(3).is_err());
        stream.outgoing.acknowledged(2).unwrap();
        assert!(stream.resume(1).is_err());
        assert!(stream.resume(4).is_err());
        stream.resume(3).unwrap();
    }

    #[test]
    fn an_end_must_fit_what_came() {
        let mut incoming = Incoming::new();
        incoming.deliver(2).unwrap();
        assert_eq!(incoming.end(3), Err(Violation::Length { announced: 3, delivered: 2 }));
        incoming.end(2).unwrap();
        assert_eq!(incoming.deliver(1), Err(Violation::AfterEnd));
        assert_eq!(incoming.ack_due(), Some(3));
    }

    #[test]
    fn acknowledgements_follow_the_peers_window() {
        let mut incoming = Incoming::new();
        incoming.deliver(FIRST_WINDOW / 4 - 1).unwrap();
        assert_eq!(incoming.ack_due(), None);
        incoming.deliver(1).unwrap();
        assert!(incoming.ack_due().is_some());
        incoming.peer_window(1024 * 1024);
        assert_eq!(incoming.ack_due(), None);
        assert!(incoming.ack_owed().is_some());
    }
}
