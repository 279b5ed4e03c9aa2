//! Length-prefixed CBOR frames: four bytes of length, big endian, then one CBOR item.
//!
//! The length is checked against the caller's limit before anything is allocated for it.

use minicbor::{Decode, Encode};

/// Bytes of the length prefix.
pub const PREFIX: usize = 4;
/// Largest frame on a control stream, in bytes. Lists longer than this travel in pages.
pub const CONTROL_MAX: usize = 256 * 1024;
/// Largest frame between members, in bytes.
pub const PEER_MAX: usize = 64 * 1024;
/// Largest frame of a join exchange, in bytes.
pub const JOIN_MAX: usize = 1024;

/// Why bytes did not become a message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The prefix announces more than the limit; nothing was allocated.
    #[error("frame of {len} bytes exceeds the limit of {max}")]
    TooLong {
        /// Bytes announced.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A variant this build does not know: the sender is newer.
    #[error("message of a newer version: {0}")]
    Newer(#[source] minicbor::decode::Error),
    /// Not CBOR, or not this message.
    #[error("malformed message: {0}")]
    Malformed(#[source] minicbor::decode::Error),
    /// One message, then more bytes.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

/// A message is larger than its stream allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message of {len} bytes exceeds the limit of {max}")]
pub struct TooLarge {
    /// Bytes of the encoded message.
    pub len: usize,
    /// Bytes allowed.
    pub max: usize,
}

/// Encodes `message` behind its length prefix.
pub fn encode<T: Encode<()>>(message: &T, max: usize) -> Result<Vec<u8>, TooLarge> {
    let mut bytes = vec![0; PREFIX];
    // Writing to a Vec has no error but one of an Encode implementation, and ours have none.
    minicbor::encode(message, &mut bytes).unwrap_or_else(|_| unreachable!("encoding to memory"));
    let len = bytes.len() - PREFIX;
    let prefix = u32::try_from(len).ok().filter(|_| len <= max).ok_or(TooLarge { len, max })?;
    bytes[..PREFIX].copy_from_slice(&prefix.to_be_bytes());
    Ok(bytes)
}

/// The length a prefix announces, if `max` allows it.
pub fn body_len(prefix: [u8; PREFIX], max: usize) -> Result<usize, DecodeError> {
    let len = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if len > max { Err(DecodeError::TooLong { len, max }) } else { Ok(len) }
}

/// Decodes the body of a frame, all of it.
pub fn decode<'b, T: Decode<'b, ()>>(body: &'b [u8]) -> Result<T, DecodeError> {
    let mut decoder = minicbor::Decoder::new(body);
    let message = decoder
        .decode()
        .map_err(|e| if e.is_unknown_variant() { DecodeError::Newer(e) } else { DecodeError::Malformed(e) })?;
    match body.len() - decoder.position() {
        0 => Ok(message),
        rest => Err(DecodeError::Trailing(rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_its_length_and_its_body() {
        let frame = encode(&"hive", 16).unwrap();
        assert_eq!(frame, [0, 0, 0, 5, 0x64, b'h', b'i', b'v', b'e']);
        let len = body_len(frame[..4].try_into().unwrap(), 16).unwrap();
        assert_eq!(decode::<&str>(&frame[4..4 + len]).unwrap(), "hive");
    }

    #[test]
    fn lengths_are_checked_on_both_sides() {
        assert_eq!(encode(&"0123456789", 10), Err(TooLarge { len: 11, max: 10 }));
        assert!(matches!(body_len([0xff; 4], PEER_MAX), Err(DecodeError::TooLong { .. })));
        assert_eq!(body_len([0, 1, 0, 0], PEER_MAX).unwrap(), PEER_MAX);
    }

    #[test]
    fn trailing_bytes_are_not_ignored() {
        assert!(matches!(decode::<u8>(&[1, 2]), Err(DecodeError::Trailing(1))));
        assert!(matches!(decode::<u8>(&[]), Err(DecodeError::Malformed(_))));
    }
}
