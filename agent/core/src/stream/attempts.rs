//! Finding a stream's other end again: what the egress says first on its next carrier, and which of such first words
//! still counts at the ingress.
//!
//! A carrier that was given up may be slow, not dead, and what was said on it arrive after all: an OPEN that was sent
//! again since, or a RESUME that a later one has overtaken. Numbers tell them apart.

/// What an egress says first on a carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum First {
    /// The stream begins: nothing of it has arrived anywhere.
    Open {
        /// Number of the attempt.
        attempt: u32,
    },
    /// The stream goes on.
    Resume {
        /// Number of the attempt.
        attempt: u32,
    },
}

/// The egress' attempts to find its stream; the first is the OPEN that begins it, number 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Seeker {
    attempt: u32,
    lost: bool,
}

impl Seeker {
    /// The next attempt.
    pub fn again(&mut self) -> First {
        self.attempt = self.attempt.saturating_add(1);
        let attempt = self.attempt;
        if std::mem::take(&mut self.lost) { First::Open { attempt } } else { First::Resume { attempt } }
    }

    /// The ingress knows no such stream. True if that only means that OPEN was lost, because it never `answered`: the
    /// next attempt opens the stream.
    pub fn unknown(&mut self, answered: bool) -> bool {
        self.lost = !answered;
        self.lost
    }
}

/// The latest attempt for one stream that an ingress has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Latest(u32);

impl Latest {
    /// The stream was opened by this attempt; the first has no number on the wire.
    #[must_use]
    pub fn opened(attempt: Option<u32>) -> Self {
        Self(attempt.unwrap_or(0))
    }

    /// Takes a RESUME, unless it was given up before one that was taken. One without a number counts as it comes.
    #[must_use]
    pub fn take(&mut self, attempt: Option<u32>) -> bool {
        let newer = attempt.is_none_or(|attempt| attempt > self.0);
        self.0 = self.0.max(attempt.unwrap_or(0));
        newer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_open_is_said_again_and_nothing_else() {
        let mut seeker = Seeker::default();
        assert_eq!(seeker.again(), First::Resume { attempt: 1 });
        assert!(seeker.unknown(false));
        assert_eq!(seeker.again(), First::Open { attempt: 2 });
        assert_eq!(seeker.again(), First::Resume { attempt: 3 });
        assert!(!seeker.unknown(true), "a stream that was answered is gone");
    }

    #[test]
    fn what_was_overtaken_does_not_count() {
        let mut latest = Latest::opened(None);
        assert!(latest.take(Some(2)));
        assert!(!latest.take(Some(1)) && !latest.take(Some(2)));
        assert!(latest.take(None) && latest.take(Some(3)));
    }
}
