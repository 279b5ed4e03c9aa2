//! Sockets: how they are opened, shared between listening and dialling, and kept alive.

use std::{
    io::{self, IoSlice},
    net::{SocketAddr, TcpListener},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use super::kernel;
use crate::source::{Side, Source};
use futures::{AsyncRead, AsyncWrite};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// A burst of connections that the kernel completes before we accept them.
const BACKLOG: i32 = 1024;
/// Kernel keep-alive: an idle dead path is noticed after 12 s (beside [`USER_TIMEOUT`], which decides where Linux knows
/// it), and costs this process no wake-up. Both ends of a path may have to notice before there is another one, and 20 s
/// are what a silence may cost.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(8);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_PROBES: u32 = 3;
/// How long sent bytes may stay unacknowledged (RFC 5482). On Linux it also ends a connection whose peer keeps
/// its window shut this long, so it suits connections that are always read, as a multiplexer's are.
const USER_TIMEOUT: Duration = Duration::from_secs(12);
/// Pause between attempts to send the same bytes again, at the longest: a path that is back after some seconds is found
/// within one. Less than this Linux does not take.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Only on a path that is so much shorter at first: a queue that builds up on a long one can delay answers for as long.
const SHORT: Duration = Duration::from_millis(100);

/// A connected socket. Closing its writing half sends a FIN, as the multiplexer's orderly end needs.
#[derive(Debug)]
pub struct TcpStream(Source<std::net::TcpStream>);

impl TcpStream {
    /// Takes over a socket that was accepted.
    pub(crate) fn accepted(stream: std::net::TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = Self(Source::new(stream)?);
        stream.keep_watch();
        Ok(stream)
    }

    /// The remote end's address.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.0.get_ref().peer_addr()
    }

    /// The local end's address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.get_ref().local_addr()
    }

    /// The bare socket for the bulk plane. It may stand still for as long as a slow application wants, so what kills
    /// connections whose peer keeps its window shut is taken off; a dead path is noticed by the kernel's keep-alive, or
    /// by the libp2p connection beside it.
    pub(crate) fn into_bulk(self) -> Source<std::net::TcpStream> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Err(error) = socket2::SockRef::from(self.0.get_ref()).set_tcp_user_timeout(None) {
            log::debug!("a socket option is not available: {error}");
        }
        self.0
    }

    /// Waits for the first byte and leaves it where it is; none if the remote closed without one.
    pub(super) async fn first_byte(&self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        let read = self.0.io(Side::Read, |socket| socket.peek(&mut byte)).await?;
        Ok((read > 0).then_some(byte[0]))
    }

    /// Options that make the connection quick and its death noticed. Without one of them (an emulator may know
    /// less than Linux) it still works.
    fn keep_watch(&self) {
        let socket = socket2::SockRef::from(self.0.get_ref());
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
        let outcomes = [
            socket.set_tcp_nodelay(true),
            socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES)),
            #[cfg(any(target_os = "linux", target_os = "android"))]
            socket.set_tcp_user_timeout(Some(USER_TIMEOUT)),
        ];
        for error in outcomes.into_iter().filter_map(Result::err) {
            log::debug!("a socket option is not available: {error}");
        }
        if kernel::info(&self.0).is_ok_and(|info| info.round_trip < SHORT) {
            // Most kernels do not know it yet.
            let _ = kernel::bound_pauses(&self.0, LONGEST_PAUSE);
        }
    }
}

/// A listening socket whose port dials may share.
///
/// `SO_REUSEPORT` is set only after the port is ours: set before, a second process of the same user could take
/// a share of our connections unnoticed, and two agents on one port would both start.
pub(super) fn listen(local: SocketAddr) -> io::Result<Source<TcpListener>> {
    let socket = open(local)?;
    socket.set_reuse_address(true)?;
    socket.bind(&local.into()).and_then(|()| socket.listen(BACKLOG)).map_err(|error| explain(local, error))?;
    socket.set_reuse_port(true)?;
    Source::new(socket.into())
}

/// Connects to `remote`, from `source` if it is given and free.
pub(super) async fn connect(source: Option<SocketAddr>, remote: SocketAddr) -> io::Result<TcpStream> {
    match establish(source, remote).await {
        Err(error) if source.is_some() && address_taken(&error) => {
            log::debug!("dialling {remote} from a new port: {error}");
            establish(None, remote).await
        }
        outcome => outcome,
    }
}

async fn establish(source: Option<SocketAddr>, remote: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream(Source::connecting(prepare(source, remote)?, remote).await?);
    // A socket that dials its own listening port from that very port connects to itself.
    if stream.peer_addr()? == stream.local_addr()? {
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the address is this node's own"));
    }
    stream.keep_watch();
    Ok(stream)
}

fn prepare(source: Option<SocketAddr>, remote: SocketAddr) -> io::Result<Socket> {
    let socket = open(remote)?;
    if let Some(source) = source {
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&source.into())?;
    }
    Ok(socket)
}

fn open(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() {
        // IPv4 has a listener of its own: mapped addresses would hide where a connection comes from.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn address_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

pub(crate) fn explain(local: SocketAddr, error: io::Error) -> io::Error {
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use by another program",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address",
        io::ErrorKind::PermissionDenied => "a port below 1024 needs more rights",
        _ => return error,
    };
    io::Error::new(error.kind(), CannotListen { local, why, source: error })
}

/// The system's error stands below as source: what libp2p wraps around an error passes over the uppermost one.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {local}: {why} ({source})")]
struct CannotListen {
    local: SocketAddr,
    why: &'static str,
    source: io::Error,
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.poll_read(cx, buf)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn dials_from_the_listening_port() {
        smol::block_on(async {
            let ours = listen(loopback()).unwrap().get_ref().local_addr().unwrap();
            let here = listen(ours).unwrap();
            let there = TcpListener::bind(loopback()).unwrap();
            let stream = connect(Some(ours), there.local_addr().unwrap()).await.unwrap();
            assert_eq!(there.accept().unwrap().1, ours);
            assert_eq!(stream.local_addr().unwrap(), here.get_ref().local_addr().unwrap());
        });
    }

    #[test]
    fn falls_back_to_a_new_port_when_the_pair_is_taken() {
        smol::block_on(async {
            let here = listen(loopback()).unwrap();
            let ours = here.get_ref().local_addr().unwrap();
            let there = TcpListener::bind(loopback()).unwrap();
            let remote = there.local_addr().unwrap();
            let first = connect(Some(ours), remote).await.unwrap();
            let second = connect(Some(ours), remote).await.unwrap();
            assert_eq!(first.local_addr().unwrap(), ours);
            assert_ne!(second.local_addr().unwrap(), ours);
        });
    }

    #[test]
    fn a_port_in_use_is_named() {
        let first = listen(loopback()).unwrap();
        let error = listen(first.get_ref().local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("in use by another program"), "{error}");
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::AddrInUse));
    }

    #[test]
    fn never_connects_to_itself() {
        smol::block_on(async {
            let free = listen(loopback()).unwrap().get_ref().local_addr().unwrap();
            let error = establish(Some(free), free).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        });
    }

    #[test]
    fn keeps_watch_over_both_ends() {
        smol::block_on(async {
            let there = TcpListener::bind(loopback()).unwrap();
            let dialled = connect(None, there.local_addr().unwrap()).await.unwrap();
            let accepted = TcpStream::accepted(there.accept().unwrap().0).unwrap();
            for stream in [dialled, accepted] {
                let socket = socket2::SockRef::from(stream.0.get_ref());
                assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
                assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
            }
        });
    }

    #[test]
    fn a_refused_connection_is_an_error() {
        let closed = TcpListener::bind(loopback()).unwrap().local_addr().unwrap();
        let error = smol::block_on(connect(None, closed)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
