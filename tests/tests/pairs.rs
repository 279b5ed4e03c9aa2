//! Every pair of NAT kinds over TCP and over QUIC, and what a change of path does to living connections.
//!
//! Theory comes first: [`Nat::can_be_punched_to`] says from RFC 4787 behaviour which pairs can be direct. The table that
//! is printed shows what was reached.

use hive_tests::{
    lab::{Lab, Link, Nat, Router},
    node::{Node, Options},
    notice,
    pair::{self, ADMIN, NETWORK, Pair},
    payload,
    process::Process,
    tcp,
    wait::wait_until,
};
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

const PORT: u16 = 4180;
/// Scenes at once; each has three agents.
const AT_ONCE: usize = 4;
/// Far beyond what any pair takes, so that a busy machine fails nothing but shows in the table.
const PATIENCE: Duration = Duration::from_secs(60);
/// A relayed pair that is not direct by then stays so.
const SETTLED: Duration = Duration::from_secs(8);

/// From any of the three nodes to any other: a round trip is twice as long.
const WAY: Duration = Duration::from_millis(25);

/// What the two nodes listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Tcp,
    /// With TCP beside it where UDP is blocked at either end.
    Quic,
}

/// One row of the table.
struct Outcome {
    near: Nat,
    far: Nat,
    carrier: Carrier,
    first_byte: Duration,
    direct: Option<Duration>,
    transport: String,
}

fn start(lab: &Lab, nat: Nat, name: &str, tcp_too: bool, carrier: Carrier) -> Node {
    let tcp = format!("/ip4/0.0.0.0/tcp/{PORT}");
    let quic = format!("/ip4/0.0.0.0/udp/{PORT}/quic-v1");
    let options = match (carrier, tcp_too) {
        (Carrier::Tcp, _) => pair::options().listen(&tcp),
        (Carrier::Quic, false) => pair::options().listen(&quic),
        (Carrier::Quic, true) => pair::options().listen(&tcp).listen(&quic),
    };
    let (host, router) = lab.host_behind(nat, name);
    if lab.has_links("delays in every_pair_of_nats") {
        router.outside().emulate(Link::long(WAY));
    }
    Node::start(&host, options)
}

/// How `node` reaches `peer` now: path and transport.
fn path(node: &Node, peer: &str) -> (String, String) {
    let row = node.row_of(peer);
    let text = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
    (text("path"), text("transport"))
}

/// Two nodes that have only a public member in common; the clock runs from the moment the second one joins.
fn meet(near: Nat, far: Nat, carrier: Carrier) -> Option<Outcome> {
    let lab = Lab::namespaces("every_pair_of_nats")?;
    let public = lab.host("public");
    if lab.has_links("delays in every_pair_of_nats") {
        public.emulate(Link::long(WAY));
    }
    let public = Node::start(&public, pair::options());
    let tcp_too = !(near.passes_udp() && far.passes_udp());
    let node = |nat, name| start(&lab, nat, name, tcp_too, carrier);
    let pair = Pair { near: node(near, "near"), far: node(far, "far") };
    pair.near.register(&public, NETWORK);
    let server = tcp::Server::echo(pair.far.host(), 0);
    let (entrance, far_id) = (pair.near.host().free_port(), pair.far.peer_id());
    lead(&pair, entrance, &server);
    let begin = Instant::now();
    pair.far.register(&public, NETWORK);
    let mut stream = pair.near.host().connect(pair.near.host().at(entrance)).expect("the egress listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut back = [0; 5];
    stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut back)).expect("an echo through the tunnel");
    let first_byte = begin.elapsed();
    let expected = near.can_be_punched_to(far);
    let until = if expected { PATIENCE } else { SETTLED };
    let mut direct = None;
    while direct.is_none() && begin.elapsed() < until {
        direct = (path(&pair.near, &far_id).0 == "direct").then(|| begin.elapsed());
    }
    let transport = path(&pair.near, &far_id).1;
    Some(Outcome { near, far, carrier, first_byte, direct, transport })
}

/// Both sides of a tunnel, before the nodes know each other.
fn lead(pair: &Pair, entrance: u16, server: &tcp::Server) {
    let (near, far) = (pair.near.peer_id(), pair.far.peer_id());
    let (from, to) = (entrance.to_string(), server.port().to_string());
    let (bind, host) = (pair.near.host().ipv4().to_string(), pair.far.host().ipv4().to_string());
    let (origin, target) = (format!("{near}:{from}"), format!("{far}:{to}"));
    let ingress = ["proxy", "--direction", "ingress", "--origin", &origin, "--port", &to];
    pair.far.ctl(&[&ingress[..], &["--host", &host, "--network", NETWORK]].concat()).success();
    let egress = ["proxy", "--direction", "egress", "--target", &target, "--port", &from];
    pair.near.ctl(&[&egress[..], &["--bind", &bind, "--network", NETWORK]].concat()).success();
}

fn show(outcomes: &[Outcome]) {
    notice::say("NATS: near            far             listens  path     over  first byte  direct after");
    for Outcome { near, far, carrier, first_byte, direct, transport } in outcomes {
        let path = if direct.is_some() { "direct" } else { "relayed" };
        let after = direct.map_or("-".to_owned(), |after| format!("{:.1} s", after.as_secs_f64()));
        let [near, far, carrier] = [format!("{near:?}"), format!("{far:?}"), format!("{carrier:?}")];
        let first = first_byte.as_secs_f64();
        notice::say(&format!("NATS: {near:15} {far:15} {carrier:8} {path:8} {transport:5} {first:8.1} s  {after:>10}"));
    }
    let first = outcomes.iter().map(|o| o.first_byte).max().unwrap_or_default();
    let direct = outcomes.iter().filter_map(|o| o.direct).max().unwrap_or_default();
    let (count, way) = (outcomes.len(), 2 * WAY);
    notice::say(&format!(
        "NATS: {count} pairs at {way:?} round trips: first byte after {first:.1?} at most, direct after {direct:.1?} at most"
    ));
}

#[test]
fn alone_every_pair_of_nats() {
    let mut pairs = Vec::new();
    for carrier in [Carrier::Tcp, Carrier::Quic] {
        pairs.extend(Nat::ALL.iter().flat_map(|near| Nat::ALL.iter().map(move |far| (*near, *far, carrier))));
    }
    let (waiting, done) = (Mutex::new(pairs.into_iter()), Mutex::new(Vec::new()));
    let work = || {
        while let Some((near, far, carrier)) = { waiting.lock().expect("no panic under this lock").next() } {
            let Some(outcome) = meet(near, far, carrier) else { return };
            done.lock().expect("no panic under this lock").push(outcome);
        }
    };
    thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
    let mut outcomes = done.into_inner().expect("no panic under this lock");
    outcomes.sort_by_key(|o| (o.carrier == Carrier::Quic, o.near, o.far));
    show(&outcomes);
    let expected = |o: &&Outcome| o.near.can_be_punched_to(o.far) != o.direct.is_some();
    let wrong: Vec<_> = outcomes.iter().filter(expected).map(|o| (o.near, o.far, o.carrier)).collect();
    assert!(wrong.is_empty(), "not as theory says: {wrong:?}");
}

/// A hundred connections that send and check without end, until told to stop.
struct Living {
    stop: Arc<AtomicBool>,
    workers: Vec<thread::JoinHandle<io::Result<u64>>>,
}

impl Living {
    const COUNT: u64 = 100;

    fn start(near: &Node, entrance: SocketAddr) -> Living {
        let stop = Arc::new(AtomicBool::new(false));
        let worker = |seed| {
            let (host, stop) = (near.host().clone(), stop.clone());
            near.host().spawn(move || {
                let stream = host.connect(entrance)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                let mut rounds = 0;
                while !stop.load(SeqCst) {
                    exchange(&stream, seed + rounds)?;
                    rounds += 1;
                }
                Ok(rounds)
            })
        };
        Living { workers: (0..Living::COUNT).map(|n| worker(n << 32)).collect(), stop }
    }

    /// How often bytes went round, or what broke.
    fn stop(self) -> Vec<io::Result<u64>> {
        self.stop.store(true, SeqCst);
        self.workers.into_iter().map(|worker| worker.join().expect("no panic")).collect()
    }
}

/// Sends some bytes to an echo server and checks what comes back.
fn exchange(mut stream: &TcpStream, seed: u64) -> io::Result<()> {
    let (sent, mut back) = (payload::bytes(seed, 2000), vec![0; 2000]);
    stream.write_all(&sent)?;
    stream.read_exact(&mut back)?;
    if back == sent { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
}

/// A pair behind NATs that have been kept from reaching each other, so that a relay is all there is.
struct Kept {
    lab: Lab,
    public: Vec<Node>,
    pair: Pair,
    routers: [Router; 2],
}

impl Kept {
    fn start(test: &str, relays: usize) -> Option<Kept> {
        Self::start_with(test, relays, pair::options)
    }

    fn start_with(test: &str, relays: usize, options: impl Fn() -> Options) -> Option<Kept> {
        let lab = Lab::namespaces(test)?;
        let public: Vec<_> =
            (0..relays).map(|n| Node::start(&lab.host(&format!("public{n}")), pair::options())).collect();
        let [(near, near_router), (far, far_router)] =
            ["near", "far"].map(|name| lab.host_behind(Nat::PortRestricted, name));
        near_router.outside().cut_from(far_router.outside());
        let pair = Pair { near: Node::start(&near, options()), far: Node::start(&far, options()) };
        for relay in &public {
            pair.near.register(relay, NETWORK);
            pair.far.register(relay, NETWORK);
        }
        pair.wait_until_connected();
        let far_id = pair.far.peer_id();
        wait_until("the pair is relayed", PATIENCE, || path(&pair.near, &far_id).0 == "relayed");
        Some(Kept { lab, public, pair, routers: [near_router, far_router] })
    }
}

#[test]
fn a_program_lives_on_over_the_relay_after_an_upgrade() {
    let options = || pair::options().environment("RUST_LOG", "hive_agent=debug");
    let Some(kept) = Kept::start_with("a_program_lives_on_over_the_relay_after_an_upgrade", 1, options) else { return };
    let Kept { pair, routers: [near_router, far_router], .. } = &kept;
    let command = pair.near.ctl_command(ADMIN, &["exec", "--node", "far", "--", "cat"]);
    let mut program = Process::start_with_stdin(pair.near.host(), "program", command);
    let mut stdin = program.stdin();
    stdin.write_all(b"before\n").unwrap();
    program.wait_for_line("before");
    near_router.outside().mend_to(far_router.outside());
    let far_id = pair.far.peer_id();
    wait_until("the pair is direct", Duration::from_secs(120), || path(&pair.near, &far_id).0 == "direct");
    // Half a minute later one of the two asks whether the relayed connection may go.
    let asks = |node: &Node| node.process().printed().contains("is spare, but in use");
    wait_until("the relayed connection is spare", PATIENCE, || asks(&pair.near) || asks(&pair.far));
    stdin.write_all(b"after\n").unwrap();
    program.wait_for_line("after");
    drop(stdin);
    assert!(program.wait().success());
}

#[test]
fn living_connections_are_untouched_by_an_upgrade() {
    let Some(kept) = Kept::start("living_connections_are_untouched_by_an_upgrade", 1) else { return };
    let Kept { pair, routers: [near_router, far_router], .. } = &kept;
    let server = tcp::Server::echo(pair.far.host(), 0);
    let tunnel = pair.tunnel(server.address());
    let living = Living::start(&pair.near, tunnel.entrance);
    wait_until("all connections live", PATIENCE, || server.open() as u64 == Living::COUNT);
    near_router.outside().mend_to(far_router.outside());
    let far_id = pair.far.peer_id();
    wait_until("the pair is direct", Duration::from_secs(120), || path(&pair.near, &far_id).0 == "direct");
    // New connections go direct while the old ones live on where they are.
    let fresh = pair.near.host().connect(tunnel.entrance).expect("the egress listens");
    (0..100).for_each(|seed| exchange(&fresh, seed).expect("an echo over the direct path"));
    let outcomes = living.stop();
    let rounds: u64 = outcomes.iter().flatten().sum();
    let broken: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    notice::say(&format!("UPGRADE: {rounds} exchanges on {} connections, {} broken", outcomes.len(), broken.len()));
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn a_relay_that_dies_is_replaced() {
    let Some(mut kept) = Kept::start("a_relay_that_dies_is_replaced", 3) else { return };
    let server = tcp::Server::echo(kept.pair.far.host(), 0);
    let tunnel = kept.pair.tunnel(server.address());
    let mut times = Vec::new();
    for _ in 0..2 {
        let (near, far_id) = (&kept.pair.near, kept.pair.far.peer_id());
        wait_until("two relays are held", PATIENCE, || held(near).len() == kept.public.len().min(2));
        let carrying = relay_between(near, &far_id);
        let at = kept.public.iter().position(|node| node.peer_id() == carrying).expect("one of the public nodes");
        kept.public.remove(at).kill9();
        let begin = Instant::now();
        wait_until("a new connection is served", PATIENCE, || {
            let stream = near.host().connect(tunnel.entrance);
            stream.and_then(|stream| exchange(&stream, 1)).is_ok()
        });
        times.push(format!("{} ms", begin.elapsed().as_millis()));
    }
    notice::say(&format!("RELAY DEATH: new connections served after {}", times.join(", ")));
    drop(kept.lab);
}

/// Waits until a new connection through a tunnel is served; how long that took.
fn served(near: &Node, entrance: SocketAddr) -> Duration {
    let begin = Instant::now();
    wait_until("a new connection is served", PATIENCE, || {
        let stream = near.host().connect(entrance);
        stream.and_then(|stream| exchange(&stream, 1)).is_ok()
    });
    begin.elapsed()
}

#[test]
fn tunnels_serve_again_after_changes_of_the_network() {
    let Some(lab) = Lab::namespaces("tunnels_serve_again_after_changes_of_the_network") else { return };
    let public = Node::start(&lab.host("public"), pair::options());
    let [(near, router), (far, _)] = ["near", "far"].map(|name| lab.host_behind(Nat::PortRestricted, name));
    let pair = Pair { near: Node::start(&near, pair::options()), far: Node::start(&far, pair::options()) };
    pair.near.register(&public, NETWORK);
    pair.far.register(&public, NETWORK);
    pair.wait_until_connected();
    // All addresses of the host, so that the server is found after the host has moved.
    let server = tcp::Server::start_at(pair.far.host(), "127.0.0.1:0".parse().expect("an address"), |mut stream| {
        let _ = io::copy(&mut stream.try_clone().expect("another handle"), &mut stream);
    });
    let tunnel = pair.tunnel(server.address());
    let (near, far_id) = (&pair.near, pair.far.peer_id());
    let settle = || wait_until("the pair is direct", Duration::from_secs(120), || path(near, &far_id).0 == "direct");
    let measure = |what: &str| {
        let after = served(near, tunnel.entrance).as_secs_f64();
        notice::say(&format!("CHANGE: {what}: new connections served after {after:.1} s"));
        settle();
    };
    settle();
    router.rebind();
    measure("the router forgets its mappings");
    router.outside().unplug();
    thread::sleep(Duration::from_secs(10));
    router.outside().plug();
    measure("ten seconds without a line");
    pair.far.host().renumber();
    measure("another address behind the router");
}

/// The relays that hold a reservation for a node.
fn held(node: &Node) -> Vec<String> {
    let status = node.json(&["status"]);
    let relays = status["relays"].as_array().into_iter().flatten();
    relays.filter_map(|relay| relay.as_str().map(str::to_owned)).collect()
}

/// The relay between a node and a peer.
fn relay_between(node: &Node, peer: &str) -> String {
    let row = node.row_of(peer);
    row["relay"].as_str().unwrap_or_else(|| panic!("no relay in {row}")).to_owned()
}
