//! TCP servers inside the test's own process, on any host of the lab: one thread for each connection, and a count of
//! those that are open.

use crate::{lab::Host, wait::wait_until};
use socket2::SockRef;
use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// A listening server. Dropping it ends the listening; connections end as their peers close them.
pub struct Server {
    address: SocketAddr,
    listener: TcpListener,
    open: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    acceptor: Option<JoinHandle<()>>,
    _host: Host,
}

impl Server {
    /// Listens on a port of the host's IPv4 address (0: any) and calls `serve` for each connection, on a thread of its own.
    pub fn start(host: &Host, port: u16, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        Server::start_at(host, host.at(port), serve)
    }

    /// The same on any address that the host has.
    pub fn start_at(host: &Host, address: SocketAddr, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        let listener = host.bind(address);
        let open = Arc::new(AtomicUsize::new(0));
        let accepted = Arc::new(AtomicUsize::new(0));
        let acceptor = {
            let listener = listener.try_clone().expect("another handle to a socket");
            let (open, accepted) = (open.clone(), accepted.clone());
            host.spawn(move || accept_all(&listener, &open, &accepted, &Arc::new(serve)))
        };
        Server {
            address: listener.local_addr().expect("a bound socket"),
            listener,
            open,
            accepted,
            acceptor: Some(acceptor),
            _host: host.clone(),
        }
    }

    /// Sends everything back that it receives, and its end.
    pub fn echo(host: &Host, port: u16) -> Server {
        Server::start(host, port, |mut stream| {
            let _ = echo(&mut stream);
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.open.load(SeqCst)
    }

    /// Waits until no connection is open.
    ///
    /// # Panics
    /// Once `within` has passed.
    pub fn wait_until_idle(&self, within: Duration) {
        wait_until("the server has no open connection", within, || self.open() == 0);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // On Linux this ends a waiting `accept`.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// Closes a connection with a reset (RST) instead of an end of stream.
pub fn reset(stream: TcpStream) {
    // Without lingering the kernel discards what was not sent and sends RST, see socket(7).
    let lingering = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    lingering.expect("an option that every TCP socket has");
}

fn accept_all(
    listener: &TcpListener,
    open: &Arc<AtomicUsize>,
    accepted: &AtomicUsize,
    serve: &Arc<impl Fn(TcpStream) + Send + Sync + 'static>,
) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // Shut down by `drop`.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            // The peer was quicker: accept(2) says to go on.
            Err(_) => continue,
        };
        accepted.fetch_add(1, SeqCst);
        open.fetch_add(1, SeqCst);
        let counted = Counted(open.clone());
        let serve = serve.clone();
        thread::spawn(move || {
            serve(stream);
            drop(counted);
        });
    }
}

/// Counts down when its connection is done, also by a panic.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(&buffer[..length])?;
    }
}
