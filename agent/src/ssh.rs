//! `proxy --kind ssh`: an SSH server in the agent, for OpenSSH's own programs.
//!
//! `russh` speaks the protocol; this module decides who may log in ([`login`]), runs what they ask for as any other
//! program of an admin ([`program`]), and bounds from outside what `russh` would hold for a connection ([`link`]). The
//! host key is made with the first such proxy and kept. Nothing is forwarded: no ports, no agent, no X11.
//!
//! `russh` needs tokio's timers, and tokio to spawn its tasks on: they have a thread of their own ([`runtime`]), which
//! starts with the first connection. Sockets and programs stay with smol.

mod link;
mod login;
mod program;
mod runtime;
mod session;
mod strangers;

use std::{
    borrow::Cow,
    net::{Shutdown, TcpStream},
    sync::{Arc, OnceLock},
    time::Duration,
};

use hive_protocol::{
    ProxySpec, SshHost, SshLogin,
    message::{Failure, FailureCode},
};
use hive_transport::source::Source;
use minicbor::bytes::ByteArray;
use russh::{
    Preferred, SshId, kex,
    keys::{HashAlg, PrivateKey, ssh_key::private::Ed25519Keypair},
    server::Config,
};
use smol::{
    future::{or, race},
    lock::Semaphore,
};

use crate::{
    BUILD,
    node::Handle,
    random,
    store::{Store, StoreError},
    time::within,
};
use link::{Link, Socket};
use login::Login;
use session::Session;
use strangers::Strangers;

const STORED_KEY: &str = "ssh-host-key";
/// Connections at once, of all proxies together.
const MAX_CONNECTIONS: usize = 64;
/// For a client's program to agree on keys.
const KEYS_TIME: Duration = Duration::from_secs(10);
/// And then to log in: somebody types a password.
const LOGIN_TIME: Duration = Duration::from_secs(60);
/// How long a connection waits for its turn.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a client may send ahead on a channel, in bytes.
const WINDOW: u32 = 1 << 20;
/// Pieces of output that wait for the client, each at most [`program::PIECE`].
const PIECES: usize = 4;
/// As OpenSSH's server.
const MAX_ATTEMPTS: usize = 6;

/// What the SSH servers of all proxies share.
pub struct Server(Arc<Shared>);

struct Shared {
    store: Arc<Store>,
    key: OnceLock<PrivateKey>,
    connections: Arc<Semaphore>,
    strangers: Arc<Strangers>,
}

impl Server {
    /// Takes up the host key, if one was made.
    pub fn load(store: &Arc<Store>) -> Result<Self, StoreError> {
        let key = OnceLock::new();
        if let Some(seed) = store.get::<ByteArray<32>>(STORED_KEY)? {
            let _ = key.set(host_key(&seed));
        }
        let (connections, strangers) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), Arc::default());
        Ok(Self(Arc::new(Shared { store: store.clone(), key, connections, strangers })))
    }

    /// Before a proxy is made: checks its keys, and makes the host key if there is none yet.
    pub async fn prepare(&self, login: &SshLogin) -> Result<(), Failure> {
        Login::of(login).map_err(|e| {
            Failure::new(FailureCode::Usage, e)
                .hint("Ed25519 and ECDSA keys may log in; make one with `ssh-keygen -t ed25519`")
        })?;
        let shared = self.0.clone();
        let made = blocking::unblock(move || shared.make_key()).await;
        made.map_err(|e| Failure::new(FailureCode::Failed, format!("the host key is not stored: {e}")))
    }

    /// By what clients know this node, once there is a key.
    pub fn host(&self) -> Option<SshHost> {
        let public = self.0.key.get()?.public_key();
        let fingerprint = public.fingerprint(HashAlg::Sha256).to_string();
        Some(SshHost { key: public.to_openssh().ok()?, fingerprint })
    }

    /// Serves one connection to its end.
    pub async fn serve(&self, node: &Handle, spec: &ProxySpec, socket: Source<TcpStream>) {
        let counters = node.tunnels.counters(spec.id);
        let Some(entry) = node.tunnels.enter(spec, None, Duration::ZERO, &node.routes) else { return };
        let (Some(login), Some(key)) = (spec.ssh.as_ref(), self.0.key.get()) else { return };
        let Ok(login) = Login::of(login) else { return };
        let Ok(from) = socket.get_ref().peer_addr() else { return };
        // First the place that others may take away: whoever waits for it must not hold one that they may not.
        let places = async {
            let stranger = self.0.strangers.enter(from.ip().into(), &socket).await?;
            Some((stranger, self.0.connections.acquire_arc().await))
        };
        let entered = or(within(PATIENCE, places), left(&entry)).await.flatten();
        let Some(((stranger, leave), _place)) = entered else { return };
        keep_alive(&socket);
        let socket = Arc::new(socket);
        let link = Link::new(stranger);
        let adapter = Socket::new(socket.clone(), link.clone(), counters.clone());
        let session = Session::new(spec.id, login, link);
        let config = Arc::new(config(key, &session));
        let served = runtime::run(move || russh::server::run_stream(config, adapter, session));
        let shown_out = async {
            leave.told().await;
            log::debug!("proxy {}: a silent client made room for another", spec.id);
            None
        };
        let ended = race(async { Some(served.await) }, or(left(&entry), shown_out)).await;
        match ended {
            Some(Ok(())) => counters.succeeded(),
            Some(Err(e)) => log::debug!("proxy {}: an SSH connection ended: {e}", spec.id),
            // It may be gone already. If not, the session sees the end of its connection, and ends its programs.
            None => drop(socket.get_ref().shutdown(Shutdown::Both)),
        }
    }
}

/// Resolves when the connection has lost its right.
async fn left<T>(entry: &crate::tunnel::Entry) -> Option<T> {
    entry.ended().await;
    None
}

/// A client that vanished is noticed, however quiet a shell may be. A tunnel notices by itself.
fn keep_alive(socket: &Source<TcpStream>) {
    if let Err(e) = rustix::net::sockopt::set_socket_keepalive(socket, true) {
        log::debug!("no keepalive: {e}");
    }
}

impl Shared {
    fn make_key(&self) -> Result<(), StoreError> {
        if self.key.get().is_some() {
            return Ok(());
        }
        let seed: [u8; 32] = random::bytes();
        // Two first proxies at once: the key that was set is the one stored.
        let key = self.key.get_or_init(|| host_key(&seed));
        let ed25519 = key.key_data().ed25519().map(|pair| pair.private.to_bytes());
        self.store.put(STORED_KEY, &ByteArray::from(ed25519.unwrap_or(seed)))
    }
}

fn host_key(seed: &[u8; 32]) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(seed))
}

fn config(key: &PrivateKey, session: &Session) -> Config {
    Config {
        server_id: SshId::Standard(Cow::Owned(format!("SSH-2.0-hive_{}", BUILD.version))),
        methods: session.methods(),
        // It would hold for keys as well, and a client may offer several before the right one.
        auth_rejection_time: Duration::ZERO,
        keys: vec![key.clone()],
        window_size: WINDOW,
        event_buffer_size: PIECES,
        channel_buffer_size: 1,
        // No groups of thousands of bits, whose arithmetic a stranger could have us do.
        preferred: Preferred { kex: Cow::Borrowed(KEX), ..Preferred::DEFAULT },
        max_auth_attempts: MAX_ATTEMPTS,
        inactivity_timeout: None,
        keepalive_interval: None,
        ..Config::default()
    }
}

const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];
