//! What a proxy has carried and how its last connection fared, for the people who look.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

use super::lock;

/// What a proxy has carried.
#[derive(Default)]
pub struct Counters {
    pub(super) open: AtomicU32,
    pub(super) total: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    last_error: Mutex<Option<Failed>>,
    listener_error: Mutex<Option<String>>,
}

/// Why a connection failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// What to do about it.
    pub cause: Cause,
    /// In words.
    pub text: String,
    /// When; none for what is so now.
    pub at: Option<Instant>,
}

/// Kinds of failure, each with another remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// There is no path to the peer, or it broke.
    Path,
    /// The peer has no ingress for this.
    NoRule,
    /// The target of the ingress does not accept connections.
    Target,
    /// The host of the ingress has no address.
    Name,
    /// The peer carries as much as it can.
    Busy,
    /// There is no certificate to end TLS with.
    Certificate,
}

/// A proxy's counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Connections open.
    pub open: u32,
    /// Connections since the agent started.
    pub total: u64,
    /// Bytes from the peer.
    pub bytes_in: u64,
    /// Bytes to the peer.
    pub bytes_out: u64,
    /// Last failure of a connection, cleared by a success.
    pub last_error: Option<Failed>,
    /// Why the egress cannot listen.
    pub listener_error: Option<String>,
}

impl Counters {
    /// Bytes came from the peer.
    pub fn received(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes went to the peer.
    pub fn sent(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A connection failed.
    pub fn failed(&self, cause: Cause, why: impl Into<String>) {
        *lock(&self.last_error) = Some(Failed { cause, text: why.into(), at: Some(Instant::now()) });
    }

    /// A connection was made.
    pub fn succeeded(&self) {
        *lock(&self.last_error) = None;
    }

    /// Whether the egress listens, or why not.
    pub fn listening(&self, problem: Option<String>) {
        *lock(&self.listener_error) = problem;
    }

    pub(super) fn counted(&self) -> Counted {
        Counted {
            open: self.open.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            last_error: lock(&self.last_error).clone(),
            listener_error: lock(&self.listener_error).clone(),
        }
    }
}
