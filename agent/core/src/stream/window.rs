//! How many bytes a stream may have unacknowledged: about twice what its path and its reader hold, by measurement.
//!
//! A round is the time from the moment the carrier takes a byte until the peer acknowledges it. What is acknowledged in a
//! round during which the window was full is the rate that path and reader allow; the shortest round is the round trip
//! without a queue. Twice their product keeps a path busy in spite of acknowledgements that come in parts, and a slow
//! reader's product is small however long its queue: the window follows what is consumed, not what is written. (As
//! BBR models a path: Cardwell and others, 2016.) The clock is the caller's; any beginning will do.

use std::time::Duration;

use super::{FIRST_WINDOW, LEAST_WINDOW, MOST_WINDOW};

/// Rounds of which the fastest counts.
const ROUNDS: usize = 8;
/// After this long the shortest round is measured anew, for two rounds with no more than [`FIRST_WINDOW`].
const REFRESH: Duration = Duration::from_secs(30);
/// What busy machines may take to come round to a stream, whatever its path; for that alone it gets no more than this.
const TURN: Duration = Duration::from_millis(20);
const MOST_FOR_TURNS: usize = 4 * 1024 * 1024;

/// A stream's window towards its peer.
#[derive(Debug, Clone)]
pub struct Window {
    bytes: usize,
    /// What the peer believes, and what it is to be told.
    told: usize,
    untold: Option<usize>,
    round: Option<Round>,
    /// Bytes a second, of the last rounds in which the window was full.
    rates: [u64; ROUNDS],
    rounds: usize,
    /// The shortest such round, and when it was.
    shortest: Option<(Duration, Duration)>,
    probe: Probe,
}

/// What was noted when a round began.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// The count of bytes whose acknowledgement ends it.
    until: u64,
    acked: u64,
    began: Duration,
    was_full: bool,
}

/// Where measuring the shortest round anew has got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    Off,
    /// The queue empties.
    Drain,
    Measure,
}

impl Window {
    /// The window of a stream that has proven nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bytes: FIRST_WINDOW,
            told: FIRST_WINDOW,
            untold: None,
            round: None,
            rates: [0; ROUNDS],
            rounds: 0,
            shortest: None,
            probe: Probe::Off,
        }
    }

    /// Another carrier, another path: nothing that was measured holds. The peer still believes what it was told.
    pub fn restart(&mut self) {
        *self = Self { told: self.told, untold: self.untold, ..Self::new() };
    }

    /// Bytes that may be unacknowledged, where the node grants this `share` of its memory.
    #[must_use]
    pub fn bytes(&self, share: usize) -> usize {
        let measured = match self.probe {
            Probe::Off => self.bytes,
            Probe::Drain | Probe::Measure => FIRST_WINDOW,
        };
        measured.min(share.max(LEAST_WINDOW))
    }

    /// Whether [`Self::sent`] should be told of the next bytes.
    #[must_use]
    pub fn is_curious(&self) -> bool {
        self.round.is_none()
    }

    /// The carrier takes more, behind the first `before` bytes; the peer has `acked`.
    pub fn sent(&mut self, before: u64, acked: u64, now: Duration) {
        self.round.get_or_insert(Round { until: before + 1, acked, began: now, was_full: false });
    }

    /// The peer has `acked` now. `was_full` until then: the window alone kept the application from writing.
    pub fn acknowledged(&mut self, acked: u64, was_full: bool, share: usize, now: Duration) {
        if let Some(round) = &mut self.round {
            round.was_full |= was_full;
        }
        if let Some(round) = self.round.take_if(|round| round.until <= acked) {
            self.rounded(round, acked, now);
        }
        self.tell(share);
    }

    fn rounded(&mut self, round: Round, acked: u64, now: Duration) {
        let took = now.saturating_sub(round.began);
        if !round.was_full || took.is_zero() {
            return;
        }
        let rate = per_second(acked - round.acked, took);
        let (shortest, at) = self.shortest.unwrap_or((took, now));
        match self.probe {
            Probe::Drain => self.probe = Probe::Measure,
            Probe::Measure => {
                self.probe = Probe::Off;
                self.shortest = Some((took, now));
                // Another path, or another reader: older rates are those of another time.
                if took > 2 * shortest {
                    self.rates = [0; ROUNDS];
                    self.note(rate);
                }
            }
            Probe::Off if now.saturating_sub(at) > REFRESH => self.probe = Probe::Drain,
            Probe::Off => {
                self.shortest = Some(if took < shortest { (took, now) } else { (shortest, at) });
                self.note(rate);
            }
        }
        self.bytes = self.measured().unwrap_or(self.bytes);
    }

    fn note(&mut self, rate: u64) {
        self.rates[self.rounds % ROUNDS] = rate;
        self.rounds += 1;
    }

    /// Twice what path and reader hold, or take in a turn.
    fn measured(&self) -> Option<usize> {
        let fastest = self.rates.iter().copied().max()?;
        let twice = |span: Duration| {
            usize::try_from(2 * u128::from(fastest) * span.as_nanos() / 1_000_000_000).unwrap_or(usize::MAX)
        };
        let turn = twice(TURN).min(MOST_FOR_TURNS);
        Some(twice(self.shortest?.0).max(turn).clamp(FIRST_WINDOW, MOST_WINDOW))
    }

    /// Notes that the peer believes another window than there is, by a factor of two: it acknowledges parts of it.
    fn tell(&mut self, share: usize) {
        let now = self.bytes(share);
        let differs = now >= 2 * self.told || now <= self.told / 2;
        self.untold = differs.then_some(now);
    }

    /// Whether the peer is to be told of another window.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.untold.is_some()
    }

    /// What the peer is told now, if it is to be.
    pub fn take_news(&mut self) -> Option<usize> {
        let news = self.untold.take()?;
        self.told = news;
        Some(news)
    }
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

fn per_second(bytes: u64, took: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 1_000_000_000 / took.as_nanos().max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
