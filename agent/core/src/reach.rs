//! How this node is seen from outside: whether others can dial it, and what its router does with its ports.
//!
//! That a node can be reached is proven by a member that did it: because it was asked to ([`crate::probe`]), or by a
//! connection that came in over the public network without a hole punch. Where a node seems to be is what members say they
//! see; only public addresses are believed, and they are candidates for hole punches, never published.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use hive_protocol::{NodeId, Reachability};
use multiaddr::{Multiaddr, Protocol};

use crate::{
    ConnId, Core, Now, Output, RelayMode,
    connections::{Connection, Connections, is_quic},
    own::Own,
    path::GATHER,
};

/// Most addresses of one hole punch.
const CANDIDATES: usize = 8;
/// A punch may bring in connections for so long.
const PUNCH: Duration = Duration::from_secs(20);

/// What was proven since the addresses changed.
#[derive(Default)]
pub(crate) struct Reach {
    proven4: bool,
    proven6: bool,
    /// What the shell was last told of relaying: whether to, and at which addresses.
    told: Option<(bool, Vec<Multiaddr>)>,
    /// Peers with whom a punch was tried, and until when their connections prove nothing.
    punched: Vec<(NodeId, Duration)>,
}

impl Reach {
    /// Connections from this peer come through holes for a while.
    pub fn punching(&mut self, peer: NodeId, now: Duration) {
        self.punched.retain(|(other, until)| *other != peer && *until > now);
        self.punched.push((peer, now + PUNCH));
    }

    pub fn is_punching(&self, peer: &NodeId, now: Duration) -> bool {
        self.punched.iter().any(|(other, until)| other == peer && *until > now)
    }

    /// Notes that a member came in unasked from `ip`; true if that is news.
    fn prove(&mut self, ip: IpAddr) -> bool {
        let proven = if ip.is_ipv4() { &mut self.proven4 } else { &mut self.proven6 };
        !std::mem::replace(proven, true)
    }

    /// Notes that nobody gets in at an address like `ip` any more; true if that is news.
    fn disprove(&mut self, ip: IpAddr) -> bool {
        let proven = if ip.is_ipv4() { &mut self.proven4 } else { &mut self.proven6 };
        std::mem::replace(proven, false)
    }

    /// Whether somebody got in at an address like `ip`.
    pub fn is_proven(&self, ip: IpAddr) -> bool {
        if ip.is_ipv4() { self.proven4 } else { self.proven6 }
    }

    /// What was proven of addresses like these holds no more.
    pub fn forget(&mut self, v4: bool) {
        *(if v4 { &mut self.proven4 } else { &mut self.proven6 }) = false;
    }

    pub fn is_public(&self) -> bool {
        self.proven4 || self.proven6
    }

    /// Whether those who know IPv4 alone find this node, too.
    pub fn is_public4(&self) -> bool {
        self.proven4
    }
}

/// What the routers in front of this node were seen to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// Too little was seen.
    Unknown,
    /// Its own address is the public one.
    None,
    /// One public port for all (endpoint-independent mapping, RFC 4787 section 4.1).
    Independent,
    /// Another public port for each destination: a hole punch cannot foresee it.
    Dependent,
}

impl Core {
    /// A connection joined its first network: if its peer came unasked from the public network, so can others.
    pub(crate) fn weigh_arrival(&mut self, peer: NodeId, address: &Multiaddr, unasked: bool, now: Now) {
        let Some(ip) = public_ip(address).filter(|_| unasked && !is_relayed(address)) else { return };
        if !self.reach.is_punching(&peer, now.mono) && !self.answers_datagrams_alone(address) {
            self.entered(ip, now);
            self.proven(ip, now);
        }
    }

    /// Whether what came in may only be let in because this node wrote there first, as it does when it dials over QUIC: TCP
    /// would tell.
    fn answers_datagrams_alone(&self, from: &Multiaddr) -> bool {
        let alike = |own: &&Multiaddr| transport(own) == (transport(from).0, true);
        is_quic(from) && self.own.direct().iter().any(|own| alike(&own))
    }

    /// A member reached this node from outside over this family of addresses.
    pub(crate) fn proven(&mut self, ip: IpAddr, now: Now) {
        if self.reach.prove(ip) {
            self.reach_changed(now);
        }
    }

    /// Members tried every address like this one in vain, several times.
    pub(crate) fn disproven(&mut self, ip: IpAddr, now: Now) {
        if self.reach.disprove(ip) {
            self.reach_changed(now);
        }
    }

    /// A peer tells how it sees this node; it counts once the peer has joined a network.
    pub(crate) fn observed(&mut self, conn: ConnId, address: Multiaddr, now: Now) {
        self.probes.somebody_came(now.mono);
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.observed = Some(address);
        }
    }

    /// Starts or stops relaying for members, as the mode and what was proven demand.
    pub(crate) fn reach_changed(&mut self, now: Now) {
        let serving = match self.own.relay_mode() {
            RelayMode::Always => true,
            RelayMode::Never => false,
            RelayMode::Auto => self.reach.is_public(),
        };
        if std::mem::replace(&mut self.own.relay, serving) != serving {
            self.own.changed(now.mono);
        }
        let told = (serving, self.own.direct().to_vec());
        if self.reach.told.as_ref() != Some(&told) {
            self.out.push(Output::ServeRelay { serving, addresses: told.1.clone() });
            self.reach.told = Some(told);
        }
        self.path.review_at(now.mono + GATHER);
    }

    /// Where this node is likely to be found by a hole punch, best first.
    #[must_use]
    pub(crate) fn punch_candidates(&self) -> Vec<Multiaddr> {
        let seen: Vec<_> = observed(&self.connections).map(|(_, address)| address.clone()).collect();
        let own = self.own.direct().iter().filter(|address| public_ip(address).is_some()).cloned();
        let guessed: Vec<_> = seen.iter().flat_map(|address| self.guesses(address)).collect();
        let mut candidates: Vec<Multiaddr> = Vec::new();
        for address in seen.into_iter().chain(own).chain(guessed) {
            if candidates.len() < CANDIDATES && !candidates.contains(&address) {
                candidates.push(address);
            }
        }
        candidates
    }

    /// The other ports this node listens on, at a public address it was seen at: most routers keep a port where they can,
    /// and no member may have seen this one.
    fn guesses(&self, seen: &Multiaddr) -> Vec<Multiaddr> {
        let Some(ip) = public_ip(seen) else { return Vec::new() };
        let same_family = |own: &&Multiaddr| matches!(own.iter().next(), Some(Protocol::Ip4(_))) == ip.is_ipv4();
        let there = |own: &Multiaddr| std::iter::once(Protocol::from(ip)).chain(own.iter().skip(1)).collect();
        self.own.direct().iter().filter(same_family).map(there).collect()
    }

    /// Whether others can dial this node.
    #[must_use]
    pub fn reachability(&self) -> Reachability {
        if self.reach.is_public() {
            return Reachability::Public;
        }
        match self.mapping() {
            Mapping::Unknown | Mapping::None if self.is_walled() => Reachability::Private,
            Mapping::Unknown | Mapping::None => Reachability::Unknown,
            Mapping::Independent | Mapping::Dependent => Reachability::Private,
        }
    }

    /// What the routers in front of this node do, as members on different addresses saw it.
    pub(crate) fn mapping(&self) -> Mapping {
        mapping(&self.connections, &self.own)
    }
}

fn mapping(connections: &Connections, own: &Own) -> Mapping {
    let dialled: Vec<_> = observed(connections).filter(|(c, _)| c.dialled).map(|(_, address)| address).collect();
    // What leaves over a family that this node does not listen on leaves from any port, and a port of its own at an IP address
    // of its own is no router's work.
    let listens = |address: &Multiaddr| own.direct().iter().any(|at| transport(at) == transport(address));
    let dialled: Vec<_> = dialled.into_iter().filter(|address| listens(address)).collect();
    let is_own = |address: &Multiaddr| own.direct().iter().any(|at| ip(at) == ip(address));
    let translated: Vec<_> = dialled.iter().filter(|address| !is_own(address)).collect();
    if translated.is_empty() {
        return if dialled.is_empty() { Mapping::Unknown } else { Mapping::None };
    }
    let kinds: BTreeSet<_> = translated.iter().map(|address| (transport(address), address.to_string())).collect();
    let transports: BTreeSet<_> = kinds.iter().map(|(transport, _)| *transport).collect();
    if kinds.len() > transports.len() { Mapping::Dependent } else { Mapping::Independent }
}

/// What members see of this node over direct connections, where that is a public address.
fn observed(connections: &Connections) -> impl Iterator<Item = (&Connection, &Multiaddr)> {
    let direct = connections.iter().map(|(_, c)| c).filter(|c| !c.relayed && !c.joined.is_empty());
    direct.filter_map(|c| Some((c, c.observed.as_ref()?))).filter(|(_, address)| public_ip(address).is_some())
}

/// IPv4 or IPv6, TCP or UDP.
fn transport(address: &Multiaddr) -> (bool, bool) {
    let is = |wanted: fn(&Protocol<'_>) -> bool| address.iter().any(|part| wanted(&part));
    (is(|part| matches!(part, Protocol::Ip4(_))), is(|part| matches!(part, Protocol::Tcp(_))))
}

pub(crate) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// The node that relays in an address `…/p2p/RELAY/p2p-circuit…`.
pub(crate) fn relay_of(address: &Multiaddr) -> Option<NodeId> {
    let mut last = None;
    for part in address {
        match part {
            Protocol::P2p(peer) => last = NodeId::from_peer_id(&peer),
            Protocol::P2pCircuit => return last,
            _ => {}
        }
    }
    None
}

/// The IP address of a multiaddress, if it is one that is routed on the Internet.
pub(crate) fn public_ip(address: &Multiaddr) -> Option<IpAddr> {
    ip(address).filter(is_public)
}

/// The IP address in an address.
pub(crate) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip).to_canonical()),
        _ => None,
    })
}

/// Not private (RFC 1918, 4193), shared (RFC 6598), link-local, loopback, unspecified or multicast.
pub(crate) fn is_public(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && b & 0xc0 == 64;
            let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast();
            !(shared || special || v4.is_unspecified() || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            let special = v6.is_loopback() || v6.is_unspecified() || v6.is_multicast();
            !(special || v6.is_unique_local() || v6.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, testing::*};

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn arrive(bench: &mut Bench, n: u8, from: &str, dialled: bool) {
        let conn = bench.connect_from(n, dialled, address(from));
        bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
    }

    fn served(bench: &Bench) -> Vec<bool> {
        bench.find(|output| if let Output::ServeRelay { serving, .. } = output { Some(*serving) } else { None })
    }

    #[test]
    fn a_member_that_comes_unasked_proves_the_way_in() {
        let mut bench = Bench::new();
        arrive(&mut bench, 1, "/ip4/198.51.100.1/tcp/4180", true);
        arrive(&mut bench, 2, "/ip4/10.1.1.1/tcp/4180", false);
        assert_eq!((bench.core.reachability(), served(&bench)), (Reachability::Unknown, vec![]));
        arrive(&mut bench, 3, "/ip4/198.51.100.3/tcp/4180", false);
        assert_eq!((bench.core.reachability(), served(&bench)), (Reachability::Public, vec![true]));
    }

    #[test]
    fn what_comes_through_a_punched_hole_proves_nothing() {
        let mut bench = Bench::new();
        let relayed = bench.connect_over(1, true, true);
        bench.tell(Event::Joined { conn: relayed, network: lab(), secret: secret(1) });
        assert!(bench.core.answer_punch(relayed, bench.now).is_some());
        arrive(&mut bench, 1, "/ip4/198.51.100.1/tcp/4180", false);
        assert_eq!(bench.core.reachability(), Reachability::Unknown);
    }

    #[test]
    fn routers_are_told_apart_by_the_ports_they_give() {
        let mut bench = Bench::new();
        let mut see = |n: u8, port: u16| {
            let conn = bench.connect_from(n, true, address(&format!("/ip4/198.51.100.{n}/tcp/4180")));
            bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
            bench.tell(Event::Observed { conn, address: address(&format!("/ip4/203.0.113.9/tcp/{port}")) });
            bench.core.mapping()
        };
        assert_eq!(see(1, 4180), Mapping::Independent);
        assert_eq!(see(2, 4180), Mapping::Independent);
        assert_eq!(see(3, 5001), Mapping::Dependent);
        assert_eq!(bench.core.reachability(), Reachability::Private);
    }

    #[test]
    fn a_port_of_its_own_at_an_address_of_its_own_is_no_routers_work() {
        let mut bench = Bench::new();
        bench.tell(Event::Addresses(vec![address("/ip4/203.0.113.9/tcp/4180")]));
        for (n, seen) in
            [(1, "/ip6/2001:db8::9/tcp/50001"), (2, "/ip6/2001:db8::9/tcp/50002"), (3, "/ip4/203.0.113.9/tcp/5")]
        {
            let conn = bench.connect_from(n, true, address(&format!("/ip4/198.51.100.{n}/tcp/4180")));
            bench.tell(Event::Joined { conn, network: lab(), secret: secret(1) });
            bench.tell(Event::Observed { conn, address: address(seen) });
        }
        assert_eq!((bench.core.mapping(), bench.core.reachability()), (Mapping::None, Reachability::Unknown));
    }

    #[test]
    fn only_addresses_of_the_internet_are_believed() {
        for private in
            ["/ip4/10.0.0.1/tcp/1", "/ip4/100.64.0.1/tcp/1", "/ip6/fd00::1/tcp/1", "/ip6/::ffff:127.0.0.1/tcp/1"]
        {
            assert_eq!(public_ip(&address(private)), None, "{private}");
        }
        assert!(public_ip(&address("/ip6/2001:db8::1/tcp/1")).is_some());
    }

    #[test]
    fn a_relay_is_read_from_an_address() {
        let relay = id(1);
        let circuit = address(&format!("/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit/p2p/{}", id(2)));
        assert_eq!(relay_of(&circuit), Some(relay));
        assert_eq!(relay_of(&address(&format!("/ip4/192.0.2.1/tcp/1/p2p/{relay}"))), None);
    }
}
