//! Streams that outlive their paths: living connections under which every TCP connection is killed, again and again.

use hive_tests::{lab::Lab, node::Node, notice, pair::Pair, payload, process::PATIENCE, tcp, wait::wait_until};
use std::{
    env,
    io::{Read, Write},
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
/// Cuts, unless `HIVE_CUTS` says otherwise.
const CUTS: usize = 5;
/// Bytes of one exchange.
const EXCHANGE: usize = 20_000;

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

#[test]
fn living_connections_survive_the_death_of_every_path() {
    let Some(lab) = Lab::namespaces("living_connections_survive_the_death_of_every_path") else { return };
    let pair = Pair::start(&lab);
    let echo = tcp::Server::echo(pair.far.host(), 0);
    let tunnel = pair.tunnel(echo.address());
    let stop = Arc::new(AtomicBool::new(false));
    let talk = |seed| {
        let stream = pair.near.host().connect(tunnel.entrance).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Talk::start(stream, seed, &stop)
    };
    let talks: Vec<Talk> = (0..CONNECTIONS).map(talk).collect();
    let all_go_on = || {
        let before: Vec<u64> = talks.iter().map(|talk| talk.rounds.load(Ordering::Relaxed)).collect();
        wait_until("every connection goes on", PATIENCE, || {
            assert!(talks.iter().all(|talk| !talk.thread.is_finished()), "a connection broke");
            talks.iter().zip(&before).all(|(talk, before)| talk.rounds.load(Ordering::Relaxed) > before + 1)
        });
    };
    all_go_on();
    let cuts = env::var("HIVE_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(CUTS);
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..cuts {
        reject(&pair.far, true);
        // Long enough for every connection to have met a reset.
        thread::sleep(Duration::from_millis(300));
        reject(&pair.far, false);
        let back = Instant::now();
        all_go_on();
        took.push(back.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    let rounds: u64 = talks.into_iter().map(|talk| talk.thread.join().expect("no connection broke")).sum();
    took.sort();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    notice::say(&format!(
        "MEASURED: {CONNECTIONS} connections survived {cuts} cuts, {rounds} exchanges of {EXCHANGE} bytes all right; \
         all went on after {median:.2?} (median), {worst:.2?} (worst)"
    ));
}
