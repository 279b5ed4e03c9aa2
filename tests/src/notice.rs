//! Tells people what a run did not show. A test runner hides the output of tests that pass, so each
//! line also goes to the file named by `HIVE_NOTICES`, which `tests/run` prints at its end.

use std::{fs::OpenOptions, io::Write};

/// Prints `LEFT OUT: TEST: WHY` for a test that cannot run here and returns without having failed.
pub fn left_out(test: &str, why: &str) {
    say(&format!("LEFT OUT: {test}: {why}"));
}

/// Prints one line, and adds it to the notices of this run.
pub fn say(line: &str) {
    eprintln!("{line}");
    let Some(path) = std::env::var_os("HIVE_NOTICES") else {
        return;
    };
    // One write call for one line: tests in other processes append to the same file.
    let written = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    if let Err(error) = written {
        eprintln!("cannot write {}: {error}", path.display());
    }
}
