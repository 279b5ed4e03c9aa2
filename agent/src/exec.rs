//! The agent's tasks: they run on the [workers](hive_transport::workers), beside which the main thread only waits.

use std::{future::Future, io};

use hive_transport::workers;
pub use hive_transport::workers::spawn;

/// Runs `main` to its end on this thread while the workers run what it spawns.
pub fn run<T>(main: impl Future<Output = T>) -> io::Result<T> {
    workers::start()?;
    Ok(smol::future::block_on(main))
}
