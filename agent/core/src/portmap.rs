//! Ports of this node on the public side of its router, by PCP (RFC 6887) or NAT-PMP (RFC 6886).
//!
//! [`PortMapper`] decides what to send to the gateway and when: PCP first, NAT-PMP where that is not spoken; again until
//! an answer comes; renewed in time; anew when the gateway has lost its table; taken back at the end. Like everything in
//! this crate it has no socket, no clock and no randomness of its own. Only the gateway is believed, and of what it says
//! only what answers a request of ours. IPv4 alone: with IPv6 nothing is translated.

mod codec;
mod lease;

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use crate::{outbox::Dice, reach::is_public};
use codec::{Answer, Body, Mapped};
pub use codec::{MAX_LEN, Version};
use lease::{Lease, Retry};

/// Where a gateway listens.
pub const PORT: u16 = 5351;
/// Where it announces changes, to [`ANNOUNCED_TO`].
pub const ANNOUNCE_PORT: u16 = 5350;
/// All hosts of the local network.
pub const ANNOUNCED_TO: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);

/// Seconds for which a port is asked for. Half of it is how long a gateway that started anew, and does not announce it,
/// goes unnoticed.
const LIFETIME: u32 = 1200;
/// Requests of PCP without an answer after which NAT-PMP is tried: what speaks that alone should say so, and may not.
const PCP_TRIES: u32 = 2;
/// Requests of NAT-PMP without an answer after which the gateway is left alone (RFC 6886, section 3.1).
const NAT_PMP_TRIES: u32 = 9;
/// For how long, and how long at least whatever is announced: a late answer reads as an announcement.
const REST: Duration = Duration::from_secs(15 * 60);
const LEAST_REST: Duration = Duration::from_secs(60);
/// Most ports.
const MOST: usize = 8;
/// All nodes of a network hear of its gateway's restart at once (RFC 6887, section 14.1.3), in milliseconds.
const SPREAD: u64 = 5000;

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Which ports to map, and where to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The router that the default route leads to.
    pub gateway: Ipv4Addr,
    /// The address here that it is reached from.
    pub local: Ipv4Addr,
    /// Those listened on at that address.
    pub ports: Vec<(Transport, u16)>,
}

/// What has been achieved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Who was asked.
    pub gateway: Ipv4Addr,
    /// What it speaks; none while it has not answered.
    pub version: Option<Version>,
    /// Where this node can be dialled: public addresses only.
    pub mapped: Vec<(Transport, SocketAddrV4)>,
    /// What is in the way.
    pub problem: Option<String>,
}

/// Keeps the ports of a node mapped.
///
/// After every call, send what [`PortMapper::poll_send`] has to the gateway's [`PORT`], and arm a timer for
/// [`PortMapper::poll_timeout`].
pub struct PortMapper {
    dice: Dice,
    out: VecDeque<Vec<u8>>,
    site: Option<Site>,
}

/// The gateway of the moment.
struct Site {
    target: Target,
    phase: Phase,
    heard: Option<Heard>,
    /// Its public address, and when to ask NAT-PMP for it.
    external: Option<Ipv4Addr>,
    address: Retry,
    leases: Vec<Lease>,
    problem: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Asking(Version),
    Resting { since: Duration, until: Duration },
}

/// The last word of a gateway: its epoch, and when it was heard.
#[derive(Debug, Clone, Copy)]
struct Heard {
    epoch: u32,
    at: Duration,
}

impl PortMapper {
    /// Maps nothing yet. `seed` is all the randomness it will ever have.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self { dice: Dice::new(seed), out: VecDeque::new(), site: None }
    }

    /// Maps these ports from now on. What was mapped otherwise is taken back where the same gateway can be told.
    pub fn retarget(&mut self, target: Option<Target>, now: Duration) {
        let same = |site: &Site, new: &Target| (site.target.gateway, site.target.local) == (new.gateway, new.local);
        match (&mut self.site, target) {
            (Some(site), Some(new)) if same(site, &new) => {
                site.set_ports(new.ports, &mut self.dice, &mut self.out, now)
            }
            (site, new) => *site = new.map(|target| Site::new(target, &mut self.dice, now)),
        }
        self.timeout(now);
    }

    /// A datagram came from the gateway's port, or to [`ANNOUNCED_TO`]. What is not the gateway's word is passed over.
    pub fn received(&mut self, from: Ipv4Addr, bytes: &[u8], now: Duration) {
        let Some(site) = self.site.as_mut().filter(|site| site.target.gateway == from) else { return };
        if let Some(answer) = codec::parse(bytes) {
            site.answered(&answer, &mut self.dice, now);
        }
        self.timeout(now);
    }

    /// Does what is due.
    pub fn timeout(&mut self, now: Duration) {
        if let Some(site) = &mut self.site {
            site.timeout(&mut self.dice, &mut self.out, now);
        }
    }

    /// The next datagram to send.
    pub fn poll_send(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    /// When to call [`PortMapper::timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.site.as_ref()?.next()
    }

    /// What has been achieved; none while there is nobody to ask, or nothing to ask for.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        self.site.as_ref().filter(|site| !site.leases.is_empty()).map(Site::report)
    }

    /// Takes every mapping back; one datagram for each, sent once.
    pub fn shut_down(&mut self) {
        if let Some(mut site) = self.site.take() {
            site.set_ports(Vec::new(), &mut self.dice, &mut self.out, Duration::ZERO);
        }
    }
}

impl Site {
    fn new(target: Target, dice: &mut Dice, now: Duration) -> Self {
        let mut site = Self {
            phase: Phase::Asking(Version::Pcp),
            heard: None,
            external: None,
            address: Retry::idle(),
            leases: Vec::new(),
            problem: None,
            target: Target { ports: Vec::new(), ..target },
        };
        site.set_ports(target.ports, dice, &mut VecDeque::new(), now);
        site
    }

    fn set_ports(
        &mut self,
        mut ports: Vec<(Transport, u16)>,
        dice: &mut Dice,
        out: &mut VecDeque<Vec<u8>>,
        now: Duration,
    ) {
        ports.truncate(MOST);
        for gone in self.leases.extract_if(.., |lease| !ports.contains(&(lease.transport, lease.internal))) {
            if let (Some(_), Phase::Asking(version)) = (gone.grant(), self.phase) {
                out.push_back(gone.request(version, self.target.local, 0));
            }
        }
        for (transport, port) in &ports {
            if !self.leases.iter().any(|lease| (lease.transport, lease.internal) == (*transport, *port)) {
                self.leases.push(Lease::new(*transport, *port, dice.bytes(), now));
            }
        }
        self.target.ports = ports;
    }

    fn timeout(&mut self, dice: &mut Dice, out: &mut VecDeque<Vec<u8>>, now: Duration) {
        if matches!(self.phase, Phase::Resting { until, .. } if until <= now) {
            self.begin(Version::Pcp, now);
        }
        self.forget_expired(now);
        self.give_up(now);
        let Phase::Asking(version) = self.phase else { return };
        if version == Version::NatPmp && !self.leases.is_empty() && self.address.take_due(version, dice, now) {
            out.push_back(codec::nat_pmp_address());
        }
        if !self.may_map(version) {
            return;
        }
        for lease in &mut self.leases {
            if lease.retry.take_due(version, dice, now) {
                out.push_back(lease.request(version, self.target.local, LIFETIME));
            }
        }
    }

    /// NAT-PMP begins with the public address (RFC 6886, section 3.2): who does not answer that maps nothing.
    fn may_map(&self, version: Version) -> bool {
        version == Version::Pcp || self.heard.is_some()
    }

    /// A gateway whose mappings have all run out unrenewed may be another one by now.
    fn forget_expired(&mut self, now: Duration) {
        let expired = self.leases.iter_mut().map(|lease| usize::from(lease.expire(now))).sum::<usize>();
        if expired > 0 && self.leases.iter().all(|lease| lease.grant().is_none()) {
            self.begin(Version::Pcp, now);
        }
    }

    /// Changes the protocol, or rests, where nobody has answered for long enough.
    fn give_up(&mut self, now: Duration) {
        if self.heard.is_some() {
            return;
        }
        let spent = |retry: &Retry, tries| retry.tries >= tries && retry.due().is_some_and(|at| at <= now);
        match self.phase {
            Phase::Asking(Version::Pcp) if self.leases.iter().any(|lease| spent(&lease.retry, PCP_TRIES)) => {
                self.begin(Version::NatPmp, now);
            }
            Phase::Asking(Version::NatPmp) if spent(&self.address, NAT_PMP_TRIES) => {
                self.rest("it does not answer", now);
            }
            _ => {}
        }
    }

    fn begin(&mut self, version: Version, now: Duration) {
        (self.phase, self.heard, self.problem) = (Phase::Asking(version), None, None);
        self.address = Retry::due_at(now);
        self.leases.iter_mut().for_each(|lease| lease.ask_at(now));
    }

    fn rest(&mut self, why: &str, now: Duration) {
        let phase = Phase::Resting { since: now, until: now + REST };
        (self.phase, self.problem) = (phase, Some(why.to_owned()));
    }

    fn answered(&mut self, answer: &Answer, dice: &mut Dice, now: Duration) {
        let announced = matches!(answer.body, Body::Announce(_));
        match (self.phase, answer.body) {
            (Phase::Resting { since, .. }, Body::Announce(_)) if since + LEAST_REST <= now => {
                return self.begin(Version::Pcp, now);
            }
            (Phase::Asking(Version::Pcp), Body::OtherVersion) => return self.begin(Version::NatPmp, now),
            // The same in NAT-PMP's words answers another of the requests of PCP.
            (Phase::Asking(Version::NatPmp), Body::OtherVersion) if answer.version == Version::Pcp => {
                return self.rest("it speaks neither protocol", now);
            }
            (Phase::Asking(version), body) if version == answer.version && body != Body::OtherVersion => {}
            _ => return,
        }
        if self.has_started_anew(answer, now) {
            let spread = if announced { dice.millis(0, SPREAD) } else { Duration::ZERO };
            self.leases.iter_mut().for_each(|lease| lease.ask_at(now + spread));
            self.address = Retry::due_at(now + spread);
        }
        self.heard = Some(Heard { epoch: answer.epoch, at: now });
        match answer.body {
            Body::Announce(address) => self.located(address, dice, now),
            Body::Mapped(mapped) => self.mapped(&mapped, dice, now),
            Body::Refused { request, nonce, code, lifetime } => {
                self.refused(request, nonce, codec::reason(answer.version, code), lifetime, now);
            }
            Body::OtherVersion => {}
        }
    }

    /// Whether the gateway's clock says that it has lost what it knew (RFC 6887, section 8.5; RFC 6886, section 3.6, is
    /// the same with other tolerances).
    fn has_started_anew(&self, answer: &Answer, now: Duration) -> bool {
        let Some(before) = self.heard else { return false };
        let here = i64::try_from(now.saturating_sub(before.at).as_secs()).unwrap_or(i64::MAX / 2);
        // A second back is one of two answers that overtook each other, unless more than that has passed here.
        let there = i64::from(answer.epoch) - i64::from(before.epoch);
        there < -1 || here + 2 < there - there / 16 || there + 2 < here - here / 16
    }

    fn located(&mut self, address: Option<Ipv4Addr>, dice: &mut Dice, now: Duration) {
        if let Some(address) = address {
            self.external = Some(address);
            self.address = Retry::due_at(now + lease::renewal(Duration::from_secs(LIFETIME.into()), dice));
        }
    }

    fn mapped(&mut self, mapped: &Mapped, dice: &mut Dice, now: Duration) {
        let asked = |lease: &&mut Lease| {
            (lease.transport, lease.internal) == (mapped.transport, mapped.internal)
                && mapped.pcp.is_none_or(|(_, nonce)| nonce == lease.nonce)
        };
        let Some(lease) = self.leases.iter_mut().find(asked) else { return };
        // Zero answers a mapping that was taken back.
        if mapped.lifetime > 0 && mapped.external > 0 {
            lease.granted(mapped, dice, now);
            self.problem = None;
        }
    }

    fn refused(
        &mut self,
        request: Option<(Transport, u16)>,
        nonce: Option<[u8; 12]>,
        why: &str,
        lifetime: u32,
        now: Duration,
    ) {
        let pause = lease::after_refusal(lifetime);
        let Some((transport, internal)) = request else {
            self.address = Retry::due_at(now + pause);
            return self.problem = Some(why.to_owned());
        };
        let asked = |lease: &&mut Lease| {
            (lease.transport, lease.internal) == (transport, internal) && nonce.is_none_or(|nonce| nonce == lease.nonce)
        };
        if let Some(lease) = self.leases.iter_mut().find(asked) {
            lease.refused(now + pause);
            self.problem = Some(why.to_owned());
        }
    }

    fn next(&self) -> Option<Duration> {
        let version = match self.phase {
            Phase::Resting { until, .. } => return Some(until),
            Phase::Asking(version) => version,
        };
        let address = self.address.due().filter(|_| version == Version::NatPmp && !self.leases.is_empty());
        let leases = self.leases.iter().filter_map(|lease| lease.next(self.may_map(version)));
        leases.chain(address).min()
    }

    fn report(&self) -> Report {
        let at = |lease: &Lease| {
            let grant = lease.grant()?;
            Some((lease.transport, SocketAddrV4::new(grant.address.or(self.external)?, grant.port)))
        };
        let (public, private): (Vec<_>, Vec<_>) =
            self.leases.iter().filter_map(at).partition(|(_, at)| is_public(&IpAddr::V4(*at.ip())));
        let behind = private
            .first()
            .map(|(_, at)| format!("its own address {} is not a public one: another router stands before it", at.ip()));
        let version = match self.phase {
            Phase::Asking(version) if self.heard.is_some() => Some(version),
            _ => None,
        };
        Report { gateway: self.target.gateway, version, mapped: public, problem: behind.or(self.problem.clone()) }
    }
}

#[cfg(test)]
mod tests;
