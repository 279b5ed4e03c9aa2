//! The daemon from start to end: settings, state, tasks, and a shutdown that loses nothing.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use async_signal::{Signal, Signals};
use futures::StreamExt;
use hive_core::{Config, Core};
use hive_protocol::{message::Failure, password::PasswordError};
use libp2p::{Multiaddr, identity::Keypair, multiaddr::Protocol};
use smol::{channel::Receiver, future::or};

use crate::{
    BUILD, acme, control, exec, install,
    net::Net,
    node::{DEFAULT_PORT, Handle, Node, NotStored, now, stored_listeners},
    notify,
    options::{OptionError, Options, Settings, host_name},
    portmap, random, serve, setup,
    store::{Store, StoreError},
    time::within,
    tunnel,
    update::{self, Place, Role, Updates},
};

/// How long tunnelled connections may take to end by themselves when the agent stops.
const DRAIN: Duration = Duration::from_secs(5);
/// The same when another agent takes over: the longer this takes, the longer nobody serves.
const HANDOVER: Duration = Duration::from_secs(1);
/// Channels of the bulk plane that wait for the task that serves them.
const ACCEPTED_CHANNELS: usize = 64;
const STORED_IDENTITY: &str = "identity";

/// Why the agent did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line, the environment or the credentials file.
    #[error(transparent)]
    Options(#[from] OptionError),
    /// The state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The control socket.
    #[error(transparent)]
    Socket(#[from] control::SocketError),
    /// A password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// A key that was just made is none; never happens.
    #[error("no identity could be made")]
    Identity,
    /// What was set up could not be stored.
    #[error("the state cannot be written: {}", .0.0)]
    NotStored(NotStored),
    /// The transports.
    #[error("cannot prepare the transports: {0}")]
    Transport(#[from] hive_transport::Error),
    /// The core refused something at start.
    #[error("{}", .0.what)]
    Refused(Failure),
    /// The service.
    #[error(transparent)]
    Install(#[from] install::Error),
    /// Signals, standard output and the like.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Error {
    /// What to do about it, where the message does not say so itself.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused(failure) => failure.hint.as_deref(),
            _ => None,
        }
    }

    /// The exit status: 2 for a wrong command line, else 1.
    pub fn status(&self) -> u8 {
        if matches!(self, Self::Options(_) | Self::Install(install::Error::Options(_))) { 2 } else { 1 }
    }
}

/// A fresh random salt.
pub fn salt() -> [u8; 16] {
    random::bytes()
}

/// Why the agent stops.
enum Why {
    /// SIGTERM or SIGINT.
    Signal(Option<Signal>),
    /// A new binary is to be tried.
    Update,
    /// It is that new binary, and whoever tries it has seen enough.
    Released,
}

/// Runs the daemon until SIGTERM or SIGINT. For an update it becomes the process that tries the new binary, and then
/// whichever of the two is to stay.
pub fn run(options: &Options) -> Result<(), Error> {
    let place = Place::of_this();
    if let Role::Stopped = update::settle(place.as_ref()) {
        return Ok(());
    }
    let settings = options.settings()?;
    // The store's folder is locked first: everything after this is this agent's alone.
    let store = Arc::new(Store::open(&settings.state)?);
    match (exec::run(serve(settings, store, place.clone()))??, place) {
        (Why::Update, Some(place)) => Err(update::exec(&place).into()),
        _ => Ok(()),
    }
}

async fn serve(settings: Settings, store: Arc<Store>, place: Option<Place>) -> Result<Why, Error> {
    // Before anything is announced, so that a signal at any time is a clean stop.
    let signals = Signals::new([Signal::Term, Signal::Int])?;
    let key = match identity(&settings.state, &store)? {
        Some(key) => key,
        None => new_identity(&store)?,
    };
    let mut core = core(&settings, &store, &key)?;
    let made = setup::apply(&mut core, &settings)?;
    let Net { swarm, handles, incoming, acceptor } = Net::new(&key, BUILD.version)?;
    let (updates, wanted) = Updates::new(place.clone(), settings.update_key.clone());
    let mut node = Node::new(core, swarm, handles, store.clone(), settings.announce.clone(), updates)?;
    node.store_setup().await.map_err(Error::NotStored)?;
    // Only now: what is shown once must be what is stored.
    made.iter().try_for_each(|secret| say(secret))?;
    start_listeners(&mut node, &settings, &store)?;
    node.wait_for_addresses().await;
    let socket = control::listen(&settings.socket)?;
    let handle = node.handle();
    log::info!("hive-agent {}, node {}, control socket {}", BUILD.version, handle.id, settings.socket.display());
    let (channels, accepted) = smol::channel::bounded(ACCEPTED_CHANNELS);
    let (mapping, unmap) = smol::channel::bounded(1);
    let mapped = settings.port_mapping.then(|| exec::spawn(portmap::keep(handle.clone(), unmap)));
    let tasks = [
        exec::spawn(node.run()),
        exec::spawn(serve::streams(handle.clone(), incoming)),
        exec::spawn(serve::channels(handle.clone(), accepted)),
        exec::spawn(acceptor.run(channels)),
        exec::spawn(tunnel::listen::keep(handle.clone())),
        exec::spawn(acme::keep(handle.clone())),
        exec::spawn(socket.serve(handle.clone())),
    ];
    notify::ready();
    let asked = or(stopped(signals, wanted), released(handle.clone(), place));
    let why = or(asked, notify::watchdog(handle.clone())).await;
    if let Why::Signal(_) = why {
        // For an update that would be a lie: the service goes on.
        notify::stopping();
    }
    drop(mapping);
    if let Some(mapped) = mapped {
        let _ = within(HANDOVER, mapped).await;
    }
    shut_down(&handle, tasks, if let Why::Signal(_) = why { DRAIN } else { HANDOVER }).await;
    Ok(why)
}

async fn stopped(mut signals: Signals, wanted: Receiver<()>) -> Why {
    let signalled = async { Why::Signal(signals.next().await.and_then(Result::ok)) };
    let update = async {
        match wanted.recv().await {
            Ok(()) => Why::Update,
            // The node has ended, and then so will this.
            Err(_) => std::future::pending().await,
        }
    };
    let why = or(signalled, update).await;
    match &why {
        Why::Signal(signal) => log::info!("stopping on {}", signal_name(*signal)),
        _ => log::info!("making room for a new agent"),
    }
    why
}

fn signal_name(signal: Option<Signal>) -> &'static str {
    match signal {
        Some(Signal::Int) => "SIGINT (Ctrl-C)",
        _ => "SIGTERM",
    }
}

async fn released(handle: Handle, place: Option<Place>) -> Why {
    update::leash(handle, place).await;
    log::info!("the trial has ended, stopping");
    Why::Released
}

/// Stops accepting, lets tunnelled connections end for a while, and ends the loop, which has stored everything.
async fn shut_down(handle: &Handle, tasks: [smol::Task<()>; 7], drain: Duration) {
    let [node, serving @ ..] = tasks;
    for serving in serving {
        // A task that is dropped ends some time later: the process could be faster, and leave the socket's file behind.
        serving.cancel().await;
    }
    if within(drain, handle.tunnels.drained()).await.is_none() {
        let open = handle.tunnels.streams();
        log::warn!("{open} tunnelled connection{} cut off", if open == 1 { " is" } else { "s are" });
    }
    handle.stop().await;
    node.await;
}

/// The node's key, unless this state is new.
///
/// # Errors
/// If it is damaged, or missing beside anything else: another key would make another node of this one.
pub(crate) fn identity(folder: &Path, store: &Store) -> Result<Option<Keypair>, Error> {
    let stored: Option<minicbor::bytes::ByteVec> = store.get(STORED_IDENTITY)?;
    match stored.map(|bytes| Keypair::from_protobuf_encoding(&bytes)) {
        Some(Ok(key)) => Ok(Some(key)),
        Some(Err(_)) => Err(incomplete(folder, "its identity cannot be read")),
        None if store.is_new()? => Ok(None),
        None => Err(incomplete(folder, "its identity is missing")),
    }
}

fn incomplete(folder: &Path, why: &'static str) -> Error {
    StoreError::Incomplete { folder: folder.to_owned(), why }.into()
}

/// Makes the node's key at its first start, and stores it before it is used.
fn new_identity(store: &Store) -> Result<Keypair, Error> {
    let key = Keypair::generate_ed25519();
    let bytes = key.to_protobuf_encoding().map_err(|_| Error::Identity)?;
    store.put(STORED_IDENTITY, &minicbor::bytes::ByteVec::from(bytes))?;
    Ok(key)
}

/// The core with what was stored, under the name given.
fn core(settings: &Settings, store: &Store, key: &Keypair) -> Result<Core, Error> {
    // A name given once is kept: it differs from what is loaded here, so it is stored.
    let (stored, skipped) = store.load(host_name())?;
    for entry in skipped {
        log::error!("{} is damaged and passed over: {}", entry.what, entry.why);
    }
    let renamed = settings.name.clone().filter(|name| *name != stored.name);
    let key = key.clone().try_into_ed25519().map_err(|_| Error::Identity)?;
    let config =
        Config { key, version: BUILD.version.to_owned(), target: BUILD.target.to_owned(), relay: settings.relay };
    let mut core = Core::new(config, stored, random::bytes(), now());
    if let Some(name) = renamed {
        core.rename(name, now());
    }
    Ok(core)
}

/// For what is shown once and never logged.
fn say(text: &str) -> Result<(), Error> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

/// The addresses given, else those chosen at run time before, else the default port on every interface.
fn start_listeners(node: &mut Node, settings: &Settings, store: &Store) -> Result<(), Error> {
    let stored = stored_listeners(store)?;
    let chosen = if settings.listen.is_empty() { &stored } else { &settings.listen };
    if chosen.is_empty() {
        return start_default_listeners(node);
    }
    for address in chosen {
        node.start_listener(address).map_err(Error::Refused)?;
    }
    Ok(())
}

fn start_default_listeners(node: &mut Node) -> Result<(), Error> {
    let [v4, v6] = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
    let tcp = |ip| Multiaddr::from(ip).with(Protocol::Tcp(DEFAULT_PORT));
    let quic = |ip| Multiaddr::from(ip).with(Protocol::Udp(DEFAULT_PORT)).with(Protocol::QuicV1);
    node.start_listener(&tcp(v4)).map_err(Error::Refused)?;
    // A kernel without IPv6, or a UDP port that is taken, is no reason not to start.
    for address in [quic(v4), tcp(v6), quic(v6)] {
        if let Err(failure) = node.start_listener(&address) {
            log::warn!("{}", failure.what);
        }
    }
    Ok(())
}
