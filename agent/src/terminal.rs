//! Reading a secret from the person at the terminal, without showing it.

use std::io::{self, BufRead, IsTerminal, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// One line from standard input, without its end; on a terminal, after a prompt on standard error and without echo.
pub fn read_secret(prompt: &str) -> io::Result<String> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return first_line();
    }
    let mut stderr = io::stderr();
    write!(stderr, "{prompt}: ")?;
    stderr.flush()?;
    let _quiet = Quiet::new()?;
    let line = first_line();
    writeln!(stderr)?;
    line
}

/// The same for a secret that does not exist yet: on a terminal it is asked for twice.
pub fn read_new_secret(prompt: &str) -> io::Result<String> {
    let first = read_secret(prompt)?;
    if io::stdin().is_terminal() && read_secret("The same again")? != first {
        return Err(io::Error::other("the two differ"));
    }
    Ok(first)
}

fn first_line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Echo is off while this lives.
struct Quiet(Termios);

impl Quiet {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // Nothing sensible is left to do when the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
