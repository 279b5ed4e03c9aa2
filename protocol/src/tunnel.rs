//! The tunnel format: how one TCP connection travels over a carrier, whatever the carrier is.
//!
//! A carrier is any reliable, ordered byte stream between two members: a libp2p stream, or a TLS connection of the bulk
//! plane. Each direction is a sequence of frames with a four-byte header: one byte of kind, three bytes of length, big
//! endian. Numbers in payloads are big endian too.
//!
//! | kind | name    | payload                          | sent by |
//! |------|---------|----------------------------------|---------|
//! | 1    | OPEN    | CBOR [`Open`]                    | egress, first frame; DATA may follow at once |
//! | 2    | ACCEPT  | empty, or the grace granted in seconds, 4 bytes | ingress, once its target is connected |
//! | 3    | REFUSE  | CBOR [`Refusal`]                 | ingress, instead of ACCEPT or RESUMED; the last frame |
//! | 4    | DATA    | 1 to 65,536 bytes                | both |
//! | 5    | EOF     | bytes sent in all, 8 bytes       | both; no DATA may follow |
//! | 6    | RESET   | empty                            | both; the last frame |
//! | 7    | ACK     | bytes delivered in all, 8 bytes  | both, on a stream that resumes |
//! | 8    | WINDOW  | the sender's window in bytes, 4 bytes | both, on a stream that resumes |
//! | 9    | RESUME  | CBOR [`Resume`]                  | egress, first frame on a further carrier |
//! | 10   | RESUMED | bytes delivered in all, 8 bytes  | ingress, the answer to RESUME |
//!
//! EOF stands for TCP's FIN and RESET for its RST: they travel as frames because a carrier's own close is neither
//! reliable nor distinguishable (yamux' FIN loses data, see libp2p/rust-yamux#117 and the design notes).
//!
//! A stream *resumes* if OPEN asks for a grace and ACCEPT grants one. Then each end keeps the bytes that the other has
//! not acknowledged, at most a window of them (at first 256 KiB, until WINDOW
//! says otherwise), and the other acknowledges after at most a quarter of it, or when it has been quiet for a moment.
//! Bytes count as delivered when the application's socket has taken them; an EOF that was passed on counts as one more.
//! When the carrier breaks, the egress has the grace to send RESUME on another, with the count of its side; the ingress
//! answers with its own, and both go on behind what the other has. The stream's id is its secret: 128 random bits that
//! only the two ends know, taken only from the peer that sent OPEN. Without a grace there is no ACK, and the stream ends
//! with its carrier.
//!
//! The egress numbers its attempts: the first OPEN is number 0, every further first frame of the stream one more. A
//! carrier that was given up may be slow, not dead: the ingress closes one whose attempt is not above all it has taken,
//! and harms nothing. REFUSE with [`RefuseReason::Unknown`] ends the stream, unless the egress was never answered:
//! then OPEN was lost, and is sent again. An id is opened once: a second OPEN of it never makes a second connection.
//!
//! On a TLS connection of the bulk plane the next stream may begin (OPEN or RESUME) when both ends of the one before
//! were acknowledged. Any other end of a stream is the end of its carrier.

use minicbor::{Decode, Encode};

use crate::{NetworkName, frame::DecodeError};

/// Bytes of a frame header.
pub const HEADER_LEN: usize = 4;
/// Most bytes of one DATA frame.
pub const DATA_MAX: usize = 64 * 1024;
/// Most bytes of an OPEN or REFUSE payload.
pub const CBOR_MAX: usize = 1024;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Asks for a connection.
    Open = 1,
    /// The target is connected.
    Accept = 2,
    /// The target is not connected, and why.
    Refuse = 3,
    /// Bytes of the connection.
    Data = 4,
    /// No more bytes in this direction.
    Eof = 5,
    /// The connection was aborted.
    Reset = 6,
    /// Bytes that were delivered.
    Ack = 7,
    /// Bytes that may be under way.
    Window = 8,
    /// Asks to go on with a stream.
    Resume = 9,
    /// The stream goes on.
    Resumed = 10,
}

/// A checked frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// Bytes that follow.
    pub len: usize,
}

/// A header that no correct peer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A kind this version does not have.
    #[error("tunnel frame of unknown kind {0}")]
    Kind(u8),
    /// A length the kind does not allow.
    #[error("tunnel frame of kind {kind:?} with {len} bytes")]
    Length {
        /// Kind announced.
        kind: Kind,
        /// Bytes announced.
        len: usize,
    },
}

impl Header {
    /// The header's bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let len = u32::try_from(self.len).unwrap_or(u32::MAX).to_be_bytes();
        [self.kind as u8, len[1], len[2], len[3]]
    }

    /// Reads a header and checks its length against what the kind allows.
    pub fn parse(bytes: [u8; HEADER_LEN]) -> Result<Self, HeaderError> {
        let kind = Kind::from_byte(bytes[0]).ok_or(HeaderError::Kind(bytes[0]))?;
        let len = usize::from(bytes[1]) << 16 | usize::from(bytes[2]) << 8 | usize::from(bytes[3]);
        if kind.lengths().contains(&len) { Ok(Self { kind, len }) } else { Err(HeaderError::Length { kind, len }) }
    }
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Open,
            2 => Self::Accept,
            3 => Self::Refuse,
            4 => Self::Data,
            5 => Self::Eof,
            6 => Self::Reset,
            7 => Self::Ack,
            8 => Self::Window,
            9 => Self::Resume,
            10 => Self::Resumed,
            _ => return None,
        })
    }

    fn lengths(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Open | Self::Refuse | Self::Resume => 1..=CBOR_MAX,
            Self::Data => 1..=DATA_MAX,
            Self::Eof | Self::Ack | Self::Resumed => 8..=8,
            Self::Window => 4..=4,
            Self::Accept => 0..=4,
            Self::Reset => 0..=0,
        }
    }
}

/// The first frame of a stream: which egress asks for which port.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Open {
    /// Random, unguessable name of the stream, for its whole life.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub stream: [u8; 16],
    /// Network whose membership gives the right.
    #[n(1)]
    pub network: NetworkName,
    /// Port on which the egress listens: the origin port of the ingress rule.
    #[n(2)]
    pub origin_port: u16,
    /// Port asked for at the ingress.
    #[n(3)]
    pub target_port: u16,
    /// Seconds for which the stream should outlive its carrier; none if it should not.
    #[n(4)]
    pub grace: Option<u32>,
    /// Number of the attempt, if it is not the first: an OPEN before was lost.
    #[n(5)]
    pub attempt: Option<u32>,
}

/// The first frame of a carrier that goes on with a stream.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Resume {
    /// As in OPEN.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub stream: [u8; 16],
    /// Bytes that the egress has delivered, and one for the end.
    #[n(1)]
    pub delivered: u64,
    /// Number of the attempt; later ones count.
    #[n(2)]
    pub attempt: Option<u32>,
}

/// Why an ingress did not connect.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Refusal {
    /// Kind of reason.
    #[n(0)]
    pub reason: RefuseReason,
    /// A sentence for people.
    #[n(1)]
    pub text: String,
}

/// Kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum RefuseReason {
    /// No enabled ingress rule names this peer, origin port, target port and network.
    #[n(0)]
    NoRule,
    /// The rule allows it, the target did not accept the connection.
    #[n(1)]
    Target,
    /// Too many streams; worth a retry.
    #[n(2)]
    Busy,
    /// There is no such stream to go on with: it never came here, its grace is over, its right was taken away, or it
    /// ended.
    #[n(3)]
    Unknown,
    /// The rule takes nothing over the path that this came by; worth a retry on another.
    #[n(4)]
    Path,
}

/// A whole OPEN, REFUSE or RESUME frame.
#[must_use]
pub fn encode_cbor<T: Encode<()>>(kind: Kind, payload: &T) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN];
    minicbor::encode(payload, &mut bytes).unwrap_or_else(|_| unreachable!("encoding to memory"));
    let len = bytes.len() - HEADER_LEN;
    bytes[..HEADER_LEN].copy_from_slice(&Header { kind, len }.to_bytes());
    bytes
}

/// Decodes the payload of an OPEN, REFUSE or RESUME frame.
pub fn decode_cbor<'b, T: Decode<'b, ()>>(payload: &'b [u8]) -> Result<T, DecodeError> {
    crate::frame::decode(payload)
}

/// A whole EOF frame after `sent` bytes of DATA.
#[must_use]
pub fn encode_eof(sent: u64) -> [u8; HEADER_LEN + 8] {
    encode_count(Kind::Eof, sent)
}

/// A whole EOF, ACK or RESUMED frame.
#[must_use]
pub fn encode_count(kind: Kind, count: u64) -> [u8; HEADER_LEN + 8] {
    let mut bytes = [0; HEADER_LEN + 8];
    bytes[..HEADER_LEN].copy_from_slice(&Header { kind, len: 8 }.to_bytes());
    bytes[HEADER_LEN..].copy_from_slice(&count.to_be_bytes());
    bytes
}

/// A whole WINDOW frame, or an ACCEPT frame that grants a grace.
#[must_use]
pub fn encode_u32(kind: Kind, number: u32) -> [u8; HEADER_LEN + 4] {
    let mut bytes = [0; HEADER_LEN + 4];
    bytes[..HEADER_LEN].copy_from_slice(&Header { kind, len: 4 }.to_bytes());
    bytes[HEADER_LEN..].copy_from_slice(&number.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_checked_before_anything_is_read() {
        let data = Header { kind: Kind::Data, len: DATA_MAX };
        assert_eq!(Header::parse(data.to_bytes()), Ok(data));
        assert_eq!(Header::parse([4, 1, 0, 1]), Err(HeaderError::Length { kind: Kind::Data, len: DATA_MAX + 1 }));
        assert_eq!(Header::parse([4, 0, 0, 0]), Err(HeaderError::Length { kind: Kind::Data, len: 0 }));
        assert_eq!(Header::parse([6, 0, 0, 1]), Err(HeaderError::Length { kind: Kind::Reset, len: 1 }));
        assert_eq!(Header::parse([0, 0, 0, 0]), Err(HeaderError::Kind(0)));
        assert_eq!(Header::parse([7, 0, 0, 9]), Err(HeaderError::Length { kind: Kind::Ack, len: 9 }));
        assert_eq!(Header::parse([11, 0, 0, 8]), Err(HeaderError::Kind(11)));
    }
}
