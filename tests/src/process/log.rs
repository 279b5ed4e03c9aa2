//! What a program prints: a thread reads its outputs into memory and a file and wakes who waits for a line.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, PipeReader, PipeWriter, Write},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

/// More lines than any test prints; the oldest half goes, so a runaway program fills the file only.
const MOST_LINES: usize = 100_000;

/// How long the rest of a program's output may take to be read.
const MOMENT: Duration = Duration::from_secs(2);

pub struct Log {
    shared: Arc<Shared>,
    reader: Mutex<Option<(PipeReader, File)>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<String>,
    closed: bool,
}

impl Log {
    /// A log that appends to the file at `path`, and the two write ends for a program.
    pub fn create(path: &Path) -> (Log, PipeWriter, PipeWriter) {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (reader, out) = std::io::pipe().expect("a pipe");
        let err = out.try_clone().expect("another end of a pipe");
        let log = Log { shared: Arc::default(), reader: Mutex::new(Some((reader, file))) };
        (log, out, err)
    }

    /// Starts to read. Reading ends when the program and its children have closed their ends.
    pub fn begin(&self) {
        let shared = self.shared.clone();
        let taken = self.reader.lock().expect("no panic under this lock").take();
        if let Some((reader, file)) = taken {
            thread::spawn(move || shared.read(reader, file));
        }
    }

    /// All lines so far.
    pub fn text(&self) -> String {
        let state = self.shared.lock();
        state.lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }

    /// Waits until all is read that a program, which has ended, has printed. Children of it that live on may hold the
    /// pipe open, so this ends after a moment in any case.
    pub fn settle(&self) {
        let open = |state: &mut State| !state.closed;
        let settled = self.shared.changed.wait_timeout_while(self.shared.lock(), MOMENT, open);
        drop(settled.expect("no panic under this lock"));
    }

    /// The first line with `part`, once there is one; else why there will be none.
    pub fn wait_for_line(&self, part: &str, deadline: Instant) -> Result<String, &'static str> {
        let mut state = self.shared.lock();
        loop {
            if let Some(line) = state.lines.iter().find(|line| line.contains(part)) {
                return Ok(line.clone());
            }
            if state.closed {
                return Err("ended without printing");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("has not printed in time");
            }
            let woken = self.shared.changed.wait_timeout(state, left);
            state = woken.expect("no panic under this lock").0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    fn read(&self, reader: PipeReader, mut file: File) {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            // The file is a copy for people; a full disk must not stop the program.
            let _ = file.write_all(&line);
            let text = String::from_utf8_lossy(&line);
            self.add(text.trim_end_matches('\n').to_owned());
            line.clear();
        }
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn add(&self, line: String) {
        let mut state = self.lock();
        if state.lines.len() == MOST_LINES {
            state.lines.drain(..MOST_LINES / 2);
        }
        state.lines.push(line);
        self.changed.notify_all();
    }
}
