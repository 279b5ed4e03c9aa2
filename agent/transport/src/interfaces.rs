//! The addresses of this machine, as a listener on an unspecified address needs them.
//!
//! Follows the kernel's notifications (netlink), on another socket should one fail. Where a sandbox forbids those, it
//! knows the loopback address and the address that the default route would use, once, at the start.

mod netlink;

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    task::{Context, Poll},
};

use netlink::Watch;

/// A change of the local addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The address can be reached from now on.
    Up(IpAddr),
    /// The address is gone.
    Down(IpAddr),
}

/// The local addresses of one family.
pub(crate) struct Interfaces {
    family: IpAddr,
    watch: Option<Watch>,
    /// The watch has listed addresses, and has then been able to wait for changes of them.
    listed: bool,
    works: bool,
    known: BTreeSet<IpAddr>,
    changes: VecDeque<Change>,
}

impl Interfaces {
    /// Watches the addresses of the family that `unspecified` belongs to.
    pub(crate) fn watch(unspecified: IpAddr) -> Self {
        let mut interfaces = Self::unwatched(unspecified);
        interfaces.start();
        interfaces
    }

    fn unwatched(family: IpAddr) -> Self {
        Self { family, watch: None, listed: false, works: false, known: BTreeSet::new(), changes: VecDeque::new() }
    }

    fn start(&mut self) {
        (self.listed, self.works) = (false, false);
        match Watch::start(self.family) {
            Ok(watch) => self.watch = Some(watch),
            Err(error) => self.fall_back(&error),
        }
    }

    /// The next change; pending for ever once the kernel gives no notifications.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Change> {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return Poll::Ready(change);
            }
            let Some(watch) = &mut self.watch else { return Poll::Pending };
            match watch.poll(cx) {
                Poll::Pending => {
                    self.works = self.listed;
                    return Poll::Pending;
                }
                Poll::Ready(Ok(listed)) => {
                    self.listed = true;
                    self.follow(&listed);
                }
                Poll::Ready(Err(error)) => self.failed(&error),
            }
        }
    }

    /// A watch that has worked gets a successor, which lists what was missed.
    fn failed(&mut self, error: &std::io::Error) {
        if self.works {
            log::debug!("watching network interfaces anew: {error}");
            self.start();
        } else {
            self.fall_back(error);
        }
    }

    /// Reports what has changed since the last listing.
    fn follow(&mut self, listed: &BTreeSet<IpAddr>) {
        let now: BTreeSet<IpAddr> = listed.iter().copied().filter(|ip| self.is_of_use(*ip)).collect();
        self.changes.extend(self.known.difference(&now).copied().map(Change::Down));
        self.changes.extend(now.difference(&self.known).copied().map(Change::Up));
        self.known = now;
    }

    fn is_of_use(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.family.is_ipv4() && dialable(ip)
    }

    /// Keeps what is known, or asks the routing table once if nothing is.
    fn fall_back(&mut self, error: &std::io::Error) {
        log::warn!("cannot watch network interfaces ({error}): address changes go unnoticed until a restart");
        self.watch = None;
        if self.known.is_empty() {
            self.follow(&static_addresses(self.family));
        }
    }
}

/// A link-local IPv6 address means nothing without its interface, which a multiaddress cannot name.
fn dialable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_unicast_link_local(),
    }
}

/// Loopback and the source address of the default route. Connecting a UDP socket sends nothing; the targets are
/// documentation addresses (RFC 5737, RFC 3849).
fn static_addresses(family: IpAddr) -> BTreeSet<IpAddr> {
    let (loopback, target) = match family {
        IpAddr::V4(_) => (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        IpAddr::V6(_) => (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    };
    let routed = UdpSocket::bind(SocketAddr::new(family, 0))
        .and_then(|socket| socket.connect(SocketAddr::new(target, 9)).and_then(|()| socket.local_addr()));
    std::iter::once(loopback).chain(routed.ok().map(|local| local.ip())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unwatched() -> Interfaces {
        Interfaces::unwatched(Ipv4Addr::UNSPECIFIED.into())
    }

    fn next(interfaces: &mut Interfaces) -> Option<Change> {
        match interfaces.poll(&mut Context::from_waker(futures::task::noop_waker_ref())) {
            Poll::Ready(change) => Some(change),
            Poll::Pending => None,
        }
    }

    #[test]
    fn loopback_is_known_even_without_netlink() {
        let mut interfaces = unwatched();
        interfaces.fall_back(&std::io::ErrorKind::PermissionDenied.into());
        assert_eq!(next(&mut interfaces), Some(Change::Up(Ipv4Addr::LOCALHOST.into())));
    }

    #[test]
    fn a_failing_watch_keeps_what_was_known() {
        let mut interfaces = unwatched();
        let ip = Ipv4Addr::new(192, 0, 2, 7).into();
        interfaces.follow(&[ip].into());
        interfaces.fall_back(&std::io::ErrorKind::BrokenPipe.into());
        assert_eq!(next(&mut interfaces), Some(Change::Up(ip)));
        assert_eq!(next(&mut interfaces), None);
    }

    #[test]
    fn a_watch_that_worked_gets_a_successor() {
        let mut interfaces = Interfaces::watch(Ipv4Addr::UNSPECIFIED.into());
        let all = |interfaces: &mut Interfaces| std::iter::from_fn(|| next(interfaces)).collect::<Vec<_>>();
        let loopback = Change::Up(Ipv4Addr::LOCALHOST.into());
        assert!(all(&mut interfaces).contains(&loopback));
        interfaces.failed(&std::io::ErrorKind::BrokenPipe.into());
        interfaces.known.clear();
        assert!(all(&mut interfaces).contains(&loopback), "listed anew");
        interfaces.works = false;
        interfaces.failed(&std::io::ErrorKind::BrokenPipe.into());
        assert!(interfaces.watch.is_none(), "not for ever");
    }

    #[test]
    fn reports_each_address_once_and_only_its_own_family() {
        let mut interfaces = unwatched();
        let ip = Ipv4Addr::new(192, 0, 2, 7).into();
        let unspecified = Ipv4Addr::UNSPECIFIED.into();
        for listed in [vec![ip, Ipv6Addr::LOCALHOST.into(), unspecified], vec![ip], vec![], vec![]] {
            interfaces.follow(&listed.into_iter().collect());
        }
        assert_eq!(next(&mut interfaces), Some(Change::Up(ip)));
        assert_eq!(next(&mut interfaces), Some(Change::Down(ip)));
        assert_eq!(next(&mut interfaces), None);
    }
}
