//! What crosses a wire between hive nodes and their clients, and nothing that does I/O.
//!
//! Every message is CBOR (RFC 8949) with explicit integer keys: a field or variant is its number, never its place in
//! the source, so old and new nodes understand each other. Unknown map keys are skipped; unknown variants are a
//! decoding error that says so ([`frame::DecodeError::Newer`]). The golden files under `tests/golden` pin the bytes.

#![forbid(unsafe_code)]

pub mod build;
pub mod codec;
pub mod frame;
pub mod host;
pub mod id;
pub mod identity;
pub mod keys;
pub mod message;
pub mod metrics;
pub mod pake;
pub mod password;
mod path;
pub mod peer;
pub mod process;
pub mod record;
pub mod tunnel;
pub mod types;

pub use host::{HostPattern, NotAHost};
pub use id::{KeyName, KeyPrefix, NameError, NetworkName, NodeId, NodeName, OwnNameError, Timestamp};
pub use identity::Identity;
pub use keys::{KeyEntry, KeyInfo, KeyType};
pub use metrics::*;
pub use path::{NotARule, PathRule};
pub use record::{PeerRecord, SignedRecord};
pub use types::*;

/// Oldest control protocol version this build still speaks.
pub const VERSION_MIN: u16 = 1;
/// Control protocol version this build prefers.
pub const VERSION_CURRENT: u16 = 1;

/// Stream protocol on which a connection proves knowledge of a network's password. Open to strangers.
pub const JOIN_PROTOCOL: &str = "/hive/join/1";
/// Stream protocol of `hivectl`, end to end with the node acted on. Open to strangers, who can only log in.
pub const CONTROL_PROTOCOL: &str = "/hive/control/1";
/// Stream protocol on which members exchange peer records; each side writes on the stream it opened.
pub const PEERS_PROTOCOL: &str = "/hive/peers/1";
/// Stream protocol of one tunnelled connection between members.
pub const TUNNEL_PROTOCOL: &str = "/hive/tunnel/1";

/// Stream protocol on which two members that are connected over a relay agree on the moment of a hole punch.
pub const PUNCH_PROTOCOL: &str = "/hive/punch/1";

/// The newest version both ranges contain, if they overlap.
#[must_use]
pub fn negotiate(their_min: u16, their_max: u16) -> Option<u16> {
    let version = VERSION_CURRENT.min(their_max);
    (version >= VERSION_MIN && version >= their_min).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_overlap_meet_at_the_newest_common_version() {
        assert_eq!(negotiate(1, 1), Some(1));
        assert_eq!(negotiate(1, 9), Some(VERSION_CURRENT));
        assert_eq!(negotiate(VERSION_CURRENT + 1, VERSION_CURRENT + 3), None);
        assert_eq!(negotiate(0, 0), None);
    }
}
