//! Bulk copies: their speed as a share of raw TCP's, and the agents' CPU time for them.

use crate::{Bench, Way, drain, report::Report, send};
use hive_tests::facts::median;
use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    thread,
    time::Instant,
};

/// From where the bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client, at the near node, to the server.
    Up,
    /// From the server to the client.
    Down,
}

const GIB: f64 = (1 << 30) as f64;

/// Both directions with one connection and with eight.
pub fn measure(bench: &Bench, rounds: usize, bytes: u64, report: &mut Report) -> io::Result<()> {
    for connections in [1, 8] {
        for (direction, name) in [(Direction::Up, "up"), (Direction::Down, "down")] {
            let case = format!("bulk, {connections} connection{} {name}", if connections == 1 { "" } else { "s" });
            let (mut raw, mut tunnelled, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..rounds {
                raw.push(speed(bench.raw, direction, connections, bytes)?);
                let before = bench.cpu();
                tunnelled.push(speed(bench.tunnel, direction, connections, bytes)?);
                cpu.push((bench.cpu() - before).as_secs_f64() * GIB / bytes as f64);
            }
            report.pair(&case, "MiB/s", &raw, &tunnelled);
            report.figure(&format!("{case}: CPU of both agents"), "s/GiB", median(&cpu));
        }
    }
    Ok(())
}

/// MiB a second of one copy over so many connections at once.
pub fn speed(way: Way, direction: Direction, connections: u64, bytes: u64) -> io::Result<f64> {
    let began = Instant::now();
    thread::scope(|scope| {
        let copies: Vec<_> =
            (0..connections).map(|_| scope.spawn(move || copy(way, direction, bytes / connections))).collect();
        copies.into_iter().try_for_each(|copy| copy.join().expect("a copy does not panic"))
    })?;
    Ok(bytes as f64 / f64::from(1 << 20) / began.elapsed().as_secs_f64())
}

/// One connection; it ends when the receiver has everything.
pub fn copy(way: Way, direction: Direction, bytes: u64) -> io::Result<()> {
    match direction {
        Direction::Up => {
            let mut stream = TcpStream::connect(way.sink)?;
            send(&mut stream, bytes)?;
            stream.shutdown(Shutdown::Write)?;
            stream.read_exact(&mut [0])
        }
        Direction::Down => {
            let mut stream = TcpStream::connect(way.source)?;
            stream.write_all(&bytes.to_le_bytes())?;
            let received = drain(&mut stream)?;
            if received == bytes { Ok(()) } else { Err(io::Error::other(format!("{received} of {bytes} bytes"))) }
        }
    }
}
