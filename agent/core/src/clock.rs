//! The two clocks, and whether they moved as clocks do.

use std::time::Duration;

use hive_protocol::Timestamp;

use crate::Now;

/// A difference that no busy machine explains: the machine slept, or somebody set the clock.
const JUMP: Duration = Duration::from_secs(10);

/// The latest moment the core knows.
pub(crate) struct Clock(Now);

impl Clock {
    pub fn new(now: Now) -> Self {
        Self(now)
    }

    pub fn now(&self) -> Now {
        self.0
    }

    /// Moves on. True if time jumped: the wall clock against the monotonic one, or both far past the moment that was
    /// due next.
    pub fn advance(&mut self, now: Now, due: Option<Duration>) -> bool {
        let before = std::mem::replace(&mut self.0, now);
        let slept = due.is_some_and(|due| now.mono > due.max(before.mono) + JUMP);
        let passed = now.mono.saturating_sub(before.mono);
        let expected = Timestamp(before.wall.0.saturating_add(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)));
        slept || expected.age(now.wall).max(now.wall.age(expected)) > JUMP
    }

    /// When the wall clock will show `wall`, on the monotonic one.
    pub fn mono_at(&self, wall: Timestamp) -> Duration {
        self.0.mono + self.0.wall.age(wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono: u64, wall: u64) -> Now {
        Now { mono: Duration::from_secs(mono), wall: Timestamp(wall * 1000) }
    }

    #[test]
    fn a_sleep_is_noticed_on_either_kind_of_clock() {
        let due = Some(Duration::from_secs(20));
        assert!(!Clock::new(at(10, 1000)).advance(at(25, 1015), due), "late, but not more than a busy machine is");
        assert!(Clock::new(at(10, 1000)).advance(at(100, 1090), due), "a clock that counts sleep");
        assert!(Clock::new(at(10, 1000)).advance(at(11, 1090), due), "a clock that does not");
        assert!(Clock::new(at(10, 1000)).advance(at(11, 500), due), "set back");
        assert!(!Clock::new(at(10, 1000)).advance(at(5000, 5990), None), "nothing was due");
    }

    #[test]
    fn wall_moments_have_a_monotonic_one() {
        assert_eq!(Clock::new(at(10, 1000)).mono_at(Timestamp(1_005_000)), Duration::from_secs(15));
        assert_eq!(Clock::new(at(10, 1000)).mono_at(Timestamp(5)), Duration::from_secs(10));
    }
}
