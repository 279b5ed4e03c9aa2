//! The tunnel format: how one TCP connection travels over a carrier, whatever the carrier is.
//!
//! A carrier is any reliable, ordered byte stream between two members; today a libp2p stream. Each direction is a
//! sequence of frames with a four-byte header: one byte of kind, three bytes of length, big endian.
//!
//! | kind | name   | payload                          | sent by |
//! |------|--------|----------------------------------|---------|
//! | 1    | OPEN   | CBOR [`Open`]                    | egress, first frame; DATA may follow at once |
//! | 2    | ACCEPT | empty                            | ingress, once its target is connected |
//! | 3    | REFUSE | CBOR [`Refusal`]                 | ingress, instead of ACCEPT; the last frame |
//! | 4    | DATA   | 1 to 65,536 bytes                | both |
//! | 5    | EOF    | bytes sent in all, 8 bytes       | both; nothing but RESET may follow |
//! | 6    | RESET  | empty                            | both; the last frame |
//!
//! EOF stands for TCP's FIN and RESET for its RST: they travel as frames because a carrier's own close is neither
//! reliable nor distinguishable (yamux' FIN loses data, see libp2p/rust-yamux#117 and the design notes). The stream id
//! in OPEN and the byte count in EOF let a stream be found and checked on another carrier; kinds 7 to 9 are kept for
//! acknowledgement, credit and resumption.

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
        [Self::Open, Self::Accept, Self::Refuse, Self::Data, Self::Eof, Self::Reset]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    fn lengths(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Open | Self::Refuse => 1..=CBOR_MAX,
            Self::Data => 1..=DATA_MAX,
            Self::Eof => 8..=8,
            Self::Accept | Self::Reset => 0..=0,
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
}

/// A whole OPEN or REFUSE frame.
#[must_use]
pub fn encode_cbor<T: Encode<()>>(kind: Kind, payload: &T) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN];
    minicbor::encode(payload, &mut bytes).unwrap_or_else(|_| unreachable!("encoding to memory"));
    let len = bytes.len() - HEADER_LEN;
    bytes[..HEADER_LEN].copy_from_slice(&Header { kind, len }.to_bytes());
    bytes
}

/// Decodes the payload of an OPEN or REFUSE frame.
pub fn decode_cbor<'b, T: Decode<'b, ()>>(payload: &'b [u8]) -> Result<T, DecodeError> {
    crate::frame::decode(payload)
}

/// A whole EOF frame after `sent` bytes of DATA.
#[must_use]
pub fn encode_eof(sent: u64) -> [u8; HEADER_LEN + 8] {
    let mut bytes = [0; HEADER_LEN + 8];
    bytes[..HEADER_LEN].copy_from_slice(&Header { kind: Kind::Eof, len: 8 }.to_bytes());
    bytes[HEADER_LEN..].copy_from_slice(&sent.to_be_bytes());
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
        assert_eq!(Header::parse([7, 0, 0, 8]), Err(HeaderError::Kind(7)));
    }
}
