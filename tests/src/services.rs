//! Real servers on a host of the lab: the ones that people reach through a hive.
//!
//! Those of Debian packages are started where they are installed; else the test says that it is left out.

mod http2;
mod miniupnpd;
mod nginx;
mod postgres;
mod redis;
mod sse;
mod sshd;
pub mod websocket;

pub use http2::http2;
pub use miniupnpd::{Miniupnpd, PUBLIC};
pub use nginx::Nginx;
pub use postgres::Postgres;
pub use redis::Redis;
pub use sse::Sse;
pub use sshd::Sshd;

use crate::notice;
use std::path::{Path, PathBuf};

/// A program in one of these folders or on `PATH`; says that `test` is left out where there is none.
fn find(test: &str, program: &str, package: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let mut candidates = folders.iter().cloned().chain(on_path).map(|folder| folder.join(program));
    let found = candidates.find(|candidate| Path::is_file(candidate));
    if found.is_none() {
        notice::left_out(test, &format!("needs `{program}`: install Debian's package {package}"));
    }
    found
}
