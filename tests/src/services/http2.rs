//! The least server of HTTP/2 without TLS (RFC 9113).

use crate::{lab::Host, tcp};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

/// Starts one on a free port of the host's IPv4 address. It answers every request with an empty 200.
pub fn http2(host: &Host) -> tcp::Server {
    tcp::Server::start(host, 0, |stream| drop(serve(stream)))
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.read_exact(&mut [0; 24])?;
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])?;
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header)?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        io::copy(&mut (&stream).take(length.into()), &mut io::sink())?;
        match (header[3], header[4]) {
            // SETTINGS that are no acknowledgement are acknowledged.
            (4, 0) => stream.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0])?,
            // HEADERS: `:status: 200` is number 8 of HPACK's static table, and the last frame of the stream.
            (1, _) => stream.write_all(&[&[0, 0, 1, 1, 5], &header[5..], &[0x88]].concat())?,
            _ => {}
        }
    }
}
