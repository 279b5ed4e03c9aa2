//! The control protocol's server: the local socket, control streams from peers, and passing streams on to other nodes.
//!
//! A stream is greeted, authorised (`login`), and then served request by request (`handler`); the same code serves
//! local and remote callers. `forward` passes a local caller's stream on to another node; a remote caller's stream is
//! never passed on.

mod connect;
mod conversations;
mod files;
mod forward;
mod handler;
mod keys;
mod login;
mod logs;
mod run;
mod server;
mod socket;
mod update;
mod views;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use hive_core::ConnId;
use smol::channel::{self, Receiver, Sender};

pub use conversations::Conversations;
pub use server::remote;
pub use socket::{SocketError, listen};

/// The authorised control streams, so that a session's end closes what it opened.
#[derive(Default)]
pub struct Sessions(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    next: u64,
    /// By number: the session's key, and what is dropped to close the stream.
    streams: HashMap<u64, ([u8; 32], Sender<()>)>,
    /// Authorised streams on each stranger's connection.
    held: HashMap<ConnId, usize>,
}

impl Sessions {
    /// Closes every stream that uses this session.
    pub fn end(&self, key: &[u8; 32]) {
        self.lock().streams.retain(|_, (of, _)| of != key);
    }

    /// Enters a stream that proved this session.
    fn enter(self: &Arc<Self>, key: [u8; 32]) -> Entry {
        let (end, ended) = channel::bounded(1);
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        inner.streams.insert(number, (key, end));
        Entry { number, ended, sessions: self.clone() }
    }

    /// Counts an authorised stream on a connection; true for the first.
    fn hold(&self, conn: ConnId) -> bool {
        let mut inner = self.lock();
        let count = inner.held.entry(conn).or_default();
        *count += 1;
        *count == 1
    }

    /// Counts one away; true for the last.
    fn release(&self, conn: ConnId) -> bool {
        let mut inner = self.lock();
        let left = inner.held.get(&conn).map_or(0, |count| count.saturating_sub(1));
        if left > 0 {
            inner.held.insert(conn, left);
        } else {
            inner.held.remove(&conn);
        }
        left == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An authorised stream's place.
struct Entry {
    number: u64,
    ended: Receiver<()>,
    sessions: Arc<Sessions>,
}

impl Entry {
    /// Waits until the session has ended.
    async fn ended(&self) {
        // Nobody ever sends: the channel closes when the entry is struck out.
        let _ = self.ended.recv().await;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.sessions.lock().streams.remove(&self.number);
    }
}
