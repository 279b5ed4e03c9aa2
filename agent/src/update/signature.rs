//! The release key: whose signature a node demands on a new binary.
//!
//! Plain Ed25519 (RFC 8032) over the whole file, as `openssl pkeyutl -sign -rawin` makes it.

use std::{fmt, fs, str::FromStr};

use data_encoding::BASE64;
use libp2p::identity::ed25519::PublicKey;

/// What stands before the 32 bytes of an Ed25519 key in DER (RFC 8410, section 4).
const DER_HEAD: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// An Ed25519 public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseKey(PublicKey);

/// Not a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither an Ed25519 public key in base64 nor a PEM file of one; see `openssl pkey -pubout`")]
pub struct KeyError;

impl FromStr for ReleaseKey {
    type Err = KeyError;

    /// From base64, of the bare key or in DER, or from a PEM file's name or its text.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let read = fs::read_to_string(text).unwrap_or_else(|_| text.to_owned());
        let body: String = read.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
        let bytes = BASE64.decode(body.as_bytes()).map_err(|_| KeyError)?;
        let bare = bytes.strip_prefix(DER_HEAD).unwrap_or(&bytes);
        PublicKey::try_from_bytes(bare).map(Self).map_err(|_| KeyError)
    }
}

impl fmt::Display for ReleaseKey {
    /// In base64, without a head.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0.to_bytes()))
    }
}

impl ReleaseKey {
    /// Whether the owner of the key has signed these bytes.
    pub fn verify(&self, bytes: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify(bytes, signature)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::identity::ed25519::Keypair;

    use super::*;

    #[test]
    fn a_key_is_taken_in_three_forms() {
        let pair = Keypair::generate();
        let bare = pair.public().to_bytes();
        let der = BASE64.encode(&[DER_HEAD, &bare].concat());
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n");
        let key: ReleaseKey = der.parse().unwrap();
        assert_eq!(key.to_string().parse(), Ok(key.clone()));
        assert_eq!(pem.parse(), Ok(key.clone()));
        assert_eq!("nonsense".parse::<ReleaseKey>(), Err(KeyError));
        let signature = pair.sign(b"binary").try_into().unwrap();
        assert!(key.verify(b"binary", &signature) && !key.verify(b"binarY", &signature));
    }
}
