//! Tunnels through restarts, crashes and cuts: afterwards they serve again, and nobody has helped.

use hive_tests::{
    lab::Lab,
    node::{Node, Options},
    notice,
    pair::{self, Pair, Tunnel, wait_for_proxy},
    payload,
    process::PATIENCE,
    tcp,
    wait::wait_until,
};
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{self, Read, Write},
    net::TcpStream,
    process::Stdio,
    time::{Duration, Instant},
};

/// Times that the far node is killed.
const KILLS: usize = 20;
/// A tunnel that is not back after this is broken, however busy the machine is; it should take a second or two.
const BACK: Duration = Duration::from_secs(30);

/// Two nodes, a tunnel and the echo at its end.
struct Bench {
    pair: Pair,
    tunnel: Tunnel,
    _echo: tcp::Server,
}

impl Bench {
    fn start(lab: &Lab) -> Bench {
        Self::start_with(lab, pair::options)
    }

    fn start_with(lab: &Lab, options: impl Fn() -> Options) -> Bench {
        let pair = Pair::start_with(lab, ["near", "far"], options);
        let echo = tcp::Server::echo(pair.far.host(), 0);
        let tunnel = pair.tunnel(echo.address());
        Bench { pair, tunnel, _echo: echo }
    }

    /// A new connection to the near node's port.
    fn dial(&self) -> io::Result<TcpStream> {
        let stream = self.pair.near.host().connect(self.tunnel.entrance)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// One connection, there and back. While the peer is away a connection may be refused, or cut off.
    fn serves(&self) -> bool {
        self.dial().and_then(|stream| exchange(&stream, 1)).is_ok()
    }

    fn wait_until_it_serves(&self) {
        wait_until("the tunnel serves", BACK, || self.serves());
    }
}

/// Sends some bytes and reads them back.
fn exchange(mut stream: &TcpStream, seed: u64) -> io::Result<()> {
    let (sent, mut back) = (payload::bytes(seed, 1000), vec![0; 1000]);
    stream.write_all(&sent)?;
    stream.read_exact(&mut back)?;
    if back == sent { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
}

#[test]
fn a_tunnel_survives_restarts_in_any_order() {
    let lab = Lab::new();
    let mut bench = Bench::start(&lab);
    let before = [&bench.pair.near, &bench.pair.far].map(|node| node.json(&["proxy", "ls"])[0]["id"].clone());
    bench.pair.near.restart();
    bench.wait_until_it_serves();
    bench.pair.far.restart();
    bench.wait_until_it_serves();
    for near_first in [true, false] {
        let Pair { near, far } = &mut bench.pair;
        let (first, second) = if near_first { (near, far) } else { (far, near) };
        first.stop();
        second.stop();
        first.start_again();
        second.start_again();
        bench.wait_until_it_serves();
    }
    let after = [&bench.pair.near, &bench.pair.far].map(|node| node.json(&["proxy", "ls"])[0]["id"].clone());
    assert_eq!(before, after);
}

#[test]
fn a_tunnel_serves_again_each_time_its_far_node_was_killed() {
    let lab = Lab::new();
    let mut bench = Bench::start(&lab);
    let mut took = Vec::new();
    for _ in 0..KILLS {
        let mut open = bench.dial().unwrap();
        exchange(&open, 1).unwrap();
        bench.pair.far.kill9();
        bench.pair.far.start_again();
        let returned = Instant::now();
        bench.wait_until_it_serves();
        let cut = open.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(cut, Err(io::ErrorKind::ConnectionReset), "a node that died knows no stream from before");
        took.push(returned.elapsed());
    }
    let worst = took.iter().max().copied().unwrap_or_default();
    notice::say(&format!(
        "MEASURED: the tunnel was back {KILLS} of {KILLS} times, after {worst:.1?} at worst: {took:.1?}"
    ));
}

#[test]
fn a_killed_near_node_listens_again() {
    let lab = Lab::new();
    let mut bench = Bench::start(&lab);
    for _ in 0..3 {
        bench.pair.near.kill9();
        bench.pair.near.start_again();
        bench.wait_until_it_serves();
    }
}

#[test]
fn connections_wait_for_a_peer_that_is_away() {
    let lab = Lab::new();
    let mut bench = Bench::start(&lab);
    bench.pair.far.stop();
    let (near, egress) = (&bench.pair.near, bench.tunnel.egress);
    wait_for_proxy(near, egress, "the peer is seen to be away", |row| row["path"] == "none");
    let waiting: Vec<TcpStream> = (0..5).map(|_| bench.dial().unwrap()).collect();
    for mut stream in &waiting {
        stream.write_all(&payload::bytes(1, 1000)).unwrap();
    }
    bench.pair.far.start_again();
    for mut stream in &waiting {
        let mut back = vec![0; 1000];
        stream.read_exact(&mut back).unwrap();
        assert!(back == payload::bytes(1, 1000), "what was sent early arrives");
    }
}

#[test]
fn a_peer_that_stays_away_is_told() {
    let lab = Lab::new();
    let mut bench = Bench::start(&lab);
    bench.pair.far.stop();
    assert!(!bench.serves(), "nobody serves");
    let (near, egress) = (&bench.pair.near, bench.tunnel.egress);
    let told = wait_for_proxy(near, egress, "the error is told", |row| !row["last_error"].is_null());
    assert_eq!((&told["state"], &told["path"]), (&"listening".into(), &"none".into()), "{told}");
    let status = near.json(&["status"]);
    let problems = status["problems"].as_array().unwrap();
    assert!(problems.iter().any(|problem| problem["what"].as_str().unwrap().contains("far")), "{status}");
    bench.pair.far.start_again();
    bench.wait_until_it_serves();
    wait_for_proxy(&bench.pair.near, egress, "the error is gone", |row| row["last_error"].is_null());
}

#[test]
fn a_stream_outlives_a_short_cut() {
    let Some(lab) = Lab::namespaces("a_stream_outlives_a_short_cut") else { return };
    let bench = Bench::start(&lab);
    let stream = bench.dial().unwrap();
    exchange(&stream, 1).unwrap();
    bench.pair.far.host().block();
    (&stream).write_all(&payload::bytes(2, 1000)).unwrap();
    bench.pair.far.host().unblock();
    let mut back = vec![0; 1000];
    (&stream).read_exact(&mut back).unwrap();
    assert!(back == payload::bytes(2, 1000));
}

#[test]
fn a_stream_outlives_a_long_cut() {
    let Some(lab) = Lab::namespaces("a_stream_outlives_a_long_cut") else { return };
    let bench = Bench::start(&lab);
    let stream = bench.dial().unwrap();
    exchange(&stream, 1).unwrap();
    bench.pair.far.host().block();
    // Nobody sends anything: the silence itself must be noticed.
    for (node, id) in [(&bench.pair.near, bench.tunnel.egress), (&bench.pair.far, bench.tunnel.ingress)] {
        wait_for_proxy(node, id, "the cut is noticed", |row| row["path"] == "none");
    }
    bench.pair.far.host().unblock();
    exchange(&stream, 2).unwrap();
    bench.wait_until_it_serves();
}

#[test]
fn a_stream_leaves_a_connection_that_a_router_forgot() {
    let Some(lab) = Lab::namespaces("a_stream_leaves_a_connection_that_a_router_forgot") else { return };
    let bench = Bench::start_with(&lab, || pair::options().environment("RUST_LOG", "hive_agent::tunnel=debug"));
    let before = dialled(&bench.pair.near);
    let carriers = || -> BTreeSet<u16> { dialled(&bench.pair.near).difference(&before).copied().collect() };
    wait_until("there is a channel of the bulk plane", BACK, || bench.serves() && !carriers().is_empty());
    let stream = bench.dial().unwrap();
    exchange(&stream, 1).unwrap();
    // The nodes' own connection lives on and tells nobody.
    forget(&bench.pair.far, &carriers());
    exchange(&stream, 2).unwrap();
    exchange(&stream, 3).unwrap();
    // The kernel would have ended the connection, too, some time later.
    bench.pair.near.process().wait_for_line("is back, 1 streams go on elsewhere");
}

/// The ports from which a node has connections to the usual port of others.
fn dialled(node: &Node) -> BTreeSet<u16> {
    let table = node.host().command("cat").args(["/proc/net/tcp", "/proc/net/tcp6"]).output().expect("two tables");
    let port = |at: &str| u16::from_str_radix(at.rsplit(':').next()?, 16).ok();
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let established = rows.filter(|row| row[3] == "01" && port(row[2]) == Some(4180));
    established.filter_map(|row| port(row[1])).collect()
}

/// Drops what belongs to the connections from these ports of others, in both directions and without a word. The others
/// lose it on the way, as at a router: what a host drops of its own does not count as sent.
fn forget(node: &Node, ports: &BTreeSet<u16>) {
    let mut script = String::from("table inet forgotten {\n");
    for (hook, side) in [("output", "dport"), ("input", "sport")] {
        let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        let rule = format!("tcp {side} {{ {ports} }} drop");
        writeln!(script, "chain {hook} {{ type filter hook {hook} priority 0; {rule}; }}").unwrap();
    }
    script.push('}');
    let mut nft = node.host().command("nft").arg("-f").arg("-").stdin(Stdio::piped()).spawn().expect("nft");
    nft.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
}

#[test]
fn a_tunnel_follows_its_node_to_another_address() {
    let Some(lab) = Lab::namespaces("a_tunnel_follows_its_node_to_another_address") else { return };
    let pair = Pair::start(&lab);
    let loopback = ([127, 0, 0, 1], 0).into();
    let echo = tcp::Server::start_at(pair.far.host(), loopback, |stream| {
        let _ = io::copy(&mut &stream, &mut &stream);
    });
    let tunnel = pair.tunnel(echo.address());
    let bench = Bench { pair, tunnel, _echo: echo };
    bench.wait_until_it_serves();
    let stream = bench.dial().unwrap();
    exchange(&stream, 1).unwrap();
    let fresh = bench.pair.far.host().renumber();
    bench.pair.near.wait_for_json("the address is known", PATIENCE, &["nodes"], |nodes| {
        nodes.to_string().contains(&fresh.to_string())
    });
    bench.wait_until_it_serves();
    exchange(&stream, 2).unwrap();
}
