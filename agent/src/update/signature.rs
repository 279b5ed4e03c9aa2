//! The release key: whose signature a node demands on a new binary.
//!
//! Plain Ed25519 (RFC 8032) over the whole file, as `openssl pkeyutl -sign -rawin` makes it.

use std::{fmt, fs, str::FromStr};

use data_encoding::BASE64;
use ed25519_dalek::{StreamVerifier, VerifyingKey};

/// What stands before the 32 bytes of an Ed25519 key in DER (RFC 8410, section 4).
const DER_HEAD: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// An Ed25519 public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseKey(VerifyingKey);

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
        VerifyingKey::try_from(bare).map(Self).map_err(|_| KeyError)
    }
}

impl fmt::Display for ReleaseKey {
    /// In base64, without a head.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0.to_bytes()))
    }
}

impl ReleaseKey {
    /// Begins to look whether the owner of the key has made this signature; none where it cannot be one.
    pub fn begin(&self, signature: &[u8; 64]) -> Option<Signature> {
        self.0.verify_stream(&signature.into()).ok().map(Signature)
    }
}

/// A signature, and what has come so far of the bytes that it is said to be for.
pub struct Signature(StreamVerifier);

impl Signature {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Whether the owner of the key has signed all of them.
    pub fn verify(self) -> bool {
        self.0.finalize_and_verify().is_ok()
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
        let holds = |pieces: [&[u8]; 2]| {
            let mut signature = key.begin(&signature).unwrap();
            pieces.iter().for_each(|piece| signature.update(piece));
            signature.verify()
        };
        assert!(holds([b"bin", b"ary"]) && !holds([b"bin", b"arY"]));
        assert!(key.begin(&[0xff; 64]).is_none());
    }
}
