//! The agent's log: to standard error as `--log` says, and the same lines in a ring in memory for `hivectl logs`.
//!
//! The ring is bounded in lines and in bytes; it never touches the disk, and who reads it never holds up who writes.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use event_listener::Event;
use hive_protocol::{LogLevel, LogLine, Timestamp};

/// Lines kept.
const MAX_LINES: usize = 2000;
/// Bytes of text kept.
const MAX_BYTES: usize = 512 * 1024;
/// Longest line kept whole.
const MAX_LINE: usize = 2048;
const DEFAULT_FILTER: &str = "info,libp2p=warn,quinn_udp=error,hive_transport=info";

static RING: Ring = Ring::new();

/// Libraries that say much at these levels, and little that anybody but their authors understands.
const QUIETER: &str =
    "libp2p=warn,tracing=warn,multistream_select=info,yamux=info,quinn=info,rustls=info,polling=info,async_io=info";
const VARIABLE: &str = "RUST_LOG";

/// Starts logging; `filter` goes before the environment. A second call changes nothing.
///
/// # Errors
///
/// The option or variable whose filter makes no sense, and what of it.
pub fn start(filter: Option<&str>) -> Result<(), (&'static str, String)> {
    let from_env = std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let (option, filter) = match (filter, from_env) {
        (Some(filter), _) => ("--log", filter.to_owned()),
        (None, Some(filter)) => (VARIABLE, filter),
        (None, None) => (VARIABLE, DEFAULT_FILTER.to_owned()),
    };
    check(&filter).map_err(|problem| (option, problem))?;
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(&completed(filter));
    let printer = builder.format_target(false).format_timestamp_millis().build();
    let level = printer.filter();
    if log::set_boxed_logger(Box::new(Tee { printer })).is_ok() {
        log::set_max_level(level);
    }
    Ok(())
}

/// A bare level is meant for this program.
fn completed(filter: String) -> String {
    match filter.trim().parse() {
        Ok(log::LevelFilter::Debug | log::LevelFilter::Trace) => format!("{filter},{QUIETER}"),
        _ => filter,
    }
}

/// Whether each part is a level, `TARGET=LEVEL`, or the path of a module.
fn check(filter: &str) -> Result<(), String> {
    let (parts, _pattern) = filter.split_once('/').unwrap_or((filter, ""));
    let is_level = |text: &str| text.trim().parse::<log::LevelFilter>().is_ok();
    let fits = |part: &str| match part.split_once('=') {
        Some((target, level)) => !target.trim().is_empty() && is_level(level),
        None => is_level(part) || part.contains(['_', ':']),
    };
    let odd = parts.split(',').map(str::trim).find(|part| !part.is_empty() && !fits(part));
    odd.map_or(Ok(()), |part| {
        Err(format!("`{part}` is neither a level (error, warn, info, debug, trace, off) nor TARGET=LEVEL"))
    })
}

/// The log of this process.
pub fn ring() -> &'static Ring {
    &RING
}

/// Prints a line and keeps it.
struct Tee {
    printer: env_logger::Logger,
}

impl log::Log for Tee {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.printer.enabled(metadata)
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.printer.matches(record) {
            RING.push(level(record.level()), record.args().to_string());
            self.printer.log(record);
        }
    }

    fn flush(&self) {
        self.printer.flush();
    }
}

fn level(level: log::Level) -> LogLevel {
    match level {
        log::Level::Error => LogLevel::Error,
        log::Level::Warn => LogLevel::Warn,
        log::Level::Info => LogLevel::Info,
        log::Level::Debug => LogLevel::Debug,
        log::Level::Trace => LogLevel::Trace,
    }
}

/// The last lines, and a bell for the next.
pub struct Ring {
    held: Mutex<Held>,
    grown: Event,
}

struct Held {
    lines: VecDeque<LogLine>,
    bytes: usize,
    /// Number of the first line held; lines are numbered from the start of the process.
    first: u64,
}

/// What a reader gets at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Lines, oldest first.
    pub lines: Vec<LogLine>,
    /// Lines that were dropped before the reader came.
    pub missed: u64,
    /// Number of the line to ask for next.
    pub next: u64,
}

impl Ring {
    const fn new() -> Self {
        Self { held: Mutex::new(Held { lines: VecDeque::new(), bytes: 0, first: 0 }), grown: Event::new() }
    }

    fn push(&self, level: LogLevel, mut text: String) {
        shorten(&mut text);
        self.lock().push(LogLine { time: Timestamp::from(SystemTime::now()), level, text });
        self.grown.notify(usize::MAX);
    }

    /// Number of the line with which the last `count` lines begin.
    pub fn last(&self, count: usize) -> u64 {
        let held = self.lock();
        held.end() - (held.lines.len().min(count) as u64)
    }

    /// Up to `count` lines from number `from` on.
    pub fn page(&self, from: u64, count: usize) -> Page {
        let held = self.lock();
        let start = from.max(held.first);
        let skip = usize::try_from(start - held.first).unwrap_or(usize::MAX);
        let lines: Vec<LogLine> = held.lines.iter().skip(skip).take(count).cloned().collect();
        Page { missed: start - from, next: start + lines.len() as u64, lines }
    }

    /// Waits until there is a line with this number.
    pub async fn grown(&self, number: u64) {
        loop {
            let grown = self.grown.listen();
            if self.lock().end() > number {
                return;
            }
            grown.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn end(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    fn push(&mut self, line: LogLine) {
        self.bytes += line.text.len();
        self.lines.push_back(line);
        while self.lines.len() > MAX_LINES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.text.len();
            self.first += 1;
        }
    }
}

fn shorten(text: &mut String) {
    if text.len() > MAX_LINE {
        text.truncate(text.floor_char_boundary(MAX_LINE));
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(page: &Page) -> Vec<&str> {
        page.lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn a_filter_is_checked_and_a_bare_level_is_for_this_program() {
        for good in ["info", "DEBUG", DEFAULT_FILTER, "hive_agent=debug,info", "hive_agent::tunnel", "warn/tunnel"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["banana", "info,banana", "hive_agent=loud", "=debug", "debug info"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check("info,banana").unwrap_err().starts_with("`banana`"));
        assert!(completed("debug".into()).starts_with("debug,libp2p=warn"));
        assert_eq!(completed("libp2p_swarm=debug".into()), "libp2p_swarm=debug");
    }

    #[test]
    fn a_reader_goes_on_where_it_stopped() {
        let ring = Ring::new();
        ["a", "b", "c"].into_iter().for_each(|text| ring.push(LogLevel::Info, text.into()));
        let page = ring.page(ring.last(2), 1);
        assert_eq!((texts(&page), page.missed, page.next), (vec!["b"], 0, 2));
        let page = ring.page(page.next, 10);
        assert_eq!((texts(&page), page.next), (vec!["c"], 3));
        assert_eq!(ring.page(page.next, 10).lines, []);
        assert_eq!(ring.last(100), 0);
    }

    #[test]
    fn the_ring_is_bounded_and_a_slow_reader_learns_what_it_missed() {
        let ring = Ring::new();
        (0..MAX_LINES + 5).for_each(|n| ring.push(LogLevel::Info, n.to_string()));
        let page = ring.page(3, 1);
        assert_eq!((texts(&page), page.missed, page.next), (vec!["5"], 2, 6));
        (0..MAX_BYTES / MAX_LINE * 2).for_each(|_| ring.push(LogLevel::Info, "ü".repeat(MAX_LINE)));
        let held = ring.lock();
        assert!(held.bytes <= MAX_BYTES && held.lines.len() < MAX_LINES);
        assert_eq!(held.bytes, held.lines.iter().map(|line| line.text.len()).sum::<usize>());
    }

    #[test]
    fn a_follower_is_woken_by_the_line_it_waits_for() {
        let ring = std::sync::Arc::new(Ring::new());
        let follower = ring.clone();
        let task = std::thread::spawn(move || smol::block_on(follower.grown(1)));
        ring.push(LogLevel::Info, "0".into());
        ring.push(LogLevel::Warn, "1".into());
        task.join().unwrap();
        assert_eq!(ring.page(1, 9).lines[0].level, LogLevel::Warn);
    }
}
