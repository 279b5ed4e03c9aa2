//! AutoNAT v2 (libp2p specs, `autonat/autonat-v2.md`): whether an address of a node can be dialled from outside.
//!
//! A client names an address and a number on a stream of [`DIAL_REQUEST`]; the server dials that address from another port
//! and says the number on a stream of [`DIAL_BACK`], by which the client knows that it was meant. This module has the
//! messages and the two ends of both streams; whom to ask, whom to answer and what to dial is decided elsewhere. A server
//! here never asks for data before it dials: it dials nobody but the client's own IP address, so there is nothing to pay for.

mod wire;

use std::io;

use futures::{AsyncReadExt, AsyncWriteExt, io::AsyncRead, io::AsyncWrite};
use libp2p::Multiaddr;

use wire::{Fields, Message, Value};

/// Stream protocol by which a client asks.
pub const DIAL_REQUEST: &str = "/libp2p/autonat/2/dial-request";
/// Stream protocol by which the server says the client's number, on the connection that it dialled.
pub const DIAL_BACK: &str = "/libp2p/autonat/2/dial-back";

/// Addresses that a server looks at.
const MOST_ADDRESSES: usize = 16;
/// `DialResponse.ResponseStatus` and `DialStatus`: OK.
const OK: u64 = 200;
const REFUSED: u64 = 101;
const DIAL_ERROR: u64 = 100;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where it may be reached, best first.
    pub addresses: Vec<Multiaddr>,
    /// What to say there.
    pub nonce: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The server got through.
    Reached,
    /// It did not.
    Unreached,
    /// It did not try.
    Refused,
}

/// Asks whether an address can be dialled, and waits for the verdict.
///
/// # Errors
/// The stream breaks, the server keeps to no protocol, or asks for more than this client gives.
pub async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &Request) -> io::Result<Verdict> {
    send(stream, &encode_request(request)).await?;
    let answer = receive(stream).await?;
    let fields = Fields::parse(&answer).ok_or_else(malformed)?;
    match fields.bytes(2) {
        Some(response) => verdict(response).ok_or_else(malformed),
        // A server that wants data for a dial is one that may be made to dial others.
        None => Ok(Verdict::Refused),
    }
}

/// Reads what a client asks.
///
/// # Errors
/// The stream breaks, or the bytes are no request. Addresses that are none are passed over.
pub async fn asked(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Request> {
    let message = receive(stream).await?;
    decode_request(&message).ok_or_else(malformed)
}

/// Tells a client what came of its request, for the address at this place of its list.
///
/// # Errors
/// The stream breaks.
pub async fn answer(stream: &mut (impl AsyncWrite + Unpin), place: usize, verdict: Verdict) -> io::Result<()> {
    send(stream, &encode_verdict(place, verdict)).await?;
    stream.close().await
}

/// Says a client's number where it was reached, and waits until it has heard it.
///
/// # Errors
/// The stream breaks.
pub async fn dial_back(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), nonce: u64) -> io::Result<()> {
    send(stream, &Message::default().fixed(1, nonce).finish()).await?;
    receive(stream).await.map(drop)
}

/// Hears a number, which `expected` must know.
///
/// # Errors
/// The stream breaks, or says anything else.
pub async fn heard_back(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    expected: impl FnOnce(u64) -> bool,
) -> io::Result<()> {
    let message = receive(stream).await?;
    let nonce = Fields::parse(&message).and_then(|fields| fields.fixed(1)).ok_or_else(malformed)?;
    if !expected(nonce) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a number that was not asked for"));
    }
    // OK is zero, which protobuf leaves out.
    send(stream, &[]).await?;
    stream.close().await
}

fn encode_request(request: &Request) -> Vec<u8> {
    let mut inner = Message::default();
    for address in &request.addresses {
        inner = inner.bytes(1, address.as_ref());
    }
    Message::default().bytes(1, &inner.fixed(2, request.nonce).finish()).finish()
}

fn decode_request(message: &[u8]) -> Option<Request> {
    let fields = Fields::parse(message)?;
    let inner = Fields::parse(fields.bytes(1)?)?;
    let addresses = inner.all(1).take(MOST_ADDRESSES).filter_map(|value| match value {
        Value::Bytes(bytes) => Multiaddr::try_from(bytes.to_vec()).ok(),
        _ => None,
    });
    Some(Request { addresses: addresses.collect(), nonce: inner.fixed(2)? })
}

fn encode_verdict(place: usize, verdict: Verdict) -> Vec<u8> {
    let response = match verdict {
        Verdict::Refused => Message::default().number(1, REFUSED),
        Verdict::Reached => Message::default().number(1, OK).number(2, place as u64).number(3, OK),
        Verdict::Unreached => Message::default().number(1, OK).number(2, place as u64).number(3, DIAL_ERROR),
    };
    Message::default().bytes(2, &response.finish()).finish()
}

fn verdict(response: &[u8]) -> Option<Verdict> {
    let fields = Fields::parse(response)?;
    Some(match (fields.number(1)?, fields.number(3)) {
        (OK, Some(OK)) => Verdict::Reached,
        (OK, Some(_)) => Verdict::Unreached,
        _ => Verdict::Refused,
    })
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a message of AutoNAT v2")
}

/// Writes one message behind its length.
async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    stream.write_all(&[wire::varint(message.len() as u64), message.to_vec()].concat()).await?;
    stream.flush().await
}

/// Reads one message behind its length.
async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut length = Vec::new();
    let length = loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        length.push(byte[0]);
        match wire::read_varint(&length) {
            Some((length, _)) => break usize::try_from(length).unwrap_or(usize::MAX),
            None if length.len() >= 4 => return Err(malformed()),
            None => {}
        }
    };
    if length > wire::MAX_LEN {
        return Err(malformed());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: u64 = 0x0102_0304_0506_0708;

    fn request() -> Request {
        Request { addresses: vec!["/ip4/203.0.113.9/tcp/4180".parse().unwrap()], nonce: NONCE }
    }

    #[test]
    fn messages_have_the_bytes_of_the_specification() {
        // DialRequest: addrs = 1, nonce = 2 (fixed64), as field 1 of Message.
        let bytes = data_encoding::HEXLOWER.encode(&encode_request(&request()));
        assert_eq!(bytes, ["0a13", "0a08", "04cb007109061054", "11", "0807060504030201"].concat());
        assert_eq!(decode_request(&encode_request(&request())), Some(request()));
        // DialResponse: status = 1, addrIdx = 2, dialStatus = 3, as field 2 of Message.
        let expected = [0x12, 0x08, 0x08, 0xc8, 0x01, 0x10, 0x01, 0x18, 0xc8, 0x01];
        assert_eq!(encode_verdict(1, Verdict::Reached), expected);
        for said in [Verdict::Reached, Verdict::Unreached, Verdict::Refused] {
            let bytes = encode_verdict(0, said);
            assert_eq!(Fields::parse(&bytes).and_then(|fields| verdict(fields.bytes(2)?)), Some(said));
        }
    }

    #[test]
    fn what_is_cut_off_or_garbled_is_no_request() {
        let whole = encode_request(&request());
        assert!((0..whole.len()).all(|length| decode_request(&whole[..length]).is_none()));
        assert!((0..=255).all(|byte| decode_request(&[byte; 64]).is_none()));
    }

    #[test]
    fn a_request_and_its_verdict_cross_a_stream() {
        smol::block_on(async {
            let (mut client, mut server) = streams();
            let serve = async {
                assert_eq!(asked(&mut server).await.unwrap(), request());
                answer(&mut server, 0, Verdict::Reached).await.unwrap();
            };
            let request = request();
            let (verdict, ()) = futures::join!(ask(&mut client, &request), serve);
            assert_eq!(verdict.unwrap(), Verdict::Reached);
        });
    }

    #[test]
    fn a_number_that_nobody_asked_for_proves_nothing() {
        smol::block_on(async {
            for (known, outcome) in [(NONCE, true), (1, false)] {
                let (mut server, mut client) = streams();
                let hear = async {
                    let heard = heard_back(&mut client, |nonce| nonce == known).await;
                    drop(client);
                    heard
                };
                let (said, heard) = futures::join!(dial_back(&mut server, NONCE), hear);
                assert_eq!((said.is_ok(), heard.is_ok()), (outcome, outcome));
            }
        });
    }

    /// Two ends of a connection.
    fn streams() -> (async_io::Async<std::os::unix::net::UnixStream>, async_io::Async<std::os::unix::net::UnixStream>) {
        async_io::Async::<std::os::unix::net::UnixStream>::pair().unwrap()
    }
}
