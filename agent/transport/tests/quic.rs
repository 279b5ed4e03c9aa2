//! QUIC between two nodes on loopback: identities, streams and their endings, and the port that dials leave from.
#![allow(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

mod common;

use common::{MEMBER, Node, STRANGER, Setup, within};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId,
    multiaddr::Protocol,
    swarm::{SwarmEvent, dial_opts::DialOpts},
};

const ANY: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

fn dial(peer: PeerId, at: &Multiaddr) -> DialOpts {
    DialOpts::peer_id(peer).addresses(vec![at.clone()]).build()
}

fn port(addr: &Multiaddr) -> Option<u16> {
    addr.iter().find_map(|part| if let Protocol::Udp(port) = part { Some(port) } else { None })
}

#[test]
fn streams_carry_bytes_both_ways_and_ends_are_seen() {
    smol::block_on(async {
        let ((a, _), (b, mut incoming)) = (Node::start(Setup::default()), Node::start(Setup::default()));
        let at = b.listen(ANY).await;
        a.dial(dial(b.id, &at)).await;
        let ((connection, _), _) = futures::join!(a.connected(), b.connected());
        assert!(a.control.admit(connection));
        let mut ours = a.control.open_on(connection, STRANGER).await.unwrap();
        ours.write_all(&[7; 100_000]).await.unwrap();
        ours.close().await.unwrap();
        let mut theirs = within(incoming.next()).await.unwrap().stream;
        let mut got = Vec::new();
        within(theirs.read_to_end(&mut got)).await.unwrap();
        assert_eq!(got, [7; 100_000]);
        theirs.write_all(b"back").await.unwrap();
        theirs.close().await.unwrap();
        let mut back = Vec::new();
        within(ours.read_to_end(&mut back)).await.unwrap();
        assert_eq!(back, b"back");
    });
}

#[test]
fn what_was_written_to_a_dropped_stream_arrives() {
    smol::block_on(async {
        let ((a, _), (b, mut incoming)) = (Node::start(Setup::default()), Node::start(Setup::default()));
        let at = b.listen(ANY).await;
        a.dial(dial(b.id, &at)).await;
        let (connection, _) = a.connected().await;
        let mut ours = a.control.open_on(connection, STRANGER).await.unwrap();
        ours.write_all(b"x").await.unwrap();
        let mut theirs = within(incoming.next()).await.unwrap();
        theirs.stream.write_all(b"last words").await.unwrap();
        drop(theirs);
        let mut heard = Vec::new();
        within(ours.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard, b"last words");
    });
}

#[test]
fn the_key_at_the_other_end_is_proven() {
    smol::block_on(async {
        let ((a, _), (b, _)) = (Node::start(Setup::default()), Node::start(Setup::default()));
        let at = b.listen(ANY).await;
        a.dial(dial(PeerId::random(), &at)).await;
        let failed = a.wait(|event| match event {
            SwarmEvent::OutgoingConnectionError { error, .. } => Some(error.to_string()),
            _ => None,
        });
        assert!(failed.await.contains("peer ID"), "another key answers");
    });
}

#[test]
fn dials_leave_from_the_listening_port() {
    smol::block_on(async {
        let ((a, _), (b, _)) = (Node::start(Setup::default()), Node::start(Setup::default()));
        let (from, to) = (a.listen(ANY).await, b.listen(ANY).await);
        a.dial(dial(b.id, &to)).await;
        let (_, seen) = b.connected().await;
        assert_eq!(port(&seen), port(&from));
    });
}

#[test]
fn both_ends_may_dial_at_once() {
    smol::block_on(async {
        let ((a, _), (b, _)) = (Node::start(Setup::default()), Node::start(Setup::default()));
        let (here, there) = (a.listen(ANY).await, b.listen(ANY).await);
        a.dial(dial(b.id, &there)).await;
        let punch = DialOpts::peer_id(a.id).addresses(vec![here]).override_role().build();
        b.dial(punch).await;
        futures::join!(a.connected(), b.connected());
        assert!(a.control.open(b.id, STRANGER).await.is_ok());
        assert!(a.control.open(b.id, MEMBER).await.is_err(), "not admitted");
    });
}
