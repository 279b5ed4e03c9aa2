//! Where peers were met: at which of the addresses that a record lists a dial is one of its peer, and not of whomever the
//! peer names.
//!
//! A record is signed by its owner, but what it lists is the owner's word alone: a member could name somebody else's
//! machine and have the whole network knock there for ever. So an address counts fully once a connection to that peer led
//! to its IP address, or came from it. Others are dialled a few times, then hardly ever, unless somebody local waits.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use hive_protocol::NodeId;
use multiaddr::{Multiaddr, Protocol};

use crate::{
    path::Reason,
    reach::{ip, is_relayed},
};

/// Most hosts of one record, by IP address or name, that are ever dialled.
const HOSTS: usize = 8;
/// IP addresses of a peer that are remembered.
const REMEMBERED: usize = 8;
/// Dials at which a peer was never met, before they become rare.
const FREE: u32 = 20;
/// Between later ones, and where a proxy needs the peer.
const SELDOM: Duration = Duration::from_secs(3600);
const FOR_A_PROXY: Duration = Duration::from_secs(60);
/// Hole punches that a peer may begin at once, and how fast they come back. An honest one begins ever more rarely.
const PUNCHES: u32 = 10;
const PUNCH_BACK: Duration = Duration::from_secs(30);

/// What is known of peers by their connections.
#[derive(Default)]
pub(crate) struct Met(BTreeMap<NodeId, Peer>);

#[derive(Default)]
struct Peer {
    ips: VecDeque<IpAddr>,
    /// Dials where it was never met, since something was.
    vain: u32,
    next: Duration,
    punches: u32,
    punches_since: Duration,
}

/// The direct addresses of a record, sorted by what they are worth.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sorted {
    /// The peer was met there.
    pub known: Vec<Multiaddr>,
    /// Its word alone.
    pub claimed: Vec<Multiaddr>,
}

impl Met {
    /// A connection to a peer leads there.
    pub fn met(&mut self, peer: NodeId, at: IpAddr) {
        let known = self.0.entry(peer).or_default();
        match known.ips.iter().position(|ip| *ip == at) {
            Some(place) => drop(known.ips.remove(place)),
            None => {
                known.ips.truncate(REMEMBERED - 1);
                (known.vain, known.next) = (0, Duration::ZERO);
            }
        }
        known.ips.push_front(at);
    }

    /// Something changed here: what led nowhere may lead somewhere now.
    pub fn forgive(&mut self) {
        self.0.values_mut().for_each(|peer| (peer.vain, peer.next) = (0, Duration::ZERO));
    }

    /// Keeps what is known of these alone.
    pub fn keep(&mut self, which: impl Fn(&NodeId) -> bool) {
        self.0.retain(|peer, _| which(peer));
    }

    /// Sorts a record's addresses. Those over relays and those nobody dials are left out, and so are hosts beyond
    /// [`HOSTS`].
    pub fn sort(&self, peer: &NodeId, addresses: impl IntoIterator<Item = Multiaddr>, loopback: bool) -> Sorted {
        let ips = self.0.get(peer).map(|known| &known.ips);
        let (mut sorted, mut hosts) = (Sorted::default(), Vec::new());
        for address in addresses {
            let Some(host) = host(&address).filter(|_| !is_relayed(&address)) else { continue };
            if !is_ordinary_port(&address) {
                continue;
            }
            if ip(&address).is_some_and(|ip| ips.is_some_and(|ips| ips.contains(&ip))) {
                sorted.known.push(address);
                continue;
            }
            let known = hosts.contains(&host);
            if may_be_dialled(&address, loopback) && (known || hosts.len() < HOSTS) {
                hosts.extend((!known).then_some(host));
                sorted.claimed.push(address);
            }
        }
        sorted
    }

    /// When a peer may next be dialled where it was never met.
    pub fn claims_due(&self, peer: &NodeId) -> Duration {
        self.0.get(peer).map_or(Duration::ZERO, |known| known.next)
    }

    /// It was, for this reason.
    pub fn dialled_at_claims(&mut self, peer: NodeId, reason: Reason, now: Duration) {
        let known = self.0.entry(peer).or_default();
        known.vain = known.vain.saturating_add(1);
        let pause = if reason == Reason::Proxy { FOR_A_PROXY } else { SELDOM };
        known.next = if known.vain < FREE { now } else { now + pause };
    }

    /// Whether a peer may begin a hole punch; if so it is counted.
    pub fn may_punch(&mut self, peer: NodeId, now: Duration) -> bool {
        let known = self.0.entry(peer).or_default();
        let back = u32::try_from(now.saturating_sub(known.punches_since).as_secs() / PUNCH_BACK.as_secs());
        let back = back.unwrap_or(u32::MAX);
        known.punches = known.punches.saturating_sub(back);
        known.punches_since = if known.punches == 0 { now } else { known.punches_since + PUNCH_BACK * back };
        let may = known.punches < PUNCHES;
        known.punches += u32::from(may);
        may
    }
}

/// The IP address or the name in an address.
fn host(address: &Multiaddr) -> Option<String> {
    match address.iter().next()? {
        Protocol::Ip4(_) | Protocol::Ip6(_) => ip(address).map(|ip| ip.to_string()),
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    }
}

/// Whether an address is one that a record may send others to: no group of machines and no link. Loopback is for nodes
/// that have nothing else. What a name leads to is for the transport to look at.
fn may_be_dialled(address: &Multiaddr, loopback: bool) -> bool {
    let localhost = host(address).is_some_and(|name| name == "localhost" || name.ends_with(".localhost"));
    (loopback || !localhost)
        && ip(address).is_none_or(|ip| {
            let special = match ip {
                IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
                IpAddr::V6(v6) => v6.is_unicast_link_local(),
            };
            !(special || ip.is_unspecified() || ip.is_multicast()) && (loopback || !ip.is_loopback())
        })
}

/// Ports of which nodes are found by others: those that need no rights, and those of the web, which firewalls let out.
#[must_use]
pub fn is_ordinary_port(address: &Multiaddr) -> bool {
    let port = address.iter().find_map(|part| match part {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
        _ => None,
    });
    port.is_some_and(|port| port >= 1024 || port == 80 || port == 443)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    fn all(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_record_sends_nobody_to_special_places() {
        let listed = all(&[
            "/ip4/127.0.0.1/tcp/4180",
            "/ip4/169.254.169.254/tcp/80",
            "/ip4/224.0.0.1/udp/4180/quic-v1",
            "/ip4/255.255.255.255/udp/4180/quic-v1",
            "/ip4/0.0.0.0/tcp/4180",
            "/ip6/::ffff:127.0.0.1/tcp/4180",
            "/ip6/fe80::1/tcp/4180",
            "/ip4/198.51.100.1/tcp/25",
            "/ip4/198.51.100.1/tcp/0",
            "/dns4/a.example/udp/53/quic-v1",
            "/dns4/localhost/tcp/6379",
            "/ip4/198.51.100.1/tcp/443",
            "/dns4/a.example/tcp/4180",
        ]);
        let sorted = Met::default().sort(&id(1), listed.clone(), false);
        assert_eq!(sorted, Sorted { known: vec![], claimed: listed[11..].to_vec() });
        assert_eq!(Met::default().sort(&id(1), listed[..1].to_vec(), true).claimed, listed[..1]);
    }

    #[test]
    fn the_hosts_of_a_record_are_bounded_and_not_their_ports() {
        let many: Vec<_> =
            (1..=40u8).map(address).flat_map(|at| [at.clone(), at.with(Protocol::WebTransport)]).collect();
        assert_eq!(Met::default().sort(&id(1), many, false).claimed.len(), 2 * HOSTS);
    }

    #[test]
    fn where_a_peer_was_met_it_is_known_at_every_port() {
        let mut met = Met::default();
        met.met(id(1), ip(&address(1)).unwrap());
        let listed = all(&["/ip4/192.0.2.1/udp/4180/quic-v1", "/ip4/192.0.2.2/tcp/4180"]);
        let sorted = met.sort(&id(1), listed.clone(), false);
        assert_eq!(sorted, Sorted { known: listed[..1].to_vec(), claimed: listed[1..].to_vec() });
        assert_eq!(met.sort(&id(2), listed.clone(), false).claimed, listed, "another peer's word");
    }

    #[test]
    fn dials_at_a_peers_word_become_rare() {
        let mut met = Met::default();
        let dials = |met: &mut Met, reason, span: u64| {
            let due = |met: &Met, second| met.claims_due(&id(1)) <= secs(second);
            (0..span)
                .filter(|n| {
                    due(met, 10 + n) && {
                        met.dialled_at_claims(id(1), reason, secs(10 + n));
                        true
                    }
                })
                .count()
        };
        assert_eq!(dials(&mut met, Reason::Neighbour, 4 * 3600), FREE as usize + 3);
        met.forgive();
        assert_eq!(dials(&mut met, Reason::Proxy, 600), FREE as usize + 9);
    }

    #[test]
    fn a_peer_begins_so_many_punches_and_then_two_a_minute() {
        let mut met = Met::default();
        let punches = |met: &mut Met, from: u64| (from..from + 600).filter(|n| met.may_punch(id(1), secs(*n))).count();
        assert_eq!(punches(&mut met, 1), PUNCHES as usize + 19);
        assert_eq!(punches(&mut met, 2000), PUNCHES as usize + 19);
    }
}
