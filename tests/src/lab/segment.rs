//! A segment: hosts that reach each other without a router. It is a bridge in the fabric, an IPv4 and an IPv6 network,
//! and the faults on the bridge's ports.

use super::{Host, Shared, netns};
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

/// The networks of the first segments: the documentation ranges (RFC 5737), which nodes take for public ones.
const NETWORKS: [[u8; 3]; 3] = [[203, 0, 113], [198, 51, 100], [192, 0, 2]];

/// Length of an IPv4 prefix of a segment.
pub const PREFIX4: u8 = 24;
/// Length of an IPv6 prefix of a segment.
pub const PREFIX6: u8 = 64;

/// The fabric's table of cuts: pairs of ports between which nothing passes.
const CUTS: &str = "
add table bridge hive
add set bridge hive cut { type ifname . ifname ; }
add chain bridge hive pass { type filter hook forward priority 0 ; }
flush chain bridge hive pass
add rule bridge hive pass iifname . oifname @cut drop
";

/// A network on one bridge. Clones are handles to the same segment.
#[derive(Clone)]
pub struct Segment {
    number: u8,
    /// Whether its IPv4 network is a private one (RFC 1918), behind a router.
    private: bool,
    next_host: Arc<AtomicU8>,
    /// The router that hosts of this segment send everything else to, by its address here. It lives as long as they do.
    gateway: Arc<OnceLock<(Ipv4Addr, Host)>>,
}

impl Segment {
    pub(super) fn create(lab: &Shared, private: bool) -> Segment {
        let number = lab.segments.fetch_add(1, Relaxed);
        let segment = Segment {
            number: u8::try_from(number).expect("few segments"),
            private,
            next_host: Arc::new(AtomicU8::new(1)),
            gateway: Arc::default(),
        };
        if let Some(fabric) = &lab.fabric {
            let bridge = segment.bridge();
            let options = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0";
            fabric.ip(&format!("link add {bridge} {options}\nlink set {bridge} up\n"));
        }
        segment
    }

    /// The next free addresses of the segment, of both families.
    pub(super) fn next_addresses(&self) -> (Ipv4Addr, Ipv6Addr) {
        let host = self.next_host.fetch_add(1, Relaxed);
        assert!(host < u8::MAX, "a segment has room for 254 addresses");
        let [a, b, c] = self.network();
        let number = u16::from(self.number);
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, number, 0, 0, 0, 0, host.into());
        (Ipv4Addr::new(a, b, c, host), v6)
    }

    /// The first three bytes of its IPv4 addresses.
    fn network(&self) -> [u8; 3] {
        let public = NETWORKS.get(usize::from(self.number)).filter(|_| !self.private);
        public.copied().unwrap_or([10, 77, self.number])
    }

    /// Hosts added from now on send everything else through this router.
    pub(super) fn set_gateway(&self, address: Ipv4Addr, router: Host) {
        assert!(self.gateway.set((address, router)).is_ok(), "one router a segment");
    }

    /// The `ip` line that gives a host its way out, where there is one.
    pub(super) fn route_line(&self) -> String {
        self.gateway.get().map_or_else(String::new, |(address, _)| format!("route replace default via {address}\n"))
    }

    /// The name of its bridge in the fabric.
    pub(super) fn bridge(&self) -> String {
        format!("br{}", self.number)
    }
}

impl Shared {
    /// Lets a port pass frames, or drop all of them without a word.
    pub(super) fn set_port(&self, port: &str, passes: bool) {
        // States of a bridge port: 0 disabled, 3 forwarding.
        let state = if passes { "3" } else { "0" };
        let mut command = self.need_fabric().command("bridge");
        command.args(["link", "set", "dev", port, "state", state]);
        netns::expect_success("bridge", &netns::feed(&mut command, ""));
    }

    /// Cuts or mends the path between two ports, in both directions.
    pub(super) fn set_cut(&self, a: &str, b: &str, cut: bool) {
        let verb = if cut { "add" } else { "delete" };
        let pairs = format!("{{ \"{a}\" . \"{b}\", \"{b}\" . \"{a}\" }}");
        let rules = format!("{CUTS}{verb} element bridge hive cut {pairs}\n");
        let mut command = self.need_fabric().command("nft");
        let done = netns::feed(command.args(["-f", "-"]), &rules);
        netns::expect_success("nft (Debian's package nftables)", &done);
    }

    /// The fabric, for what only a lab of namespaces can do.
    pub(super) fn need_fabric(&self) -> &netns::Netns {
        let fabric = self.fabric.as_ref();
        fabric.expect("a lab of namespaces: start this test with `Lab::namespaces`")
    }
}
