//! How fast one connection may introduce nodes that are not in the table: a burst, then a trickle.
//!
//! It keeps one member from filling the table with made-up nodes faster than people notice. A node with an empty table
//! learns a large network in spite of it: what is over the limit is only left to a later comparison.

use std::time::Duration;

/// Most new nodes at once.
pub(crate) const BURST: u32 = 2048;
/// Time after which another may follow: 64 in a second.
const EACH: Duration = Duration::from_micros(15_625);
/// Room below which a comparison is not worth its messages: as many records as one answer holds.
const ROUND: u32 = 256;

/// What one connection may still introduce.
pub(crate) struct Newcomers {
    /// When it may introduce a whole burst again.
    full_at: Duration,
}

impl Newcomers {
    /// Nobody was introduced yet.
    pub fn new(now: Duration) -> Self {
        Self { full_at: now }
    }

    /// Whether one more may be introduced.
    pub fn has_room(&self, now: Duration) -> bool {
        self.room_at(1) <= now
    }

    /// Notes that one was introduced.
    pub fn count(&mut self, now: Duration) {
        self.full_at = self.full_at.max(now) + EACH;
    }

    /// When a comparison is worth its messages again, if it is not now.
    pub fn wait(&self, now: Duration) -> Option<Duration> {
        Some(self.room_at(ROUND)).filter(|at| *at > now)
    }

    /// When there is room for this many.
    fn room_at(&self, many: u32) -> Duration {
        self.full_at.saturating_sub(EACH * (BURST - many))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Duration = Duration::from_secs(43_200);

    fn introduced(newcomers: &mut Newcomers, now: Duration) -> u32 {
        let mut count = 0;
        while newcomers.has_room(now) {
            newcomers.count(now);
            count += 1;
        }
        count
    }

    #[test]
    fn a_burst_then_a_trickle() {
        let mut newcomers = Newcomers::new(NOON);
        assert_eq!(introduced(&mut newcomers, NOON), BURST);
        assert_eq!(introduced(&mut newcomers, NOON + Duration::from_secs(1)), 64);
        assert_eq!(introduced(&mut newcomers, NOON + Duration::from_secs(3600)), BURST);
    }

    #[test]
    fn comparisons_wait_until_there_is_room_for_an_answer() {
        let mut newcomers = Newcomers::new(NOON);
        assert_eq!(newcomers.wait(NOON), None);
        introduced(&mut newcomers, NOON);
        let again = newcomers.wait(NOON).unwrap();
        assert_eq!(again, NOON + Duration::from_secs(4));
        assert_eq!(newcomers.wait(again), None);
        assert_eq!(introduced(&mut newcomers, again), ROUND);
    }
}
