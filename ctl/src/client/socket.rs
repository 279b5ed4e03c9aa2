//! The way to the local agent: where its socket is by default, and what to do when it does not answer there.

use std::{
    io,
    path::{Path, PathBuf},
};

use smol::net::unix::UnixStream;

use crate::error::{Error, Result};

const SYSTEM_SOCKET: &str = "/run/hive/agent.sock";

/// Connects to the agent at `given`, or where an agent listens by default.
pub async fn connect(given: Option<&Path>) -> Result<UnixStream> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => default_path(rustix::process::geteuid().is_root(), |name| std::env::var_os(name).map(PathBuf::from)),
    };
    UnixStream::connect(&path).await.map_err(|e| explain(&path, &e))
}

/// The default of `hive-agent --socket`. A user without an agent of their own gets the system's.
fn default_path(root: bool, env: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let system = PathBuf::from(SYSTEM_SOCKET);
    if root {
        return system;
    }
    let set = |name| env(name).filter(|v| !v.as_os_str().is_empty());
    let home_state = || set("HOME").map(|home| home.join(".local/state"));
    let state = || set("HIVE_STATE").or_else(|| set("XDG_STATE_HOME").or_else(home_state).map(|s| s.join("hive")));
    let own =
        set("XDG_RUNTIME_DIR").map(|run| run.join("hive/agent.sock")).or_else(|| Some(state()?.join("agent.sock")));
    match own {
        Some(own) if own.exists() || !system.exists() => own,
        _ => system,
    }
}

fn explain(path: &Path, error: &io::Error) -> Error {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Error::unreachable(format!("no agent is running at {shown}"))
                .hint("start `hive-agent`, or name its socket with --socket PATH or HIVE_SOCKET")
        }
        io::ErrorKind::PermissionDenied => Error::not_authorised(format!("no access to the agent's socket {shown}"))
            .hint("run hivectl as root or as the agent's own user"),
        _ => Error::unreachable(format!("cannot connect to the agent at {shown}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    fn resolve(root: bool, vars: &[(&str, &str)]) -> String {
        let env = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v));
        default_path(root, env).display().to_string()
    }

    #[test]
    fn the_socket_is_where_the_agent_puts_it() {
        if Path::new(SYSTEM_SOCKET).exists() {
            return;
        }
        assert_eq!(resolve(true, &[("XDG_RUNTIME_DIR", "/run/user/0")]), SYSTEM_SOCKET);
        assert_eq!(resolve(false, &[("XDG_RUNTIME_DIR", "/r"), ("HOME", "/h")]), "/r/hive/agent.sock");
        assert_eq!(resolve(false, &[("HIVE_STATE", "/s"), ("HOME", "/h")]), "/s/agent.sock");
        assert_eq!(resolve(false, &[("XDG_STATE_HOME", "/x"), ("HOME", "/h")]), "/x/hive/agent.sock");
        assert_eq!(resolve(false, &[("XDG_RUNTIME_DIR", ""), ("HOME", "/h")]), "/h/.local/state/hive/agent.sock");
        assert_eq!(resolve(false, &[]), SYSTEM_SOCKET);
    }

    #[test]
    fn an_agent_that_is_not_there_is_told_from_one_that_is_closed_to_us() {
        let home = tempfile::tempdir().unwrap();
        let missing = smol::block_on(connect(Some(&home.path().join("agent.sock")))).unwrap_err();
        assert_eq!(missing.status, Status::Unreachable);
        assert!(missing.what.starts_with("no agent is running at ") && missing.hint.is_some());
        let denied = explain(Path::new("/x"), &io::ErrorKind::PermissionDenied.into());
        assert_eq!(denied.status, Status::NotAuthorised);
    }
}
