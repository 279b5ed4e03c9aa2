//! Why a tunnelled connection ends before its applications end it.

use std::io;

use hive_core::stream::Violation;
use hive_protocol::tunnel::{Kind, Refusal, RefuseReason};

use super::{Cause, carrier};

/// Why a stream cannot go on, or not on this carrier.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The application here aborted its connection.
    #[error("the local application aborted the connection: {0}")]
    Local(io::Error),
    /// The application there aborted its connection.
    #[error("the application at the peer aborted the connection")]
    Remote,
    /// The peer's ingress did not connect, or does not resume.
    #[error("refused by the peer: {}", .0.text)]
    Refused(Refusal),
    /// The carrier failed under it.
    #[error(transparent)]
    Carrier(#[from] carrier::Error),
    /// The peer does not keep count.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// A frame that must not come here.
    #[error("unexpected {0:?} frame")]
    Unexpected(Kind),
    /// The right to it was taken away, or nobody came back for it in time.
    #[error("no longer allowed")]
    Ended,
}

impl Broken {
    /// What to tell the people here, unless an application ended its connection or the right to it is gone.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::Refused(refusal) => match refusal.reason {
                RefuseReason::NoRule => Some(Cause::NoRule),
                RefuseReason::Target => Some(Cause::Target),
                RefuseReason::Busy => Some(Cause::Busy),
                RefuseReason::Unknown | RefuseReason::Path => Some(Cause::Path),
            },
            Self::Carrier(_) | Self::Violation(_) | Self::Unexpected(_) => Some(Cause::Path),
            Self::Local(_) | Self::Remote | Self::Ended => None,
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Carrier(error.into())
    }
}
