//! Large buffers that are held only while there are bytes to move, so that an idle connection costs none.

use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
};

/// A pool of buffers of one size.
pub struct Pool {
    len: usize,
    kept: usize,
    free: Mutex<Vec<Box<[u8]>>>,
}

/// A buffer with unspecified content; it goes back to its pool when dropped.
pub struct Buffer {
    pool: &'static Pool,
    bytes: Box<[u8]>,
}

impl Pool {
    /// A pool of buffers of `len` bytes that keeps `kept` for reuse and gives more back to the system.
    #[must_use]
    pub const fn new(len: usize, kept: usize) -> Self {
        Self { len, kept, free: Mutex::new(Vec::new()) }
    }

    /// Takes a buffer, or makes one.
    pub fn take(&'static self) -> Buffer {
        let pooled = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Buffer { pool: self, bytes: pooled.unwrap_or_else(|| vec![0; self.len].into_boxed_slice()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.pool.kept {
            free.push(bytes);
        }
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
        let many: Vec<Buffer> = (0..12).map(|_| POOL.take()).collect();
        assert!(many.iter().all(|buffer| buffer.len() == 100));
        drop(many);
        assert_eq!(POOL.free.lock().unwrap().len(), 4);
    }
}
