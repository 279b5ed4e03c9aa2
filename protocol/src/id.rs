//! Names of things: nodes by key, nodes and networks by text, moments by wall clock. Each is checked where it is made,
//! so code that holds one need not check again.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use libp2p_identity::{PeerId, ed25519};
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

/// A node's Ed25519 public key: the name that every security decision uses.
///
/// Shown as its libp2p peer id, which holds the same 32 bytes (libp2p peer ids spec, "identity" multihash).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 32]);

/// Multihash code and length, then the protobuf header of an Ed25519 key: what precedes the key in a peer id.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The text is not the peer id of an Ed25519 key.
#[derive(Debug, Clone, thiserror::Error)]
#[error("not the peer id of an Ed25519 key: {0:?}")]
pub struct NotAPeerId(String);

impl NodeId {
    /// Wraps a public key's bytes; whether they are a point on the curve shows when a signature is checked.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The public key's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The node behind a libp2p peer id, if that is an inlined Ed25519 key.
    #[must_use]
    pub fn from_peer_id(peer: &PeerId) -> Option<Self> {
        let bytes = peer.to_bytes();
        let key = bytes.strip_prefix(&PEER_ID_PREFIX)?;
        key.try_into().ok().map(Self)
    }

    /// The same node as libp2p names it.
    #[must_use]
    pub fn to_peer_id(&self) -> PeerId {
        let mut bytes = [0; 38];
        bytes[..6].copy_from_slice(&PEER_ID_PREFIX);
        bytes[6..].copy_from_slice(&self.0);
        PeerId::from_bytes(&bytes).unwrap_or_else(|_| unreachable!("an inlined key is a peer id"))
    }

    /// Whether this node made `signature` over `message`.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        ed25519::PublicKey::try_from_bytes(&self.0).is_ok_and(|key| key.verify(message, signature))
    }

    /// The first eight bytes, big endian: the key of ranges in table sync.
    #[must_use]
    pub fn short(&self) -> u64 {
        let mut head = [0; 8];
        head.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(head)
    }
}

impl From<&ed25519::PublicKey> for NodeId {
    fn from(key: &ed25519::PublicKey) -> Self {
        Self(key.to_bytes())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_peer_id().to_base58())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NodeId {
    type Err = NotAPeerId;

    fn from_str(text: &str) -> Result<Self, NotAPeerId> {
        let peer = PeerId::from_str(text.trim()).ok();
        peer.and_then(|p| Self::from_peer_id(&p)).ok_or_else(|| NotAPeerId(text.chars().take(80).collect()))
    }
}

impl<C> Encode<C> for NodeId {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for NodeId {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let bytes = d.bytes()?.try_into().map_err(|_| decode::Error::message("a node id has 32 bytes"))?;
        Ok(Self(bytes))
    }
}

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a name cannot be empty")]
    Empty,
    /// More bytes than the limit.
    #[error("a name has at most {max} bytes, this one has {len}")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A character that would be ambiguous on a command line or dangerous on a terminal.
    #[error("a name cannot contain {0:?}: no spaces, colons, slashes or control characters")]
    Character(char),
}

/// Why a node shall not call itself so, though others may have done it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnNameError {
    /// On a command line it means something else.
    #[error("a node cannot be called {0}: on a command line that means the local node")]
    Reserved(String),
    /// It would be taken for an option.
    #[error("a node's name cannot begin with a dash: it would be taken for an option")]
    Dash,
    /// It would be taken for another node.
    #[error("a node's name cannot be a peer id: it would be taken for that node")]
    PeerId,
}

impl NodeName {
    /// Words that stand for the local node on a command line.
    pub const LOCAL: [&str; 2] = ["self", "local"];

    /// Whether a node may take this name for itself: commands could not name it otherwise.
    ///
    /// # Errors
    ///
    /// What the name would be taken for.
    pub fn check_own(&self) -> Result<(), OwnNameError> {
        match self.as_str() {
            word if Self::LOCAL.contains(&word) => Err(OwnNameError::Reserved(word.to_owned())),
            word if word.starts_with('-') => Err(OwnNameError::Dash),
            word if word.parse::<NodeId>().is_ok() => Err(OwnNameError::PeerId),
            _ => Ok(()),
        }
    }
}

fn check_name(text: &str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > max {
        return Err(NameError::TooLong { len: text.len(), max });
    }
    let bad = |c: &char| c.is_control() || c.is_whitespace() || ":/,".contains(*c) || is_invisible(*c);
    text.chars().find(bad).map_or(Ok(()), |c| Err(NameError::Character(c)))
}

/// Zero-width and direction-changing characters, with which one name could be made to look like another.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Longest name, in bytes of UTF-8.
            pub const MAX_BYTES: usize = $max;

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name(text, $max)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: encode::Write>(
                &self,
                e: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), encode::Error<W::Error>> {
                e.str(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                d.str()?.parse().map_err(decode::Error::message)
            }
        }

        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }
    };
}

name_type! {
    /// A network's name: what its members share besides the password.
    NetworkName, 64
}

name_type! {
    /// A node's name for people; several nodes may bear the same one.
    NodeName, 64
}

name_type! {
    /// The name of an entry of the key store.
    KeyName, 112
}

name_type! {
    /// What the names of a certificate, its key and its issuers begin with.
    KeyPrefix, 100
}

/// A moment, as milliseconds since the Unix epoch by some node's wall clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Timestamp(#[n(0)] pub u64);

impl Timestamp {
    /// The moment as the standard library has it; a value beyond its range becomes the epoch.
    #[must_use]
    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_millis(self.0)).unwrap_or(UNIX_EPOCH)
    }

    /// How long before `now` this was; zero for the future.
    #[must_use]
    pub fn age(self, now: Timestamp) -> Duration {
        Duration::from_millis(now.0.saturating_sub(self.0))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        const YEAR_9999_MS: u64 = 253_402_300_799_999;
        let shown = Timestamp(self.0.min(YEAR_9999_MS)).to_system_time();
        s.collect_str(&humantime::format_rfc3339_millis(shown))
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for NodeId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use libp2p_identity::Keypair;

    use super::*;

    #[test]
    fn a_node_does_not_take_a_name_that_commands_take_for_something_else() {
        let own = |text: &str| text.parse::<NodeName>().unwrap().check_own();
        assert_eq!(own("shed"), Ok(()));
        assert_eq!(own("self"), Err(OwnNameError::Reserved("self".into())));
        assert_eq!(own("--watch"), Err(OwnNameError::Dash));
        assert_eq!(own(&NodeId::from_bytes([3; 32]).to_string()), Err(OwnNameError::PeerId));
    }

    #[test]
    fn a_node_id_is_its_peer_id() {
        let peer = Keypair::generate_ed25519().public().to_peer_id();
        let node = NodeId::from_peer_id(&peer).unwrap();
        assert_eq!(node.to_peer_id(), peer);
        assert_eq!(node.to_string(), peer.to_base58());
        assert_eq!(node.to_string().parse::<NodeId>().unwrap(), node);
    }

    #[test]
    fn a_peer_id_of_another_kind_is_refused() {
        let hashed = PeerId::random().to_base58();
        let rsa_like = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N";
        assert!(hashed.parse::<NodeId>().is_err() || hashed.starts_with("12D3"));
        assert!(rsa_like.parse::<NodeId>().is_err());
        assert!("nonsense".parse::<NodeId>().is_err());
    }

    #[test]
    fn names_keep_out_what_confuses_people_and_parsers() {
        assert!("gpu-box.local_1".parse::<NodeName>().is_ok());
        assert!("küche".parse::<NodeName>().is_ok());
        assert_eq!("".parse::<NodeName>(), Err(NameError::Empty));
        for bad in ["a b", "a:b", "a/b", "a\nb", "a\u{1b}[31m", "a\u{202e}b", "a,b"] {
            assert!(matches!(bad.parse::<NodeName>(), Err(NameError::Character(_))), "{bad:?}");
        }
        assert!(matches!("x".repeat(65).parse::<NetworkName>(), Err(NameError::TooLong { .. })));
    }

    #[test]
    fn a_wrong_name_does_not_decode() {
        let bytes = minicbor::to_vec("two words").unwrap();
        assert!(minicbor::decode::<NodeName>(&bytes).is_err());
    }
}
