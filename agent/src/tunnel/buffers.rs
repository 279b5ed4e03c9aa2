//! Copy buffers that a stream holds only while it has bytes to move, so an idle stream costs none.

use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
};

use hive_protocol::tunnel::{DATA_MAX, HEADER_LEN};

/// Bytes of one buffer: a whole DATA frame.
pub const LEN: usize = HEADER_LEN + DATA_MAX;
/// Buffers kept for reuse; more are given back to the system.
const KEPT: usize = 16;

static POOL: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// A buffer of [`LEN`] bytes with unspecified content.
pub struct Buffer(Option<Box<[u8]>>);

impl Buffer {
    /// Takes one from the pool, or makes one.
    pub fn take() -> Self {
        let pooled = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(Some(pooled.unwrap_or_else(|| vec![0; LEN].into_boxed_slice())))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buffer) = self.0.take().filter(|_| pool.len() < KEPT) {
            pool.push(buffer);
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_keeps_a_bounded_number() {
        let many: Vec<Buffer> = (0..KEPT * 3).map(|_| Buffer::take()).collect();
        assert!(many.iter().all(|buffer| buffer.len() == LEN));
        drop(many);
        assert!(POOL.lock().unwrap().len() <= KEPT);
    }
}
