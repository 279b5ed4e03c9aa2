//! The lab's routers do what their kinds promise: mapping and filtering behaviour as RFC 4787 tests it for UDP
//! (sections 4.1 and 5), and the same for TCP.

use hive_tests::{
    lab::{Host, Lab, Nat},
    wait::wait_for,
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

/// How long a packet may take that comes.
const SOON: Duration = Duration::from_secs(10);
/// How long to listen for a packet that must not come.
const SILENCE: Duration = Duration::from_millis(300);
const PORT: u16 = 4180;

/// A host behind a router, and two public hosts with two ports each.
struct Scene {
    inside: Host,
    servers: [Host; 2],
    _lab: Lab,
}

impl Scene {
    fn new(test: &str, nat: Nat) -> Option<Scene> {
        let lab = Lab::namespaces(test)?;
        let servers = [lab.host("one"), lab.host("two")];
        let (inside, _) = lab.host_behind(nat, "inside");
        Some(Scene { inside, servers, _lab: lab })
    }
}

fn udp(host: &Host, port: u16) -> UdpSocket {
    let socket = host.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// The address that `server` sees when `inside` writes to it.
fn seen(inside: &UdpSocket, server: &UdpSocket, at: SocketAddr) -> SocketAddr {
    inside.send_to(b"hello", at).unwrap();
    server.recv_from(&mut [0; 16]).unwrap().1
}

/// Whether a packet from `server` to `to` reaches `inside`.
fn gets_in(server: &UdpSocket, to: SocketAddr, inside: &UdpSocket) -> bool {
    server.send_to(b"knock", to).unwrap();
    inside.set_read_timeout(Some(SILENCE)).unwrap();
    inside.recv_from(&mut [0; 16]).is_ok()
}

/// Mapping and filtering for UDP, as observed: (same port for another address, let in from another address, let in from
/// another port of an address written to).
fn observe_udp(scene: &Scene) -> (bool, bool, bool) {
    let [one, two] = &scene.servers;
    let inside = udp(&scene.inside, PORT);
    let (first, second, stranger) = (udp(one, 1000), udp(two, 1000), udp(two, 2000));
    let mapped = seen(&inside, &first, one.at(1000));
    let from_stranger = gets_in(&stranger, mapped, &inside);
    let from_other_port = gets_in(&udp(one, 2000), mapped, &inside);
    assert!(gets_in(&first, mapped, &inside), "an answer always gets in");
    let again = seen(&inside, &second, two.at(1000));
    (mapped == again, from_stranger, from_other_port)
}

fn tcp_from(host: &Host, to: SocketAddr) -> io::Result<TcpStream> {
    host.enter(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
        socket.connect_timeout(&to.into(), SILENCE)?;
        Ok(socket.into())
    })
}

/// The same three observations for TCP.
fn observe_tcp(scene: &Scene) -> (bool, bool, bool) {
    let [one, two] = &scene.servers;
    let listeners: Vec<TcpListener> = [one.listen(1000), two.listen(1000)].into();
    let inside = scene.inside.enter(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into()).unwrap();
        socket.listen(8).unwrap();
        socket
    });
    let connected = |to: &Host, listener: &TcpListener| {
        let stream = wait_for("a connection", SOON, || tcp_from(&scene.inside, to.at(1000)).ok());
        (stream, listener.accept().unwrap().1)
    };
    let (_first, mapped) = connected(one, &listeners[0]);
    let knock = |from: &Host| from.enter(|| TcpStream::connect_timeout(&mapped, SILENCE)).is_ok();
    let (from_stranger, from_other_port) = (knock(two), knock(one));
    let (_second, again) = connected(two, &listeners[1]);
    drop(inside);
    (mapped == again, from_stranger, from_other_port)
}

fn promised(nat: Nat) -> (bool, bool, bool) {
    (nat.maps_independently(), nat == Nat::FullCone, !nat.filters_by_port())
}

#[test]
fn every_kind_of_nat_behaves_as_named() {
    for nat in Nat::ALL {
        let Some(scene) = Scene::new("every_kind_of_nat_behaves_as_named", nat) else { return };
        assert_eq!(observe_tcp(&scene), promised(nat), "{nat:?}, TCP");
        if nat.passes_udp() {
            assert_eq!(observe_udp(&scene), promised(nat), "{nat:?}, UDP");
        }
    }
}

#[test]
fn udp_is_blocked_where_the_kind_says_so() {
    let Some(scene) = Scene::new("udp_is_blocked_where_the_kind_says_so", Nat::UdpBlocked) else { return };
    let server = udp(&scene.servers[0], 1000);
    server.set_read_timeout(Some(SILENCE)).unwrap();
    udp(&scene.inside, PORT).send_to(b"hello", scene.servers[0].at(1000)).unwrap();
    assert!(server.recv_from(&mut [0; 16]).is_err());
}

#[test]
fn a_router_that_rebinds_forgets_its_mappings() {
    let Some(lab) = Lab::namespaces("a_router_that_rebinds_forgets_its_mappings") else { return };
    let server_host = lab.host("one");
    let (host, router) = lab.host_behind(Nat::Symmetric, "inside");
    let (inside, server) = (udp(&host, PORT), udp(&server_host, 1000));
    let before = seen(&inside, &server, server_host.at(1000));
    router.rebind();
    assert!(!gets_in(&server, before, &inside), "the old mapping is closed");
    assert_ne!(seen(&inside, &server, server_host.at(1000)), before, "one of 64,000 ports at random");
}

#[test]
fn a_forwarded_port_is_open_to_all() {
    let Some(lab) = Lab::namespaces("a_forwarded_port_is_open_to_all") else { return };
    let outside = lab.host("one");
    let (host, router) = lab.host_behind(Nat::PortRestricted, "inside");
    let inside = udp(&host, PORT);
    let public = SocketAddr::V4(SocketAddrV4::new(router.outside().ipv4(), PORT));
    assert!(!gets_in(&udp(&outside, 1000), public, &inside));
    router.forward_port(PORT, &host);
    assert!(gets_in(&udp(&outside, 1001), public, &inside));
}
