//! The local control socket: who may connect, and who needs no login there.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use async_io::{Async, Timer};

use super::server;
use crate::{exec, node::Handle};

/// Control streams of local programs at once.
const MAX_CLIENTS: usize = 128;
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
        let clients = smol::lock::Semaphore::new(MAX_CLIENTS);
        let clients = std::sync::Arc::new(clients);
        loop {
            let place = clients.acquire_arc().await;
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let node = node.clone();
                    let served = async move {
                        let trusted = is_trusted(&stream);
                        server::local(node, stream, trusted).await;
                        drop(place);
                    };
                    exec::spawn(served).detach();
                }
                Err(e) => {
                    log::warn!("control socket: {e}");
                    Timer::after(PAUSE).await;
                }
            }
        }
    }
}

/// Root and the agent's own user need no login (SO_PEERCRED, `unix(7)`).
fn is_trusted(stream: &Async<UnixStream>) -> bool {
    let Ok(peer) = rustix::net::sockopt::socket_peercred(stream) else { return false };
    peer.uid.is_root() || peer.uid == rustix::process::geteuid()
}
