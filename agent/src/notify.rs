//! What a service manager is told (`sd_notify(3)`): that the agent is ready, that it lives, that it stops. Nothing where
//! nobody asked to be told.

use std::{
    env,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

use async_io::Timer;

use crate::node::Handle;

/// For what is said once.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(1));

/// The agent answers on its socket.
pub fn ready() {
    tell("READY=1", PATIENCE);
}

/// The agent has begun to stop.
pub fn stopping() {
    tell("STOPPING=1", PATIENCE);
}

/// Says for ever that the node's loop still turns, if the service manager's watchdog wants to hear it.
pub async fn watchdog<T>(node: Handle) -> T {
    let Some(period) = period() else { return std::future::pending().await };
    loop {
        // A loop that hangs does not answer, and then nothing is said.
        let _ = node.ask(|_, _| ()).await;
        tell("WATCHDOG=1", None);
        Timer::after(period).await;
    }
}

/// The same while no node runs.
pub async fn keep_alive<T>() -> T {
    let Some(period) = period() else { return std::future::pending().await };
    loop {
        tell("WATCHDOG=1", None);
        Timer::after(period).await;
    }
}

/// Half of what the watchdog allows, if it means this process (`sd_watchdog_enabled(3)`).
fn period() -> Option<Duration> {
    let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
    let other = number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id()));
    let allowed = number("WATCHDOG_USEC").filter(|allowed| *allowed > 0 && !other)?;
    Some(Duration::from_micros(allowed / 2))
}

/// A manager that does not read must not hold up the agent: what can be said again is not waited for at all.
fn tell(state: &str, patience: Option<Duration>) {
    let Some(address) = env::var("NOTIFY_SOCKET").ok().and_then(|name| address(&name)) else { return };
    let sent = || {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(patience.is_none())?;
        socket.set_write_timeout(patience)?;
        socket.send_to_addr(state.as_bytes(), &address)
    };
    if let Err(e) = sent() {
        log::warn!("the service manager does not hear {state}: {e}");
    }
}

/// A path, or a name in the abstract namespace, which begins with `@`.
fn address(name: &str) -> Option<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name).ok(),
        None => SocketAddr::from_pathname(name).ok(),
    }
}
