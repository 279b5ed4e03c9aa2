use std::{future::poll_fn, io::Write, net::TcpListener};

use libp2p::identity::Keypair;

use super::*;

fn config() -> (PeerId, tls::Config) {
    let key = Keypair::generate_ed25519();
    (key.public().to_peer_id(), tls::Config::new(&key).unwrap().for_bulk().unwrap())
}

async fn next(listener: &Source<TcpListener>) -> tcp::TcpStream {
    tcp::TcpStream::accepted(listener.accept().await.unwrap().0.into_inner().unwrap()).unwrap()
}

/// Both ends of a channel, dialled for `expected` or for whoever answers.
async fn pair(expected: Option<PeerId>) -> (Result<Channel, Error>, Result<(PeerId, Channel), Error>) {
    let ((_, ours), (theirs_id, theirs)) = (config(), config());
    let listener = Source::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let at = listener.get_ref().local_addr().unwrap();
    let expecting = ours.expecting(expected.unwrap_or(theirs_id)).unwrap();
    let answer = async {
        let socket = next(&listener).await;
        accept(socket, &theirs).await
    };
    futures::join!(connect(at, &expecting), answer)
}

async fn channels() -> (Channel, Channel) {
    let (dialled, accepted) = pair(None).await;
    (dialled.unwrap(), accepted.unwrap().1)
}

async fn send(writer: &mut Writer, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        bytes = &bytes[writer.put(bytes)..];
        poll_fn(|cx| writer.poll_flush(cx)).await.unwrap();
    }
}

async fn receive(reader: &mut Reader, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        assert!(poll_fn(|cx| reader.poll_fill(cx)).await.unwrap());
        reader.slices().for_each(|slice| bytes.extend_from_slice(slice));
        reader.consume(usize::MAX);
    }
    bytes
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

#[test]
fn bytes_arrive_whole_in_both_directions() {
    smol::block_on(async {
        let (mut ours, mut theirs) = channels().await;
        for len in [1, 5, records::PLAIN_MAX, records::PLAIN_MAX + 1, 3_000_000] {
            let bytes = pattern(len);
            let there = futures::join!(send(&mut ours.writer, &bytes), receive(&mut theirs.reader, len)).1;
            assert!(there == bytes, "{len} bytes to the listening end");
            let back = futures::join!(send(&mut theirs.writer, &bytes), receive(&mut ours.reader, len)).1;
            assert!(back == bytes, "{len} bytes to the dialling end");
        }
        assert!(ours.is_quiet() && theirs.is_quiet() && ours.is_live());
    });
}

#[test]
fn the_dialling_end_demands_the_peer() {
    smol::block_on(async {
        let (dialled, accepted) = pair(Some(PeerId::random())).await;
        assert!(matches!(dialled, Err(Error::Peer(_))), "{:?}", dialled.err());
        assert!(accepted.is_err());
    });
}

#[test]
fn the_listening_end_learns_who_dialled() {
    smol::block_on(async {
        let ((ours_id, ours), (theirs_id, theirs)) = (config(), config());
        let listener = Source::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let at = listener.get_ref().local_addr().unwrap();
        let expecting = ours.expecting(theirs_id).unwrap();
        let answer = async {
            let socket = next(&listener).await;
            accept(socket, &theirs).await
        };
        let (dialled, accepted) = futures::join!(connect(at, &expecting), answer);
        dialled.unwrap();
        assert_eq!(accepted.unwrap().0, ours_id);
    });
}

#[test]
fn keys_are_renewed_before_they_wear_out_and_on_request() {
    smol::block_on(async {
        let (mut ours, mut theirs) = channels().await;
        // Both ends' counters, as after 2^23 records.
        ours.writer.wear_out();
        theirs.reader.wear_out();
        let bytes = pattern(500_000);
        for _ in 0..2 {
            let there = futures::join!(send(&mut ours.writer, &bytes), receive(&mut theirs.reader, bytes.len())).1;
            assert!(there == bytes);
        }
        ours.writer.request_update();
        send(&mut ours.writer, b"please").await;
        assert_eq!(receive(&mut theirs.reader, 6).await, b"please");
        send(&mut theirs.writer, b"done").await;
        assert_eq!(receive(&mut ours.reader, 4).await, b"done");
        assert_eq!(ours.reader.records(), 1, "the answer came under a new key");
    });
}

#[test]
fn a_close_is_told_from_a_cut() {
    smol::block_on(async {
        let (mut ours, mut theirs) = channels().await;
        ours.writer.close();
        assert!(!poll_fn(|cx| theirs.reader.poll_fill(cx)).await.unwrap());
        assert!(!theirs.is_live());
        let (ours, mut theirs) = channels().await;
        drop(ours);
        assert!(poll_fn(|cx| theirs.reader.poll_fill(cx)).await.is_err());
    });
}

#[test]
fn a_changed_byte_ends_the_channel() {
    smol::block_on(async {
        let (mut ours, mut theirs) = channels().await;
        let mut record = ours.writer.sealed(b"hello");
        record[records::HEADER_LEN + 1] ^= 1;
        ours.writer.raw().write_all(&record).unwrap();
        assert!(poll_fn(|cx| theirs.reader.poll_fill(cx)).await.is_err());
    });
}

#[test]
fn nonsense_and_silence_cost_a_handshake_and_no_more() {
    smol::block_on(async {
        let (_, theirs) = config();
        let listener = Source::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let at = listener.get_ref().local_addr().unwrap();
        let mut stranger = std::net::TcpStream::connect(at).unwrap();
        stranger.write_all(&[22, 3, 1, 255, 255, 0]).unwrap();
        let socket = next(&listener).await;
        assert!(matches!(accept(socket, &theirs).await, Err(Error::Malformed)));
    });
}

#[test]
fn the_acceptor_takes_members_and_bounds_handshakes() {
    smol::block_on(async {
        let ((ours_id, ours), (theirs_id, theirs)) = (config(), config());
        let listener = Source::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let at = listener.get_ref().local_addr().unwrap();
        let (sockets, queue) = async_channel::bounded(8);
        let (channels, accepted) = async_channel::bounded(8);
        let limits = Limits { strangers: 8, per_prefix: 1 };
        let acceptor = Acceptor::new(theirs, queue, limits);
        let serving = smol::spawn(acceptor.run(channels));
        let silent = std::net::TcpStream::connect(at).unwrap();
        sockets.send(next(&listener).await).await.unwrap();
        let expecting = ours.expecting(theirs_id).unwrap();
        let (second, sent) =
            futures::join!(connect(at, &expecting), async { sockets.send(next(&listener).await).await });
        sent.unwrap();
        assert!(second.is_err(), "one handshake is under way from this address already");
        drop(silent);
        let channel = loop {
            let (third, sent) =
                futures::join!(connect(at, &expecting), async { sockets.send(next(&listener).await).await });
            sent.unwrap();
            if let Ok(channel) = third {
                break channel;
            }
        };
        assert_eq!(accepted.recv().await.unwrap().peer, ours_id);
        drop((channel, serving));
    });
}
