//! A network of hosts to test in. As root every host is a network namespace with its own addresses
//! on a bridge, so links can be cut, hosts blocked and addresses changed. Without root the hosts
//! are addresses of this machine's loopback: the same tests run, without any of that.
//!
//! A lab lives as long as the last handle to it: a [`Host`], or what runs on one. Then its processes,
//! namespaces and temporary folder are removed. What a killed test left is removed by the next lab.
//!
//! Layout: one namespace, the fabric, has a bridge for every [`Segment`]; every host's `eth0` ends in a
//! port of such a bridge. Faults are made in the fabric, so a host sees them as the network's doing.

mod host;
mod leftovers;
mod link;
mod nat;
mod netns;
mod segment;

pub use host::Host;
pub use link::Link;
pub use nat::{Nat, Router};
pub use segment::Segment;

use crate::notice;
use netns::Netns;
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};
use tempfile::TempDir;

/// All that this crate names (namespaces, folders) begins with this and the id of its process.
const PREFIX: &str = "hv";

static LABS: AtomicU32 = AtomicU32::new(0);

/// A network that tests add hosts to.
#[derive(Clone)]
pub struct Lab {
    shared: Arc<Shared>,
    public: Segment,
}

/// What all handles to one lab have in common; dropped with the last of them.
struct Shared {
    id: String,
    /// `None` on loopback.
    fabric: Option<Netns>,
    hosts: AtomicU32,
    segments: AtomicU32,
    folder: TempDir,
}

impl Lab {
    /// A lab of namespaces where root allows it, else one on loopback; says which.
    ///
    /// `HIVE_LAB=loopback` asks for loopback in any case.
    pub fn new() -> Lab {
        let impossible = namespaces_impossible();
        if let Some(why) = impossible {
            notice::say(&format!("LAB: loopback ({why})"));
        }
        Lab::build(impossible.is_none())
    }

    /// A lab of namespaces, for a test that cannot do without; says that `test` is left out where they are impossible.
    pub fn namespaces(test: &str) -> Option<Lab> {
        let Some(why) = namespaces_impossible() else {
            return Some(Lab::build(true));
        };
        notice::left_out(test, &format!("needs root for network namespaces ({why})"));
        None
    }

    /// The same for a test that also needs [`Host::emulate`].
    pub fn links(test: &str) -> Option<Lab> {
        Lab::namespaces(test).filter(|lab| lab.has_links(test))
    }

    /// Whether [`Host::emulate`] is possible; if not, says that `what` is left out.
    pub fn has_links(&self, what: &str) -> bool {
        let why = if self.has_namespaces() { link::why_impossible() } else { Some("no network namespaces") };
        why.inspect(|why| notice::left_out(what, &format!("needs links with a delay ({why})"))).is_none()
    }

    /// A lab on loopback in any case, for a test whose own process is one of the hosts.
    pub fn loopback() -> Lab {
        Lab::build(false)
    }

    fn build(namespaces: bool) -> Lab {
        if namespaces {
            notice::say("LAB: network namespaces");
        }
        leftovers::sweep_once();
        let id = format!("{PREFIX}{}-{}", process::id(), LABS.fetch_add(1, Relaxed));
        let folder = tempfile::Builder::new().prefix(&format!("{id}-")).tempdir();
        let shared = Arc::new(Shared {
            fabric: namespaces.then(|| Netns::create(format!("{id}-fabric"))),
            id,
            hosts: AtomicU32::new(0),
            segments: AtomicU32::new(0),
            folder: folder.expect("a folder in the temporary folder"),
        });
        let public = Segment::create(&shared, false);
        Lab { shared, public }
    }

    /// Whether the hosts are namespaces, with links of their own.
    pub fn has_namespaces(&self) -> bool {
        self.shared.fabric.is_some()
    }

    /// Adds a host to the public segment. `name` is for people and for file names: `a-z`, `0-9` and `-`.
    pub fn host(&self, name: &str) -> Host {
        self.host_on(&self.public, name)
    }

    /// Adds a host to a segment of this lab.
    pub fn host_on(&self, segment: &Segment, name: &str) -> Host {
        Host::create(&self.shared, segment, name)
    }

    /// Adds a segment: a bridge with networks of its own, which nothing connects to the others.
    pub fn segment(&self) -> Segment {
        Segment::create(&self.shared, false)
    }

    /// Adds a router to the public segment; [`Router::host`] adds hosts behind it.
    pub fn router(&self, name: &str, nat: Nat) -> Router {
        Router::create(self.host(name), nat)
    }

    /// Adds a host behind a NAT of its own: behind two, one after the other, for [`Nat::Double`].
    pub fn host_behind(&self, nat: Nat, name: &str) -> (Host, Router) {
        let outer = self.router(&format!("{name}-r"), nat.outer());
        let router = match nat {
            Nat::Double => outer.router(&format!("{name}-r2"), nat.outer()),
            _ => outer,
        };
        (router.host(name), router)
    }

    /// The temporary folder of this lab.
    pub fn folder(&self) -> &Path {
        self.shared.folder.path()
    }
}

impl Default for Lab {
    fn default() -> Lab {
        Lab::new()
    }
}

impl Shared {
    fn is_loopback(&self) -> bool {
        self.fabric.is_none()
    }

    /// An address of this machine that no other lab running now uses, unless a thousand are.
    fn loopback_address(&self, host: u32) -> Ipv4Addr {
        let [_, a, b, _] = process::id().wrapping_mul(0x9E37_79B1).to_be_bytes();
        let host = u8::try_from(host).expect("at most 255 hosts in a lab on loopback");
        Ipv4Addr::new(127, a.max(1), b, host)
    }

    /// A folder of the lab, made if it is not there.
    fn subfolder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path).expect("a folder in the lab's folder");
        path
    }
}

fn namespaces_impossible() -> Option<&'static str> {
    if std::env::var("HIVE_LAB").is_ok_and(|kind| kind == "loopback") {
        return Some("HIVE_LAB=loopback");
    }
    if !rustix::process::geteuid().is_root() {
        return Some("not root");
    }
    netns::why_impossible()
}
