//! The agents' memory before, during and after all that.

use crate::{
    Bench,
    bulk::{Direction, copy},
    report::Report,
};
use hive_tests::{node::Node, usage::Usage};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

/// Idle connections whose cost is measured.
const OPEN: usize = 256;
/// Bytes of each of the copies under which the peak is seen.
const LOAD: u64 = 128 << 20;
const MIB: f64 = (1 << 20) as f64;

/// Before the first connection.
pub fn fresh(bench: &Bench, report: &mut Report) {
    both(bench, "memory, fresh", report);
}

/// After everything.
pub fn afterwards(bench: &Bench, report: &mut Report) {
    both(bench, "memory, afterwards", report);
}

fn both(bench: &Bench, case: &str, report: &mut Report) {
    for (agent, name) in bench.agents().into_iter().zip(["near", "far"]) {
        let Usage { rss, anonymous, .. } = agent.usage();
        report.figure(&format!("{case}: {name}, resident"), "MiB", Some(rss as f64 / MIB));
        report.figure(&format!("{case}: {name}, its own"), "MiB", Some(anonymous as f64 / MIB));
    }
}

/// With many idle connections open. Measure it before any load: freed memory that the allocator keeps would hide it.
pub fn open_connections(bench: &Bench, report: &mut Report) -> io::Result<()> {
    let own = || bench.agents().map(|agent| agent.usage().anonymous as f64);
    let before = own();
    let open: Vec<TcpStream> = (0..OPEN).map(|_| open(bench)).collect::<io::Result<_>>()?;
    for (name, (before, with)) in ["near", "far"].iter().zip(before.into_iter().zip(own())) {
        let each = (with - before) / 1024.0 / OPEN as f64;
        report.figure(&format!("memory of an idle connection: {name}"), "KiB", Some(each));
    }
    drop(open);
    Ok(())
}

/// The peak under eight bulk copies.
pub fn under_load(bench: &Bench, report: &mut Report) -> io::Result<()> {
    let done = AtomicBool::new(false);
    let peak = thread::scope(|scope| {
        let watch = scope.spawn(|| watch(bench.agents(), &done));
        let copies = [Direction::Up, Direction::Down].repeat(4);
        let copies: Vec<_> = copies.into_iter().map(|way| scope.spawn(move || copy(bench.tunnel, way, LOAD))).collect();
        let copied = copies.into_iter().try_for_each(|copy| copy.join().expect("a copy does not panic"));
        done.store(true, SeqCst);
        copied.map(|()| watch.join().expect("watching does not panic"))
    })?;
    for (name, peak) in ["near", "far"].iter().zip(peak) {
        report.figure(&format!("memory under 8 bulk copies: {name}, resident"), "MiB", Some(peak as f64 / MIB));
    }
    Ok(())
}

/// A connection that has been used once.
fn open(bench: &Bench) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(bench.tunnel.echo)?;
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}

/// The highest figures seen until `done`.
fn watch(agents: [&Node; 2], done: &AtomicBool) -> [u64; 2] {
    let mut peak = [0; 2];
    while !done.load(SeqCst) {
        for (peak, agent) in peak.iter_mut().zip(agents) {
            *peak = agent.usage().rss.max(*peak);
        }
        thread::sleep(Duration::from_millis(50));
    }
    peak
}
