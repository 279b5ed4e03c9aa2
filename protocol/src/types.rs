//! What nodes tell their users: tables, states, counters. Field names are the keys of `hivectl --json`.

mod node;
mod proxy;
mod status;

pub use node::*;
pub use proxy::*;
pub use status::*;
