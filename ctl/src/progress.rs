//! A line that shows how far something is, redrawn on standard error's terminal; nothing at all elsewhere.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use crate::format::{bytes, clean, duration};

const PERIOD: Duration = Duration::from_millis(100);
const WIDTH: usize = 24;

/// Progress of one transfer.
pub struct Progress {
    label: String,
    total: u64,
    /// Where this transfer began: what was there before says nothing about its speed.
    offset: u64,
    started: Instant,
    shown: Option<Instant>,
    visible: bool,
}

impl Progress {
    /// Begins at `offset` of `total` bytes.
    pub fn new(label: &str, offset: u64, total: u64, quiet: bool) -> Self {
        let visible = !quiet && io::stderr().is_terminal();
        Self { label: clean(label).into_owned(), total, offset, started: Instant::now(), shown: None, visible }
    }

    /// So many bytes are done in all.
    pub fn at(&mut self, done: u64) {
        let due = self.shown.is_none_or(|shown| shown.elapsed() >= PERIOD) || done == self.total;
        if self.visible && due {
            self.shown = Some(Instant::now());
            let line = line(&self.label, self.offset, done, self.total, self.started.elapsed());
            // Who cannot see it misses nothing.
            let _ = write!(io::stderr(), "\r{line}\u{1b}[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = writeln!(io::stderr());
        }
    }
}

fn line(label: &str, offset: u64, done: u64, total: u64, elapsed: Duration) -> String {
    let share = if total == 0 { 1.0 } else { done as f64 / total as f64 };
    let full = ((share * WIDTH as f64) as usize).min(WIDTH);
    let bar = format!("{}{}", "#".repeat(full), "-".repeat(WIDTH - full));
    let speed = (done.saturating_sub(offset)) as f64 / elapsed.as_secs_f64().max(0.001);
    let left = total.saturating_sub(done) as f64 / speed.max(1.0);
    let left = if done == 0 || done == offset { "-".into() } else { duration(Duration::from_secs_f64(left.min(1e9))) };
    format!("{label} [{bar}] {:3.0} % of {}, {}/s, {left} left", share * 100.0, bytes(total), bytes(speed as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_counts_what_this_transfer_carried() {
        let shown = line("model", 1 << 20, 3 << 20, 4 << 20, Duration::from_secs(2));
        assert_eq!(shown, "model [##################------]  75 % of 4.0 MiB, 1.0 MiB/s, 1 s left");
        assert!(line("x", 0, 0, 0, Duration::ZERO).contains("100 % of 0 B"));
    }
}
