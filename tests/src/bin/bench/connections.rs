//! New connections: made, used for one byte each way, and closed.

use crate::{Bench, Way, report::Report};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    thread,
    time::Instant,
};

/// Connections of one turn. Each leaves a port in TIME_WAIT for a minute, of some 28,000.
const CONNECTIONS: usize = 1024;

/// Connections a second, one after another and 64 at once.
pub fn measure(bench: &Bench, rounds: usize, report: &mut Report) -> io::Result<()> {
    for (case, at_once) in [("new connections, one by one", 1), ("new connections, 64 at once", 64)] {
        let (mut raw, mut tunnelled) = (Vec::new(), Vec::new());
        for _ in 0..rounds.min(3) {
            raw.push(rate(bench.raw, at_once)?);
            tunnelled.push(rate(bench.tunnel, at_once)?);
        }
        report.pair(case, "/s", &raw, &tunnelled);
    }
    Ok(())
}

pub fn rate(way: Way, at_once: usize) -> io::Result<f64> {
    let began = Instant::now();
    thread::scope(|scope| {
        let each = CONNECTIONS / at_once;
        let clients: Vec<_> =
            (0..at_once).map(|_| scope.spawn(move || (0..each).try_for_each(|_| connect(way)))).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("a client does not panic"))
    })?;
    Ok(CONNECTIONS as f64 / began.elapsed().as_secs_f64())
}

fn connect(way: Way) -> io::Result<()> {
    let mut stream = TcpStream::connect(way.echo)?;
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0])
}
