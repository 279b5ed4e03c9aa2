//! What the core has decided and the shell has not yet carried out, and the dice it decides with.

use std::{collections::VecDeque, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::{Change, Output};

/// Outputs in the order in which they are to be carried out.
///
/// It holds what one call produced, and each call produces a bounded number: one message to each connection for each
/// thing learnt, and at most a few dozen for a peer's question.
#[derive(Default)]
pub(crate) struct Outbox(VecDeque<Output>);

impl Outbox {
    pub fn push(&mut self, output: Output) {
        self.0.push_back(output);
    }

    pub fn persist(&mut self, change: Change) {
        self.push(Output::Persist(change));
    }

    pub fn pop(&mut self) -> Option<Output> {
        self.0.pop_front()
    }
}

/// The core's only randomness: a generator that repeats itself for a seed.
pub(crate) struct Dice(StdRng);

impl Dice {
    pub fn new(seed: [u8; 32]) -> Self {
        Self(StdRng::from_seed(seed))
    }

    /// A moment between `low` and `high` milliseconds from now.
    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.0.random_range(low..=high))
    }

    /// `time`, shortened by up to a quarter so that many nodes do not act in step.
    pub fn jitter(&mut self, time: Duration) -> Duration {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.millis(millis - millis / 4, millis)
    }

    /// `time`, a tenth more or less (RFC 6887, section 8.1.1).
    pub fn around(&mut self, time: Duration) -> Duration {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 2);
        self.millis(millis - millis / 10, millis + millis / 10)
    }

    /// Bytes that nobody foresees who does not know the seed.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        self.0.random()
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        from.choose(&mut self.0).copied()
    }
}
