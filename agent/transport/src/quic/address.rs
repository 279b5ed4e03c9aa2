//! Multiaddresses to UDP socket addresses and back.

use std::net::{IpAddr, SocketAddr};

use libp2p::{Multiaddr, multiaddr::Protocol};

/// Whether an address, behind an IP address or a name, is one for QUIC.
pub fn is_quic(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| part == Protocol::QuicV1)
}

/// The socket address in `/ip{4,6}/…/udp/…/quic-v1[/p2p/…]`; `None` for every other shape.
pub(super) fn to_socket_addr(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    let Protocol::Udp(port) = parts.next()? else { return None };
    let Protocol::QuicV1 = parts.next()? else { return None };
    match (parts.next(), parts.next()) {
        (None, None) | (Some(Protocol::P2p(_)), None) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// `/ip{4,6}/…/udp/…/quic-v1` of a socket address.
pub(super) fn to_multiaddr(addr: SocketAddr) -> Multiaddr {
    Multiaddr::from(addr.ip()).with(Protocol::Udp(addr.port())).with(Protocol::QuicV1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_there_and_back() {
        for text in ["/ip4/192.0.2.1/udp/4180/quic-v1", "/ip6/2001:db8::1/udp/1/quic-v1"] {
            let addr: Multiaddr = text.parse().unwrap();
            assert_eq!(to_multiaddr(to_socket_addr(&addr).unwrap()), addr);
            assert!(to_socket_addr(&addr.with(Protocol::P2p(libp2p::PeerId::random()))).is_some());
        }
    }

    #[test]
    fn leaves_other_addresses_to_other_transports() {
        let relay = libp2p::PeerId::random();
        let circuit = format!("/ip4/192.0.2.1/udp/1/quic-v1/p2p/{relay}/p2p-circuit");
        for text in
            ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.1/udp/1", "/ip4/192.0.2.1/udp/1/quic-v1/webtransport", &circuit]
        {
            assert_eq!(to_socket_addr(&text.parse().unwrap()), None, "{text}");
        }
    }
}
