//! A trial, at both ends: the old agent, which has made room and watches, and the new one, which has to prove itself.

use std::{
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    process::{ExitStatus, Stdio},
    time::Duration,
};

use async_io::{Async, Timer};
use async_signal::{Signal, Signals};
use futures::{AsyncReadExt, StreamExt};
use hive_core::update::{Outcome, Record};
use smol::{future::or, process::Child};

use super::{PROVEN, Place, again};
use crate::{node::Handle, notify, time::within};

/// How long the new agent may take to stop: connections are drained before.
const STOPPING: Duration = Duration::from_secs(10);

/// How the old agent's watch ends.
pub enum End {
    /// The trial has ended.
    Outcome(Outcome),
    /// Both were told to stop.
    Stopped,
}

/// What happens during a trial.
enum Event {
    /// The new agent wrote, or its end of the socket is closed.
    Spoke(bool),
    Late,
    Signalled,
}

/// Starts the new binary and waits until it has proven itself or it is certain that it will not. It has stopped when this
/// returns.
pub fn run(place: &Place, record: &Record) -> End {
    log::info!("trying hive-agent {} in place of {}", record.told.to, record.told.from);
    let end = async_io::block_on(watch(place, record))
        .unwrap_or_else(|e| End::Outcome(Outcome::Failed(format!("it cannot be started: {e}"))));
    match &end {
        End::Outcome(Outcome::Proven) => log::info!("hive-agent {} has proven itself", record.told.to),
        End::Outcome(Outcome::Failed(why)) => log::error!("hive-agent {} is rolled back: {why}", record.told.to),
        End::Stopped => log::info!("stopping in the middle of a trial"),
    }
    end
}

async fn watch(place: &Place, record: &Record) -> io::Result<End> {
    let mut signals = Signals::new([Signal::Term, Signal::Int])?;
    let (socket, mut child) = start(place)?;
    let mut socket = Async::new(socket)?;
    let patience = Duration::from_secs(record.patience_s.into());
    let spoke = async {
        let mut word = [0; PROVEN.len()];
        Event::Spoke(socket.read_exact(&mut word).await.is_ok() && word == PROVEN)
    };
    let signalled = async {
        signals.next().await;
        Event::Signalled
    };
    let late = async {
        Timer::after(patience).await;
        Event::Late
    };
    let event = or(or(spoke, signalled), or(late, notify::keep_alive())).await;
    // The end of the socket tells the new agent to stop.
    drop(socket);
    Ok(match event {
        Event::Spoke(true) => {
            stop(&mut child).await;
            End::Outcome(Outcome::Proven)
        }
        Event::Spoke(false) => End::Outcome(Outcome::Failed(ended(stop(&mut child).await))),
        Event::Late => {
            end(&mut child).await;
            let what = if record.rejoin { "rejoin a member" } else { "come up" };
            End::Outcome(Outcome::Failed(format!("it did not {what} within {} s", patience.as_secs())))
        }
        Event::Signalled => {
            stop(&mut child).await;
            End::Stopped
        }
    })
}

fn start(place: &Place) -> io::Result<(UnixStream, Child)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = again::command(&place.staged());
    // A service manager hears of the agent's own process only, which is this one.
    for name in ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"] {
        command.env_remove(name);
    }
    // With the command goes our copy of the other end.
    let child = smol::process::Command::from(command).stdin(Stdio::from(OwnedFd::from(theirs))).spawn()?;
    Ok((ours, child))
}

/// Waits until a new agent that knows it shall stop has done so, and ends one that does not.
async fn stop(child: &mut Child) -> Option<ExitStatus> {
    if let Some(status) = within(STOPPING, child.status()).await {
        return status.ok();
    }
    end(child).await;
    None
}

/// Also waits for it, so that nothing of it stays behind in the table of processes.
async fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.status().await;
}

fn ended(status: Option<ExitStatus>) -> String {
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => format!("it ended with status {code} before it had proven itself"),
        Some((_, Some(signal))) => format!("it was ended by signal {signal} before it had proven itself"),
        _ => "it let go of the socket on which it was to prove itself".to_owned(),
    }
}

/// At the new agent: proves that it works, once it does, and returns when it shall stop. For ever where there is no trial.
pub async fn leash(node: Handle, place: Option<Place>) {
    let Some(record) = place.filter(Place::on_trial).and_then(|place| place.record()) else {
        return std::future::pending().await;
    };
    let released = blocking::unblock(|| {
        // Nobody writes there: the first that is read is the end.
        let _ = io::stdin().read(&mut [0; 1]);
    });
    let proof = async {
        if record.rejoin {
            node.routes.wait_for(|routes| (routes.members() > 0).then_some(())).await;
        }
        if let Err(e) = rustix::io::write(rustix::stdio::stdin(), PROVEN) {
            log::error!("nobody hears that this agent has proven itself: {e}");
        }
        std::future::pending().await
    };
    or(released, proof).await;
}
