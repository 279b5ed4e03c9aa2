//! A UDP socket for quinn, waited for by the [`workers`](crate::workers).
//!
//! A packet that finds room is sent at once and what has arrived is read by the thread that saw it arrive. (Those of
//! quinn for smol ask async-io's reactor, another thread, before each call of sendmsg(2), which may take a turn of the
//! whole machine for twelve kilobytes.)

use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker, ready},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};

use crate::source::{Side, Source};

/// One endpoint's socket: one task reads, and each connection has one that writes.
#[derive(Debug)]
pub(super) struct Socket {
    source: Source<UdpSocket>,
    /// What the kernel can do: batches, ECN.
    udp: UdpSocketState,
    writers: Arc<Writers>,
}

/// The tasks that wait for room to send. The socket tells of it once, so whoever it wakes wakes them all.
#[derive(Debug, Default)]
struct Writers(Mutex<Vec<Waker>>);

impl Writers {
    fn lock(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Writers {
    fn wake(self: Arc<Self>) {
        let waiting = std::mem::take(&mut *self.lock());
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Socket {
    /// # Errors
    /// If the system refuses what QUIC asks of a UDP socket, or has no room to wait for it.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let udp = UdpSocketState::new((&socket).into())?;
        Ok(Self { source: Source::new(socket)?, udp, writers: Arc::default() })
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Held throughout, so that an event in between finds this task among those that wait.
        let mut waiting = self.writers.lock();
        let all = Waker::from(self.writers.clone());
        let ready = self.source.poll_ready(Side::Write, &mut Context::from_waker(&all));
        if ready.is_pending() && !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        ready
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.udp.send(self.source.get_ref().into(), transmit);
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.source.exhausted(Side::Write);
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        told: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let asked = buffers.len();
        let receive = |socket: &UdpSocket| self.udp.recv(socket.into(), buffers, told);
        let received = ready!(self.source.poll_io(Side::Read, cx, receive))?;
        if received < asked {
            self.source.exhausted(Side::Read);
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.source.get_ref().local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.udp.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.udp.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.udp.gro_segments()
    }
}

/// One connection's view of the socket.
#[derive(Debug)]
struct Poller(Arc<Socket>);

impl UdpPoller for Poller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_writable(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{self, SyncSender},
        time::Duration,
    };

    use super::*;

    struct Tell(SyncSender<()>);

    impl Wake for Tell {
        fn wake(self: Arc<Self>) {
            let _ = self.0.try_send(());
        }
    }

    fn socket() -> Socket {
        Socket::new(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap()
    }

    #[test]
    fn everybody_who_waits_for_room_is_woken() {
        let socket = socket();
        // As after a call that would have blocked.
        socket.source.exhausted(Side::Write);
        let told: Vec<_> = (0..4)
            .filter_map(|_| {
                let (tell, told) = mpsc::sync_channel(1);
                let waker = Waker::from(Arc::new(Tell(tell)));
                // The socket has room, so the event may come before the later ones ask.
                socket.poll_writable(&mut Context::from_waker(&waker)).is_pending().then_some(told)
            })
            .collect();
        assert!(!told.is_empty(), "the first one waits");
        told.into_iter().for_each(|told| told.recv_timeout(Duration::from_secs(60)).unwrap());
    }

    #[test]
    fn what_is_sent_arrives_with_its_sender() {
        let (here, there) = (socket(), socket());
        let (from, to) = (here.local_addr().unwrap(), there.local_addr().unwrap());
        let packet = Transmit { destination: to, ecn: None, contents: b"hello", segment_size: None, src_ip: None };
        here.try_send(&packet).unwrap();
        let (mut bytes, mut told) = ([0; 64], [RecvMeta::default()]);
        let received = smol::block_on(std::future::poll_fn(|cx| {
            there.poll_recv(cx, &mut [IoSliceMut::new(&mut bytes)], &mut told)
        }));
        assert_eq!((received.unwrap(), told[0].addr, &bytes[..told[0].len]), (1, from, b"hello".as_slice()));
    }
}
