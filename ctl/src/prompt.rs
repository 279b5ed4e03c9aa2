//! Where passwords come from: standard input, the environment or the terminal; never the command line. Owns the
//! terminal's echo while it asks and gives it back whatever happens.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
};

use async_signal::{Signal, Signals};
use futures::{AsyncReadExt, FutureExt, StreamExt};
use hive_protocol::password::MAX_BYTES;
use rustix::termios::{InputModes, LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use smol::Async;
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    out::Out,
};

/// A password, wiped when dropped.
pub type Password = Zeroizing<String>;

/// A password in the environment; an empty variable is as good as none.
pub fn from_env(variable: &str) -> Result<Option<Password>> {
    std::env::var(variable).ok().filter(|v| !v.is_empty()).map(|text| checked(Zeroizing::new(text))).transpose()
}

/// All of standard input but the line end at its end.
pub fn from_stdin() -> Result<Password> {
    let mut text = Zeroizing::new(String::new());
    let read = io::stdin().lock().take(MAX_BYTES as u64 + 3).read_to_string(&mut text);
    read.map_err(|e| Error::failed(format!("cannot read the password from standard input: {e}")))?;
    checked(Zeroizing::new(without_line_end(&text).to_owned()))
}

/// Asks on the terminal, without echo. `None` where there is no terminal.
pub async fn ask(question: &str) -> Result<Option<Password>> {
    let Ok(terminal) = OpenOptions::new().read(true).write(true).open("/dev/tty") else { return Ok(None) };
    let silence = Silence::of(terminal).map_err(|e| unreadable(&e))?;
    let mut signals =
        Signals::new([Signal::Int, Signal::Term, Signal::Hup, Signal::Quit]).map_err(|e| unreadable(&e))?;
    let typed = silence.ask(question).fuse();
    let interrupted = signals.next().fuse();
    futures::pin_mut!(typed, interrupted);
    futures::select! {
        line = typed => checked(line.map_err(|e| unreadable(&e))?).map(Some),
        _ = interrupted => {
            silence.end_line();
            Err(Error::interrupted())
        }
    }
}

/// Asks twice, for a password that does not exist yet.
pub async fn ask_new(question: &str) -> Result<Option<Password>> {
    let Some(first) = ask(question).await? else { return Ok(None) };
    match ask("The same again: ").await? {
        Some(second) if *second == *first => Ok(Some(first)),
        _ => Err(Error::failed("the two passwords differ")),
    }
}

/// Characters below which a password is soon guessed.
const WEAK: usize = 8;

/// Says so where a password is short: it is taken all the same.
pub fn warn_if_weak(out: Out, password: &str) {
    if password.chars().count() < WEAK {
        out.warn(&format!("a password of fewer than {WEAK} characters is soon guessed"));
    }
}

/// Asks whether to go on, where a person sits at standard input. `None` where nobody does.
pub async fn confirm(question: String) -> Result<Option<bool>> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").ok();
    let Some(mut terminal) = terminal.filter(|_| io::stdin().is_terminal()) else { return Ok(None) };
    let asked = smol::unblock(move || {
        terminal.write_all(format!("{question} [y/N] ").as_bytes())?;
        let mut answer = String::new();
        BufReader::new(terminal).read_line(&mut answer)?;
        io::Result::Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    });
    asked.await.map(Some).map_err(|e| Error::failed(format!("cannot ask on the terminal: {e}")))
}

fn checked(password: Password) -> Result<Password> {
    match password.len() {
        0 => Err(Error::usage("the password is empty")),
        1..=MAX_BYTES => Ok(password),
        _ => Err(Error::usage(format!("a password has at most {MAX_BYTES} bytes"))),
    }
}

fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

fn unreadable(error: &io::Error) -> Error {
    Error::failed(format!("cannot ask for a password on the terminal: {error}"))
}

/// A terminal whose echo is off for as long as this lives.
struct Silence {
    terminal: Async<File>,
    before: Termios,
}

impl Silence {
    fn of(terminal: File) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        // Backspace takes a character away, not a byte of it.
        silent.input_modes.insert(InputModes::IUTF8);
        silent.local_modes.insert(LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHONL);
        tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal: Async::new(terminal)?, before })
    }

    /// What the shell prints next shall not stand behind the question.
    fn end_line(&self) {
        // Without a terminal there is no line to end.
        let _ = self.terminal.get_ref().write_all(b"\n");
    }

    /// One line; the terminal's line discipline takes care of backspace.
    async fn ask(&self, question: &str) -> io::Result<Password> {
        self.terminal.get_ref().write_all(question.as_bytes())?;
        let mut line = Zeroizing::new(vec![0; MAX_BYTES + 2]);
        let mut len = 0;
        while len < line.len() && !line[..len].contains(&b'\n') {
            match (&self.terminal).read(&mut line[len..]).await? {
                0 => break,
                n => len += n,
            }
        }
        let text = std::str::from_utf8(&line[..len]).map_err(|_| io::Error::other("the password is not UTF-8"))?;
        Ok(Zeroizing::new(without_line_end(text).to_owned()))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // The terminal is gone when this fails, and its echo with it.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_not_part_of_the_password() {
        assert_eq!(without_line_end("pass word \r\n"), "pass word ");
        assert_eq!(without_line_end("two\n\n"), "two\n");
        assert_eq!(without_line_end("bare"), "bare");
    }

    #[test]
    fn lengths_are_checked_before_a_node_is_asked() {
        assert!(checked(Zeroizing::new(String::new())).is_err());
        assert!(checked(Zeroizing::new("x".repeat(MAX_BYTES))).is_ok());
        assert!(checked(Zeroizing::new("x".repeat(MAX_BYTES + 1))).is_err());
    }
}
