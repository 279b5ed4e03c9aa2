//! Tunnels under load: many connections, one after another and at once, readers that stall, and what all that leaves
//! behind in the agents.

use hive_tests::{
    facts,
    lab::Lab,
    notice,
    pair::{self, Pair, Tunnel},
    payload,
    process::PATIENCE,
    tcp,
    traffic::{self, Plan},
    usage::Usage,
    wait::wait_until,
};
use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc::sync_channel,
    },
    thread,
};

/// More than the kernel's buffers on the way ever hold.
const MUCH: u64 = 128 << 20;

/// What a stalled stream may cost an agent, and then some: its window, 1 MiB at the most, and a copy buffer.
const STALLED: u64 = 8 << 20;

/// What an agent may hold on to that is no leak: pages of the allocator's that fragments keep.
const SLACK: u64 = 4 << 20;

/// What a fresh agent may have on its heap and stacks, which is a fraction of what one password takes for a moment.
const FRESH: u64 = 8 << 20;

/// Both agents, by name.
fn usages(pair: &Pair) -> [(&'static str, Usage); 2] {
    [("near", pair.near.usage()), ("far", pair.far.usage())]
}

/// One path more than before: members try each other over the other family of addresses, too, and keep that for a while.
const PATHS: usize = 1;

/// Waits until both agents have as many file descriptors open as before, and returns their figures.
fn settled(pair: &Pair, before: &[(&'static str, Usage); 2]) -> [(&'static str, Usage); 2] {
    wait_until("all file descriptors are closed", PATIENCE, || {
        usages(pair).iter().zip(before).all(|((_, now), (_, then))| now.fds <= then.fds + PATHS)
    });
    usages(pair)
}

fn say(what: &str, figures: &[(&'static str, Usage); 2]) {
    for (name, usage) in figures {
        let (rss, own, fds) = (facts::iec(usage.rss), facts::iec(usage.anonymous), usage.fds);
        notice::say(&format!("MEASURED: {what}: agent {name}: {rss} resident ({own} its own), {fds} descriptors"));
    }
}

/// A thousand connections one after another, then 256 at once.
fn exercise(pair: &Pair, tunnel: &Tunnel, server: &traffic::Server, seed: u64) {
    let plans = [Plan::sequential(1000), Plan::concurrent(256)];
    for plan in plans {
        let report = traffic::exercise(pair.near.host(), tunnel.entrance, server, &plan.seed(seed));
        assert!(report.resets > 50 && report.verified > 1 << 20, "the plan is worth its name: {report}");
    }
}

#[test]
fn alone_what_passwords_took_is_given_back() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    // At the start the agent has stretched two passwords, at the login hivectl did, and here it stretches one more.
    let join = ["networks", "join", "--name", "attic", "--password-stdin"];
    pair.near.ctl_with_stdin(pair::ADMIN, &join, b"another password\n").success();
    let usages = usages(&pair);
    say("after passwords", &usages);
    for (name, usage) in usages {
        assert!(usage.anonymous < FRESH, "{name} keeps {}", facts::iec(usage.anonymous));
    }
}

#[test]
fn alone_many_connections_are_exact_and_leave_nothing() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let server = traffic::Server::start(pair.far.host(), 0);
    let tunnel = pair.tunnel(server.address());
    let fresh = usages(&pair);
    say("before any connection", &fresh);
    exercise(&pair, &tunnel, &server, 1);
    let once = settled(&pair, &fresh);
    say("after 1,256 connections", &once);
    exercise(&pair, &tunnel, &server, 2);
    let twice = settled(&pair, &fresh);
    say("after 2,512 connections", &twice);
    for ((name, once), (_, twice)) in once.iter().zip(&twice) {
        assert!(twice.anonymous < once.anonymous + SLACK, "{name} keeps memory of connections that have ended");
    }
}

#[test]
fn alone_a_stalled_reader_holds_its_writer_back_and_nobody_else() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let (far, near) = (pair.far.host(), pair.near.host());
    let [sent_down, sent_up] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
    let ((begin, begun), (tell, told)) = (sync_channel(1), sync_channel(1));

    let echo = tcp::Server::echo(far, 0);
    let source = tcp::Server::start(far, 0, {
        let sent = sent_down.clone();
        move |stream| drop(pour(&stream, &sent))
    });
    let begun = Mutex::new(begun);
    let sink = tcp::Server::start(far, 0, move |stream| {
        let _ = begun.lock().unwrap().recv();
        let _ = tell.send(swallow(&stream));
    });
    let [echo_at, source_at, sink_at] = [&echo, &source, &sink].map(|server| pair.tunnel(server.address()).entrance);
    let before = usages(&pair);
    let (down, up) = (near.connect(source_at).unwrap(), near.connect(sink_at).unwrap());
    let writer = thread::spawn({
        let sent = sent_up.clone();
        move || pour(&up, &sent)
    });

    let talk = near.connect(echo_at).unwrap();
    let counts = || [&sent_down, &sent_up].map(|sent| sent.load(SeqCst));
    // Each round goes through both agents while the stalled streams press; both writers are held when none moved in one.
    let (mut last, mut seed) = ([0, 0], 0);
    while last.contains(&0) || last != counts() {
        last = counts();
        for _ in 0..50 {
            seed += 1;
            exchange(&talk, seed);
        }
    }
    assert!(last.iter().all(|sent| *sent < MUCH), "a writer was not held back: {last:?}");
    let stalled = usages(&pair);
    say(&format!("two stalled streams, {} written", facts::iec(last[0] + last[1])), &stalled);
    for ((name, before), (_, stalled)) in before.iter().zip(&stalled) {
        assert!(stalled.anonymous < before.anonymous + STALLED, "{name} takes more than its windows");
    }

    begin.send(()).unwrap();
    assert_eq!(swallow(&down), Ok(MUCH));
    assert_eq!(told.recv().unwrap(), Ok(MUCH));
    writer.join().unwrap().unwrap();
}

/// Sends [`MUCH`] and the end, counting what was taken.
fn pour(mut stream: &TcpStream, sent: &AtomicU64) -> io::Result<()> {
    let mut chunk = vec![0; 64 << 10];
    while sent.load(SeqCst) < MUCH {
        payload::fill(1, sent.load(SeqCst), &mut chunk);
        stream.write_all(&chunk)?;
        sent.fetch_add(chunk.len() as u64, SeqCst);
    }
    stream.shutdown(Shutdown::Write)
}

/// Reads to the end, verifying what comes, and says how much it was.
fn swallow(mut stream: &TcpStream) -> Result<u64, String> {
    let (mut chunk, mut received) = (vec![0; 64 << 10], 0);
    loop {
        let length = stream.read(&mut chunk).map_err(|error| format!("after {received} bytes: {error}"))?;
        if length == 0 {
            return Ok(received);
        }
        if let Some(position) = payload::first_difference(1, received, &chunk[..length]) {
            return Err(format!("a wrong byte at {position}"));
        }
        received += length as u64;
    }
}

/// Sends some bytes to an echo and reads them back.
fn exchange(mut stream: &TcpStream, seed: u64) {
    let (sent, mut back) = (payload::bytes(seed, 2000), vec![0; 2000]);
    stream.write_all(&sent).unwrap();
    stream.read_exact(&mut back).unwrap();
    assert!(back == sent, "other bytes came back");
}
