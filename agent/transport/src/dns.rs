//! Names in addresses: `/dns`, `/dns4` and `/dns6` in front of another transport.
//!
//! A dial to a name asks the system's resolver (on the blocking pool) and tries the answers in turn. What
//! follows the name, the port and the peer id, stays as it is. Listening on a name is not supported.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use async_io::Timer;
use futures::future::{self, BoxFuture, Either};
use libp2p::{
    Multiaddr,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
    multiaddr::Protocol,
};

/// How many of a name's addresses one dial tries.
const MAX_ADDRESSES: usize = 8;
/// How long one address may take before the next is tried: a SYN and its first two repetitions.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
/// The longest name in presentation form (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;

/// Resolves names for the transport inside.
pub struct Transport<T> {
    inner: Arc<Mutex<T>>,
    /// Which addresses behind names are for `inner`.
    takes: fn(&Multiaddr) -> bool,
}

impl<T> Transport<T> {
    /// Puts name resolution in front of `inner`.
    pub fn new(inner: T) -> Self {
        Self::with(inner, |_| true)
    }

    /// The same where several transports stand side by side: names are resolved for those addresses alone that `takes`
    /// says are for `inner`.
    pub fn with(inner: T, takes: fn(&Multiaddr) -> bool) -> Self {
        Self { inner: Arc::new(Mutex::new(inner)), takes }
    }
}

impl<T> libp2p::Transport for Transport<T>
where
    T: libp2p::Transport<Error = io::Error> + Send + Unpin + 'static,
    T::Dial: Send + 'static,
    T::Output: 'static,
{
    type Output = T::Output;
    type Error = io::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<T::Output>>;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        lock(&self.inner).listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        lock(&self.inner).remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        match Target::of(&addr) {
            None => Ok(Box::pin(lock(&self.inner).dial(addr, opts)?)),
            Some(_) if !(self.takes)(&addr) => Err(TransportError::MultiaddrNotSupported(addr)),
            Some(target) => Ok(Box::pin(dial_by_name(self.inner.clone(), target, opts))),
        }
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<T::ListenerUpgrade, io::Error>> {
        Pin::new(&mut *lock(&self.inner)).poll(cx)
    }
}

/// A name to resolve, the families asked for, and what stands behind it in the address.
struct Target {
    name: String,
    accepts: fn(&IpAddr) -> bool,
    rest: Multiaddr,
}

impl Target {
    /// `None` when the address does not begin with a name.
    fn of(addr: &Multiaddr) -> Option<Self> {
        let mut parts = addr.iter();
        let (name, accepts): (_, fn(&IpAddr) -> bool) = match parts.next()? {
            Protocol::Dns(name) => (name, |_| true),
            Protocol::Dns4(name) => (name, IpAddr::is_ipv4),
            Protocol::Dns6(name) => (name, IpAddr::is_ipv6),
            _ => return None,
        };
        Some(Self { name: name.into_owned(), accepts, rest: parts.collect() })
    }

    async fn resolve(&self) -> io::Result<Vec<Multiaddr>> {
        if self.name.len() > MAX_NAME {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the host name is too long"));
        }
        let answers = async_net::resolve((self.name.as_str(), 0)).await;
        let answers = answers.map_err(|error| self.failed(error.kind(), &error))?;
        let addresses = self.select(&answers);
        if addresses.is_empty() {
            return Err(self.failed(io::ErrorKind::NotFound, "no address of the family asked for"));
        }
        Ok(addresses)
    }

    /// The addresses to try, in the resolver's order (RFC 6724), without repetition. Names come from others, too: none
    /// leads to this machine or to its link, but for `localhost`.
    fn select(&self, answers: &[SocketAddr]) -> Vec<Multiaddr> {
        let mut ips: Vec<IpAddr> = Vec::new();
        let local = self.name == "localhost";
        let elsewhere = |ip: &IpAddr| local && ip.is_loopback() || is_elsewhere(&ip.to_canonical());
        for ip in answers.iter().map(SocketAddr::ip).filter(self.accepts).filter(elsewhere) {
            if !ips.contains(&ip) && ips.len() < MAX_ADDRESSES {
                ips.push(ip);
            }
        }
        ips.into_iter().map(|ip| Multiaddr::from(ip).into_iter().chain(self.rest.iter()).collect()).collect()
    }

    fn failed(&self, kind: io::ErrorKind, why: impl std::fmt::Display) -> io::Error {
        io::Error::new(kind, format!("cannot resolve {}: {why}", self.name))
    }
}

/// Not this machine, nor a link or a group of machines.
fn is_elsewhere(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(link_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

async fn dial_by_name<T>(inner: Arc<Mutex<T>>, target: Target, opts: DialOpts) -> io::Result<T::Output>
where
    T: libp2p::Transport<Error = io::Error>,
{
    let mut last = target.failed(io::ErrorKind::NotFound, "no address");
    for addr in target.resolve().await? {
        let dial = lock(&inner).dial(addr, opts);
        match attempt(dial).await {
            Ok(output) => return Ok(output),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn attempt<O>(dial: Result<impl Future<Output = io::Result<O>>, TransportError<io::Error>>) -> io::Result<O> {
    let dial = dial.map_err(|error| match error {
        TransportError::Other(error) => error,
        unsupported => io::Error::new(io::ErrorKind::Unsupported, unsupported.to_string()),
    })?;
    match future::select(pin!(dial), Timer::after(ATTEMPT_TIMEOUT)).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// A panic elsewhere leaves the transport usable: its own methods keep it whole.
fn lock<T>(inner: &Mutex<T>) -> MutexGuard<'_, T> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(addr: &str) -> Target {
        Target::of(&addr.parse().unwrap()).unwrap()
    }

    #[test]
    fn keeps_what_follows_the_name() {
        let id = libp2p::PeerId::random();
        let target = target(&format!("/dns4/example.org/tcp/4180/p2p/{id}"));
        let found = target.select(&["192.0.2.1:0".parse().unwrap()]);
        assert_eq!(found, [format!("/ip4/192.0.2.1/tcp/4180/p2p/{id}").parse().unwrap()]);
    }

    #[test]
    fn takes_only_the_family_asked_for_and_each_address_once() {
        let answers: Vec<_> =
            ["192.0.2.1:0", "[2001:db8::1]:0", "192.0.2.1:0"].iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(target("/dns4/h/tcp/1").select(&answers), ["/ip4/192.0.2.1/tcp/1".parse().unwrap()]);
        assert_eq!(target("/dns6/h/tcp/1").select(&answers), ["/ip6/2001:db8::1/tcp/1".parse().unwrap()]);
        assert_eq!(target("/dns/h/tcp/1").select(&answers).len(), 2);
    }

    #[test]
    fn tries_a_bounded_number() {
        let answers: Vec<_> = (0..100).map(|n| SocketAddr::from(([192, 0, 2, n], 0))).collect();
        assert_eq!(target("/dns/h/tcp/1").select(&answers).len(), MAX_ADDRESSES);
    }

    #[test]
    fn an_address_without_a_name_is_not_ours() {
        assert!(Target::of(&"/ip4/192.0.2.1/tcp/1".parse().unwrap()).is_none());
    }

    #[test]
    fn an_unknown_name_is_named_in_the_error() {
        let error = smol::block_on(target("/dns4/does-not-exist.invalid/tcp/1").resolve()).unwrap_err();
        assert!(error.to_string().contains("does-not-exist.invalid"), "{error}");
    }
}
