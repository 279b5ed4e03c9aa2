//! Whether a carrier still leads anywhere, and how the path under it is tried while nobody knows.
//!
//! TCP doubles its pauses for as long as nobody answers. Some seconds after a cut it asks so rarely that a path which is
//! back lies unused for nearly as long again as it was gone. So a carrier whose bytes nobody acknowledges counts as
//! stuck, and while one is, connections are tried beside it at an even pace: the first that comes about proves the path,
//! and streams on what is stuck go on elsewhere. A slow reader is never stuck: its kernel answers for it, however long
//! the application there takes.

use std::time::Duration;

use crate::outbox::Dice;

/// Silence in which even a path with a queue would have answered: TCP's first two tries again, at the least.
const SILENCE: Duration = Duration::from_millis(800);
/// How often the oldest bytes must have been sent again. TCP does that by the path's own round trip, so that a long path
/// is given more time.
const AGAIN: u32 = 2;
/// Between attempts, at the longest, and how many follow each other at this pace: about ten seconds' worth.
const PAUSE: Duration = Duration::from_millis(400);
const STEADY: u32 = 30;
/// Between later ones. By then the connection beside is given up, too, and dialled again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a socket knows of its peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pulse {
    /// Bytes that the peer's kernel has not acknowledged, sent or not.
    pub owed: u64,
    /// Segments of these that are under way. None are while a slow reader keeps its window shut.
    pub under_way: u32,
    /// How often in a row the oldest of them was sent again, and nothing new acknowledged.
    pub again: u32,
    /// Since when nothing was heard of the peer.
    pub silence: Duration,
}

impl Pulse {
    /// Whether there is nothing to wait for.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.owed == 0 && self.under_way == 0
    }

    /// Whether the peer should have answered long ago.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.under_way > 0 && self.again >= AGAIN && self.silence >= SILENCE
    }
}

/// When a path is tried, for as long as something on it is stuck.
pub struct Trial {
    dice: Dice,
    tries: u32,
}

impl Trial {
    /// A trial that begins; `seed` is all the randomness it will ever have.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self { dice: Dice::new(seed), tries: 0 }
    }

    /// Notes an attempt; says how long after its beginning the next one begins, whatever has become of this one.
    pub fn tried(&mut self) -> Duration {
        let doublings = self.tries.saturating_sub(STEADY - 1).min(8);
        self.tries = self.tries.saturating_add(1);
        self.dice.jitter(PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUCK: Pulse = Pulse { owed: 100, under_way: 1, again: 2, silence: Duration::from_secs(1) };

    #[test]
    fn silence_alone_is_not_suspicious() {
        let thinking = Pulse { silence: Duration::from_secs(600), ..Pulse::default() };
        assert!(thinking.is_calm() && !thinking.is_stuck());
    }

    #[test]
    fn a_peer_that_answers_nothing_is_stuck() {
        assert!(STUCK.is_stuck() && !STUCK.is_calm());
        assert!(!Pulse { again: 1, ..STUCK }.is_stuck(), "a single loss");
        assert!(!Pulse { silence: Duration::from_millis(100), ..STUCK }.is_stuck(), "many losses, and answers");
    }

    #[test]
    fn a_slow_reader_is_not_stuck() {
        let shut = Pulse { under_way: 0, again: 0, silence: Duration::from_secs(90), ..STUCK };
        assert!(!shut.is_stuck() && !shut.is_calm(), "looked at again: its window opens without a word to this end");
    }

    #[test]
    fn a_path_is_tried_steadily_and_then_ever_more_rarely() {
        let mut trial = Trial::new([7; 32]);
        let pauses: Vec<Duration> = (0..60).map(|_| trial.tried()).collect();
        let steady = &pauses[..STEADY as usize];
        assert!(steady.iter().all(|pause| (PAUSE * 3 / 4..=PAUSE).contains(pause)), "{steady:?}");
        assert!(steady.iter().sum::<Duration>() > Duration::from_secs(8));
        assert!(pauses[50..].iter().all(|pause| *pause >= LONGEST_PAUSE * 3 / 4), "{pauses:?}");
    }
}
