//! Routers with network address translation, each of a kind of behaviour that RFC 4787 (UDP) and RFC 5382 (TCP) name.
//!
//! The kernel translates; `nftables` decides which public port a private one gets and who may send to it. Linux by itself
//! has neither of the cones: the maps below remember the public port of each private one, and the set whom it wrote to.
//! What is not let in is dropped without a word. There is no hairpinning and no IPv6 through a router.

use super::{Host, Segment, host::address_lines, netns};
use rustix::net::{
    AddressFamily, SocketType,
    netlink::{self, SocketAddrNetlink},
    sockopt,
};
use std::{fs, time::Duration};

/// How a router translates, by what it does with the ports of the hosts behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nat {
    /// Endpoint-independent mapping and filtering: one public port, open to all.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering: open to the addresses that were written to.
    Restricted,
    /// Endpoint-independent mapping, address- and port-dependent filtering.
    PortRestricted,
    /// Address- and port-dependent mapping and filtering: a public port of its own for every destination.
    Symmetric,
    /// Two port-restricted routers, one behind the other, as with a carrier's NAT (RFC 6598).
    Double,
    /// As [`Nat::PortRestricted`] for TCP; UDP does not pass.
    UdpBlocked,
}

impl Nat {
    /// Every kind.
    pub const ALL: [Nat; 6] =
        [Nat::FullCone, Nat::Restricted, Nat::PortRestricted, Nat::Symmetric, Nat::Double, Nat::UdpBlocked];

    /// Whether every destination sees the same public port (RFC 4787, section 4.1).
    pub fn maps_independently(self) -> bool {
        self != Nat::Symmetric
    }

    /// Whether only the address and port written to may answer (RFC 4787, section 5).
    pub fn filters_by_port(self) -> bool {
        !matches!(self, Nat::FullCone | Nat::Restricted)
    }

    /// Whether UDP passes.
    pub fn passes_udp(self) -> bool {
        self != Nat::UdpBlocked
    }

    /// Whether two hosts behind such routers can reach each other without a relay, by hole punching at best: at least one
    /// mapping must be foreseeable, and towards an unforeseeable one the other side must not ask for the port.
    pub fn can_be_punched_to(self, other: Nat) -> bool {
        let lets_in = |from: Nat, to: Nat| from.maps_independently() || !to.filters_by_port();
        (self.maps_independently() || other.maps_independently()) && lets_in(self, other) && lets_in(other, self)
    }

    /// The kind of one router.
    pub(super) fn outer(self) -> Nat {
        if self == Nat::Double { Nat::PortRestricted } else { self }
    }
}

/// A router between a segment and a private one of its own. Clones are handles to the same router.
#[derive(Clone)]
pub struct Router {
    host: Host,
    nat: Nat,
    inside: Segment,
}

impl Router {
    pub(super) fn create(host: Host, nat: Nat) -> Router {
        let inside = Segment::create(host.lab(), true);
        let router = Router { host, nat, inside };
        router.connect_inside();
        router.forward();
        router.load(&router.rules(""));
        router
    }

    /// Adds a host behind this router.
    pub fn host(&self, name: &str) -> Host {
        Host::create(self.host.lab(), &self.inside, name)
    }

    /// Adds a router behind this router.
    pub fn router(&self, name: &str, nat: Nat) -> Router {
        Router::create(self.host(name), nat)
    }

    /// The router itself, as a host of the outer segment.
    pub fn outside(&self) -> &Host {
        &self.host
    }

    /// Forgets every mapping, as a router that restarts or that has no room: later packets get other ports, and what was
    /// let in is no more.
    pub fn rebind(&self) {
        // A closed gate keeps traffic from renewing old mappings meanwhile.
        self.load("chain gate { type filter hook prerouting priority -400; policy drop; }");
        self.host.enter(flush_conntrack);
        self.load(&self.rules(" fully-random"));
    }

    /// Lets everybody outside reach `port` of a host behind it, TCP and UDP, as a person configures a port forwarding.
    pub fn forward_port(&self, port: u16, to: &Host) {
        let rule = format!("iifname eth0 meta l4proto {{ tcp, udp }} th dport {port} dnat to {}:{port}", to.ipv4());
        self.nft(&format!(
            "insert rule ip hive inbound {rule}\ninsert rule ip hive pass ct status dnat th dport {port} accept\n"
        ));
    }

    /// Lets in what other rules than this lab's lead to a host behind it.
    pub fn let_mapped_in(&self) {
        self.nft("insert rule ip hive pass iifname eth0 ct status dnat accept\n");
    }

    fn connect_inside(&self) {
        let lab = self.host.lab();
        let fabric = lab.need_fabric();
        let (address, v6) = self.inside.next_addresses();
        let (bridge, router) = (self.inside.bridge(), self.host.netns().name());
        let port = format!("l{bridge}");
        fabric.ip(&format!(
            "link add {port} type veth peer name lan0 netns {router}\n\
             link set {port} master {bridge}\n\
             link set {port} up\n"
        ));
        let lines = address_lines("add", (address, v6)).replace("dev eth0", "dev lan0");
        self.host.netns().ip(&format!("link set lan0 up\n{lines}"));
        self.inside.set_gateway(address, self.host.clone());
    }

    fn forward(&self) {
        self.host.enter(|| {
            let written = fs::write("/proc/sys/net/ipv4/ip_forward", "1");
            written.expect("forwarding in a namespace");
        });
    }

    /// Replaces the rules in one step.
    fn load(&self, rules: &str) {
        self.nft(&format!("table ip hive\ndelete table ip hive\ntable ip hive {{\n{rules}\n}}\n"));
    }

    fn nft(&self, script: &str) {
        let mut command = self.host.command("nft");
        let done = netns::feed(command.args(["-f", "-"]), script);
        netns::expect_success(&format!("nft (Debian's package nftables) with {script}"), &done);
    }

    /// `mapped` keeps the public port that the first packet of a private port got, and gives it to all later ones; `owner`
    /// is its inverse, and keeps a second host from sharing a port; `written` holds whom each private port wrote to. `ports`
    /// says how a new port is chosen: nothing keeps the private one where it is free.
    fn rules(&self, ports: &str) -> String {
        const PORTS: &str = "meta l4proto { tcp, udp }";
        const OUT: &str = "oifname eth0";
        let independent = self.nat.maps_independently();
        let translate = if independent {
            format!(
                "{OUT} {PORTS} snat ip addr . port to meta l4proto . ip saddr . th sport map @mapped
                 {OUT} {PORTS} meta l4proto . th sport @owner masquerade fully-random
                 {OUT} masquerade{ports}"
            )
        } else {
            format!("{OUT} masquerade fully-random")
        };
        let learn: String = ["original", "reply"].into_iter().filter(|_| independent).map(learn_rules).collect();
        let open = !self.nat.filters_by_port();
        let inbound = if open {
            format!("iifname eth0 {PORTS} dnat ip addr . port to meta l4proto . th dport map @owner")
        } else {
            String::new()
        };
        let known =
            if self.nat == Nat::Restricted { "ip saddr . meta l4proto . ip daddr . th dport @written" } else { "" };
        let admit = if open { format!("iifname eth0 ct status dnat {known} accept") } else { String::new() };
        let leaves = if self.nat.passes_udp() { "" } else { "meta l4proto != udp" };
        let memory = format!("flags dynamic, timeout; timeout {}s; size 65535;", BINDING_LIFE.as_secs());
        format!(
            "map mapped {{ type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; {memory} }}
             map owner {{ type inet_proto . inet_service : ipv4_addr . inet_service; {memory} }}
             set written {{ type ipv4_addr . inet_proto . ipv4_addr . inet_service; {memory} }}
             chain inbound {{ type nat hook prerouting priority dstnat; {inbound}
             }}
             chain translate {{ type nat hook postrouting priority srcnat; {translate}
             }}
             chain learn {{ type filter hook postrouting priority srcnat + 1; {learn}
             }}
             chain pass {{ type filter hook forward priority filter; policy drop;
                 ct state established,related accept
                 iifname lan0 {OUT} {leaves} accept
                 {admit}
             }}
             chain input {{ type filter hook input priority filter; policy drop;
                 ct state established,related accept
                 iifname {{ lo, lan0 }} accept
                 icmp type echo-request accept
             }}"
        )
    }
}

/// Longer than any test: RFC 4787 asks for two minutes and more.
const BINDING_LIFE: Duration = Duration::from_secs(300);

/// Remembers what the kernel chose for a connection that began on this side of it.
fn learn_rules(way: &str) -> String {
    let private = format!("ct {way} ip saddr . ct {way} proto-src");
    let when = format!("oifname eth0 meta l4proto {{ tcp, udp }} ct direction {way}");
    format!(
        "{when} update @mapped {{ meta l4proto . {private} : ip saddr . th sport }}
         {when} update @owner {{ meta l4proto . th sport : {private} }}
         {when} update @written {{ ip daddr . meta l4proto . {private} }}\n"
    )
}

/// Forgets every connection of this namespace, and so every mapping: what `conntrack -F` does.
fn flush_conntrack() {
    /// NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_DELETE (linux/netfilter/nfnetlink_conntrack.h).
    const DELETE: u16 = 1 << 8 | 2;
    /// NLM_F_REQUEST and NLM_F_ACK (linux/netlink.h).
    const FLAGS: u16 = 0x5;
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER));
    let socket = socket.expect("a netlink socket");
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(10))).expect("a timeout");
    let mut message = Vec::from(20u32.to_ne_bytes());
    message.extend([DELETE.to_ne_bytes(), FLAGS.to_ne_bytes()].concat());
    message.extend([1u32.to_ne_bytes(), 0u32.to_ne_bytes(), [0; 4]].concat());
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, &message, rustix::net::SendFlags::empty(), &kernel).expect("a message to the kernel");
    let mut answer = [0; 256];
    let (len, _) =
        rustix::net::recv(&socket, &mut answer, rustix::net::RecvFlags::empty()).expect("the kernel's answer");
    let error = answer[..len].get(16..20).map(|bytes| i32::from_ne_bytes(bytes.try_into().expect("four bytes")));
    assert_eq!(error, Some(0), "the kernel did not flush its connections");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn theory_says_who_can_be_punched() {
        use Nat::{Double, FullCone, PortRestricted, Restricted, Symmetric, UdpBlocked};
        for other in [FullCone, Restricted] {
            assert!(Symmetric.can_be_punched_to(other) && other.can_be_punched_to(Symmetric));
        }
        for other in [PortRestricted, Symmetric, Double, UdpBlocked] {
            assert!(!Symmetric.can_be_punched_to(other) && !other.can_be_punched_to(Symmetric));
        }
        for pair in [[PortRestricted, PortRestricted], [Double, FullCone], [UdpBlocked, Double]] {
            assert!(pair[0].can_be_punched_to(pair[1]));
        }
    }
}
