//! The thread on which `russh` runs: a tokio runtime with timers and nothing else.

use std::{future::Future, sync::OnceLock, thread};

use russh::server::{Handler, RunningSession};
use tokio::runtime::{Builder, Handle};

static RUNTIME: OnceLock<Option<Handle>> = OnceLock::new();

/// Runs a session to its end.
pub async fn run<H, F>(start: impl FnOnce() -> F + Send + 'static) -> Result<(), H::Error>
where
    H: Handler + Send + 'static,
    H::Error: 'static,
    F: Future<Output = Result<RunningSession<H>, H::Error>> + Send,
{
    let Some(runtime) = RUNTIME.get_or_init(begin) else { return Err(russh::Error::SendError.into()) };
    let session = runtime.spawn(async move { start().await?.await });
    // Nobody cancels it, so this is a panic, which has ended this session alone. Where a panic aborts (profile `dist`), it
    // has ended the agent, and nobody is here to see it.
    session.await.unwrap_or_else(|_| Err(russh::Error::Disconnect.into()))
}

/// Starts the thread; it stays for the life of the agent and sleeps while there is no session.
fn begin() -> Option<Handle> {
    let runtime = Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|e| log::error!("no SSH server: {e}")).ok()?;
    let handle = runtime.handle().clone();
    let thread = thread::Builder::new().name("hive-ssh".to_owned()).stack_size(512 * 1024);
    let started = thread.spawn(move || runtime.block_on(std::future::pending::<()>()));
    started.map_err(|e| log::error!("no SSH server: cannot start its thread: {e}")).ok()?;
    Some(handle)
}
