//! The identity a person hands from one node to another: key, name and addresses in one line of text.
//!
//! Text form: URL-safe base64 without padding of a four-byte BLAKE3 checksum followed by the CBOR map. The checksum
//! tells a line that lost characters on its way from one that was never an identity.

use std::{fmt, str::FromStr};

use data_encoding::{BASE64URL_NOPAD, DecodeKind};
use minicbor::{Decode, Encode};
use multiaddr::Multiaddr;

use crate::{NodeId, NodeName, codec, frame};

/// Longest text that is looked at, in bytes.
pub const MAX_TEXT: usize = 8 * 1024;
const CHECKSUM: usize = 4;

/// Who a node is and where it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Identity {
    /// The node's key.
    #[n(0)]
    pub node: NodeId,
    /// The node's name when the identity was made.
    #[n(1)]
    pub name: NodeName,
    /// Where to dial it; hints, the key decides.
    #[cbor(n(2), with = "codec::multiaddrs")]
    pub addresses: Vec<Multiaddr>,
}

/// Why a text is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Characters that base64 does not have.
    #[error("it has characters that no identity has")]
    Base64,
    /// Base64, but cut off or altered.
    #[error("cut off or altered: its checksum does not match")]
    Checksum,
    /// The checksum holds, the content does not.
    #[error(transparent)]
    Content(frame::DecodeError),
    /// Longer than any identity.
    #[error("longer than {MAX_TEXT} characters")]
    TooLong,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = minicbor::to_vec(self).unwrap_or_else(|_| unreachable!("encoding to memory"));
        let bytes = [&checksum(&body)[..], &body].concat();
        f.write_str(&BASE64URL_NOPAD.encode(&bytes))
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text.len() > MAX_TEXT {
            return Err(IdentityError::TooLong);
        }
        let bytes = BASE64URL_NOPAD.decode(normalise(text).as_bytes()).map_err(|e| damage(&e))?;
        let (sum, body) = bytes.split_at_checked(CHECKSUM).ok_or(IdentityError::Checksum)?;
        if sum != checksum(body) {
            return Err(IdentityError::Checksum);
        }
        frame::decode(body).map_err(IdentityError::Content)
    }
}

/// Base64 that does not come out even has lost characters.
fn damage(error: &data_encoding::DecodeError) -> IdentityError {
    match error.kind {
        DecodeKind::Symbol => IdentityError::Base64,
        DecodeKind::Length | DecodeKind::Trailing | DecodeKind::Padding => IdentityError::Checksum,
    }
}

/// Mail programs and terminals wrap lines, and people paste either base64 alphabet.
fn normalise(text: &str) -> String {
    let kept = text.chars().filter(|c| !c.is_whitespace() && *c != '=');
    kept.map(|c| {
        if c == '+' {
            '-'
        } else if c == '/' {
            '_'
        } else {
            c
        }
    })
    .collect()
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&blake3::hash(body).as_bytes()[..CHECKSUM]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Identity {
        Identity {
            node: NodeId::from_bytes([7; 32]),
            name: "shed".parse().unwrap(),
            addresses: vec!["/ip4/192.0.2.7/tcp/4180".parse().unwrap()],
        }
    }

    #[test]
    fn text_and_back() {
        let text = sample().to_string();
        assert_eq!(text.parse::<Identity>().unwrap(), sample());
        let (head, tail) = text.split_at(20);
        assert_eq!(format!(" {head}\n  {tail}==\n").parse::<Identity>().unwrap(), sample());
    }

    #[test]
    fn damage_is_named() {
        let text = sample().to_string();
        assert!(matches!(text[..text.len() - 4].parse::<Identity>(), Err(IdentityError::Checksum)));
        assert!(matches!("!!!".parse::<Identity>(), Err(IdentityError::Base64)));
        assert!(matches!("xx".parse::<Identity>(), Err(IdentityError::Checksum)));
        assert!(matches!(text[..text.len() - 1].parse::<Identity>(), Err(IdentityError::Checksum)));
        assert!(matches!("".parse::<Identity>(), Err(IdentityError::Checksum)));
        assert!(matches!("A".repeat(MAX_TEXT + 1).parse::<Identity>(), Err(IdentityError::TooLong)));
    }
}
