//! The addresses of one family, as the kernel lists them (rtnetlink(7)), again after every change.
//!
//! A notification says only that something changed: what holds now is listed anew, so a lost notification and an address
//! that two interfaces have need no thought. While one listing comes in any number of changes asks for one more.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};

use rustix::{
    io::Errno,
    net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink},
};

use crate::source::{Side, Source};

// linux/netlink.h and linux/rtnetlink.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_MULTI: u16 = 0x2;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Of `nlmsghdr`, `ifaddrmsg` and `rtattr`, in bytes.
const HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ATTRIBUTE_HEADER: usize = 4;
/// The kernel fills no more at once for a reader that never offered more.
const DATAGRAM: usize = 8192;

/// A socket on which the kernel tells of addresses.
pub(super) struct Watch {
    socket: Source<OwnedFd>,
    family: AddressFamily,
    listing: Listing,
    asked: bool,
}

impl Watch {
    /// Asks for the addresses of a family, and for what happens to them.
    ///
    /// # Errors
    /// Where a sandbox allows no such socket.
    pub(super) fn start(family: IpAddr) -> io::Result<Self> {
        let (family, group) = match family {
            IpAddr::V4(_) => (AddressFamily::INET, RTMGRP_IPV4_IFADDR),
            IpAddr::V6(_) => (AddressFamily::INET6, RTMGRP_IPV6_IFADDR),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        net::bind(&socket, &SocketAddrNetlink::new(0, group))?;
        Ok(Self { socket: Source::new(socket)?, family, listing: Listing::new(), asked: false })
    }

    /// All addresses, at first and whenever one came or went.
    ///
    /// # Errors
    /// If the kernel refuses to list them.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<BTreeSet<IpAddr>>> {
        let mut datagram = [0; DATAGRAM];
        loop {
            if self.listing.stale && !self.asked {
                self.ask()?;
            }
            let receive = |socket: &OwnedFd| Ok(net::recv(socket, &mut datagram, RecvFlags::empty())?.0);
            match ready!(self.socket.poll_io(Side::Read, cx, receive)) {
                Ok(length) => {
                    if let Some(addresses) = self.listing.take(&datagram[..length])? {
                        self.asked = false;
                        return Poll::Ready(Ok(addresses));
                    }
                }
                // Notifications were lost; what was asked for never is.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => self.listing.stale = true,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn ask(&mut self) -> io::Result<()> {
        net::send(self.socket.get_ref(), &request(self.family), SendFlags::empty())?;
        self.listing.stale = false;
        self.asked = true;
        Ok(())
    }
}

/// A request for all addresses of a family.
fn request(family: AddressFamily) -> Vec<u8> {
    let mut body = [0; ADDRESS_HEADER];
    body[0] = family.as_raw().to_le_bytes()[0];
    message(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, &body)
}

/// `nlmsghdr` with what follows it. The kernel fills in the sender; nothing else uses this socket, so neither needs a
/// number.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8], body].concat()
}

/// What the kernel has said so far.
struct Listing {
    seen: BTreeSet<IpAddr>,
    /// Something changed that the listing in progress, or the last one, may not have.
    stale: bool,
}

impl Listing {
    /// Nothing is known yet.
    fn new() -> Self {
        Self { seen: BTreeSet::new(), stale: true }
    }

    /// Takes in a datagram; all addresses when it ends a listing.
    ///
    /// # Errors
    /// What the kernel refused.
    fn take(&mut self, datagram: &[u8]) -> io::Result<Option<BTreeSet<IpAddr>>> {
        for Message { kind, flags, body } in Messages(datagram) {
            self.stale |= flags & NLM_F_DUMP_INTR != 0;
            match kind {
                RTM_NEWADDR if flags & NLM_F_MULTI != 0 => self.seen.extend(address(body)),
                RTM_NEWADDR | RTM_DELADDR => self.stale = true,
                NLMSG_ERROR | NLMSG_DONE => {
                    outcome(body)?;
                    return Ok(Some(std::mem::take(&mut self.seen)));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

/// A negative number is an error, as at a system call; what has none is taken for a success.
fn outcome(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code)) {
        0.. => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

/// The address that an `ifaddrmsg` is about. On a point-to-point link `IFA_ADDRESS` is the other end's.
fn address(body: &[u8]) -> Option<IpAddr> {
    let mut address = None;
    for (kind, value) in Attributes(body.get(ADDRESS_HEADER..)?) {
        match kind {
            IFA_LOCAL => return ip(value),
            IFA_ADDRESS => address = ip(value),
            _ => {}
        }
    }
    address
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4().or_else(|_| v6()).ok()
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
}

/// The messages of a datagram, up to the first that is not whole.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = usize::try_from(u32::from_ne_bytes(*self.0.first_chunk()?)).ok()?;
        let whole = self.0.get(..length)?;
        let (header, body) = whole.split_at_checked(HEADER)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind: number(header, 4)?, flags: number(header, 6)?, body })
    }
}

/// The attributes behind a header, up to the first that is not whole: what each is, and its value.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length = usize::from(number(self.0, 0)?);
        let (header, value) = self.0.get(..length)?.split_at_checked(ATTRIBUTE_HEADER)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((number(header, 2)?, value))
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures::future::poll_fn;

    use super::*;

    const LOCAL: [u8; 4] = [192, 0, 2, 7];
    const REMOTE: [u8; 4] = [192, 0, 2, 8];

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
    }

    fn about(kind: u16, flags: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
        message(kind, flags, &[&[0; ADDRESS_HEADER][..], &attributes.concat()].concat())
    }

    fn done(code: i32) -> Vec<u8> {
        message(NLMSG_DONE, NLM_F_MULTI, &code.to_ne_bytes())
    }

    fn asked() -> Listing {
        Listing { stale: false, ..Listing::new() }
    }

    #[test]
    fn a_listing_is_whole_at_its_end_and_the_next_begins_empty() {
        let mut listing = asked();
        let first = about(RTM_NEWADDR, NLM_F_MULTI, &[attribute(IFA_ADDRESS, &LOCAL)]);
        let second = about(RTM_NEWADDR, NLM_F_MULTI, &[attribute(IFA_ADDRESS, &[1; 16])]);
        assert_eq!(listing.take(&[first, second].concat()).unwrap(), None);
        assert_eq!(listing.take(&done(0)).unwrap(), Some([LOCAL.into(), [1; 16].into()].into()));
        assert_eq!(listing.take(&done(0)).unwrap(), Some(BTreeSet::new()));
        assert!(!listing.stale);
    }

    #[test]
    fn our_end_of_a_link_counts() {
        let both = [attribute(IFA_ADDRESS, &REMOTE), attribute(IFA_LOCAL, &LOCAL)];
        assert_eq!(address(&[&[0; ADDRESS_HEADER][..], &both.concat()].concat()), Some(LOCAL.into()));
    }

    #[test]
    fn a_change_asks_for_a_new_listing_and_is_not_taken_for_one() {
        for kind in [RTM_NEWADDR, RTM_DELADDR] {
            let mut listing = asked();
            let change = about(kind, 0, &[attribute(IFA_ADDRESS, &LOCAL)]);
            assert_eq!(listing.take(&[change, done(0)].concat()).unwrap(), Some(BTreeSet::new()));
            assert!(listing.stale);
        }
    }

    #[test]
    fn a_listing_that_a_change_interrupted_is_asked_for_again() {
        let mut listing = asked();
        listing.take(&about(RTM_NEWADDR, NLM_F_MULTI | NLM_F_DUMP_INTR, &[])).unwrap();
        assert!(listing.stale);
    }

    #[test]
    fn a_refusal_is_an_error() {
        let refused = [done(-1), message(NLMSG_ERROR, 0, &(-1_i32).to_ne_bytes())];
        for refusal in refused {
            let error = asked().take(&refusal).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn what_is_not_whole_is_left_and_ends() {
        let whole = about(RTM_NEWADDR, NLM_F_MULTI, &[attribute(IFA_ADDRESS, &LOCAL)]);
        for length in 0..whole.len() {
            let mut listing = asked();
            assert_eq!(listing.take(&whole[..length]).unwrap(), None);
            assert!(listing.seen.is_empty());
        }
        // Lengths of nothing would go on for ever.
        assert_eq!(Messages(&[0; 64]).count(), 0);
        assert_eq!(Attributes(&[0; 64]).count(), 0);
    }

    #[test]
    fn the_kernel_lists_what_this_machine_has() {
        let mut watch = Watch::start(Ipv4Addr::UNSPECIFIED.into()).unwrap();
        let listed = futures::executor::block_on(poll_fn(|cx| watch.poll(cx))).unwrap();
        assert!(listed.contains(&Ipv4Addr::LOCALHOST.into()), "{listed:?}");
    }
}
