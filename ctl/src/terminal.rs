//! The local terminal while a remote one has it: raw, and given back as it was whatever happens.

use std::{
    io::{self, IsTerminal},
    os::fd::BorrowedFd,
};

use hive_protocol::message::TerminalInfo;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

const DEFAULT_KIND: &str = "dumb";
/// Of a terminal that does not know its size.
const DEFAULT_SIZE: (u16, u16) = (80, 24);

/// Standard input's terminal, if it is one.
pub fn of_stdin() -> Option<TerminalInfo> {
    if !io::stdin().is_terminal() {
        return None;
    }
    let kind = std::env::var("TERM").ok().filter(|kind| !kind.is_empty());
    let (columns, rows) = size();
    Some(TerminalInfo { kind: kind.unwrap_or_else(|| DEFAULT_KIND.to_owned()), columns, rows })
}

/// Characters in a line, and lines.
pub fn size() -> (u16, u16) {
    match tcgetwinsize(stdin()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
        _ => DEFAULT_SIZE,
    }
}

/// A terminal that passes every key on; dropping it gives it back.
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Makes standard input's terminal raw.
    pub fn begin() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal is gone when this fails.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.before);
    }
}

fn stdin() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}
