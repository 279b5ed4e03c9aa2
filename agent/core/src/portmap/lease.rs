//! One port: what was asked for it, what was granted, and when to ask again.

use std::{net::Ipv4Addr, time::Duration};

use super::{
    Transport,
    codec::{self, Ask, Mapped, Version},
};
use crate::outbox::Dice;

/// PCP's first pause and its longest (RFC 6887, section 8.1.1).
const PCP_PAUSES: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(1024));
/// NAT-PMP's (RFC 6886, section 3.1).
const NAT_PMP_PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(64));
/// No grant is believed for longer; what forgets sooner than the least is not worth its renewals.
const LIFETIMES: (u64, u64) = (120, 24 * 3600);
/// A refusal holds for at least, and at most, so many seconds.
const REFUSALS: (u32, u32) = (300, 3600);

/// A port to be mapped.
pub(super) struct Lease {
    pub transport: Transport,
    pub internal: u16,
    /// Names the mapping in PCP: nobody else can change it.
    pub nonce: [u8; 12],
    pub retry: Retry,
    grant: Option<Grant>,
    /// The public port it had last, or else its own, is asked for.
    wish: u16,
}

/// A port that is mapped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grant {
    pub port: u16,
    /// Where PCP granted it.
    pub address: Option<Ipv4Addr>,
    expires: Duration,
}

impl Lease {
    pub fn new(transport: Transport, internal: u16, nonce: [u8; 12], now: Duration) -> Self {
        Self { transport, internal, nonce, retry: Retry::due_at(now), grant: None, wish: internal }
    }

    pub fn grant(&self) -> Option<&Grant> {
        self.grant.as_ref()
    }

    pub fn ask_at(&mut self, at: Duration) {
        self.retry = Retry::due_at(at);
    }

    /// The request for so many seconds.
    pub fn request(&self, version: Version, local: Ipv4Addr, lifetime: u32) -> Vec<u8> {
        // A mapping is taken back without naming what it was (RFC 6886, section 3.4; RFC 6887, section 15.1).
        let (external, address) = match (lifetime, self.grant) {
            (0, _) => (0, None),
            (_, grant) => (self.wish, grant.and_then(|grant| grant.address)),
        };
        let ask = Ask { transport: self.transport, internal: self.internal, external, lifetime };
        match version {
            Version::Pcp => codec::pcp_map(local, self.nonce, &ask, address.unwrap_or(Ipv4Addr::UNSPECIFIED)),
            Version::NatPmp => codec::nat_pmp_map(&ask),
        }
    }

    pub fn granted(&mut self, mapped: &Mapped, dice: &mut Dice, now: Duration) {
        let lifetime = Duration::from_secs(u64::from(mapped.lifetime).clamp(LIFETIMES.0, LIFETIMES.1));
        let address = mapped.pcp.map(|(address, _)| address);
        self.grant = Some(Grant { port: mapped.external, address, expires: now + lifetime });
        self.wish = mapped.external;
        self.retry = Retry::due_at(now + renewal(lifetime, dice));
    }

    pub fn refused(&mut self, again: Duration) {
        self.grant = None;
        self.ask_at(again);
    }

    /// Forgets a grant that has run out; true if it just did.
    pub fn expire(&mut self, now: Duration) -> bool {
        self.grant.take_if(|grant| grant.expires <= now).is_some()
    }

    /// When there is something to do, of which asking may be no part.
    pub fn next(&self, asks: bool) -> Option<Duration> {
        let asking = self.retry.due().filter(|_| asks);
        asking.into_iter().chain(self.grant.map(|grant| grant.expires)).min()
    }
}

/// When to renew: after half of the lifetime and up to an eighth more (RFC 6887, section 11.2.1).
pub(super) fn renewal(lifetime: Duration, dice: &mut Dice) -> Duration {
    let eighth = u64::try_from(lifetime.as_millis() / 8).unwrap_or(0);
    lifetime / 2 + dice.millis(0, eighth)
}

/// For how long a refusal is taken at its word.
pub(super) fn after_refusal(lifetime: u32) -> Duration {
    Duration::from_secs(lifetime.clamp(REFUSALS.0, REFUSALS.1).into())
}

/// A request that is sent again until it is answered.
#[derive(Debug)]
pub(super) struct Retry {
    pub tries: u32,
    pause: Duration,
    next: Option<Duration>,
}

impl Retry {
    pub fn idle() -> Self {
        Self { tries: 0, pause: Duration::ZERO, next: None }
    }

    pub fn due_at(at: Duration) -> Self {
        Self { next: Some(at), ..Self::idle() }
    }

    pub fn due(&self) -> Option<Duration> {
        self.next
    }

    /// Whether to send now; if so the next time is set.
    pub fn take_due(&mut self, version: Version, dice: &mut Dice, now: Duration) -> bool {
        if self.next.is_none_or(|at| at > now) {
            return false;
        }
        let (first, longest) = match version {
            Version::Pcp => PCP_PAUSES,
            Version::NatPmp => NAT_PMP_PAUSES,
        };
        let pause = if self.tries == 0 { first } else { (self.pause * 2).min(longest) };
        self.pause = if version == Version::Pcp { dice.around(pause) } else { pause };
        self.tries = self.tries.saturating_add(1);
        self.next = Some(now + self.pause);
        true
    }
}
