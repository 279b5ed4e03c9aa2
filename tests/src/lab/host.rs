//! One host of a lab: where commands run, sockets open and links fail.

use super::{
    Link, Segment, Shared,
    link::Emulator,
    netns::Netns,
    segment::{PREFIX4, PREFIX6},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    thread::{self, JoinHandle},
};

/// A machine of the lab. Clones are handles to the same host; any of them keeps the lab alive.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

// Fields are dropped in this order: the namespace goes before the lab's folder.
struct Inner {
    name: String,
    link: Mutex<Option<Emulator>>,
    /// `None` on loopback.
    netns: Option<Netns>,
    /// The name of this host's port of the segment's bridge.
    port: String,
    segment: Segment,
    addresses: Mutex<(Ipv4Addr, Ipv6Addr)>,
    lab: Arc<Shared>,
}

impl Host {
    pub(super) fn create(lab: &Arc<Shared>, segment: &Segment, name: &str) -> Host {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(name.chars().all(plain), "a name of a-z, 0-9 and -: {name}");
        let number = lab.hosts.fetch_add(1, Relaxed) + 1;
        let addresses = if lab.is_loopback() {
            (lab.loopback_address(number), Ipv6Addr::LOCALHOST)
        } else {
            segment.next_addresses()
        };
        let host = Inner {
            name: name.to_owned(),
            link: Mutex::new(None),
            netns: (!lab.is_loopback()).then(|| Netns::create(format!("{}-{number}-{name}", lab.id))),
            port: format!("p{number}"),
            segment: segment.clone(),
            addresses: Mutex::new(addresses),
            lab: lab.clone(),
        };
        host.attach();
        Host { inner: Arc::new(host) }
    }

    /// The name that it was made with.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its IPv4 address at the moment.
    pub fn ipv4(&self) -> Ipv4Addr {
        self.addresses().0
    }

    /// Its IPv6 address at the moment. On loopback all hosts share one.
    pub fn ipv6(&self) -> Ipv6Addr {
        self.addresses().1
    }

    /// A port on its IPv4 address.
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.ipv4(), port).into()
    }

    /// Whether it has a network namespace, with a link of its own.
    pub fn has_namespace(&self) -> bool {
        self.inner.netns.is_some()
    }

    /// A folder of the lab's temporary folder, made if it is not there.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.inner.lab.subfolder(name)
    }

    /// A command that will run on this host.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let program = program.as_ref();
        match &self.inner.netns {
            Some(netns) => netns.command(program.to_str().expect("a path in UTF-8")),
            None => Command::new(program),
        }
    }

    /// Calls `act` on a thread of this host and returns what it returns. Sockets made there stay on the host.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        match &self.inner.netns {
            Some(netns) => netns.enter(act),
            None => act(),
        }
    }

    /// Starts a thread on this host.
    pub fn spawn<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        match &self.inner.netns {
            Some(netns) => netns.spawn(act),
            None => thread::spawn(act),
        }
    }

    /// Listens on a port of its IPv4 address; port 0 is any free one.
    pub fn listen(&self, port: u16) -> TcpListener {
        self.bind((self.ipv4(), port).into())
    }

    /// Listens on this address.
    pub fn bind(&self, address: SocketAddr) -> TcpListener {
        let listener = self
            .enter(|| TcpListener::bind(address))
            .unwrap_or_else(|error| panic!("{} cannot listen on {address}: {error}", self.name()));
        // A second `listen` only changes the queue's length. The standard library asks for 128, and a busy machine lets
        // a burst of 256 overflow that, which the kernel may answer with a reset.
        rustix::net::listen(&listener, 1024).expect("a bound socket listens");
        listener
    }

    /// Connects from this host.
    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.enter(|| TcpStream::connect(to))
    }

    /// A port that nothing listened on a moment ago, on any address.
    pub fn free_port(&self) -> u16 {
        let listener = self.bind((Ipv4Addr::UNSPECIFIED, 0).into());
        listener.local_addr().expect("a bound socket").port()
    }

    /// Makes the way to this host long: what arrives at its interface is delayed, for as long as the host lives. A host
    /// behind a router is also as far away as the router.
    ///
    /// # Panics
    /// When it has a link already; where [`Lab::links`](super::Lab::links) says that there are none.
    pub fn emulate(&self, link: Link) {
        let mut slot = self.inner.link.lock().expect("no panic under this lock");
        assert!(slot.is_none(), "{} has a link", self.name());
        *slot = Some(Emulator::start(self.netns(), link));
    }

    /// Takes the interface down, as a person does (aeroplane mode). The host notices at once.
    pub fn link_down(&self) {
        self.netns().ip("link set eth0 down\n");
    }

    /// Takes the interface up again, with the addresses that it had.
    pub fn link_up(&self) {
        self.netns().ip(&format!("link set eth0 up\n{}", self.inner.segment.route_line()));
    }

    /// Pulls the cable: the interface loses its carrier and keeps its addresses.
    pub fn unplug(&self) {
        self.set_port_link("down");
    }

    /// Puts the cable back.
    pub fn plug(&self) {
        self.set_port_link("up");
    }

    /// Drops everything from and to this host in the network, without a sign that the host could see.
    pub fn block(&self) {
        self.inner.lab.set_port(&self.inner.port, false);
    }

    /// Ends [`block`](Host::block).
    pub fn unblock(&self) {
        self.inner.lab.set_port(&self.inner.port, true);
    }

    /// Drops everything between this host and another of its segment, in both directions.
    pub fn cut_from(&self, other: &Host) {
        self.inner.lab.set_cut(&self.inner.port, &other.inner.port, true);
    }

    /// Ends [`cut_from`](Host::cut_from).
    pub fn mend_to(&self, other: &Host) {
        self.inner.lab.set_cut(&self.inner.port, &other.inner.port, false);
    }

    /// Takes its addresses away and gives it two new ones, as another network or router would; returns the IPv4 one.
    pub fn renumber(&self) -> Ipv4Addr {
        let fresh = self.inner.segment.next_addresses();
        let old = std::mem::replace(&mut *self.lock_addresses(), fresh);
        let route = self.inner.segment.route_line();
        self.netns().ip(&(address_lines("del", old) + &address_lines("add", fresh) + &route));
        fresh.0
    }

    /// The lab that it belongs to.
    pub(super) fn lab(&self) -> &Arc<Shared> {
        &self.inner.lab
    }

    fn addresses(&self) -> (Ipv4Addr, Ipv6Addr) {
        *self.lock_addresses()
    }

    fn lock_addresses(&self) -> std::sync::MutexGuard<'_, (Ipv4Addr, Ipv6Addr)> {
        self.inner.addresses.lock().expect("no panic under this lock")
    }

    pub(super) fn netns(&self) -> &Netns {
        let netns = self.inner.netns.as_ref();
        netns.expect("a lab of namespaces: start this test with `Lab::namespaces`")
    }

    fn set_port_link(&self, state: &str) {
        let fabric = self.inner.lab.need_fabric();
        fabric.ip(&format!("link set {} {state}\n", self.inner.port));
    }
}

impl Inner {
    /// Connects the namespace to its segment's bridge and gives it its addresses.
    fn attach(&self) {
        let (Some(fabric), Some(netns)) = (&self.lab.fabric, &self.netns) else {
            return;
        };
        let (port, bridge) = (&self.port, self.segment.bridge());
        let peer = netns.name();
        fabric.ip(&format!(
            "link add {port} type veth peer name eth0 netns {peer}\n\
             link set {port} master {bridge}\n\
             link set {port} up\n"
        ));
        let addresses = *self.addresses.lock().expect("no panic under this lock");
        let route = self.segment.route_line();
        netns.ip(&format!("link set eth0 up\n{}{route}", address_lines("add", addresses)));
    }
}

/// The `ip` lines that add or delete both addresses of a host.
pub(super) fn address_lines(verb: &str, (v4, v6): (Ipv4Addr, Ipv6Addr)) -> String {
    let line = |address: IpAddr, prefix, options| format!("address {verb} {address}/{prefix} dev eth0{options}\n");
    let nodad = if verb == "add" { " nodad" } else { "" };
    line(v4.into(), PREFIX4, "") + &line(v6.into(), PREFIX6, nodad)
}
