//! A socket that tells when it is ready, waited for by the [`workers`].
//!
//! epoll is asked only when a call would have blocked, and for one event (EPOLLONESHOT, level-triggered): a socket that
//! nobody waits for wakes nobody. Before a call comes a question that costs no system call: a side that is being waited
//! for has nothing to give, so a task that was woken for another reason does not try it in vain.

use std::{
    future::poll_fn,
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use futures::io::{AsyncRead, AsyncWrite};
use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::workers::{self, Pool};

/// A socket that is waited for. It does not block.
#[derive(Debug)]
pub struct Source<T> {
    // Left before the socket is closed, and its number with it.
    place: Place,
    io: T,
}

/// The two directions of a socket, each of which one task at a time may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Receiving, accepting.
    Read,
    /// Sending, connecting.
    Write,
}

impl<T: AsFd> Source<T> {
    /// Takes over a socket that does not block.
    ///
    /// # Errors
    /// If the system has no room to wait for sockets.
    pub fn new(io: T) -> io::Result<Self> {
        workers::start()?;
        let pool = Pool::get()?;
        let watch = Arc::<Watch>::default();
        let number = pool.enter(watch.clone());
        Ok(Self { place: Place { pool, number, watch }, io })
    }

    /// The socket.
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// Gives the socket back, no longer waited for.
    ///
    /// # Errors
    /// If the system forgot that it was.
    pub fn into_inner(self) -> io::Result<T> {
        let Self { place, io } = self;
        if place.watch.lock().known {
            epoll::delete(place.pool.epoll(), &io)?;
        }
        Ok(io)
    }

    /// Waits until a call on this side may do something.
    ///
    /// # Errors
    /// If the system has no room to wait for this socket.
    pub fn poll_ready(&self, side: Side, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut watch = self.place.watch.lock();
        match watch.side(side) {
            State::Open => return Poll::Ready(Ok(())),
            State::Awaited(waker) => {
                waker.clone_from(cx.waker());
                return Poll::Pending;
            }
            state => *state = State::Awaited(cx.waker().clone()),
        }
        if let Err(error) = self.place.ask(&mut watch, &self.io) {
            *watch.side(side) = State::Open;
            return Poll::Ready(Err(error));
        }
        Poll::Pending
    }

    /// Makes a call on this side as soon as it does not block.
    ///
    /// # Errors
    /// Those of the call, and of [`Self::poll_ready`].
    pub fn poll_io<R>(
        &self,
        side: Side,
        cx: &mut Context<'_>,
        mut call: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            ready!(self.poll_ready(side, cx))?;
            match call(&self.io) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.exhausted(side),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    /// The same as a future.
    ///
    /// # Errors
    /// As for [`Self::poll_io`].
    pub async fn io<R>(&self, side: Side, mut call: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        poll_fn(|cx| self.poll_io(side, cx, &mut call)).await
    }

    /// The last call has used up what there was: the next one waits before it tries. (What came meanwhile is found at
    /// once, so this is never wrong, and saves a call in vain where it is right.)
    pub fn exhausted(&self, side: Side) {
        let mut watch = self.place.watch.lock();
        let state = watch.side(side);
        if matches!(state, State::Open) {
            *state = State::Exhausted;
        }
    }
}

impl<T: AsFd> AsFd for Source<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

impl Source<TcpListener> {
    /// Listens, as [`TcpListener::bind`] does.
    ///
    /// # Errors
    /// Those of bind(2) and listen(2).
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Self::new(listener)
    }

    /// The next connection.
    ///
    /// # Errors
    /// Those of accept(2).
    pub async fn accept(&self) -> io::Result<(Source<TcpStream>, SocketAddr)> {
        let (stream, from) = self.io(Side::Read, TcpListener::accept).await?;
        stream.set_nonblocking(true)?;
        Ok((Source::new(stream)?, from))
    }
}

impl Source<TcpStream> {
    /// Connects to an address from a port of the kernel's choice.
    ///
    /// # Errors
    /// Those of connect(2).
    pub async fn connect(to: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        Self::connecting(socket, to).await
    }

    /// Connects a socket that was prepared and does not block.
    ///
    /// # Errors
    /// Those of connect(2).
    pub(crate) async fn connecting(socket: Socket, to: SocketAddr) -> io::Result<Self> {
        let connected = match socket.connect(&to.into()) {
            Err(e) if Errno::from_io_error(&e) == Some(Errno::INPROGRESS) => false,
            outcome => {
                outcome?;
                true
            }
        };
        let source = Self::new(TcpStream::from(socket))?;
        if !connected {
            source.exhausted(Side::Write);
            poll_fn(|cx| source.poll_ready(Side::Write, cx)).await?;
            source.io.take_error()?.map_or(Ok(()), Err)?;
        }
        Ok(source)
    }

    /// Reads into a buffer.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn poll_read(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(self.poll_io(Side::Read, cx, |mut io| io.read(into)))?;
        if read < into.len() {
            self.exhausted(Side::Read);
        }
        Poll::Ready(Ok(read))
    }

    /// Writes from a buffer.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.poll_io(Side::Write, cx, |mut io| io.write(bytes)))?;
        if written < bytes.len() {
            self.exhausted(Side::Write);
        }
        Poll::Ready(Ok(written))
    }

    /// Writes from several buffers.
    ///
    /// # Errors
    /// Those of writev(2).
    pub fn poll_write_vectored(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_io(Side::Write, cx, |mut io| io.write_vectored(slices))
    }

    /// Sends no more.
    ///
    /// # Errors
    /// Those of shutdown(2), but that the connection has ended already.
    pub fn end(&self) -> io::Result<()> {
        match self.io.shutdown(Shutdown::Write) {
            Err(e) if e.kind() != io::ErrorKind::NotConnected => Err(e),
            _ => Ok(()),
        }
    }
}

impl AsyncRead for &Source<TcpStream> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        Source::poll_read(&self, cx, into)
    }
}

impl AsyncWrite for &Source<TcpStream> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Source::poll_write(&self, cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Source::poll_write_vectored(&self, cx, slices)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.end())
    }
}

/// A source's place among those that are waited for.
struct Place {
    pool: &'static Pool,
    number: u64,
    watch: Arc<Watch>,
}

impl Place {
    /// Asks for one event of the sides that are awaited.
    fn ask(&self, watch: &mut Sides, io: &impl AsFd) -> io::Result<()> {
        let (data, wanted) = (EventData::new_u64(self.number), watch.awaited() | EventFlags::ONESHOT);
        if watch.known {
            epoll::modify(self.pool.epoll(), io, data, wanted)?;
        } else {
            epoll::add(self.pool.epoll(), io, data, wanted)?;
            watch.known = true;
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.leave(self.number);
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({})", self.number)
    }
}

/// What is known of a source, and who waits for it.
#[derive(Default)]
pub(crate) struct Watch(Mutex<Sides>);

#[derive(Default)]
struct Sides {
    read: State,
    write: State,
    /// epoll knows the socket.
    known: bool,
}

#[derive(Default)]
enum State {
    /// A call may do something.
    #[default]
    Open,
    /// The last call did all that could be done.
    Exhausted,
    /// epoll was asked, for this task.
    Awaited(Waker),
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Sides> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event: wakes who waits. epoll, asked for one event, will say no more of the other side either: whoever waits for
    /// that has to ask again.
    pub(crate) fn happened(&self, flags: EventFlags) {
        let over = EventFlags::HUP | EventFlags::ERR;
        let mut sides = self.lock();
        let read = sides.read.told(flags.intersects(EventFlags::IN | over));
        let write = sides.write.told(flags.intersects(EventFlags::OUT | over));
        drop(sides);
        [read, write].into_iter().flatten().for_each(Waker::wake);
    }
}

impl State {
    fn told(&mut self, happened: bool) -> Option<Waker> {
        let next = if happened { Self::Open } else { Self::Exhausted };
        match std::mem::take(self) {
            Self::Awaited(waker) => {
                *self = next;
                Some(waker)
            }
            before => {
                *self = if happened { Self::Open } else { before };
                None
            }
        }
    }
}

impl Sides {
    fn side(&mut self, side: Side) -> &mut State {
        match side {
            Side::Read => &mut self.read,
            Side::Write => &mut self.write,
        }
    }

    fn awaited(&self) -> EventFlags {
        let of = |state: &State, flag| if matches!(state, State::Awaited(_)) { flag } else { EventFlags::empty() };
        of(&self.read, EventFlags::IN) | of(&self.write, EventFlags::OUT)
    }
}

#[cfg(test)]
mod tests;
