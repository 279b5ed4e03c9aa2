//! Ports that the router maps to this node: the sockets, the clock and the routing table of [`hive_core::portmap`].

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    sync::Arc,
    time::Duration,
};

use async_io::{Async, Timer};
use hive_core::portmap::{ANNOUNCE_PORT, ANNOUNCED_TO, MAX_LEN, PORT, PortMapper, Report, Target, Transport, Version};
use hive_protocol::{MappingProtocol, PortMapping};
use libp2p::{Multiaddr, multiaddr::Protocol};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use smol::{channel::Receiver, future::or};

use crate::{
    net::addresses::is_public,
    node::{Handle, now},
    random,
};

/// The kernel's table of IPv4 routes (`proc_net(5)`).
const ROUTES: &str = "/proc/net/route";
/// RTF_UP and RTF_GATEWAY (linux/route.h).
const UP_BY_GATEWAY: u32 = 0x3;

/// Between looks for a router where there is none.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Keeps the ports that this node listens on mapped, until told to stop; then takes them back.
pub async fn keep(node: Handle, stop: Receiver<()>) {
    let mut driver = Driver::new(node);
    while driver.turn(&stop).await {}
    driver.mapper.shut_down();
    driver.send().await;
}

struct Driver {
    node: Handle,
    mapper: PortMapper,
    gateway: Option<Ipv4Addr>,
    socket: Option<(Ipv4Addr, Async<UdpSocket>)>,
    announcements: Option<Async<UdpSocket>>,
    /// The addresses that the present target was made for.
    seen: Option<Arc<Vec<Multiaddr>>>,
    told: Option<Report>,
}

/// What ends a wait.
enum Turn {
    Listening(Arc<Vec<Multiaddr>>),
    Received(SocketAddr, usize),
    Due,
    Stop,
}

impl Driver {
    fn new(node: Handle) -> Self {
        let announcements = announcements()
            .inspect_err(|error| log::debug!("announcements of the router cannot be heard: {error}"))
            .ok();
        let mapper = PortMapper::new(random::bytes());
        Self { node, mapper, gateway: None, socket: None, announcements, seen: None, told: None }
    }

    /// Waits for one thing to happen and deals with it; false if that is the end.
    async fn turn(&mut self, stop: &Receiver<()>) -> bool {
        let mut buffer = [0; MAX_LEN];
        match self.next(stop, &mut buffer).await {
            Turn::Stop => return false,
            Turn::Listening(addresses) => self.seen = Some(addresses),
            Turn::Received(SocketAddr::V4(from), length) => {
                self.mapper.received(*from.ip(), &buffer[..length], now().mono);
            }
            Turn::Received(..) => {}
            Turn::Due => self.mapper.timeout(now().mono),
        }
        // A router may have been replaced under the same addresses.
        self.retarget();
        self.send().await;
        self.tell().await;
        true
    }

    async fn next(&self, stop: &Receiver<()>, buffer: &mut [u8]) -> Turn {
        let stopped = async {
            // Nobody ever sends: the other end is dropped.
            let _ = stop.recv().await;
            Turn::Stop
        };
        let changed = async {
            let newer = |now: &Arc<Vec<Multiaddr>>| self.seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, now));
            Turn::Listening(self.node.listening.wait_for_snapshot(newer).await)
        };
        let due = async {
            match self.mapper.poll_timeout() {
                Some(at) => Timer::after(at.saturating_sub(now().mono).max(Duration::from_millis(1))).await,
                // The route may come after the address, and nothing tells.
                None => Timer::after(LOOK_AGAIN).await,
            };
            Turn::Due
        };
        or(stopped, or(changed, or(self.received(buffer), due))).await
    }

    /// The next datagram from the port of a gateway, or announced to all.
    async fn received(&self, buffer: &mut [u8]) -> Turn {
        loop {
            let sockets = [self.socket.as_ref().map(|(_, socket)| socket), self.announcements.as_ref()];
            let [answers, announced] = sockets.map(|socket| async move {
                match socket {
                    Some(socket) => drop(socket.readable().await),
                    None => std::future::pending().await,
                }
                socket
            });
            let Some(socket) = or(answers, announced).await else { continue };
            match socket.get_ref().recv_from(buffer) {
                Ok((length, from)) if from.port() == PORT => return Turn::Received(from, length),
                // A port that is closed says so in the next call.
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn retarget(&mut self) {
        let target = self.seen.as_ref().and_then(|addresses| target(addresses));
        let local = target.as_ref().map(|target| target.local);
        if self.socket.as_ref().map(|(at, _)| *at) != local {
            self.socket = local.and_then(|local| Some((local, Async::<UdpSocket>::bind((local, 0)).ok()?)));
        }
        let target = target.filter(|_| self.socket.is_some());
        self.gateway = target.as_ref().map(|target| target.gateway);
        self.mapper.retarget(target, now().mono);
    }

    async fn send(&mut self) {
        while let Some(request) = self.mapper.poll_send() {
            let Some((gateway, (_, socket))) = self.gateway.zip(self.socket.as_ref()) else { return };
            if let Err(error) = socket.send_to(&request, (gateway, PORT)).await {
                log::debug!("cannot ask {gateway} for a port: {error}");
            }
        }
    }

    /// Lets the node know what changed.
    async fn tell(&mut self) {
        let report = self.mapper.report();
        if self.told == report {
            return;
        }
        let mapped: Vec<Multiaddr> = report.iter().flat_map(|report| &report.mapped).map(multiaddr).collect();
        for address in &mapped {
            log::info!("the router maps {address} to this node");
        }
        self.node.port_mapping.set(Arc::new(report.as_ref().map(shown)));
        self.told = report;
        self.node.mapped(mapped).await;
    }
}

/// Hears what routers say to all of the local network; every host belongs to that group by itself.
fn announcements() -> io::Result<Async<UdpSocket>> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    // Whoever else on this machine maps ports hears them, too.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(ANNOUNCED_TO, ANNOUNCE_PORT))?;
    Async::new(UdpSocket::from(socket))
}

/// Whom to ask for what: nobody where this machine has a public address, or none that is listened on.
fn target(listening: &[Multiaddr]) -> Option<Target> {
    let gateway = gateway(&fs::read_to_string(ROUTES).ok()?)?;
    let local = local_towards(gateway)?;
    let mut ports: Vec<_> = listening.iter().filter_map(|address| port_at(address, local)).collect();
    ports.sort_unstable();
    ports.dedup();
    let needed = !is_public(&local.into()) && !ports.is_empty();
    needed.then_some(Target { gateway, local, ports })
}

/// The gateway of the best default route.
fn gateway(routes: &str) -> Option<Ipv4Addr> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, destination, gateway, flags, _, _, metric, mask, ..] = fields[..] else { return None };
        let hex = |text| u32::from_str_radix(text, 16).ok();
        let default = hex(destination)? == 0 && hex(mask)? == 0 && hex(flags)? & UP_BY_GATEWAY == UP_BY_GATEWAY;
        // As the bytes lie in memory.
        let gateway = Ipv4Addr::from(hex(gateway)?.to_ne_bytes());
        default.then_some((metric.parse::<u32>().ok()?, gateway))
    };
    routes.lines().skip(1).filter_map(route).min().map(|(_, gateway)| gateway)
}

/// The address from which packets to the gateway leave. Connecting a UDP socket sends nothing.
fn local_towards(gateway: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((gateway, PORT)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(local) => Some(*local.ip()),
        SocketAddr::V6(_) => None,
    }
}

/// The port that is listened on at this address.
fn port_at(address: &Multiaddr, local: Ipv4Addr) -> Option<(Transport, u16)> {
    let mut parts = address.iter();
    match (parts.next()?, parts.next()?) {
        (Protocol::Ip4(ip), Protocol::Tcp(port)) if ip == local => Some((Transport::Tcp, port)),
        (Protocol::Ip4(ip), Protocol::Udp(port)) if ip == local => Some((Transport::Udp, port)),
        _ => None,
    }
}

fn multiaddr((transport, at): &(Transport, SocketAddrV4)) -> Multiaddr {
    let ip = Multiaddr::from(*at.ip());
    match transport {
        Transport::Tcp => ip.with(Protocol::Tcp(at.port())),
        Transport::Udp => ip.with(Protocol::Udp(at.port())).with(Protocol::QuicV1),
    }
}

/// A report as people see it.
fn shown(report: &Report) -> PortMapping {
    let protocol = report.version.map(|version| match version {
        Version::Pcp => MappingProtocol::Pcp,
        Version::NatPmp => MappingProtocol::NatPmp,
    });
    PortMapping {
        gateway: report.gateway.into(),
        protocol,
        addresses: report.mapped.iter().map(multiaddr).collect(),
        problem: report.problem.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_of_the_best_default_route_is_found() {
        let line = |destination: &str, gateway: [u8; 4], flags: &str, metric: u32, mask: &str| {
            let gateway = u32::from_ne_bytes(gateway);
            format!("eth0\t{destination}\t{gateway:08X}\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0")
        };
        let table = [
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT".to_owned(),
            line("00000000", [192, 168, 9, 1], "0003", 600, "00000000"),
            line("00000000", [192, 168, 1, 1], "0003", 100, "00000000"),
            line("00000000", [0, 0, 0, 0], "0001", 0, "00000000"),
            line("0001A8C0", [10, 0, 0, 1], "0003", 0, "00FFFFFF"),
        ];
        assert_eq!(gateway(&table.join("\n")), Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(gateway(&table[..1].join("\n")), None);
        assert_eq!(gateway("nonsense\nmore of it"), None);
    }

    #[test]
    fn ports_are_those_listened_on_at_the_address_towards_the_gateway() {
        let port = |text: &str| port_at(&text.parse().unwrap(), Ipv4Addr::new(192, 168, 1, 20));
        assert_eq!(port("/ip4/192.168.1.20/tcp/4180"), Some((Transport::Tcp, 4180)));
        assert_eq!(port("/ip4/192.168.1.20/udp/4180/quic-v1"), Some((Transport::Udp, 4180)));
        assert_eq!(port("/ip4/127.0.0.1/tcp/4180"), None);
        assert_eq!(port("/ip6/::1/tcp/4180"), None);
    }

    #[test]
    fn addresses_are_written_as_listeners_write_theirs() {
        let at = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 9), 5180);
        assert_eq!(multiaddr(&(Transport::Udp, at)).to_string(), "/ip4/203.0.113.9/udp/5180/quic-v1");
        assert_eq!(multiaddr(&(Transport::Tcp, at)).to_string(), "/ip4/203.0.113.9/tcp/5180");
    }
}
