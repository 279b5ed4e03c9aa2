//! Streams over real TCP on loopback: none lost, none hanging, strangers kept to their own.
#![allow(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

mod common;

use std::io::ErrorKind;

use common::{MEMBER, Node, Pair, STRANGER, Setup, echo, round_trip, within};
use futures::{
    AsyncReadExt, AsyncWriteExt, StreamExt, future,
    stream::{self, FuturesUnordered},
};
use hive_transport::streams::OpenError;
use libp2p::{PeerId, StreamProtocol, swarm::SwarmEvent};

/// Opens 1,000 streams, `width` at once, and sends a few bytes through each and back.
async fn thousand(width: usize) {
    let pair = Pair::admitted(Setup::default()).await;
    smol::spawn(echo(pair.incoming_b)).detach();
    let (control, peer) = (&pair.a.control, pair.b.id);
    let rounds = stream::iter(0..1000_u32).map(|number| async move {
        let (_, stream) = control.open(peer, MEMBER).await.unwrap();
        let bytes = number.to_be_bytes().repeat(64);
        assert_eq!(round_trip(stream, &bytes).await.unwrap(), bytes, "stream {number}");
    });
    within(rounds.buffer_unordered(width).for_each(async |()| {})).await;
}

#[test]
fn a_thousand_streams_eight_at_once() {
    smol::block_on(thousand(8));
}

#[test]
fn a_thousand_streams_256_at_once() {
    smol::block_on(thousand(256));
}

#[test]
fn a_burst_of_512_waits_for_a_slow_receiver() {
    smol::block_on(async {
        let mut setup = Setup::default();
        setup.streams.incoming = 1;
        let mut pair = Pair::admitted(setup).await;
        let (control, peer) = (pair.a.control.clone(), pair.b.id);
        // Every stream is written to before the receiver takes the first.
        let opened = stream::iter(0..512_u32).map(async |number| {
            let (_, mut stream) = control.open(peer, MEMBER).await.unwrap();
            stream.write_all(&number.to_be_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            stream
        });
        let opened: Vec<_> = within(opened.buffer_unordered(512).collect()).await;
        let mut seen = Vec::new();
        for _ in 0..512 {
            let mut incoming = within(pair.incoming_b.next()).await.unwrap();
            let mut number = [0; 4];
            within(incoming.stream.read_exact(&mut number)).await.unwrap();
            seen.push(u32::from_be_bytes(number));
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..512).collect::<Vec<_>>());
        drop(opened);
    });
}

#[test]
fn two_thousand_streams_live_on_one_connection() {
    smol::block_on(async {
        let pair = Pair::admitted(Setup::default()).await;
        smol::spawn(echo(pair.incoming_b)).detach();
        let (control, peer) = (&pair.a.control, pair.b.id);
        let open = stream::iter(0..2048).map(async |_| {
            let (_, mut stream) = control.open(peer, MEMBER).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream.flush().await.unwrap();
            stream.read_exact(&mut [0]).await.unwrap();
            stream
        });
        let mut streams: Vec<_> = within(open.buffer_unordered(64).collect()).await;
        // All of them still work.
        for stream in &mut streams {
            stream.write_all(b"y").await.unwrap();
            stream.flush().await.unwrap();
            within(stream.read_exact(&mut [0])).await.unwrap();
        }
    });
}

#[test]
fn a_full_connection_refuses_and_lives() {
    smol::block_on(async {
        let mut setup = Setup::default();
        setup.streams.streams_per_connection = 2;
        let pair = Pair::admitted(setup).await;
        smol::spawn(echo(pair.incoming_b)).detach();
        let (control, peer) = (&pair.a.control, pair.b.id);
        let (_, first) = control.open(peer, MEMBER).await.unwrap();
        let (_, second) = control.open(peer, MEMBER).await.unwrap();
        assert_eq!(control.open(peer, MEMBER).await.unwrap_err(), OpenError::TooManyStreams);
        drop(first);
        let (_, third) = control.open(peer, MEMBER).await.unwrap();
        for stream in [second, third] {
            assert_eq!(within(round_trip(stream, b"x")).await.unwrap(), b"x");
        }
    });
}

#[test]
fn beyond_the_bound_a_stream_is_reset_and_the_rest_lives() {
    const OPENED: usize = 32;
    // One fits the queue, four are held back.
    const KEPT: usize = 5;
    smol::block_on(async {
        let mut setup = Setup::default();
        setup.streams.incoming = 0;
        setup.streams.held_per_connection = KEPT - 1;
        let mut pair = Pair::admitted(setup).await;
        let mut answers = FuturesUnordered::new();
        for _ in 0..OPENED {
            let (_, mut stream) = pair.a.control.open(pair.b.id, MEMBER).await.unwrap();
            answers.push(async move {
                // The reset may come as early as here.
                drop(stream.write_all(b"x").await);
                drop(stream.flush().await);
                matches!(stream.read(&mut [0]).await, Ok(1))
            });
        }
        for _ in KEPT..OPENED {
            assert_eq!(within(answers.next()).await, Some(false), "reset, not served");
        }
        for _ in 0..KEPT {
            let mut incoming = within(pair.incoming_b.next()).await.unwrap();
            incoming.stream.write_all(b"y").await.unwrap();
            incoming.stream.close().await.unwrap();
        }
        while let Some(served) = within(answers.next()).await {
            assert!(served);
        }
    });
}

/// Nobody confirms the protocol before the opener is gone.
#[test]
fn what_is_written_and_closed_arrives_without_an_answer() {
    smol::block_on(async {
        let mut pair = Pair::admitted(Setup::default()).await;
        for size in [1, 4096, 100_000] {
            let (_, mut stream) = pair.a.control.open(pair.b.id, MEMBER).await.unwrap();
            stream.write_all(&vec![7; size]).await.unwrap();
            stream.close().await.unwrap();
            drop(stream);
            let mut incoming = within(pair.incoming_b.next()).await.unwrap();
            let mut received = Vec::new();
            within(incoming.stream.read_to_end(&mut received)).await.unwrap();
            assert_eq!(received, vec![7; size]);
        }
    });
}

#[test]
fn no_caller_waits_for_a_connection_that_is_gone() {
    smol::block_on(async {
        let pair = Pair::admitted(Setup::default()).await;
        let (control, peer) = (&pair.a.control, pair.b.id);
        let opens: FuturesUnordered<_> = (0..1000).map(|_| control.open(peer, MEMBER)).collect();
        let close = async {
            pair.b.close(pair.at_b).await;
            pair.a.wait(|event| matches!(event, SwarmEvent::ConnectionClosed { .. }).then_some(())).await;
        };
        let (outcomes, ()) = within(future::join(opens.collect::<Vec<_>>(), close)).await;
        assert!(outcomes.iter().all(|outcome| !matches!(outcome, Err(OpenError::Timeout))));
    });
}

#[test]
fn strangers_get_stranger_protocols_alone() {
    smol::block_on(async {
        let mut pair = Pair::connect(Setup::default()).await;
        let refused = pair.a.control.open(pair.b.id, MEMBER).await.unwrap_err();
        assert_eq!(refused, OpenError::NotAdmitted);
        // The opener is deceived, the other end is not.
        assert!(pair.a.control.admit(pair.at_a));
        let (_, stream) = pair.a.control.open(pair.b.id, MEMBER).await.unwrap();
        let error = within(round_trip(stream, b"hello")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let (_, mut stream) = pair.a.control.open(pair.b.id, STRANGER).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.flush().await.unwrap();
        let incoming = within(pair.incoming_b.next()).await.unwrap();
        assert_eq!((incoming.peer, incoming.connection), (pair.a.id, pair.at_b));
        assert_eq!(incoming.protocol, STRANGER);
    });
}

#[test]
fn a_refused_stream_stays_refused() {
    smol::block_on(async {
        let pair = Pair::connect(Setup::default()).await;
        assert!(pair.a.control.admit(pair.at_a));
        let mut stream = pair.a.control.open_on(pair.at_a, MEMBER).await.unwrap();
        let first = within(stream.read(&mut [0])).await.unwrap_err();
        assert_eq!(first.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(stream.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(stream.write(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(stream.flush().await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_stranger_holds_four_streams_at_once() {
    smol::block_on(async {
        let mut pair = Pair::connect(Setup::default()).await;
        let (control, connection) = (pair.a.control.clone(), pair.at_a);
        let open = || async {
            let mut stream = control.open_on(connection, STRANGER).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream.flush().await.unwrap();
            stream
        };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            ours.push(open().await);
            theirs.push(within(pair.incoming_b.next()).await.unwrap());
        }
        let mut fifth = open().await;
        assert!(!matches!(within(fifth.read(&mut [0])).await, Ok(1..)), "the fifth is reset");
        theirs.pop();
        // Dropping one made room.
        let _again = open().await;
        assert!(within(pair.incoming_b.next()).await.is_some());
    });
}

#[test]
fn admission_and_expulsion_take_effect_at_once() {
    smol::block_on(async {
        let mut pair = Pair::admitted(Setup::default()).await;
        assert!(pair.a.control.is_admitted(pair.at_a));
        let (_, mut stream) = pair.a.control.open(pair.b.id, MEMBER).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(within(pair.incoming_b.next()).await.unwrap().protocol, MEMBER);
        assert!(pair.b.control.expel(pair.at_b));
        let (_, stream) = pair.a.control.open(pair.b.id, MEMBER).await.unwrap();
        let error = within(round_trip(stream, b"x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn errors_say_what_is_missing() {
    smol::block_on(async {
        let (node, _incoming) = Node::start(Setup::default());
        let nobody = node.control.open(PeerId::random(), STRANGER).await;
        assert_eq!(nobody.unwrap_err(), OpenError::NotConnected);
        let pair = Pair::connect(Setup::default()).await;
        let undeclared = pair.a.control.open(pair.b.id, StreamProtocol::new("/test/unknown")).await;
        assert_eq!(undeclared.unwrap_err(), OpenError::NotAdmitted);
    });
}

#[test]
fn a_closing_connection_ends_its_streams_and_its_entry() {
    smol::block_on(async {
        let mut pair = Pair::admitted(Setup::default()).await;
        let (_, mut stream) = pair.a.control.open(pair.b.id, MEMBER).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        let _held = within(pair.incoming_b.next()).await.unwrap();
        pair.b.close(pair.at_b).await;
        assert!(!matches!(within(stream.read(&mut [0])).await, Ok(1..)));
        let closed = |event| matches!(event, SwarmEvent::ConnectionClosed { .. }).then_some(());
        pair.a.wait(closed).await;
        assert!(!pair.a.control.is_admitted(pair.at_a));
        let again = pair.a.control.open_on(pair.at_a, MEMBER).await;
        assert_eq!(again.unwrap_err(), OpenError::NotConnected);
    });
}

#[test]
fn many_megabytes_pass_in_both_directions() {
    smol::block_on(async {
        let pair = Pair::admitted(Setup::default()).await;
        smol::spawn(echo(pair.incoming_b)).detach();
        let (_, stream) = pair.a.control.open(pair.b.id, MEMBER).await.unwrap();
        let bytes: Vec<u8> = (0..8_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (mut reader, mut writer) = stream.split();
        let send = async {
            writer.write_all(&bytes).await.unwrap();
            writer.flush().await.unwrap();
        };
        let receive = async {
            let mut back = vec![0; bytes.len()];
            reader.read_exact(&mut back).await.unwrap();
            back
        };
        let ((), back) = within(future::join(send, receive)).await;
        assert!(back == bytes);
    });
}
