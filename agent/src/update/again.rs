//! Starting an agent's binary with what this process was started with.

use std::{env, ffi::OsString, io, os::unix::process::CommandExt, path::Path, process::Command};

use super::Place;

/// Becomes what stands at the executable's place, as the same process. Returns only if that fails.
pub fn exec(place: &Place) -> io::Error {
    command(place.executable()).exec()
}

/// A command with this process' arguments and environment. A credentials file that was removed since then is not named
/// any more: what it had is in the state.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(without_lost_file(env::args_os().skip(1)));
    if env::var_os("HIVE_CREDENTIALS").is_some_and(|file| !Path::new(&file).exists()) {
        command.env_remove("HIVE_CREDENTIALS");
    }
    command
}

fn without_lost_file(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept: Vec<OsString> = Vec::new();
    for arg in args {
        let lost = kept.last().is_some_and(|before| before == "--credentials") && !Path::new(&arg).exists();
        if lost { drop(kept.pop()) } else { kept.push(arg) }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credentials_file_that_is_gone_is_not_asked_for() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        let kept = |line: &str| without_lost_file(words(line).into_iter());
        assert_eq!(kept("--name x --credentials /no/such/file --log info"), words("--name x --log info"));
        assert_eq!(kept("--credentials /dev/null --name x"), words("--credentials /dev/null --name x"));
    }
}
