//! The same command as another user of the machine: `nobody`, who owns nothing and may nothing.

use crate::notice;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::Command,
};

/// Debian's `nobody` and `nogroup`.
const NOBODY: u32 = 65534;

/// Whether this process may become another user; if not, says that `test` is left out.
pub fn is_possible(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        notice::left_out(test, "needs root to become another user");
    }
    root
}

/// `command`, which runs `program`, with that program started as nobody. Variables that were set stay set.
///
/// # Panics
/// When `program` is no word of the command.
pub fn run_as(command: &Command, program: &Path) -> Command {
    let mut words = vec![command.get_program()];
    words.extend(command.get_args());
    let place = words.iter().position(|word| *word == program).expect("the program in the command");
    let id = NOBODY.to_string();
    let become_nobody = ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--"];
    let (before, after) = words.split_at(place);
    let mut whole = before.iter().copied().chain(become_nobody.map(AsRef::as_ref)).chain(after.iter().copied());
    let mut changed = Command::new(whole.next().expect("a first word"));
    changed.args(whole);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => changed.env(name, value),
            None => changed.env_remove(name),
        };
    }
    changed
}

/// Gives a folder, and all in it, to nobody.
pub fn give(folder: &Path) {
    chown(folder, Some(NOBODY), Some(NOBODY)).expect("root may give away");
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            give(&path);
        } else {
            chown(&path, Some(NOBODY), Some(NOBODY)).expect("root may give away");
        }
    }
}

/// Lets everybody pass through a folder, without a look at what is in it.
pub fn open_way(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).expect("an own folder");
}
