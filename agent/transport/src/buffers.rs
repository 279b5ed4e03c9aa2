//! Large buffers that are held only while there are bytes to move, so that an idle connection costs none.

use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A pool of buffers of one size.
pub struct Pool {
    len: usize,
    kept: usize,
    state: Mutex<State>,
}

struct State {
    free: Vec<Box<[u8]>>,
    taken: usize,
}

/// A buffer with unspecified content; it goes back to its pool when dropped.
pub struct Buffer {
    pool: &'static Pool,
    bytes: Box<[u8]>,
}

impl Pool {
    /// A pool of buffers of `len` bytes that keeps `kept` for reuse, and as many more as are in use: those of a stream in
    /// full flow come and go in bursts, and new memory costs more than a copy into it. The rest goes back to the system.
    #[must_use]
    pub const fn new(len: usize, kept: usize) -> Self {
        Self { len, kept, state: Mutex::new(State { free: Vec::new(), taken: 0 }) }
    }

    /// Takes a buffer, or makes one.
    pub fn take(&'static self) -> Buffer {
        let mut state = self.state();
        state.taken += 1;
        let pooled = state.free.pop();
        drop(state);
        Buffer { pool: self, bytes: pooled.unwrap_or_else(|| vec![0; self.len].into_boxed_slice()) }
    }

    fn give(&self, bytes: Box<[u8]>) {
        let mut state = self.state();
        state.taken -= 1;
        state.free.push(bytes);
        let most = self.kept + state.taken;
        let surplus = most.min(state.free.len());
        let surplus = state.free.split_off(surplus);
        drop(state);
        // Freed by whoever does not hold the lock.
        drop(surplus);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.bytes));
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static POOL: Pool = Pool::new(100, 4);

    #[test]
    fn the_pool_keeps_a_bounded_number() {
        let mut many: Vec<Buffer> = (0..12).map(|_| POOL.take()).collect();
        assert!(many.iter().all(|buffer| buffer.len() == 100));
        many.truncate(6);
        assert_eq!(POOL.state().free.len(), 6, "half of them are in use");
        drop(many);
        assert_eq!(POOL.state().free.len(), 4);
    }
}
