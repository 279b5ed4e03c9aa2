//! `hive-agent sftp-server`: files over standard input and output, for the clients of the SSH server.
//!
//! Version 3 of the protocol (draft-ietf-secsh-filexfer-02), which OpenSSH's `sftp` and `scp` speak, with those of its
//! extensions that they use. It runs as a process of its own with the rights of the agent's user, one per client, and
//! answers one request after the other: what a slow disk holds up is this client alone.

mod attributes;
mod files;
mod listing;
mod wire;

use std::io::{self, Read, Write};

use files::Files;
use wire::{Bad, Fields, Packet, status};

/// Longest packet in either direction, in bytes: OpenSSH's own limit.
const MAX_PACKET: usize = 256 * 1024;
const VERSION: u32 = 3;

/// Serves one client to the end of its input.
pub fn serve(mut input: impl Read, mut output: impl Write) -> io::Result<()> {
    let mut files = Files::default();
    while let Some(request) = read(&mut input)? {
        let answer = answer(&mut files, &request);
        output.write_all(&answer.into_bytes())?;
        output.flush()?;
    }
    Ok(())
}

/// A packet without its length, or none at the end of the input.
fn read(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > MAX_PACKET {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a packet of {length} bytes")));
    }
    let mut packet = vec![0; length];
    input.read_exact(&mut packet)?;
    Ok(Some(packet))
}

fn answer(files: &mut Files, request: &[u8]) -> Packet {
    let (kind, rest) = request.split_first().unwrap_or((&0, &[]));
    let mut fields = Fields::of(rest);
    if *kind == wire::INIT {
        return wire::version(VERSION);
    }
    // Without a number there is no request that could be answered by it.
    let Ok(id) = fields.number() else { return status(0, &Bad::Malformed) };
    files.request(*kind, id, &mut fields).unwrap_or_else(|bad| status(id, &bad))
}

#[cfg(test)]
mod tests;
