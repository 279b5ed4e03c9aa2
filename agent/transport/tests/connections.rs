//! Connections over real sockets on loopback: security, addresses, limits, and dealing with strangers.
#![allow(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

mod common;

use std::{net::TcpStream, time::Duration};

use common::{MEMBER, Node, Pair, STRANGER, Setup, echo, round_trip, within};
use futures::{AsyncReadExt, AsyncWriteExt};
use hive_transport::{Options, Security};
use libp2p::{
    Multiaddr, PeerId,
    multiaddr::Protocol,
    swarm::{DialError, SwarmEvent, dial_opts::DialOpts, dial_opts::PeerCondition},
};

const LOOPBACK: &str = "/ip4/127.0.0.1/tcp/0";

fn secured(security: Security) -> Setup {
    Setup { options: Options { security, ..Options::default() }, ..Setup::default() }
}

async fn talk(pair: Pair) {
    smol::spawn(echo(pair.incoming_b)).detach();
    let (_, stream) = pair.a.control.open(pair.b.id, STRANGER).await.unwrap();
    assert_eq!(within(round_trip(stream, b"hello")).await.unwrap(), b"hello");
}

#[test]
fn every_mix_of_security_that_overlaps_connects() {
    use Security::{Noise, Tls, TlsAndNoise};
    for (a, b) in [
        (Tls, Tls),
        (Noise, Noise),
        (TlsAndNoise, TlsAndNoise),
        (TlsAndNoise, Noise),
        (TlsAndNoise, Tls),
        (Noise, TlsAndNoise),
        (Tls, TlsAndNoise),
    ] {
        smol::block_on(async { talk(Pair::over(secured(a), secured(b), LOOPBACK).await).await });
    }
}

#[test]
fn nodes_without_common_security_do_not_connect() {
    smol::block_on(async {
        let (a, _incoming_a) = Node::start(secured(Security::Tls));
        let (b, _incoming_b) = Node::start(secured(Security::Noise));
        let addr = b.listen(LOOPBACK).await;
        a.dial(DialOpts::peer_id(b.id).addresses(vec![addr]).build()).await;
        a.wait(|event| matches!(event, SwarmEvent::OutgoingConnectionError { .. }).then_some(())).await;
    });
}

#[test]
fn ipv6_connects() {
    smol::block_on(async {
        talk(Pair::over(Setup::default(), Setup::default(), "/ip6/::1/tcp/0").await).await;
    });
}

async fn dial_name(listen: &str, name: Protocol<'static>) {
    let (a, _incoming_a) = Node::start(Setup::default());
    let (b, _incoming_b) = Node::start(Setup::default());
    let listening = b.listen(listen).await;
    let port = listening.iter().nth(1).unwrap();
    let addr = Multiaddr::from(name).with(port).with(Protocol::P2p(b.id));
    a.dial(addr).await;
    a.connected().await;
}

#[test]
fn names_are_resolved() {
    smol::block_on(dial_name(LOOPBACK, Protocol::Dns4("localhost".into())));
    smol::block_on(dial_name(LOOPBACK, Protocol::Dns("localhost".into())));
}

#[test]
fn a_wrong_peer_id_fails() {
    for security in [Security::Tls, Security::Noise] {
        smol::block_on(async {
            let (a, _incoming_a) = Node::start(secured(security));
            let (b, _incoming_b) = Node::start(secured(security));
            let addr = b.listen(LOOPBACK).await;
            a.dial(DialOpts::peer_id(PeerId::random()).addresses(vec![addr]).build()).await;
            let found = a.wait(|event| match event {
                SwarmEvent::OutgoingConnectionError { error: DialError::WrongPeerId { obtained, .. }, .. } => {
                    Some(obtained)
                }
                _ => None,
            });
            assert_eq!(found.await, b.id);
        });
    }
}

#[test]
fn a_dial_leaves_from_the_listening_port() {
    smol::block_on(async {
        let (a, _incoming_a) = Node::start(Setup::default());
        let (b, _incoming_b) = Node::start(Setup::default());
        let own = a.listen(LOOPBACK).await;
        let addr = b.listen(LOOPBACK).await;
        a.dial(DialOpts::peer_id(b.id).addresses(vec![addr]).build()).await;
        let (_, remote) = b.connected().await;
        assert_eq!(remote, own);
    });
}

#[test]
fn a_new_port_is_used_when_asked_for() {
    smol::block_on(async {
        let (a, _incoming_a) = Node::start(Setup::default());
        let (b, _incoming_b) = Node::start(Setup::default());
        let own = a.listen(LOOPBACK).await;
        let addr = b.listen(LOOPBACK).await;
        a.dial(DialOpts::peer_id(b.id).addresses(vec![addr]).allocate_new_port().build()).await;
        let (_, remote) = b.connected().await;
        assert_ne!(remote, own);
    });
}

#[test]
fn an_unspecified_address_becomes_those_of_the_interfaces() {
    smol::block_on(async {
        let (node, _incoming) = Node::start(Setup::default());
        let first = node.listen("/ip4/0.0.0.0/tcp/0").await;
        assert!(!matches!(first.iter().next(), Some(Protocol::Ip4(ip)) if ip.is_unspecified()), "{first}");
    });
}

#[test]
fn a_port_in_use_is_an_error_that_says_so() {
    smol::block_on(async {
        let (node, _incoming) = Node::start(Setup::default());
        let taken = node.listen(LOOPBACK).await;
        let identity = libp2p::identity::Keypair::generate_ed25519();
        let mut transport = hive_transport::transport(&identity, &Options::default()).unwrap();
        let id = libp2p::core::transport::ListenerId::next();
        let error = libp2p::Transport::listen_on(&mut transport, id, taken).unwrap_err();
        let text = std::error::Error::source(&error).unwrap().to_string();
        assert!(text.contains("in use by another program"), "{text}");
    });
}

#[test]
fn a_stranger_that_is_silent_or_talks_nonsense_is_dropped() {
    smol::block_on(async {
        let mut setup = Setup::default();
        setup.options.handshake_timeout = Duration::from_millis(300);
        let (node, _incoming) = Node::start(setup);
        let addr = node.listen(LOOPBACK).await;
        let port = addr.iter().find_map(|part| match part {
            Protocol::Tcp(port) => Some(port),
            _ => None,
        });
        let nonsense: [&[u8]; 4] = [b"", b"GET / HTTP/1.1\r\n\r\n", &[0xff; 4096], b"\x13/multistream/1.0.0\n"];
        for bytes in nonsense {
            let mut stranger = smol::net::TcpStream::connect(("127.0.0.1", port.unwrap())).await.unwrap();
            stranger.write_all(bytes).await.unwrap();
            // It ends; what was said before does not matter.
            drop(within(stranger.read_to_end(&mut Vec::new())).await);
            node.wait(|event| matches!(event, SwarmEvent::IncomingConnectionError { .. }).then_some(())).await;
        }
    });
}

fn refused(event: common::Event) -> Option<()> {
    matches!(event, SwarmEvent::IncomingConnectionError { .. }).then_some(())
}

#[test]
fn strangers_of_one_address_are_limited_and_members_do_not_count() {
    smol::block_on(async {
        let mut setup = Setup::default();
        setup.limits.strangers_per_prefix = 1;
        let (node, _incoming) = Node::start(setup);
        let addr = node.listen(LOOPBACK).await;
        let connect = || async {
            let (other, incoming) = Node::start(Setup::default());
            other.dial(DialOpts::peer_id(node.id).addresses(vec![addr.clone()]).build()).await;
            (other, incoming)
        };
        let _first = connect().await;
        let (connection, _) = node.connected().await;
        let _second = connect().await;
        node.wait(refused).await;
        assert!(node.control.admit(connection));
        let _third = connect().await;
        node.connected().await;
    });
}

#[test]
fn a_place_is_free_again_when_a_stranger_leaves() {
    smol::block_on(async {
        let mut setup = Setup::default();
        setup.limits.strangers = 1;
        let (node, _incoming) = Node::start(setup);
        let addr = node.listen(LOOPBACK).await;
        for _ in 0..3 {
            let (other, _incoming) = Node::start(Setup::default());
            other.dial(DialOpts::peer_id(node.id).addresses(vec![addr.clone()]).build()).await;
            let (connection, _) = node.connected().await;
            node.close(connection).await;
            node.wait(|event| matches!(event, SwarmEvent::ConnectionClosed { .. }).then_some(())).await;
        }
    });
}

#[test]
fn one_peer_has_few_connections() {
    smol::block_on(async {
        let mut setup = Setup::default();
        setup.limits.per_peer = 2;
        let (node, _incoming) = Node::start(setup);
        let addr = node.listen(LOOPBACK).await;
        let (other, _other_incoming) = Node::start(Setup::default());
        for number in 0..3 {
            let opts = DialOpts::peer_id(node.id).addresses(vec![addr.clone()]);
            other.dial(opts.condition(PeerCondition::Always).build()).await;
            if number < 2 {
                node.connected().await;
            }
        }
        node.wait(refused).await;
    });
}

#[test]
fn unfinished_handshakes_are_limited() {
    smol::block_on(async {
        let mut setup = Setup::default();
        setup.limits.pending_inbound = 2;
        let (node, _incoming) = Node::start(setup);
        let addr = node.listen(LOOPBACK).await;
        let Some(Protocol::Tcp(port)) = addr.iter().nth(1) else { panic!("{addr}") };
        let silent = || TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _silent = [silent(), silent(), silent()];
        node.wait(refused).await;
    });
}

#[test]
fn member_streams_follow_the_connection_that_was_admitted() {
    smol::block_on(async {
        let pair = Pair::connect(Setup::default()).await;
        let opts = DialOpts::peer_id(pair.a.id).condition(PeerCondition::Always);
        let addr = pair.a.listen(LOOPBACK).await;
        pair.b.dial(opts.addresses(vec![addr]).build()).await;
        let (newer, _) = pair.a.connected().await;
        assert!(pair.a.control.admit(newer));
        let (chosen, _) = pair.a.control.open(pair.b.id, MEMBER).await.unwrap();
        assert_eq!(chosen, newer);
        assert!(pair.a.control.expel(newer));
        let (chosen, _) = pair.a.control.open(pair.b.id, STRANGER).await.unwrap();
        assert_eq!(chosen, pair.at_a, "the oldest");
    });
}
