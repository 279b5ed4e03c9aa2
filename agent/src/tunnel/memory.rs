//! Memory that tunnelled bytes may take: one budget for the node, by the size of the board.
//!
//! What counts is what streams keep for their peers' acknowledgement, the only buffers that grow with the number of
//! streams. A stream may keep as much as is free: so nobody gets everything, and all who want much get the same. Each
//! gets [`hive_core::stream::LEAST_WINDOW`] in any case: a crowd of slow readers slows others down and never stops them.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use hive_core::share;
use hive_protocol::tunnel::{DATA_MAX, HEADER_LEN};
use hive_transport::{
    board,
    buffers::{Buffer, Pool},
};

/// Bytes that are read from an application at once: with its header, a DATA frame fills four TLS records.
pub const READ_LEN: usize = 4 * 16 * 1024 - HEADER_LEN;
/// Smaller runs are kept in memory of their own size.
const SMALL: usize = 16 * 1024;
/// What each of these takes beside its bytes: its place in the queue, and what the allocator needs.
const OWN_COST: usize = 96;
/// The part of the board's memory that the budget is, and its bounds.
const PART: u128 = 16;
const LEAST: usize = 4 * 1024 * 1024;
const MOST: usize = 256 * 1024 * 1024;

static READS: Pool = Pool::new(READ_LEN, 16);
static FRAMES: Pool = Pool::new(HEADER_LEN + DATA_MAX, 16);
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// A run of bytes from an application, kept until the peer has it.
pub struct Chunk {
    bytes: Bytes,
    len: usize,
}

enum Bytes {
    Pooled(Buffer),
    Own(Box<[u8]>),
}

impl Chunk {
    /// The first `len` bytes of what was read.
    pub fn new(buffer: Buffer, len: usize) -> Self {
        let bytes = if len < SMALL { Bytes::Own(buffer[..len].into()) } else { Bytes::Pooled(buffer) };
        let chunk = Self { bytes, len };
        KEPT.fetch_add(chunk.cost(), Ordering::Relaxed);
        chunk
    }

    fn cost(&self) -> usize {
        match &self.bytes {
            Bytes::Pooled(buffer) => buffer.len(),
            Bytes::Own(bytes) => bytes.len() + OWN_COST,
        }
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Pooled(buffer) => &buffer[..self.len],
            Bytes::Own(bytes) => bytes,
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.cost(), Ordering::Relaxed);
    }
}

/// A buffer for reading from an application.
pub fn read_buffer() -> Buffer {
    READS.take()
}

/// A buffer for one whole DATA frame, where bytes are only passed on.
pub fn frame_buffer() -> Buffer {
    FRAMES.take()
}

/// What a stream may keep now.
pub fn share() -> usize {
    share::share(KEPT.load(Ordering::Relaxed), budget())
}

fn budget() -> usize {
    static BUDGET: OnceLock<usize> = OnceLock::new();
    *BUDGET.get_or_init(|| budget_of(board::memory()))
}

/// The budget of a board with this much memory; on 32 bits that may be more than an address holds.
fn budget_of(memory: u128) -> usize {
    usize::try_from(memory / PART).unwrap_or(MOST).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_runs_take_their_own_size() {
        let chunk = Chunk::new(read_buffer(), 100);
        assert_eq!((chunk.cost(), chunk.as_ref().len()), (100 + OWN_COST, 100));
        let chunk = Chunk::new(read_buffer(), SMALL);
        assert_eq!((chunk.cost(), chunk.as_ref().len()), (READ_LEN, SMALL));
    }

    #[test]
    fn the_budget_follows_the_board_within_bounds() {
        const MIB: u128 = 1024 * 1024;
        let boards = [32 * MIB, 64 * MIB, 128 * MIB, 1024 * MIB, 16 * 1024 * MIB, u128::MAX];
        assert_eq!(boards.map(budget_of), [LEAST, LEAST, 2 * LEAST, 16 * LEAST, MOST, MOST]);
        assert!((LEAST..=MOST).contains(&budget()));
    }
}
