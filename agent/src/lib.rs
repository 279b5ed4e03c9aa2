//! The hive daemon as a library: the shell of sockets, disk and tasks around [`hive_core`].
//!
//! [`agent::run`] is the whole daemon; the binary is a thin wrapper, and tests may embed it.

mod acme;
pub mod agent;
pub mod check;
pub mod control;
mod exec;
pub mod files;
mod frames;
pub mod install;
mod join;
mod keys;
pub mod logs;
pub mod memory;
pub mod metrics;
mod net;
mod node;
mod notify;
pub mod options;
mod peers;
mod portmap;
mod probe;
mod process;
mod punch;
mod random;
mod serve;
mod setup;
pub mod sftp;
#[cfg(feature = "ssh")]
mod ssh;
#[cfg(not(feature = "ssh"))]
#[path = "ssh_left_out.rs"]
mod ssh;
mod store;
pub mod terminal;
mod time;
mod tunnel;
pub mod update;
mod watched;

use std::sync::LazyLock;

use hive_protocol::build::Build;

/// By this mark a node that is offered this binary knows what it is.
static MARK: &str = hive_protocol::build_mark!(env!("CARGO_PKG_VERSION"), env!("HIVE_TARGET"), env!("HIVE_COMMIT"));

/// This build. Read from the mark, so that the two never differ.
pub static BUILD: LazyLock<Build<'static>> = LazyLock::new(|| {
    // Otherwise the compiler may keep the fields and drop the mark.
    let mark = std::hint::black_box(MARK);
    Build::of_mark(mark).unwrap_or_else(|_| unreachable!("the mark is made by the macro that defines it"))
});
