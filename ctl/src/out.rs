//! The only place that writes to standard output and standard error. Knows whether a person or a program reads, keeps
//! to `--json` and `--quiet`, and turns a reader that went away into [`crate::error::Status::BrokenPipe`].

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::{
    error::{Error, Result},
    format::clean,
    style::{Style, paint},
    table::Table,
};

/// Where results go, and in which form.
#[derive(Debug, Clone, Copy)]
pub struct Out {
    /// One JSON document instead of text for people.
    pub json: bool,
    /// No confirmations and no warnings.
    pub quiet: bool,
    /// Whether standard output is a terminal.
    pub terminal: bool,
    /// Whether text may be coloured.
    pub colour: bool,
}

impl Out {
    /// Looks at standard output and `NO_COLOR` (no-color.org: set and not empty).
    pub fn new(json: bool, quiet: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        Self { json, quiet, terminal, colour: terminal && colour_wanted() }
    }

    /// For results that scripts take as JSON even where nobody asked for it.
    pub fn json_unless_terminal(self) -> Self {
        Self { json: self.json || !self.terminal, ..self }
    }

    /// What the command was asked for: JSON for programs, else what `text` makes of it.
    pub fn show<T: Serialize + ?Sized>(&self, value: &T, text: impl FnOnce() -> String) -> Result<()> {
        if self.json { self.document(value) } else { write(&text()) }
    }

    /// A confirmation: JSON for programs, else one sentence, which `--quiet` keeps back.
    pub fn done<T: Serialize + ?Sized>(&self, value: &T, sentence: impl FnOnce() -> String) -> Result<()> {
        match (self.json, self.quiet) {
            (true, _) => self.document(value),
            (false, true) => Ok(()),
            (false, false) => write(&(sentence() + "\n")),
        }
    }

    /// What happens on the way to the result, as it happens; programs are told the result alone.
    pub fn step(&self, sentence: &str) -> Result<()> {
        if self.json || self.quiet { Ok(()) } else { write(&format!("{}\n", clean(sentence))) }
    }

    /// Text exactly as it is, whatever the form.
    pub fn raw(&self, text: &str) -> Result<()> {
        write(text)
    }

    /// A warning on standard error.
    pub fn warn(&self, text: &str) {
        if !self.quiet {
            complain("warning", Style::Fair, text);
        }
    }

    /// A table as text.
    pub fn table(&self, table: &Table) -> String {
        table.render(self.colour)
    }

    fn document<T: Serialize + ?Sized>(&self, value: &T) -> Result<()> {
        let encoded = if self.terminal { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
        let text = encoded.map_err(|e| Error::failed(format!("cannot write JSON: {e}")))?;
        write(&(text + "\n"))
    }
}

/// The error and its hint on standard error.
pub fn report(error: &Error) {
    if error.is_silent() {
        return;
    }
    complain("error", Style::Bad, &error.what);
    if let Some(hint) = &error.hint {
        complain("hint", Style::Fair, hint);
    }
}

fn complain(label: &str, style: Style, text: &str) {
    let colour = io::stderr().is_terminal() && colour_wanted();
    // With standard error gone there is nobody left to tell.
    let _ = writeln!(io::stderr(), "{}: {text}", paint(label, style, colour));
}

fn colour_wanted() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    !unwanted && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn write(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|e| Error::stdout(&e))
}
