//! Every decision of a hive node: who is a member, which record holds, whom to dial, which stream to admit, who may
//! log in.
//!
//! Sans I/O: the core is told what happened ([`Event`]) and when ([`Now`]), and says what to do ([`Output`]); its only
//! randomness is the seed it is made with. So a simulation replays from a number, and the shell around it
//! (`hive-agent`) holds no policy.

#![forbid(unsafe_code)]

mod event;

pub use event::*;
