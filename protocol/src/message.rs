//! The control protocol: `hivectl` and the node it acts on, on the local socket or on a libp2p stream.
//!
//! The client says [`ClientMessage::Hello`] and learns whether it is authorised. If not, it either proves an enrolled
//! session key or logs in; then it sends requests, one after the other, each answered by one or more responses. Lists
//! come in pages ([`Response`] variants with `more`). After [`Response::Connected`] the stream carries tunnel frames
//! ([`crate::tunnel`]) until it ends.
//!
//! With a `node` in the greeting, the local agent opens a control stream to that node and passes bytes on; there the
//! same server answers. A node reached this way refuses to pass on again.

mod request;
mod response;

use minicbor::{Decode, Encode};

pub use request::*;
pub use response::*;

use crate::{NetworkName, NodeId, NodeName, pake, password::Cost};

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ClientMessage {
    /// First message of a stream.
    #[n(0)]
    Hello {
        /// Oldest version the client speaks.
        #[n(0)]
        min: u16,
        /// Newest version the client speaks.
        #[n(1)]
        max: u16,
        /// Node to act on: a peer id or a name; none for the node that reads this.
        #[n(2)]
        node: Option<String>,
        /// Network in which to look the node up.
        #[n(3)]
        network: Option<NetworkName>,
    },
    /// Proves an enrolled session key: signature over [`session_challenge`].
    #[n(1)]
    Prove {
        /// The client's public key.
        #[cbor(n(0), with = "minicbor::bytes")]
        key: [u8; 32],
        /// Ed25519 signature.
        #[cbor(n(1), with = "minicbor::bytes")]
        signature: [u8; 64],
    },
    /// Begins a login; answered by [`ServerMessage::LoginSalt`].
    #[n(2)]
    Login {
        /// The user.
        #[n(0)]
        user: String,
        /// Public key that the session will be bound to.
        #[cbor(n(1), with = "minicbor::bytes")]
        key: [u8; 32],
    },
    /// Opens the key exchange; answered by [`ServerMessage::LoginAnswer`].
    #[n(3)]
    LoginOpen {
        /// SPAKE2 message.
        #[cbor(n(0), with = "minicbor::bytes")]
        opening: [u8; pake::MESSAGE_LEN],
    },
    /// Proves the password; answered by [`ServerMessage::LoginDone`].
    #[n(4)]
    LoginConfirm {
        /// Confirmation code.
        #[cbor(n(0), with = "minicbor::bytes")]
        code: [u8; pake::CONFIRMATION_LEN],
    },
    /// Asks for something.
    #[n(5)]
    Request(#[n(0)] Request),
}

/// What a node sends to a client.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum ServerMessage {
    /// Answers the greeting.
    #[n(0)]
    Welcome {
        /// Version both will speak.
        #[n(0)]
        version: u16,
        /// The node that answers; the client acts only if it is the one it meant.
        #[n(1)]
        node: NodeId,
        /// Its name.
        #[n(2)]
        name: NodeName,
        /// Whether the client needs no login (local socket, root or the agent's own user).
        #[n(3)]
        authorised: bool,
        /// Fresh random bytes for [`ClientMessage::Prove`].
        #[cbor(n(4), with = "minicbor::bytes")]
        challenge: [u8; 32],
    },
    /// The session key was accepted.
    #[n(1)]
    Proven,
    /// How to stretch the password. The same for a user that does not exist.
    #[n(2)]
    LoginSalt {
        /// Argon2 salt.
        #[cbor(n(0), with = "minicbor::bytes")]
        salt: Vec<u8>,
        /// Argon2 cost.
        #[n(1)]
        cost: Cost,
    },
    /// The node's SPAKE2 message.
    #[n(3)]
    LoginAnswer {
        /// SPAKE2 message.
        #[cbor(n(0), with = "minicbor::bytes")]
        answer: [u8; pake::MESSAGE_LEN],
    },
    /// The node accepted the password and proves that it knows its hash. The client's key is enrolled.
    #[n(4)]
    LoginDone {
        /// Confirmation code.
        #[cbor(n(0), with = "minicbor::bytes")]
        code: [u8; pake::CONFIRMATION_LEN],
        /// How long the session lives, in seconds.
        #[n(1)]
        expires_in_s: u64,
    },
    /// Answers a request, or refuses a step before it ([`Response::Error`]).
    #[n(5)]
    Response(#[n(0)] Response),
}

/// What [`ClientMessage::Prove`] signs: bound to the node, the challenge and the key.
#[must_use]
pub fn session_challenge(node: &NodeId, challenge: &[u8; 32], key: &[u8; 32]) -> Vec<u8> {
    [b"hive session v1\0", &node.as_bytes()[..], challenge, key].concat()
}
