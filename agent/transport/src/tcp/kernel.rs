//! What Linux knows of a TCP connection and can be told about it, where the standard library and its like have no
//! interface.

#![allow(unsafe_code, reason = "two socket options that no safe interface has")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use libc::{c_int, socklen_t};

/// As much of `struct tcp_info` (linux/tcp.h) as is looked at. It only ever grew at its end: older kernels write less,
/// and what they do not write stays zero.
const INFO_LEN: usize = 152;
/// `TCP_RTO_MAX_MS`, since Linux 6.15; `libc` has no name for it.
const RTO_MAX_MS: c_int = 44;

/// What the kernel knows of a connection at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Info {
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Bytes taken and not sent yet; zero before Linux 4.6.
    pub unsent: u32,
    /// How often the oldest segment was sent again since anything new was acknowledged.
    pub retransmits: u8,
    /// Since anything came from the peer.
    pub silence: Duration,
    /// Smoothed round trip.
    pub round_trip: Duration,
}

impl Info {
    fn parse(bytes: &[u8; INFO_LEN]) -> Self {
        // Eight fields of one byte, then numbers of four.
        let number = |at: usize| {
            let at = 8 + 4 * at;
            bytes[at..at + 4].try_into().map_or(0, u32::from_ne_bytes)
        };
        let millis = |at| Duration::from_millis(number(at).into());
        Self {
            unacked: number(4),
            unsent: number(34),
            retransmits: bytes[2],
            silence: millis(11).min(millis(12)),
            round_trip: Duration::from_micros(number(15).into()),
        }
    }
}

/// Asks the kernel (`TCP_INFO`, tcp(7)).
///
/// # Errors
/// If the socket is none of TCP's.
pub fn info(socket: &impl AsFd) -> io::Result<Info> {
    let mut bytes = [0u8; INFO_LEN];
    let mut len = INFO_LEN as socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for the borrow's time; the kernel writes no more than `len` bytes, which `bytes` has.
    let outcome =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, bytes.as_mut_ptr().cast(), &raw mut len) };
    if outcome == 0 { Ok(Info::parse(&bytes)) } else { Err(io::Error::last_os_error()) }
}

/// Bounds the pause between two attempts to send the same bytes, which else doubles up to two minutes.
///
/// # Errors
/// Before Linux 6.15 there is no such option.
pub fn bound_pauses(socket: &impl AsFd, longest: Duration) -> io::Result<()> {
    let millis = c_int::try_from(longest.as_millis()).unwrap_or(c_int::MAX);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for the borrow's time; the kernel reads the four bytes of a number that lives here.
    let outcome = unsafe {
        let len = size_of::<c_int>() as socklen_t;
        libc::setsockopt(fd, libc::IPPROTO_TCP, RTO_MAX_MS, (&raw const millis).cast(), len)
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (dialled, listener.accept().unwrap().0)
    }

    #[test]
    fn a_reader_that_stops_leaves_bytes_unsent_and_none_under_way() {
        let (mut writer, mut reader) = pair();
        let calm = info(&writer).unwrap();
        assert_eq!((calm.unacked, calm.unsent, calm.retransmits), (0, 0, 0));
        writer.set_nonblocking(true).unwrap();
        let chunk = vec![0; 1 << 20];
        while writer.write(&chunk).is_ok() {}
        // The reader's kernel acknowledges all that fits; nothing else moves any more.
        while info(&writer).unwrap().unacked > 0 {
            std::thread::yield_now();
        }
        let shut = info(&writer).unwrap();
        assert!(shut.unsent > 0 && shut.round_trip > Duration::ZERO, "{shut:?}");
        reader.read_exact(&mut [0; 1000]).unwrap();
    }

    #[test]
    fn what_is_no_connection_has_no_pulse() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(info(&socket).is_err());
    }

    #[test]
    fn pauses_are_bounded_where_the_kernel_can() {
        let (stream, _other) = pair();
        let outcome = bound_pauses(&stream, Duration::from_secs(1)).map_err(|error| error.raw_os_error());
        assert!(matches!(outcome, Ok(()) | Err(Some(libc::ENOPROTOOPT))), "{outcome:?}");
    }
}
