//! How fast one peer may introduce nodes that are not in the table: a burst, then a trickle.
//!
//! It keeps one member from filling the table with made-up nodes faster than people notice; connecting again does not
//! help it. A node with an empty table learns a large network in spite of it: what is over the limit is only left to a
//! later comparison.

use std::{collections::BTreeMap, time::Duration};

use hive_protocol::NodeId;

/// Most new nodes at once.
pub(crate) const BURST: u32 = 2048;
/// Time after which another may follow: 64 in a second.
const EACH: Duration = Duration::from_micros(15_625);
/// Room below which a comparison is not worth its messages: as many records as one answer holds.
const ROUND: u32 = 256;

/// What each peer may still introduce: when it may introduce a whole burst again. Who is not listed may now.
#[derive(Default)]
pub(crate) struct Newcomers(BTreeMap<NodeId, Duration>);

impl Newcomers {
    /// Whether this peer may introduce one more.
    pub fn has_room(&self, peer: &NodeId, now: Duration) -> bool {
        self.room_at(peer, 1) <= now
    }

    /// Notes that this peer introduced one.
    pub fn count(&mut self, peer: &NodeId, now: Duration) {
        if !self.0.contains_key(peer) {
            self.0.retain(|_, full_at| *full_at > now);
        }
        let full_at = self.0.entry(*peer).or_insert(now);
        *full_at = now.max(*full_at) + EACH;
    }

    /// When a comparison with this peer is worth its messages again, if it is not now.
    pub fn wait(&self, peer: &NodeId, now: Duration) -> Option<Duration> {
        Some(self.room_at(peer, ROUND)).filter(|at| *at > now)
    }

    /// When there is room for this many.
    fn room_at(&self, peer: &NodeId, many: u32) -> Duration {
        let full_at = self.0.get(peer).copied().unwrap_or_default();
        full_at.saturating_sub(EACH * (BURST - many))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::id;

    const NOON: Duration = Duration::from_secs(43_200);

    fn introduced(newcomers: &mut Newcomers, peer: u8, now: Duration) -> u32 {
        let mut count = 0;
        while newcomers.has_room(&id(peer), now) {
            newcomers.count(&id(peer), now);
            count += 1;
        }
        count
    }

    #[test]
    fn a_burst_then_a_trickle() {
        let mut newcomers = Newcomers::default();
        assert_eq!(introduced(&mut newcomers, 1, NOON), BURST);
        assert_eq!(introduced(&mut newcomers, 1, NOON + Duration::from_secs(1)), 64);
        assert_eq!(introduced(&mut newcomers, 2, NOON + Duration::from_secs(1)), BURST, "each has its own");
        assert_eq!(introduced(&mut newcomers, 1, NOON + Duration::from_secs(3600)), BURST);
        assert_eq!(introduced(&mut newcomers, 3, NOON + Duration::from_secs(3600)), BURST);
        assert_eq!(newcomers.0.len(), 2, "who may introduce a burst again is forgotten");
    }

    #[test]
    fn comparisons_wait_until_there_is_room_for_an_answer() {
        let mut newcomers = Newcomers::default();
        assert_eq!(newcomers.wait(&id(1), NOON), None);
        introduced(&mut newcomers, 1, NOON);
        let again = newcomers.wait(&id(1), NOON).unwrap();
        assert_eq!(again, NOON + Duration::from_secs(4));
        assert_eq!(newcomers.wait(&id(1), again), None);
        assert_eq!(introduced(&mut newcomers, 1, again), ROUND);
    }
}
