//! Changes of the network under a tunnel between two nodes behind NATs: how long until new connections are served. Each
//! change is made many times; a connection is begun right after it, and again whenever it fails, until one has carried
//! bytes both ways. Needs network namespaces.

use crate::report::Report;
use argh::FromArgs;
use hive_tests::{
    facts::median,
    lab::{Host, Lab, Nat, Router},
    node::Node,
    pair::{self, NETWORK, Pair},
    tcp,
    wait::wait_until,
};
use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

/// Measures how soon a tunnel serves again after changes of the network.
#[derive(FromArgs)]
#[argh(subcommand, name = "change")]
pub struct Change {
    /// how often each change is made (default: 10)
    #[argh(option, default = "10")]
    times: usize,
    /// only the changes whose names contain this (default: all)
    #[argh(option, default = "String::new()")]
    only: String,
    /// seconds of calm before each change (default: 0); without them hole punches, of which a peer may begin ten at once
    /// and two a minute, run out, and paths stay relayed for half a minute
    #[argh(option, default = "0")]
    calm: u64,
}

const TEST: &str = "the benchmark of changes";
/// Far beyond what any change takes.
const LONG: Duration = Duration::from_secs(180);
/// A path that is not back by then counts as none; the next change is made all the same.
const PUT_UP: Duration = Duration::from_secs(60);
const CUT: Duration = Duration::from_secs(10);

/// Two nodes behind routers, a tunnel between them, and what is public.
struct Scene {
    publics: Vec<Node>,
    routers: [Router; 2],
    pair: Pair,
    entrance: SocketAddr,
    _echo: tcp::Server,
    _lab: Lab,
}

const RELAY_KILLED: &str = "the relay is killed";

type Act = fn(&Scene);

const CHANGES: [(&str, Act); 6] = [
    ("the near router forgets its mappings", |scene| scene.routers[0].rebind()),
    ("both routers forget their mappings", |scene| scene.routers.iter().for_each(Router::rebind)),
    ("another address of the near node", |scene| _ = scene.pair.near.host().renumber()),
    ("another address of the far node", |scene| _ = scene.pair.far.host().renumber()),
    ("the near node's interface down and up", |scene| down_and_up(scene.pair.near.host())),
    ("10 s without a line before the near router", |scene| cut(scene.routers[0].outside())),
];

impl Change {
    /// Every change that is asked for, one after the other.
    pub fn measure(&self) -> Report {
        let mut report = Report::new("change");
        let changes: Vec<_> = CHANGES.iter().filter(|(name, _)| name.contains(&self.only)).collect();
        if let Some(mut scene) = Some(1).filter(|_| !changes.is_empty()).and_then(Scene::start) {
            for (name, change) in changes {
                self.make(name, &mut scene, "direct", &mut report, |scene| change(scene));
            }
        }
        if let Some(mut scene) = Some(3).filter(|_| RELAY_KILLED.contains(&self.only)).and_then(Scene::start) {
            self.make(RELAY_KILLED, &mut scene, "relayed", &mut report, Scene::kill_relay);
        }
        report
    }

    fn make(&self, name: &str, scene: &mut Scene, path: &str, report: &mut Report, change: impl Fn(&mut Scene)) {
        let (mut served, mut settled) = (Vec::new(), Vec::new());
        scene.settle(path, LONG);
        for _ in 0..self.times {
            thread::sleep(Duration::from_secs(self.calm));
            change(scene);
            let began = Instant::now();
            served.push(scene.served().as_secs_f64());
            settled.extend(scene.settle(path, PUT_UP).then(|| began.elapsed().as_secs_f64()));
        }
        spread(&format!("{name}: served after"), &served, report);
        spread(&format!("{name}: {path} again after"), &settled, report);
    }
}

/// The least, the middle and the most of some times.
fn spread(name: &str, times: &[f64], report: &mut Report) {
    let [least, most] = [f64::min, f64::max].map(|pick| times.iter().copied().reduce(pick));
    for (which, figure) in [("least", least), ("median", median(times)), ("most", most)] {
        report.figure(&format!("{name}, {which} of {}", times.len()), "s", figure);
    }
}

impl Scene {
    /// With one public node the two can reach each other; with more they are kept from it, and only relays are left.
    fn start(publics: usize) -> Option<Scene> {
        let lab = Lab::namespaces(TEST)?;
        // By itself a node relays once others have dialled it, which those that know it from before a restart need not.
        let options = pair::options().argument("--relay").argument("always");
        let public = |number| Node::start(&lab.host(&format!("public{number}")), options.clone());
        let publics: Vec<Node> = (0..publics).map(public).collect();
        let [(near, near_router), (far, far_router)] =
            ["near", "far"].map(|name| lab.host_behind(Nat::PortRestricted, name));
        if publics.len() > 1 {
            near_router.outside().cut_from(far_router.outside());
        }
        let pair = Pair { near: Node::start(&near, pair::options()), far: Node::start(&far, pair::options()) };
        for public in &publics {
            pair.near.register(public, NETWORK);
            pair.far.register(public, NETWORK);
        }
        pair.wait_until_connected();
        // Both ends of the tunnel are at loopback, as the hosts' addresses change.
        let echo = tcp::Server::start_at(&far, ([127, 0, 0, 1], 0).into(), |stream| {
            let _ = io::copy(&mut &stream, &mut &stream);
        });
        let entrance = SocketAddr::from(([127, 0, 0, 1], near.free_port()));
        let (from, to) = (format!("near:{}", entrance.port()), format!("far:{}", echo.port()));
        pair.near.ctl(&["forward", "--from", &from, "--to", &to]).success();
        Some(Scene { publics, routers: [near_router, far_router], pair, entrance, _echo: echo, _lab: lab })
    }

    /// Waits for the path that is to be disturbed, with relays in reserve; says whether that came about.
    fn settle(&self, path: &str, within: Duration) -> bool {
        let (far, until) = (self.pair.far.peer_id(), Instant::now() + within);
        let reserve = self.publics.iter().filter(|node| node.is_running()).count().min(2);
        let held = |node: &Node| node.json(&["status"])["relays"].as_array().map_or(0, Vec::len);
        let is_settled = || {
            self.pair.near.row_of(&far)["path"] == path
                && [&self.pair.near, &self.pair.far].iter().all(|node| held(node) == reserve)
        };
        while !is_settled() {
            if Instant::now() > until {
                return false;
            }
            thread::sleep(Duration::from_millis(50));
        }
        true
    }

    /// How long it takes until a new connection is served.
    fn served(&self) -> Duration {
        let began = Instant::now();
        wait_until("a new connection is served", LONG, || exchange(self.pair.near.host(), self.entrance).is_ok());
        began.elapsed()
    }

    /// Kills the relay that carries the pair, and starts it again once the pair is served.
    fn kill_relay(&mut self) {
        for stopped in self.publics.iter_mut().filter(|node| !node.is_running()) {
            stopped.start_again();
        }
        self.settle("relayed", LONG);
        let row = self.pair.near.row_of(&self.pair.far.peer_id());
        let carrying = self.publics.iter_mut().find(|node| row["relay"] == node.peer_id().as_str());
        carrying.expect("one of the public nodes carries the pair").kill9();
    }
}

fn down_and_up(host: &Host) {
    host.link_down();
    host.link_up();
}

fn cut(host: &Host) {
    host.unplug();
    thread::sleep(CUT);
    host.plug();
}

fn exchange(host: &Host, entrance: SocketAddr) -> io::Result<()> {
    let mut stream = host.connect(entrance)?;
    stream.set_read_timeout(Some(LONG))?;
    let mut back = [0; 5];
    stream.write_all(b"hello")?;
    stream.read_exact(&mut back)?;
    if &back == b"hello" { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
}
