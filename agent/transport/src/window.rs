//! Flow control for several byte streams on one: what a sender may still send, and what a receiver holds until somebody
//! takes it. Bounded on both sides, so a reader that stalls costs its own window and nothing else.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use event_listener::Event;

/// A sender's credit.
pub struct Window {
    left: Mutex<usize>,
    granted: Event,
}

impl Window {
    /// A window of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self { left: Mutex::new(bytes), granted: Event::new() }
    }

    /// Waits until something may be sent; answers how much.
    pub async fn open(&self) -> usize {
        loop {
            let granted = self.granted.listen();
            let left = *lock(&self.left);
            if left > 0 {
                return left;
            }
            granted.await;
        }
    }

    /// Notes that so many bytes were sent.
    pub fn sent(&self, bytes: usize) {
        let mut left = lock(&self.left);
        *left = left.saturating_sub(bytes);
    }

    /// Notes that the receiver took so many bytes.
    pub fn granted(&self, bytes: usize) {
        let mut left = lock(&self.left);
        *left = left.saturating_add(bytes);
        drop(left);
        self.granted.notify(usize::MAX);
    }
}

/// The sender sent more than its credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more was sent than there was credit for")]
pub struct Overrun;

/// Bytes received that nobody has taken yet.
pub struct Inbox {
    held: Mutex<Held>,
    changed: Event,
    limit: usize,
}

#[derive(Default)]
struct Held {
    bytes: VecDeque<u8>,
    ended: bool,
}

impl Held {
    /// Copies in two pieces: byte by byte, as a draining iterator does it, is several times slower.
    fn take(&mut self, max: usize) -> Vec<u8> {
        let count = self.bytes.len().min(max);
        let (front, back) = self.bytes.as_slices();
        let of_front = front.len().min(count);
        let taken = [&front[..of_front], &back[..count - of_front]].concat();
        self.bytes.drain(..count);
        taken
    }
}

impl Inbox {
    /// Holds at most `limit` bytes, the credit that the sender was given.
    pub fn new(limit: usize) -> Self {
        Self { held: Mutex::default(), changed: Event::new(), limit }
    }

    /// Adds bytes.
    pub fn put(&self, bytes: &[u8]) -> Result<(), Overrun> {
        let mut held = lock(&self.held);
        if held.bytes.len() + bytes.len() > self.limit {
            return Err(Overrun);
        }
        held.bytes.extend(bytes);
        drop(held);
        self.changed.notify(usize::MAX);
        Ok(())
    }

    /// Nothing more will come.
    pub fn end(&self) {
        lock(&self.held).ended = true;
        self.changed.notify(usize::MAX);
    }

    /// Waits for bytes and takes up to `max`; none at the end.
    pub async fn take(&self, max: usize) -> Option<Vec<u8>> {
        loop {
            let changed = self.changed.listen();
            {
                let mut held = lock(&self.held);
                if !held.bytes.is_empty() {
                    return Some(held.take(max));
                }
                if held.ended {
                    return None;
                }
            }
            changed.await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_sender_waits_for_credit() {
        let window = Arc::new(Window::new(3));
        assert_eq!(smol::block_on(window.open()), 3);
        window.sent(3);
        let sender = window.clone();
        let waits = std::thread::spawn(move || smol::block_on(sender.open()));
        window.granted(2);
        assert_eq!(waits.join().unwrap(), 2);
    }

    #[test]
    fn an_inbox_holds_no_more_than_its_limit() {
        let inbox = Inbox::new(4);
        inbox.put(b"abc").unwrap();
        assert_eq!(inbox.put(b"de"), Err(Overrun));
        assert_eq!(smol::block_on(inbox.take(2)).as_deref(), Some(&b"ab"[..]));
        inbox.put(b"def").unwrap();
        inbox.end();
        assert_eq!(smol::block_on(inbox.take(9)).as_deref(), Some(&b"cdef"[..]));
        assert_eq!(smol::block_on(inbox.take(9)), None);
    }
}
