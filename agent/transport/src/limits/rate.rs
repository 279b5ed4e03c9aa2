//! How many handshakes strangers are given: a burst, then a trickle, in all and for each prefix.
//!
//! The other limits count those who are here. Whoever comes, has a handshake computed and leaves at once is never counted
//! for long, and a handshake costs this node more than anything else that a stranger may ask for.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use super::{Exceeded, Prefix};

/// How fast handshakes are given out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    /// At once.
    burst: u32,
    /// After which another one may follow.
    each: Duration,
}

/// All who may be in their handshake at once, then a few for each core: one takes 1 ms on a server, 30 on a small board.
fn in_all() -> Rate {
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get().min(4) as u32);
    Rate { burst: 512, each: Duration::from_secs(1) / 16 / cores }
}

/// Fifty nodes behind one address find each other again after a power cut, a script may call `hivectl --direct` again and
/// again, and nobody there takes everything.
const OF_ONE_PREFIX: Rate = Rate { burst: 64, each: Duration::from_millis(125) };

/// What has been given out. A prefix that is not listed may have a whole burst.
#[derive(Debug)]
pub(super) struct Rates {
    in_all: Rate,
    all: Taken,
    prefixes: HashMap<Prefix, Taken>,
}

/// When a whole burst is there again, if that is to come.
#[derive(Debug, Clone, Copy, Default)]
struct Taken(Option<Instant>);

impl Taken {
    fn has_room(self, rate: Rate, now: Instant) -> bool {
        let room_left = |full_at: Instant| full_at.saturating_duration_since(now) <= rate.each * (rate.burst - 1);
        self.0.is_none_or(room_left)
    }

    fn take(&mut self, rate: Rate, now: Instant) {
        self.0 = Some(self.0.map_or(now, |full_at| full_at.max(now)) + rate.each);
    }
}

impl Rates {
    pub fn new() -> Self {
        Self { in_all: in_all(), all: Taken::default(), prefixes: HashMap::new() }
    }

    /// Takes one handshake for a stranger of this prefix.
    ///
    /// # Errors
    /// [`Exceeded::Rate`] if there is none left, here or in all; nothing is taken then.
    pub fn take(&mut self, prefix: Prefix, now: Instant) -> Result<(), Exceeded> {
        let here = self.prefixes.get(&prefix).copied().unwrap_or_default();
        if !self.all.has_room(self.in_all, now) || !here.has_room(OF_ONE_PREFIX, now) {
            return Err(Exceeded::Rate);
        }
        self.all.take(self.in_all, now);
        // As many as all could have taken since a prefix was full again: the list is as short as the burst is.
        self.prefixes.retain(|_, taken| taken.0.is_some_and(|full_at| full_at > now));
        self.prefixes.entry(prefix).or_default().take(OF_ONE_PREFIX, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn prefix(number: u32) -> Prefix {
        Prefix::V4(Ipv4Addr::from(number))
    }

    /// How many of the handshakes asked for by `from` are given at one moment.
    fn given(rates: &mut Rates, from: impl Iterator<Item = u32>, now: Instant) -> u32 {
        from.filter(|number| rates.take(prefix(*number), now).is_ok()).count() as u32
    }

    #[test]
    fn one_address_gets_a_burst_and_then_a_trickle() {
        let (mut rates, now) = (Rates::new(), Instant::now());
        let many = || std::iter::repeat_n(1, 100);
        assert_eq!(given(&mut rates, many(), now), OF_ONE_PREFIX.burst);
        assert_eq!(given(&mut rates, many(), now + OF_ONE_PREFIX.each * 3), 3);
        assert_eq!(given(&mut rates, many().map(|one| one + 1), now), OF_ONE_PREFIX.burst, "others have their own");
        assert_eq!(given(&mut rates, many(), now + Duration::from_secs(3600)), OF_ONE_PREFIX.burst);
    }

    #[test]
    fn many_addresses_get_no_more_than_all_may() {
        let (mut rates, now) = (Rates::new(), Instant::now());
        let each = rates.in_all.each;
        assert_eq!(given(&mut rates, 0..10_000, now), rates.in_all.burst);
        assert_eq!(given(&mut rates, 10_000..20_000, now + each * 5), 5);
        assert!(rates.prefixes.len() <= rates.in_all.burst as usize + 5, "{}", rates.prefixes.len());
        given(&mut rates, 20_000..20_001, now + Duration::from_secs(3600));
        assert_eq!(rates.prefixes.len(), 1, "those of the past are forgotten");
    }
}
