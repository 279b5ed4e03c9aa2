//! Streams that outlive their paths: living connections under whose path is killed, again and again, in every way.

use hive_tests::{
    facts::median, lab::Lab, node::Node, notice, pair::Pair, payload, process::PATIENCE, tcp, wait::wait_until,
};
use std::{
    env,
    io::{self, Read, Write},
    net::TcpStream,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Living connections.
const CONNECTIONS: u64 = 50;
/// Cuts, unless `HIVE_CUTS` says otherwise (`tests/cuts` does): each kind, and one after the other twice.
const CUTS: usize = 4;
/// Bytes of one exchange.
const EXCHANGE: usize = 20_000;
/// Long enough for every connection to have met a reset.
const REJECTED: Duration = Duration::from_millis(300);
/// How long nothing passes.
const OUTAGE: Duration = Duration::from_secs(5);

/// How the path is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Every TCP connection between the agents is reset.
    Kill,
    /// Nothing passes, and nobody is told.
    Outage,
    /// The far node gets other addresses.
    Move,
}

const KINDS: [Cut; 3] = [Cut::Kill, Cut::Outage, Cut::Move];

impl Cut {
    /// Takes the path away; answers when it is there again.
    fn make(self, pair: &Pair) -> Instant {
        match self {
            Cut::Kill => {
                reject(&pair.far, true);
                thread::sleep(REJECTED);
                reject(&pair.far, false);
            }
            Cut::Outage => {
                pair.far.host().block();
                thread::sleep(OUTAGE);
                pair.far.host().unblock();
            }
            Cut::Move => drop(pair.far.host().renumber()),
        }
        Instant::now()
    }
}

/// A connection on which bytes go there and back, every one of them checked.
struct Talk {
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<u64>,
}

impl Talk {
    fn start(stream: TcpStream, seed: u64, stop: &Arc<AtomicBool>) -> Talk {
        let rounds = Arc::new(AtomicU64::new(0));
        let (counted, stop) = (rounds.clone(), stop.clone());
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                exchange(&stream, seed << 32 | counted.fetch_add(1, Ordering::Relaxed));
            }
            counted.load(Ordering::Relaxed)
        });
        Talk { rounds, thread }
    }
}

fn exchange(mut stream: &TcpStream, seed: u64) {
    let (sent, mut back) = (payload::bytes(seed, EXCHANGE), vec![0; EXCHANGE]);
    stream.write_all(&sent).expect("the application sees no cut");
    stream.read_exact(&mut back).expect("the application sees no cut");
    assert!(back == sent, "other bytes came back");
}

/// Answers everything that comes for a node's port with RST, while `reject` is true.
fn reject(node: &Node, reject: bool) {
    let script = match reject {
        true => {
            "table inet cut { chain input { type filter hook input priority 0; tcp dport 4180 reject with tcp reset; }; }"
        }
        false => "delete table inet cut",
    };
    let mut nft = node.host().command("nft").arg("-f").arg("-").stdin(Stdio::piped()).spawn().expect("nft");
    nft.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
}

/// Waits until every connection has done a whole exchange that began after now.
fn all_go_on(talks: &[Talk]) {
    let before: Vec<u64> = talks.iter().map(|talk| talk.rounds.load(Ordering::Relaxed)).collect();
    wait_until("every connection goes on", PATIENCE, || {
        assert!(talks.iter().all(|talk| !talk.thread.is_finished()), "a connection broke");
        talks.iter().zip(&before).all(|(talk, before)| talk.rounds.load(Ordering::Relaxed) > before + 1)
    });
}

/// How long the connections took to go on after cuts of one kind.
fn say(kind: Cut, took: &[f64]) {
    let worst = took.iter().copied().fold(0.0, f64::max);
    let Some(median) = median(took) else { return };
    notice::say(&format!(
        "MEASURED: {CONNECTIONS} connections through {} cuts ({kind:?}): all went on after {median:.2} s (median), \
         {worst:.2} s (worst)",
        took.len()
    ));
}

#[test]
fn living_connections_survive_the_death_of_every_path() {
    let Some(lab) = Lab::namespaces("living_connections_survive_the_death_of_every_path") else { return };
    let pair = Pair::start(&lab);
    // On loopback: the far node's own connections outlive its addresses.
    let echo = tcp::Server::start_at(pair.far.host(), ([127, 0, 0, 1], 0).into(), |stream| {
        let _ = io::copy(&mut &stream, &mut &stream);
    });
    let tunnel = pair.tunnel(echo.address());
    let stop = Arc::new(AtomicBool::new(false));
    let talk = |seed| {
        let stream = pair.near.host().connect(tunnel.entrance).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Talk::start(stream, seed, &stop)
    };
    let talks: Vec<Talk> = (0..CONNECTIONS).map(talk).collect();
    all_go_on(&talks);
    let cuts = env::var("HIVE_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(CUTS);
    let mut took: Vec<(Cut, f64)> = Vec::new();
    for kind in KINDS.into_iter().cycle().take(cuts) {
        let back = kind.make(&pair);
        all_go_on(&talks);
        took.push((kind, back.elapsed().as_secs_f64()));
    }
    stop.store(true, Ordering::Relaxed);
    let rounds: u64 = talks.into_iter().map(|talk| talk.thread.join().expect("no connection broke")).sum();
    for kind in KINDS {
        let of_kind: Vec<f64> = took.iter().filter(|(of, _)| *of == kind).map(|(_, took)| *took).collect();
        say(kind, &of_kind);
    }
    notice::say(&format!("MEASURED: 0 broken, {rounds} exchanges of {EXCHANGE} bytes all right"));
}
