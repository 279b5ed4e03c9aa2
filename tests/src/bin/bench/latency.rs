//! Round trips of one byte: what a tunnel adds to them, on its own and beside a bulk copy.

use crate::{
    Bench, Way,
    bulk::{Direction, copy},
    report::Report,
};
use hive_tests::facts::percentile;
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Instant,
};

/// Round trips of one turn.
const TRIPS: usize = 1000;
/// Bytes of one copy beside; the copies follow each other until the round trips are done.
const BESIDE: u64 = 64 << 20;

/// Microseconds added, at the median and at the 99th percentile.
pub fn measure(bench: &Bench, rounds: usize, report: &mut Report) -> io::Result<()> {
    for (case, loaded) in [("round trip, idle", false), ("round trip beside a bulk copy", true)] {
        let (mut raw, mut tunnelled) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            raw.extend(turn(bench.raw, loaded)?);
            tunnelled.extend(turn(bench.tunnel, loaded)?);
        }
        for percent in [50.0, 99.0] {
            let of = |samples: &[f64]| percentile(samples, percent).unwrap_or(f64::NAN);
            report.added(&format!("{case}, p{percent}"), "µs", of(&raw), of(&tunnelled));
        }
    }
    Ok(())
}

fn turn(way: Way, loaded: bool) -> io::Result<Vec<f64>> {
    let done = AtomicBool::new(!loaded);
    thread::scope(|scope| {
        let beside = scope.spawn(|| copy_until(&done, way));
        let taken = trips(way, TRIPS);
        done.store(true, SeqCst);
        beside.join().expect("a copy does not panic").and(taken)
    })
}

/// Makes one bulk copy after another, until told that it is enough.
pub fn copy_until(done: &AtomicBool, way: Way) -> io::Result<()> {
    while !done.load(SeqCst) {
        copy(way, Direction::Down, BESIDE)?;
    }
    Ok(())
}

/// Microseconds of each of so many round trips.
pub fn trips(way: Way, count: usize) -> io::Result<Vec<f64>> {
    let mut stream = TcpStream::connect(way.echo)?;
    stream.set_nodelay(true)?;
    let mut trip = || {
        let began = Instant::now();
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])?;
        Ok(began.elapsed().as_secs_f64() * 1e6)
    };
    // The first ones find everything cold.
    for _ in 0..count / 10 {
        trip()?;
    }
    (0..count).map(|_| trip()).collect()
}
