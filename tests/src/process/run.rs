//! A command that is run to its end, with its outputs kept apart.

use super::wait_for_end;
use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// What a command that has ended left.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command, for messages.
    pub command: String,
    /// Its exit status; `None` when a signal ended it.
    pub status: Option<i32>,
    /// Its standard output, as text.
    pub stdout: String,
    /// Its standard error, as text.
    pub stderr: String,
}

impl Output {
    /// Its standard output, when it succeeded.
    ///
    /// # Panics
    /// When its status is not 0, with what it printed.
    pub fn success(self) -> String {
        assert_eq!(self.status, Some(0), "{self:#?}");
        self.stdout
    }

    /// Its standard error, when it failed with this status.
    ///
    /// # Panics
    /// When its status is another, with what it printed.
    pub fn failure(self, status: i32) -> String {
        assert_eq!(self.status, Some(status), "{self:#?}");
        self.stderr
    }
}

/// Runs `command` with these bytes on its standard input and waits for its end.
///
/// # Panics
/// When it cannot be started or has not ended `within` this time; it is killed then.
pub fn run(mut command: Command, stdin: &[u8], within: Duration) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn();
    let mut child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let (mut input, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let out = scope.spawn(|| collect(out));
        let err = scope.spawn(|| collect(err));
        scope.spawn(move || {
            // Closed when this thread ends. A command that reads none of it is right to.
            let _ = input.take().map(|mut pipe| pipe.write_all(stdin));
        });
        let ended = wait_for_end(&mut child, within);
        if ended.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let output = Output {
            command: format!("{command:?}"),
            status: ended.and_then(|status| status.code()),
            stdout: out.join().expect("a reader does not panic"),
            stderr: err.join().expect("a reader does not panic"),
        };
        assert!(ended.is_some(), "not ended within {within:?}: {output:#?}");
        output
    })
}

fn collect(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const SOON: Duration = Duration::from_secs(60);

    #[test]
    fn keeps_outputs_and_status_apart() {
        let output = run(sh("cat; echo bad >&2; exit 3"), b"good", SOON);
        assert_eq!(output.stdout, "good");
        assert_eq!(output.failure(3), "bad\n");
    }

    #[test]
    #[should_panic(expected = "not ended within")]
    fn kills_what_hangs() {
        run(sh("exec sleep 1000"), b"", Duration::from_millis(50));
    }

    #[test]
    #[should_panic(expected = "status: Some(\n        1,")]
    fn success_shows_a_failure() {
        run(sh("exit 1"), b"", SOON).success();
    }

    #[test]
    fn takes_more_than_a_pipe_holds() {
        let big = vec![b'x'; 1 << 20];
        assert_eq!(run(sh("cat"), &big, SOON).success().len(), big.len());
        run(sh("exit 0"), &big, SOON).success();
    }
}
