//! The format of a control stream after [`Started`](crate::message::Response::Started): a program's input and outputs,
//! its signals and its end, side by side on one stream.
//!
//! Each direction is a sequence of frames with a four-byte header: one byte of kind, three bytes of length, big endian.
//!
//! | kind | name   | payload                                        | sent by |
//! |------|--------|------------------------------------------------|---------|
//! | 1    | DATA   | stream, 1 to 65,536 bytes                      | both |
//! | 2    | END    | stream: no more of it                          | both |
//! | 3    | CREDIT | stream, bytes that were taken from it (4)      | both |
//! | 4    | RESIZE | columns, rows (2 each)                         | client |
//! | 5    | SIGNAL | number                                         | client |
//! | 6    | EXIT   | 0 and the status, or 1 and the signal's number | node, last frame |
//!
//! A stream is one byte: 0 standard input, 1 output, 2 error. Each begins with a credit of [`WINDOW`] bytes; the receiver
//! gives back what the program, or the reader of our output, has taken. So a program that does not read holds up its
//! input alone, and nobody has to keep more than a window.

/// Bytes of a frame header.
pub const HEADER_LEN: usize = 4;
/// Most bytes of one DATA frame, its stream aside.
pub const DATA_MAX: usize = 64 * 1024;
/// Bytes that a stream may be ahead of whoever takes them.
pub const WINDOW: usize = 1024 * 1024;

/// One of a program's standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stream {
    /// Standard input.
    In = 0,
    /// Standard output; a terminal's only output.
    Out = 1,
    /// Standard error.
    Err = 2,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Status(u8),
    /// By a signal.
    Signal(u8),
}

impl Exit {
    /// As a shell reports it: 128 and the number for a signal.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Self::Status(status) => status,
            Self::Signal(signal) => 128_u8.saturating_add(signal),
        }
    }
}

/// A frame, its payload borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'b> {
    /// Bytes of a stream.
    Data(Stream, &'b [u8]),
    /// A stream has ended.
    End(Stream),
    /// So many bytes of a stream were taken.
    Credit(Stream, u32),
    /// The terminal's new size.
    Resize {
        /// Characters in a line.
        columns: u16,
        /// Lines.
        rows: u16,
    },
    /// A signal for the program and its children.
    Signal(u8),
    /// The program has ended, and its outputs with it.
    Exit(Exit),
}

/// A frame that no correct peer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed frame of a program")]
pub struct Malformed;

const DATA: u8 = 1;
const END: u8 = 2;
const CREDIT: u8 = 3;
const RESIZE: u8 = 4;
const SIGNAL: u8 = 5;
const EXIT: u8 = 6;

/// Bytes that follow a header, if they are not more than any frame has.
pub fn body_len(header: [u8; HEADER_LEN]) -> Result<usize, Malformed> {
    let len = usize::from(header[1]) << 16 | usize::from(header[2]) << 8 | usize::from(header[3]);
    if len <= DATA_MAX + 1 { Ok(len) } else { Err(Malformed) }
}

/// The header and stream that stand before `len` bytes of data.
#[must_use]
pub fn data_head(stream: Stream, len: usize) -> [u8; HEADER_LEN + 1] {
    let [kind, a, b, c] = header(DATA, len + 1);
    [kind, a, b, c, stream as u8]
}

fn header(kind: u8, len: usize) -> [u8; HEADER_LEN] {
    let len = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [kind, len[1], len[2], len[3]]
}

impl<'b> Frame<'b> {
    /// The frame's bytes.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Data(stream, bytes) => (DATA, [&[stream as u8][..], bytes].concat()),
            Self::End(stream) => (END, vec![stream as u8]),
            Self::Credit(stream, bytes) => (CREDIT, [&[stream as u8][..], &bytes.to_be_bytes()].concat()),
            Self::Resize { columns, rows } => (RESIZE, [columns.to_be_bytes(), rows.to_be_bytes()].concat()),
            Self::Signal(number) => (SIGNAL, vec![number]),
            Self::Exit(Exit::Status(status)) => (EXIT, vec![0, status]),
            Self::Exit(Exit::Signal(signal)) => (EXIT, vec![1, signal]),
        };
        [&header(kind, body.len())[..], &body].concat()
    }

    /// A frame from its header and what followed it.
    pub fn parse(header: [u8; HEADER_LEN], body: &'b [u8]) -> Result<Self, Malformed> {
        match (header[0], body) {
            (DATA, [stream, bytes @ ..]) if !bytes.is_empty() => Ok(Self::Data(Stream::parse(*stream)?, bytes)),
            (END, [stream]) => Ok(Self::End(Stream::parse(*stream)?)),
            (CREDIT, [stream, a, b, c, d]) => {
                Ok(Self::Credit(Stream::parse(*stream)?, u32::from_be_bytes([*a, *b, *c, *d])))
            }
            (RESIZE, [a, b, c, d]) => {
                Ok(Self::Resize { columns: u16::from_be_bytes([*a, *b]), rows: u16::from_be_bytes([*c, *d]) })
            }
            (SIGNAL, [number]) => Ok(Self::Signal(*number)),
            (EXIT, [0, status]) => Ok(Self::Exit(Exit::Status(*status))),
            (EXIT, [1, signal]) => Ok(Self::Exit(Exit::Signal(*signal))),
            _ => Err(Malformed),
        }
    }
}

impl Stream {
    fn parse(byte: u8) -> Result<Self, Malformed> {
        [Self::In, Self::Out, Self::Err].into_iter().find(|stream| *stream as u8 == byte).ok_or(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked_before_anything_is_read() {
        assert_eq!(body_len([DATA, 1, 0, 1]), Ok(DATA_MAX + 1));
        assert_eq!(body_len([DATA, 1, 0, 2]), Err(Malformed));
        assert_eq!(data_head(Stream::Out, DATA_MAX), [DATA, 1, 0, 1, 1]);
    }

    #[test]
    fn what_no_peer_sends_is_refused() {
        for (kind, body) in
            [(DATA, &[1][..]), (DATA, &[3, 0]), (END, &[]), (EXIT, &[2, 0]), (9, &[]), (RESIZE, &[0; 5])]
        {
            assert_eq!(Frame::parse(header(kind, body.len()), body), Err(Malformed), "{kind} {body:?}");
        }
    }

    #[test]
    fn a_signal_shows_as_a_shell_shows_it() {
        assert_eq!((Exit::Status(7).status(), Exit::Signal(9).status(), Exit::Signal(255).status()), (7, 137, 255));
    }
}
