//! Which connections carry conversations of programs, so that none is closed as spare under one.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use hive_core::ConnId;

/// The conversations of a node with others, by connection: those that it serves and those that it passes on.
#[derive(Default)]
pub struct Conversations(Mutex<BTreeMap<ConnId, usize>>);

/// One of them, until it is dropped.
pub struct Conversation<'a> {
    all: &'a Conversations,
    conn: ConnId,
}

impl Conversations {
    /// A conversation begins on this connection.
    pub fn begin(&self, conn: ConnId) -> Conversation<'_> {
        *self.lock().entry(conn).or_default() += 1;
        Conversation { all: self, conn }
    }

    /// Whether this connection carries any.
    pub fn are_on(&self, conn: ConnId) -> bool {
        self.lock().contains_key(&conn)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ConnId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Conversation<'_> {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(count) = all.get_mut(&self.conn) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.conn);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_in_use_until_its_last_conversation_ends() {
        let (all, conn) = (Conversations::default(), ConnId(7));
        let (first, second) = (all.begin(conn), all.begin(conn));
        drop(first);
        assert!(all.are_on(conn) && !all.are_on(ConnId(8)));
        drop(second);
        assert!(!all.are_on(conn));
    }
}
