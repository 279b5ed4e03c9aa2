//! Why `hivectl` ends without having done what it was asked: a status for scripts, a sentence and, where something can
//! be done about it, a hint for people. Owns the exit statuses; never prints.

use std::io;

use hive_protocol::message::{Failure, FailureCode};

use crate::format::clean;

/// The statuses `hivectl` ends with, besides 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// The operation failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// A login is needed, or it was refused.
    NotAuthorised = 3,
    /// The node, or the local agent on the way to it, cannot be reached.
    Unreachable = 4,
    /// Ctrl-C at a prompt: 128 + SIGINT, as a shell would report it.
    Interrupted = 130,
    /// Nobody reads standard output any more: 128 + SIGPIPE. Ends without a word.
    BrokenPipe = 141,
}

/// A failed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What the process ends with.
    pub status: Status,
    /// What went wrong: a sentence without a full stop.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// What commands return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The operation failed.
    pub fn failed(what: impl Into<String>) -> Self {
        Self::new(Status::Failed, what)
    }

    /// The command line makes no sense.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Status::Usage, what)
    }

    /// Not authorised.
    pub fn not_authorised(what: impl Into<String>) -> Self {
        Self::new(Status::NotAuthorised, what)
    }

    /// Cannot be reached.
    pub fn unreachable(what: impl Into<String>) -> Self {
        Self::new(Status::Unreachable, what)
    }

    /// A person changed their mind.
    pub fn interrupted() -> Self {
        Self::new(Status::Interrupted, "interrupted")
    }

    /// Writing to standard output failed.
    pub fn stdout(error: &io::Error) -> Self {
        let status = if error.kind() == io::ErrorKind::BrokenPipe { Status::BrokenPipe } else { Status::Failed };
        Self::new(status, format!("cannot write to standard output: {error}"))
    }

    /// The same with a hint.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Whether there is anything to say about it.
    pub fn is_silent(&self) -> bool {
        matches!(self.status, Status::Interrupted | Status::BrokenPipe)
    }

    fn new(status: Status, what: impl Into<String>) -> Self {
        Self { status, what: what.into(), hint: None }
    }
}

impl From<Failure> for Error {
    /// The texts come from another machine, so they are made safe for a terminal.
    fn from(failure: Failure) -> Self {
        let status = match failure.code {
            FailureCode::Failed | FailureCode::Version | FailureCode::Busy => Status::Failed,
            FailureCode::Usage => Status::Usage,
            FailureCode::NotAuthorised => Status::NotAuthorised,
            FailureCode::Unreachable => Status::Unreachable,
        };
        Self { status, what: clean(&failure.what).into_owned(), hint: failure.hint.map(|h| clean(&h).into_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_a_node_keep_their_meaning_and_lose_their_escapes() {
        let failure = Failure::new(FailureCode::Unreachable, "no path to \u{1b}[31mshed").hint("start\nit");
        let error = Error::from(failure);
        assert_eq!(error.status as u8, 4);
        assert_eq!(error.what, "no path to \u{fffd}[31mshed");
        assert_eq!(error.hint.as_deref(), Some("start\u{fffd}it"));
    }

    #[test]
    fn a_reader_that_went_away_is_no_news() {
        let gone = Error::stdout(&io::ErrorKind::BrokenPipe.into());
        assert!(gone.is_silent() && gone.status as u8 == 141);
        assert!(!Error::stdout(&io::ErrorKind::StorageFull.into()).is_silent());
    }
}
