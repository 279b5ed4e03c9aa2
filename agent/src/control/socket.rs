//! The local control socket: who may connect, and who needs no login there.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, Write},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_io::{Async, Timer};
use hive_protocol::{
    frame::{self, CONTROL_MAX},
    message::{Failure, FailureCode, Response, ServerMessage},
};
use smol::lock::{Semaphore, SemaphoreGuardArc};

use super::server;
use crate::{exec, node::Handle};

/// Control streams at once of local programs that need no login, and of those that do. Apart, so that no other user of
/// the machine keeps the owner out; nobody waits, or one kind would wait for the other.
const MAX_OWN: usize = 128;
const MAX_OTHERS: usize = 64;
const PAUSE: Duration = Duration::from_millis(100);

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent listens there.
    #[error("another hive-agent already listens on the control socket {}: give this one its own --socket", .0.display())]
    Taken(PathBuf),
    /// The path is something else.
    #[error("{} is in the way of the control socket and is no socket: remove it or choose another --socket", .0.display())]
    NotASocket(PathBuf),
    /// It cannot be made.
    #[error("cannot make the control socket {}: {source}; choose another with --socket", .path.display())]
    Unusable {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The socket file; removed when dropped.
pub struct Socket {
    path: PathBuf,
    listener: Async<UnixListener>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the socket. Anybody on the machine may connect: what they may do is decided by who they are.
pub fn listen(path: &Path) -> Result<Socket, SocketError> {
    let unusable = |source| SocketError::Unusable { path: path.to_owned(), source };
    remove_stale(path)?;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(unusable)?;
    }
    let listener = Async::<UnixListener>::bind(path).map_err(unusable)?;
    fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(unusable)?;
    Ok(Socket { path: path.to_owned(), listener })
}

/// A socket that a killed agent left behind refuses connections; a living agent's accepts them.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    if UnixStream::connect(path).is_ok() {
        return Err(SocketError::Taken(path.to_owned()));
    }
    fs::remove_file(path).map_err(|source| SocketError::Unusable { path: path.to_owned(), source })
}

impl Socket {
    /// Serves local programs for as long as the node lives.
    pub async fn serve(self, node: Handle) {
        let (places, mut told) = (Places::default(), false);
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let trusted = is_trusted(&stream);
                    let Some(place) = places.take(trusted) else {
                        if !std::mem::replace(&mut told, true) {
                            log::warn!("control socket: too many programs are connected, further ones are turned away");
                        }
                        turn_away(&stream);
                        continue;
                    };
                    told = false;
                    let served = server::local(node.clone(), stream, trusted);
                    exec::spawn(async move {
                        served.await;
                        drop(place);
                    })
                    .detach();
                }
                Err(e) => {
                    log::warn!("control socket: {e}");
                    Timer::after(PAUSE).await;
                }
            }
        }
    }
}

/// Room for local programs.
struct Places {
    own: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        let room = |most| Arc::new(Semaphore::new(most));
        Self { own: room(MAX_OWN), others: room(MAX_OTHERS) }
    }
}

impl Places {
    fn take(&self, trusted: bool) -> Option<SemaphoreGuardArc> {
        if trusted { self.own.try_acquire_arc() } else { self.others.try_acquire_arc() }
    }
}

/// Says why, as far as that can be said at once: an answer as short as this fits into a fresh socket.
fn turn_away(stream: &Async<UnixStream>) {
    let busy = Failure::new(FailureCode::Busy, "too many programs talk to this agent at once")
        .hint("end some of them, such as watching and following commands, or try again");
    if let Ok(bytes) = frame::encode(&ServerMessage::Response(Response::Error(busy)), CONTROL_MAX) {
        // Who does not hear it sees the conversation end.
        let _ = stream.get_ref().write(&bytes);
    }
}

/// Root and the agent's own user need no login (SO_PEERCRED, `unix(7)`).
fn is_trusted(stream: &Async<UnixStream>) -> bool {
    let Ok(peer) = rustix::net::sockopt::socket_peercred(stream) else { return false };
    peer.uid.is_root() || peer.uid == rustix::process::geteuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_crowd_of_other_users_keeps_the_owner_out() {
        let places = Places::default();
        let crowd: Vec<_> = std::iter::from_fn(|| places.take(false)).collect();
        assert_eq!(crowd.len(), MAX_OTHERS);
        assert!(places.take(true).is_some());
        drop(crowd);
        assert!(places.take(false).is_some());
    }
}
