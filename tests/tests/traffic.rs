//! The traffic client against its server without anything between, and through relays that do wrong: it must be content
//! with the first and notice each of the others.

use hive_tests::{
    lab::{Host, Lab},
    tcp,
    traffic::{self, Ending, Plan},
};
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
};

fn direct() -> (Lab, Host, traffic::Server) {
    let lab = Lab::new();
    let client = lab.host("client");
    let server = traffic::Server::start(&lab.host("server"), 0);
    (lab, client, server)
}

#[test]
fn sequential_connections_are_exact() {
    let (_lab, client, server) = direct();
    let report = traffic::exercise(&client, server.address(), &server, &Plan::sequential(200));
    assert_eq!(report.good, 200);
    assert!(report.resets > 20 && report.verified > 1 << 20, "{report}");
}

#[test]
fn concurrent_connections_are_exact() {
    let (_lab, client, server) = direct();
    let plan = Plan::concurrent(256).most_bytes(64 << 10);
    assert_eq!(traffic::exercise(&client, server.address(), &server, &plan).good, 256);
}

#[test]
fn empty_connections_are_fine() {
    let (_lab, client, server) = direct();
    let plan = Plan::sequential(20).most_bytes(0).endings(&Ending::CLEAN);
    assert_eq!(traffic::exercise(&client, server.address(), &server, &plan).verified, 0);
}

#[test]
fn a_refused_connection_is_a_failure() {
    let (_lab, client, server) = direct();
    let address = server.address();
    drop(server);
    let report = traffic::run(&client, address, &Plan::sequential(2));
    assert_eq!((report.good, report.failures.len()), (0, 2));
    assert!(report.failures[0].contains("connect:"), "{report}");
}

/// What a relay does to the bytes from the server to the client, after it has passed on the end of the stream.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// A byte is changed.
    WrongByte,
    /// The end comes too early.
    Truncates,
    /// A reset becomes an end of stream.
    HidesResets,
    /// The end of one direction ends both.
    NoHalfClose,
}

fn failures_with(fault: Fault, ending: Ending) -> (usize, usize) {
    let (lab, client, server) = direct();
    let target = server.address();
    let relay = tcp::Server::start(&lab.host("relay"), 0, {
        let host = client.clone();
        move |stream| relay(&host, stream, target, fault)
    });
    let plan = Plan::sequential(8).most_bytes(100_000).endings(&[ending]);
    let seen = traffic::run(&client, relay.address(), &plan);
    (seen.failures.len(), server.take_report().failures.len())
}

#[test]
fn a_wrong_byte_is_noticed() {
    assert_eq!(failures_with(Fault::WrongByte, Ending::ClientFirst).0, 8);
}

#[test]
fn a_truncation_is_noticed() {
    assert_eq!(failures_with(Fault::Truncates, Ending::ClientFirst).0, 8);
}

#[test]
fn a_hidden_reset_is_noticed_by_either_side() {
    assert_eq!(failures_with(Fault::HidesResets, Ending::ClientReset).1, 8);
    assert_eq!(failures_with(Fault::HidesResets, Ending::ServerReset).0, 8);
}

#[test]
fn a_missing_half_close_is_noticed() {
    let (client, server) = failures_with(Fault::NoHalfClose, Ending::ClientFirst);
    assert!(client + server >= 8, "{client} and {server}");
}

fn relay(host: &Host, client: TcpStream, target: SocketAddr, fault: Fault) {
    let server = host.connect(target).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| copy(&client, &server, None, fault));
        copy(&server, &client, Some(fault), fault);
    });
}

/// Copies one direction; `spoil` is set for the one whose bytes suffer.
fn copy(mut from: &TcpStream, mut to: &TcpStream, spoil: Option<Fault>, fault: Fault) {
    let mut buffer = [0; 4096];
    let mut first = true;
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        match spoil {
            Some(Fault::WrongByte) if first => buffer[0] ^= 1,
            Some(Fault::Truncates) => break,
            _ => {}
        }
        first = false;
        // Whoever hides resets must read on: closing a socket with unread bytes resets it.
        if to.write_all(&buffer[..length]).is_err() && fault != Fault::HidesResets {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    if fault == Fault::NoHalfClose {
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
