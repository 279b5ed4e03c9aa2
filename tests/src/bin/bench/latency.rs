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
/// The least of one client of several.
const LEAST_TRIPS: usize = 50;
/// Bytes of one copy beside; the copies follow each other until the round trips are done.
const BESIDE: u64 = 64 << 20;

/// Microseconds added, at the median and at the 99th percentile.
pub fn measure(bench: &Bench, rounds: usize, report: &mut Report) -> io::Result<()> {
    for (case, copies) in [("round trip, idle", 0), ("round trip beside a bulk copy", 1)] {
        let (mut raw, mut tunnelled) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            raw.extend(crowd(bench.raw, 1, copies)?);
            tunnelled.extend(crowd(bench.tunnel, 1, copies)?);
        }
        for percent in [50.0, 99.0] {
            let of = |samples: &[f64]| percentile(samples, percent).unwrap_or(f64::NAN);
            report.added(&format!("{case}, p{percent}"), "µs", of(&raw), of(&tunnelled));
        }
    }
    Ok(())
}

/// Microseconds of each round trip of so many clients at once, beside so many bulk copies.
pub fn crowd(way: Way, clients: usize, copies: usize) -> io::Result<Vec<f64>> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let copies: Vec<_> = (0..copies).map(|_| scope.spawn(|| copy_until(&done, way))).collect();
        let each = (TRIPS / clients).max(LEAST_TRIPS);
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(move || trips(way, each))).collect();
        let taken: io::Result<Vec<_>> =
            clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect();
        done.store(true, SeqCst);
        let copied = copies.into_iter().try_for_each(|copy| copy.join().expect("a copy does not panic"));
        copied.and(taken).map(|taken| taken.concat())
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
