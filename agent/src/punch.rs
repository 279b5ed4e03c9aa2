//! The exchange that lets two ends of a relayed connection dial each other at the same moment; see [`PunchMessage`].

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use async_io::Timer;
use hive_core::is_ordinary_port;
use hive_protocol::{PUNCH_PROTOCOL, frame::PEER_MAX, peer::PunchMessage};
use hive_transport::streams::Stream;
use libp2p::{Multiaddr, StreamProtocol, multiaddr::Protocol};

use crate::{
    frames,
    net::{
        Part,
        addresses::{ip, is_public},
        registry::Connection,
    },
    node::Handle,
    time::within,
};

/// Three one-way trips over a relay.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A round trip longer than this is a stall; waiting half of it would only miss the other side.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Most IP addresses of one punch: two uplinks with IPv4 and IPv6.
const HOSTS: usize = 4;

/// Begins a punch on a relayed connection that the peer dialled.
pub async fn initiate(node: Handle, connection: Connection, addresses: Vec<Multiaddr>, speak_first: bool) {
    let exchange = async {
        let protocol = StreamProtocol::new(PUNCH_PROTOCOL);
        let mut stream = node.streams.open_on(connection.id, protocol).await.ok()?;
        send(&mut stream, &PunchMessage::Connect { addresses }).await?;
        let sent = Instant::now();
        let PunchMessage::Connect { addresses } = receive(&mut stream).await? else { return None };
        let round_trip = sent.elapsed();
        send(&mut stream, &PunchMessage::Sync { listen: speak_first }).await?;
        Timer::after((round_trip / 2).min(LONGEST_WAIT)).await;
        Some(addresses)
    };
    let addresses = within(TIMEOUT, exchange).await.flatten();
    finish(&node, &connection, addresses, Part::of(speak_first)).await;
}

/// Takes part in a punch that the peer begins.
pub async fn respond(node: Handle, connection: Connection, mut stream: Stream) {
    let exchange = async {
        let PunchMessage::Connect { addresses } = receive(&mut stream).await? else { return None };
        let conn = connection.conn;
        let ours = node.ask(move |core, now| core.answer_punch(conn, now)).await.ok().flatten()?;
        send(&mut stream, &PunchMessage::Connect { addresses: ours }).await?;
        let PunchMessage::Sync { listen } = receive(&mut stream).await? else { return None };
        Some((addresses, Part::of(!listen)))
    };
    let (addresses, part) = within(TIMEOUT, exchange).await.flatten().unzip();
    finish(&node, &connection, addresses, part.unwrap_or(Part::Dialler)).await;
}

async fn finish(node: &Handle, connection: &Connection, addresses: Option<Vec<Multiaddr>>, part: Part) {
    let Some(mut addresses) = addresses else {
        return log::debug!("no agreement with {} on a hole punch", connection.peer);
    };
    addresses.retain(is_worth_a_dial);
    keep_few_hosts(&mut addresses);
    if !addresses.is_empty() {
        log::debug!("punching towards {} at {addresses:?} as {part:?}", connection.peer);
        node.punch(connection.peer, addresses, part).await;
    }
}

/// A peer has few public IP addresses; more of them would be others'.
fn keep_few_hosts(addresses: &mut Vec<Multiaddr>) {
    let mut hosts = Vec::new();
    addresses.retain(|address| {
        let host = ip(address);
        let known = hosts.contains(&host);
        let room = known || hosts.len() < HOSTS;
        if room && !known {
            hosts.push(host);
        }
        room
    });
}

/// A peer may not send this node to private places or to services that everybody has: only `/ip4|ip6/PUBLIC/tcp|udp/…` on
/// an ordinary port and without a relay is dialled.
fn is_worth_a_dial(address: &Multiaddr) -> bool {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
        Some(Protocol::Ip6(ip)) => IpAddr::V6(ip).to_canonical(),
        _ => return false,
    };
    is_public(&ip)
        && is_ordinary_port(address)
        && parts.all(|part| matches!(part, Protocol::Tcp(_) | Protocol::Udp(_) | Protocol::QuicV1 | Protocol::P2p(_)))
}

async fn send(stream: &mut Stream, message: &PunchMessage) -> Option<()> {
    frames::write(stream, message, PEER_MAX).await.ok()
}

async fn receive(stream: &mut Stream) -> Option<PunchMessage> {
    frames::read(stream, PEER_MAX).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_dialled() {
        let worth = |text: &str| is_worth_a_dial(&text.parse().unwrap());
        assert!(worth("/ip4/198.51.100.1/tcp/4180") && worth("/ip6/2001:db8::1/udp/4180/quic-v1"));
        for text in [
            "/ip4/198.51.100.1/tcp/25",
            "/ip4/198.51.100.1/udp/53/quic-v1",
            "/ip4/127.0.0.1/tcp/22",
            "/ip4/192.168.1.1/tcp/80",
            "/ip6/::ffff:10.0.0.1/tcp/80",
            "/dns4/a.example/tcp/1",
        ] {
            assert!(!worth(text), "{text}");
        }
        let relay = libp2p::PeerId::random();
        assert!(!worth(&format!("/ip4/198.51.100.1/tcp/1/p2p/{relay}/p2p-circuit")));
    }

    #[test]
    fn so_many_hosts_are_dialled_and_all_their_ports() {
        let at = |host: usize, port: usize| format!("/ip4/198.51.100.{host}/tcp/{port}").parse().unwrap();
        let mut addresses: Vec<Multiaddr> = (1..9).flat_map(|host| [at(host, 4180), at(host, 4181)]).collect();
        keep_few_hosts(&mut addresses);
        assert_eq!(addresses.len(), 2 * HOSTS);
    }
}
