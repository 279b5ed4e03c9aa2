//! TLS that ends at a node, and one port for several nodes by host name.

use hive_tests::{
    lab::Lab,
    node::{Node, Options},
    pair::{self, NETWORK, Pair},
    pki::Authority,
    process::{self, PATIENCE},
    services::{Postgres, Sse, http2, websocket},
    tcp,
    tls::{self, Client},
    wait::wait_until,
};
use rustls::ProtocolVersion;
use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr},
    process::Command,
};

const NAME: &str = "shed.example";

/// Where TLS ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Egress,
    Ingress,
}

/// A tunnel to `target` with TLS at one side; returns its entrance.
fn tunnel(pair: &Pair, side: Side, target: SocketAddr) -> SocketAddr {
    let entrance = pair.near.host().at(pair.near.host().free_port());
    let options = |end| if side == end { &["--tls", "true", "--key-prefix", "web"][..] } else { &[] };
    let (port, target_port) = (entrance.port().to_string(), target.port().to_string());
    let (origin, to) = (format!("near:{port}"), format!("far:{target_port}"));
    let (bind, host) = (entrance.ip().to_string(), target.ip().to_string());
    let ingress = ["proxy", "--direction", "ingress", "--origin", &origin, "--port", &target_port, "--host", &host];
    pair.far.ctl(&[&ingress[..], options(Side::Ingress)].concat()).success();
    let egress = ["proxy", "--direction", "egress", "--target", &to, "--port", &port, "--bind", &bind];
    pair.near.ctl(&[&egress[..], options(Side::Egress)].concat()).success();
    entrance
}

/// A pair of nodes, one of which has a certificate, and the authority that made it.
fn certified(lab: &Lab, side: Side) -> (Pair, Authority) {
    let pair = Pair::start(lab);
    let authority = Authority::create("a CA");
    authority.store(if side == Side::Egress { &pair.near } else { &pair.far }, "web", &[NAME]);
    (pair, authority)
}

fn curl(node: &Node, authority: &Authority, to: SocketAddr, arguments: &[&str]) -> process::Output {
    let roots = node.host().folder("trust").join("root.pem");
    std::fs::write(&roots, authority.pem()).unwrap();
    let mut command: Command = node.host().command("curl");
    command.args(["--silent", "--show-error", "--noproxy", "*", "--cacert"]).arg(roots);
    command.args(["--resolve", &format!("{NAME}:{}:{}", to.port(), to.ip())]).args(arguments);
    command.arg(format!("https://{NAME}:{}/health", to.port()));
    process::run(command, b"", PATIENCE)
}

#[test]
fn https_ends_at_either_side() {
    for side in [Side::Egress, Side::Ingress] {
        let lab = Lab::new();
        let (pair, authority) = certified(&lab, side);
        let service = Sse::start(pair.far.host());
        let entrance = tunnel(&pair, side, service.address());
        for version in [&["--tls-max", "1.2"][..], &["--tlsv1.3"]] {
            assert_eq!(curl(&pair.near, &authority, entrance, version).success(), "ok\n", "{side:?} {version:?}");
        }
        let stranger = Authority::create("another CA");
        assert_eq!(curl(&pair.near, &stranger, entrance, &[]).status, Some(60), "curl trusts nobody else");
    }
}

#[test]
fn protocols_are_agreed_on_with_what_is_behind() {
    let lab = Lab::new();
    let (pair, authority) = certified(&lab, Side::Ingress);
    let old = Sse::start(pair.far.host());
    let new = http2(pair.far.host());
    let [to_old, to_new] = [old.address(), new.address()].map(|target| tunnel(&pair, Side::Ingress, target));
    let version = ["--http2", "--output", "/dev/null", "--write-out", "%{http_version} %{http_code}"];
    assert_eq!(curl(&pair.near, &authority, to_old, &version).success(), "1.1 200");
    assert_eq!(curl(&pair.near, &authority, to_new, &version).success(), "2 200");
    let spoken = |to, protocols: &[&str]| {
        let stream = Client::trusting(authority.pem(), protocols).connect(pair.near.host(), to, NAME);
        stream.map(|stream| tls::session(&stream).2)
    };
    assert_eq!(spoken(to_new, &["h2", "http/1.1"]).unwrap().as_deref(), Some("h2"));
    assert_eq!(spoken(to_old, &["h2", "http/1.1"]).unwrap().as_deref(), Some("http/1.1"));
    assert_eq!(spoken(to_old, &["postgresql"]).unwrap().as_deref(), Some("postgresql"));
    assert_eq!(spoken(to_old, &[]).unwrap(), None);
    assert!(spoken(to_old, &["h2"]).is_err(), "a client of HTTP/2 alone is refused");
}

#[test]
fn a_websocket_stays_open_both_ways() {
    let lab = Lab::new();
    let (pair, authority) = certified(&lab, Side::Ingress);
    let server = websocket::websocket(pair.far.host());
    let entrance = tunnel(&pair, Side::Ingress, server.address());
    let client = Client::trusting(authority.pem(), &["http/1.1"]);
    let mut stream = client.connect(pair.near.host(), entrance, NAME).unwrap();
    websocket::upgrade(&mut stream);
    for message in [&b"\x81\x05hello"[..], b"\x89\x00", &[0x82; 70_000]] {
        let mut echoed = vec![0; message.len()];
        stream.write_all(message).unwrap();
        stream.read_exact(&mut echoed).unwrap();
        assert_eq!(echoed, message);
    }
}

#[test]
fn ends_and_aborts_pass_through_tls() {
    for side in [Side::Egress, Side::Ingress] {
        let lab = Lab::new();
        let (pair, authority) = certified(&lab, side);
        let (tell, told) = std::sync::mpsc::sync_channel(8);
        // Counts the question to its end, answers, and ends; or aborts if the question says so.
        let server = tcp::Server::start(pair.far.host(), 0, move |mut stream| {
            let mut question = Vec::new();
            let mut first = [0];
            if stream.read_exact(&mut first).is_ok() && first == *b"R" {
                return tcp::reset(stream);
            }
            let end = stream.read_to_end(&mut question).map(|_| question.len() + 1);
            if let Ok(count) = end {
                let _ = stream.write_all(format!("{count} bytes").as_bytes());
            }
            let _ = tell.send(end.map_err(|error| error.kind()));
        });
        let entrance = tunnel(&pair, side, server.address());
        let client = Client::trusting(authority.pem(), &[]);
        let connect = || client.connect(pair.near.host(), entrance, NAME).unwrap();

        let mut stream = connect();
        stream.write_all(&vec![b'x'; 300_000]).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "300000 bytes", "{side:?}: the answer comes after the client's end, and ends");
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Ok(300_000));

        let mut stream = connect();
        stream.write_all(b"R").unwrap();
        let cut = stream.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(cut, Err(io::ErrorKind::ConnectionReset), "{side:?}: the target's abort");

        let mut stream = connect();
        stream.write_all(b"xx").unwrap();
        wait_until("the handshake is over at both ends", PATIENCE, || server.accepted() == 3);
        tcp::reset(stream.sock);
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Err(io::ErrorKind::ConnectionReset), "{side:?}: the client's");

        let mut stream = connect();
        stream.write_all(b"xx").unwrap();
        wait_until("the handshake is over at both ends", PATIENCE, || server.accepted() == 4);
        stream.sock.shutdown(Shutdown::Write).unwrap();
        let truncated = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(truncated, Err(io::ErrorKind::ConnectionReset), "{side:?}: an end without TLS' own is a cut");
    }
}

#[test]
fn psql_verifies_the_certificate() {
    let lab = Lab::new();
    let (pair, authority) = certified(&lab, Side::Ingress);
    let Some(postgres) = Postgres::start("psql_verifies_the_certificate", pair.far.host()) else { return };
    let entrance = tunnel(&pair, Side::Ingress, pair.far.host().at(postgres.port()));
    let roots = pair.near.host().folder("trust").join("root.pem");
    std::fs::write(&roots, authority.pem()).unwrap();
    let ask = |name: &str| {
        let mut command = pair.near.host().command("psql");
        let target = format!(
            "host={name} hostaddr={} port={} user=postgres dbname=postgres sslmode=verify-full sslrootcert={}",
            entrance.ip(),
            entrance.port(),
            roots.display()
        );
        command.args(["-X", "-A", "-t", "-d", &target, "-c", "select sum(n) from generate_series(1, 1000) n"]);
        process::run(command, b"", PATIENCE)
    };
    assert_eq!(ask(NAME).success(), "500500\n");
    assert_eq!(ask("other.example").status, Some(2), "the name in the certificate counts");
}

#[test]
fn a_certificate_is_replaced_under_fifty_streams() {
    let lab = Lab::new();
    let (pair, authority) = certified(&lab, Side::Ingress);
    let server = tcp::Server::echo(pair.far.host(), 0);
    let entrance = tunnel(&pair, Side::Ingress, server.address());
    let client = Client::trusting(authority.pem(), &[]);
    let mut streams: Vec<_> = (0..50).map(|_| client.connect(pair.near.host(), entrance, NAME).unwrap()).collect();
    let talk = |stream: &mut tls::Stream| {
        let mut back = [0; 1000];
        stream.write_all(&[7; 1000]).and_then(|()| stream.read_exact(&mut back)).unwrap();
        assert_eq!(back, [7; 1000]);
    };
    streams.iter_mut().for_each(talk);
    let before = tls::session(&streams[0]);
    authority.store(&pair.far, "web", &[NAME]);
    streams.iter_mut().for_each(talk);
    // The same client would resume its session if it was let.
    let after = tls::session(&client.connect(pair.near.host(), entrance, NAME).unwrap());
    assert_ne!(before.0, after.0, "new connections get the new certificate");
    assert_eq!(after.1, Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn a_proxy_waits_for_its_certificate() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let server = tcp::Server::echo(pair.far.host(), 0);
    let entrance = tunnel(&pair, Side::Ingress, server.address());
    let authority = Authority::create("a CA");
    let client = Client::trusting(authority.pem(), &[]);
    let refused = client.connect(pair.near.host(), entrance, NAME).unwrap_err().to_string();
    assert!(refused.contains("InternalError"), "an alert, which ends no matter at the client's side: {refused}");
    let problems = pair.far.json(&["status"])["problems"].to_string();
    assert!(problems.contains("no certificate web") && problems.contains("create-key"), "{problems}");
    authority.store(&pair.far, "web", &[NAME]);
    client.connect(pair.near.host(), entrance, NAME).unwrap();
    assert_eq!(pair.far.json(&["status"])["problems"], serde_json::json!([]));
}

#[test]
fn two_nodes_share_a_port_by_host_name() {
    let lab = Lab::new();
    let gate = Node::start(&lab.host("gate"), pair::options());
    let authority = Authority::create("a CA");
    let port = gate.host().free_port();
    let entrance = gate.host().at(port);
    let mut homes = Vec::new();
    for (name, hosts) in [("one", "one.example"), ("two", "*.two.example")] {
        let node = Node::start(&lab.host(name), Options::clone(&pair::options()));
        gate.register(&node, NETWORK);
        gate.wait_until_sees(&[&node]);
        authority.store(&node, "web", &[hosts]);
        let server = tcp::Server::start(node.host(), 0, move |mut stream| {
            let _ = stream.write_all(name.as_bytes());
        });
        let (target, host) = (server.port().to_string(), node.host().ipv4().to_string());
        let origin = format!("{}:{port}", gate.peer_id());
        let ingress = ["proxy", "--direction", "ingress", "--origin", &origin, "--port", &target, "--host", &host];
        node.ctl(&[&ingress[..], &["--tls", "true", "--key-prefix", "web"]].concat()).success();
        let (to, bind) = (format!("{}:{target}", node.peer_id()), gate.host().ipv4().to_string());
        let egress = ["proxy", "--direction", "egress", "--target", &to, "--port", &port.to_string(), "--bind", &bind];
        gate.ctl(&[&egress[..], &["--sni", hosts]].concat()).success();
        let again = gate.ctl(&[&egress[..], &["--sni", hosts]].concat()).failure(1);
        assert!(again.contains("already"), "{again}");
        homes.push((node, server));
    }
    let client = Client::trusting(authority.pem(), &[]);
    let answer = |host: &str| {
        let mut answer = String::new();
        client.connect(gate.host(), entrance, host)?.read_to_string(&mut answer)?;
        io::Result::Ok(answer)
    };
    for (host, expected) in [("one.example", "one"), ("any.two.example", "two")] {
        // An egress takes up its host name a moment after it was told to.
        wait_until("the port serves the name", PATIENCE, || answer(host).is_ok());
        assert_eq!(answer(host).unwrap(), expected, "{host}");
    }
    let refused = answer("three.example").unwrap_err().to_string();
    assert!(refused.contains("UnrecognizedName") || refused.contains("UnrecognisedName"), "{refused}");
    gate.ctl(&["proxy", "rm", "1"]).success();
    wait_until("a name that is removed is unknown", PATIENCE, || answer("one.example").is_err());
    assert_eq!(answer("x.two.example").unwrap(), "two", "the other keeps its port");
}
