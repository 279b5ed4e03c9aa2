//! One side of one connection: a thread writes, a thread reads and verifies, and both must end as the script says.

use super::script::{Close, Part, Stream};
use crate::{payload, tcp};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

const CHUNK: usize = 16 << 10;

/// How one direction of a connection ended, from this side.
enum End {
    /// All was sent, or an end of stream was received.
    Whole,
    /// The connection was reset.
    Reset,
}

/// Plays a part to its end and returns how many received bytes were verified.
///
/// # Errors
/// What differs from the part, as a sentence.
pub fn play(stream: TcpStream, part: Part) -> Result<u64, String> {
    if part.close == Close::Reset {
        return play_and_reset(stream, part);
    }
    let (closed, other_closed) = sync_channel(1);
    let stream = &stream;
    let (sent, received) = thread::scope(|scope| {
        let writer = scope.spawn(move || write(stream, part, &other_closed));
        let received = read(stream, part.receive, closed);
        (writer.join().expect("a writer does not panic"), received)
    });
    let ((received, verified), sent) = (received?, sent?);
    match (part.close, sent, received) {
        (Close::UntilReset, End::Reset, _) | (Close::UntilReset, _, End::Reset) => Ok(verified),
        (Close::UntilReset, ..) => Err("an end of stream instead of a reset".to_owned()),
        (_, End::Whole, End::Whole) if verified == part.receive.length => Ok(verified),
        (_, End::Whole, End::Whole) => {
            let expected = part.receive.length;
            Err(format!("an end of stream after {verified} of {expected} bytes"))
        }
        _ => Err(format!("a reset that nobody sent, after {verified} bytes")),
    }
}

/// Sends everything, makes sure that the other side has begun, and resets.
fn play_and_reset(stream: TcpStream, part: Part) -> Result<u64, String> {
    let mut first = [0];
    (&stream).read_exact(&mut first).map_err(|why| format!("reading before the reset: {why}"))?;
    verify(part.receive, 0, &first)?;
    send(&stream, part.send, 0, part.send.length).map_err(|why| format!("writing before the reset: {why}"))?;
    tcp::reset(stream);
    Ok(1)
}

fn write(stream: &TcpStream, part: Part, other_closed: &Receiver<()>) -> Result<End, String> {
    match write_all(stream, part, other_closed) {
        Ok(()) => Ok(End::Whole),
        Err(error) if is_reset(&error) => Ok(End::Reset),
        Err(error) => Err(format!("write: {error}")),
    }
}

fn write_all(stream: &TcpStream, part: Part, other_closed: &Receiver<()>) -> io::Result<()> {
    let Stream { length, .. } = part.send;
    let now = if part.close == Close::AfterOther { length / 2 } else { length };
    send(stream, part.send, 0, now)?;
    if part.close == Close::AfterOther {
        // An error means that reading ended badly, and it will tell.
        let _ = other_closed.recv();
        send(stream, part.send, now, length)?;
    }
    if part.close == Close::UntilReset {
        return Ok(());
    }
    stream.shutdown(Shutdown::Write)
}

fn send(mut stream: &TcpStream, what: Stream, from: u64, to: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut offset = from;
    while offset < to {
        let length = CHUNK.min((to - offset) as usize);
        payload::fill(what.seed, offset, &mut buffer[..length]);
        stream.write_all(&buffer[..length])?;
        offset += length as u64;
    }
    Ok(())
}

/// Reads to the end and verifies every byte; `closed` is told of an end of stream.
fn read(mut stream: &TcpStream, what: Stream, closed: SyncSender<()>) -> Result<(End, u64), String> {
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let length = match stream.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if is_reset(&error) => return Ok((End::Reset, offset)),
            Err(error) => return Err(format!("read after {offset} bytes: {error}")),
        };
        if length == 0 {
            // Nobody listens where the writer has ended already.
            let _ = closed.send(());
            return Ok((End::Whole, offset));
        }
        verify(what, offset, &buffer[..length])?;
        offset += length as u64;
    }
}

fn verify(what: Stream, offset: u64, found: &[u8]) -> Result<(), String> {
    if offset + found.len() as u64 > what.length {
        return Err(format!("more than the {} bytes that were sent", what.length));
    }
    match payload::first_difference(what.seed, offset, found) {
        Some(position) => Err(format!("a wrong byte at {position}")),
        None => Ok(()),
    }
}

/// A reset is reported once, to whichever call comes first; a write after that is a broken pipe.
fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
