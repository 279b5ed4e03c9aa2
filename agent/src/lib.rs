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
mod join;
mod keys;
pub mod logs;
pub mod memory;
pub mod metrics;
mod net;
mod node;
pub mod options;
mod peers;
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
mod watched;

pub use exec::run as block_on;

/// Version of this agent.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Target triple it was built for.
pub const TARGET: &str = env!("HIVE_TARGET");
/// Commit it was built from, or `unknown`.
pub const COMMIT: &str = env!("HIVE_COMMIT");
