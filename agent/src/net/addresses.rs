//! Which addresses a node publishes: what it listens on, as others can dial it.

use std::net::IpAddr;

use hive_protocol::record::MAX_ADDRESSES;
use libp2p::{Multiaddr, multiaddr::Protocol};

/// Announced addresses and mapped ones first, then those of the listeners, global ones before private ones. Loopback is published only
/// where it is all there is: several nodes on one machine, nothing else.
pub fn published(announced: &[Multiaddr], listening: &[Multiaddr]) -> Vec<Multiaddr> {
    let mut dialable: Vec<&Multiaddr> = listening.iter().filter(|a| scope(a).is_some()).collect();
    dialable.sort_by_key(|a| (scope(a), a.to_string()));
    if dialable.iter().any(|a| scope(a) < Some(Scope::Loopback)) {
        dialable.retain(|a| scope(a) < Some(Scope::Loopback));
    }
    let mut chosen: Vec<Multiaddr> = Vec::new();
    for address in announced.iter().chain(dialable) {
        if !chosen.contains(address) && chosen.len() < MAX_ADDRESSES {
            chosen.push(address.clone());
        }
    }
    chosen
}

/// The IP address in an address.
pub fn ip(address: &Multiaddr) -> Option<IpAddr> {
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    })
}

/// Whether an IP address is one that is routed on the Internet.
pub fn is_public(ip: &IpAddr) -> bool {
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local(ip) || is_private(ip))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Global,
    Private,
    Loopback,
}

/// From where an address can be dialled; none for those that nobody can dial without more knowledge.
fn scope(address: &Multiaddr) -> Option<Scope> {
    let ip = ip(address)?;
    if ip.is_unspecified() || is_link_local(&ip) {
        return None;
    }
    if ip.is_loopback() {
        return Some(Scope::Loopback);
    }
    Some(if is_private(&ip) { Scope::Private } else { Scope::Global })
}

/// Link-local IPv6 addresses need a zone, and IPv4's (169.254/16) appear where there is no network.
fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// RFC 1918, RFC 6598 (carrier-grade NAT) and RFC 4193.
fn is_private(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn the_best_come_first_and_loopback_only_alone() {
        let listening = all(&[
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/10.0.0.1/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip6/2001:db8::1/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
        ]);
        let announced = all(&["/dns4/home.example/tcp/7"]);
        let expected = all(&["/dns4/home.example/tcp/7", "/ip6/2001:db8::1/tcp/1", "/ip4/10.0.0.1/tcp/1"]);
        assert_eq!(published(&announced, &listening), expected);
        assert_eq!(published(&[], &all(&["/ip4/127.0.0.1/tcp/1"])), all(&["/ip4/127.0.0.1/tcp/1"]));
    }

    #[test]
    fn the_list_is_bounded_and_has_no_doubles() {
        let many: Vec<Multiaddr> = (1..60).map(|n| format!("/ip4/192.0.2.{n}/tcp/1").parse().unwrap()).collect();
        assert_eq!(published(&many[..1], &many).len(), MAX_ADDRESSES);
        assert_eq!(published(&many[..1], &many[..1]).len(), 1);
    }
}
