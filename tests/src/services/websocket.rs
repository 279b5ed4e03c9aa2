//! The least server of WebSocket (RFC 6455): it takes every request for an upgrade and sends back what follows.

use crate::{lab::Host, tcp};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

/// Answers the upgrade.
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

/// Starts one on a free port of the host's IPv4 address.
pub fn websocket(host: &Host) -> tcp::Server {
    tcp::Server::start(host, 0, |stream| drop(serve(stream)))
}

/// Upgrades a connection to such a server, from the client's side.
///
/// # Panics
/// When the server does not agree.
pub fn upgrade(mut stream: impl Read + Write) {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n").expect("a request");
    let mut answer = [0; SWITCHING.len()];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, SWITCHING, "{}", String::from_utf8_lossy(&answer));
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    stream.write_all(SWITCHING)?;
    io::copy(&mut stream.try_clone()?, &mut stream).map(drop)
}
