//! Multiaddresses to socket addresses and back.

use std::net::{IpAddr, SocketAddr};

use libp2p::{Multiaddr, multiaddr::Protocol};

/// The socket address in `/ip{4,6}/…/tcp/…[/p2p/…]`; `None` for every other shape (a relayed address, a name).
pub(super) fn to_socket_addr(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    let Protocol::Tcp(port) = parts.next()? else { return None };
    match (parts.next(), parts.next()) {
        (None, None) | (Some(Protocol::P2p(_)), None) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// `/ip{4,6}/…/tcp/…` of a socket address.
pub(super) fn to_multiaddr(addr: SocketAddr) -> Multiaddr {
    Multiaddr::from(addr.ip()).with(Protocol::Tcp(addr.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_addresses_with_and_without_a_peer_id() {
        let plain: Multiaddr = "/ip4/192.0.2.1/tcp/4180".parse().unwrap();
        let peer = plain.clone().with(Protocol::P2p(libp2p::PeerId::random()));
        let expected = "192.0.2.1:4180".parse().unwrap();
        assert_eq!(to_socket_addr(&plain), Some(expected));
        assert_eq!(to_socket_addr(&peer), Some(expected));
        assert_eq!(to_multiaddr(expected), plain);
    }

    #[test]
    fn leaves_other_transports_addresses_alone() {
        let id = libp2p::PeerId::random();
        let others = [
            "/dns4/localhost/tcp/1".to_owned(),
            "/ip4/192.0.2.1/udp/1/quic-v1".to_owned(),
            "/ip4/192.0.2.1/tcp/1/ws".to_owned(),
            format!("/ip4/192.0.2.1/tcp/1/p2p/{id}/p2p-circuit"),
            format!("/p2p/{id}"),
        ];
        for other in others {
            assert_eq!(to_socket_addr(&other.parse().unwrap()), None, "{other}");
        }
    }
}
