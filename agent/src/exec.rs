//! The agent's executor: one `smol` executor on as many threads as the board has cores, at most four.
//!
//! More threads gain nothing (bulk bytes are bound by memory and cipher, not by scheduling) and cost stack and wake-ups.

use std::{future::Future, thread};

use async_executor::{Executor, Task};

static EXECUTOR: Executor<'static> = Executor::new();
const MAX_THREADS: usize = 4;

/// Runs a future in the background; dropping the task cancels it.
pub fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Task<T> {
    EXECUTOR.spawn(future)
}

/// Runs `main` to its end on this thread while further threads run what it spawns.
pub fn run<T>(main: impl Future<Output = T>) -> T {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for index in 1..threads(cores) {
        let named = thread::Builder::new().name(format!("hive-{index}")).stack_size(512 * 1024);
        // One thread less is slower, not wrong: a board out of threads still runs.
        if let Err(e) = named.spawn(|| async_io::block_on(EXECUTOR.run(std::future::pending::<()>()))) {
            log::warn!("cannot start a worker thread: {e}");
        }
    }
    async_io::block_on(EXECUTOR.run(main))
}

/// Threads on a board with this many cores, the one that runs `main` among them.
fn threads(cores: usize) -> usize {
    cores.clamp(1, MAX_THREADS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_follow_the_board() {
        assert_eq!([0, 1, 2, 4, 64].map(threads), [1, 1, 2, 4, 4]);
    }
}
