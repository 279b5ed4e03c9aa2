//! `shell --ssh`: OpenSSH's own client to a node, through three proxies that live as long as this command.
//!
//! An SSH server on the node, a port here that leads to it, and the node's leave for that. All three belong to this
//! command's conversations, so the agents remove them when it ends, however it ends. A key made for this one session
//! logs in, and the host key is the one that the node named itself over the conversation, which proves who it is.

use std::{
    fs::{self, DirBuilder, File},
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use async_signal::{Signal, Signals};

use futures::StreamExt;
use hive_protocol::{
    Direction, NodeId, ProxyId, ProxyInfo, ProxyKind, SshHost, SshLogin,
    message::{ProxyRequest, Request},
};
use serde_json::json;
use smol::{Timer, future::or};

use crate::{
    app::App,
    args::Target,
    client::Client,
    cmds::{exec::Shell, proxy},
    error::{Error, Result},
    terminal,
};

/// The user to log in as: whoever logs in is the agent's user.
const USER: &str = "hive";
/// How long the removal of the proxies may take; the agents remove them anyhow.
const FAREWELL: Duration = Duration::from_secs(3);
/// What the name of the session's folder begins with; the process id follows.
const SCRATCH: &str = "hivectl-ssh-";
/// As a shell has it for a program that was killed.
const BY_SIGNAL: i32 = 128;

/// Makes the proxies, then runs the client or prints its command.
pub async fn run(app: &App, args: &Shell) -> Result<()> {
    if app.is_direct() {
        return Err(Error::usage("--ssh needs the local agent, so it does not go with --direct"));
    }
    // Before there is anything to be cleaned up.
    let wanted = [Signal::Int, Signal::Quit, Signal::Term, Signal::Hup];
    let mut signals = Signals::new(wanted).map_err(|e| Error::failed(format!("cannot wait for signals: {e}")))?;
    let scratch = Scratch::new().map_err(|e| Error::failed(format!("no folder for the session's key: {e}")))?;
    let key = scratch.key()?;
    let mut way = Way::open(app, args, key).await?;
    let outcome = match scratch.command(&way) {
        Ok(command) if args.nc => print(app, &mut way, &command, &mut signals).await,
        Ok(command) => client(app, command, &mut signals).await,
        Err(e) => Err(Error::failed(format!("cannot write what ssh needs: {e}"))),
    };
    way.close().await;
    outcome
}

/// The way to a node's SSH server.
struct Way {
    /// Conversations, each with the proxies that were made in it.
    ends: Vec<(Client, Vec<ProxyId>)>,
    node: NodeId,
    name: String,
    host: SshHost,
    /// Where the client connects.
    port: u16,
}

impl Way {
    async fn open(app: &App, args: &Shell, key: String) -> Result<Self> {
        let mut far = app.connect(&args.target()).await?;
        let login = SshLogin { user: USER.to_owned(), password: None, keys: vec![key] };
        let server = far.add_proxy(proxy::ssh::server(login, 0, true)).await?;
        let info = listed(&mut far, server).await?;
        let host = info.ssh.ok_or_else(|| Error::failed(format!("{} names no host key", far.name)))?;
        let (node, name) = (far.node, far.name.to_string());
        let mut near = app.connect(&Target { user: args.user.clone(), ..Target::default() }).await?;
        if near.node == node {
            return Ok(Self { ends: vec![(far, vec![server])], node, name, host, port: info.port });
        }
        let egress = near.add_proxy(tunnel(args, Direction::Egress, (node, info.port), 0)).await?;
        let port = listed(&mut near, egress).await?.port;
        let ingress = far.add_proxy(tunnel(args, Direction::Ingress, (near.node, port), info.port)).await?;
        let ends = vec![(near, vec![egress]), (far, vec![ingress, server])];
        Ok(Self { ends, node, name, host, port })
    }

    /// Removes the proxies, as far as anybody still listens.
    async fn close(&mut self) {
        let removed = async {
            for (client, proxies) in &mut self.ends {
                for id in std::mem::take(proxies) {
                    // The conversation's end removes what this does not.
                    let _ = client.done(Request::ProxyRemove { id }).await;
                }
            }
        };
        let late = async {
            Timer::after(FAREWELL).await;
        };
        or(removed, late).await;
    }

    /// Waits until one of the agents ends its conversation: then its proxies are gone.
    async fn broken(&mut self) -> Error {
        let ends = self.ends.iter_mut().map(|(client, _)| Box::pin(client.closed()));
        futures::future::select_all(ends).await.0
    }
}

async fn listed(client: &mut Client, id: ProxyId) -> Result<ProxyInfo> {
    let found = client.proxies().await?.into_iter().find(|proxy| proxy.id == id);
    found.ok_or_else(|| Error::failed(format!("{} lost the proxy that was just made", client.name)))
}

fn tunnel(args: &Shell, direction: Direction, (peer, peer_port): (NodeId, u16), port: u16) -> ProxyRequest {
    ProxyRequest {
        direction,
        kind: ProxyKind::Tcp,
        port,
        peer: peer.to_string(),
        peer_port,
        network: args.network.clone(),
        bind: None,
        host: None,
        temporary: true,
        key_prefix: None,
        resume: None,
        sni: None,
        ssh: None,
        path_rule: None,
    }
}

/// The command that reaches the node while this one runs.
async fn print(app: &App, way: &mut Way, command: &[String], signals: &mut Signals) -> Result<()> {
    let value = json!({
        "command": command, "peer_id": way.node, "port": way.port, "user": USER, "host_key": way.host.key,
        "fingerprint": way.host.fingerprint,
    });
    app.out.show(&value, || format!("{}\n", command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")))?;
    app.out.warn(&format!("this command leads to {} until this one ends (Ctrl-C)", way.name));
    let ended = async {
        signals.next().await;
        Ok(())
    };
    or(ended, async { Err(way.broken().await) }).await
}

/// Runs the client at our terminal. Ctrl-C is for it alone.
async fn client(app: &App, command: Vec<String>, signals: &mut Signals) -> Result<()> {
    let Some((program, words)) = command.split_first() else { return Ok(()) };
    // Without a terminal here there is none to be had there, which ssh would complain about.
    let words = terminal::of_stdin().map_or(Some("-T"), |_| None).into_iter().chain(words.iter().map(String::as_str));
    let mut child = smol::process::Command::new(program).args(words).kill_on_drop(true).spawn().map_err(no_ssh)?;
    let told_to_end = async {
        while let Some(signal) = signals.next().await {
            if matches!(signal, Ok(Signal::Term | Signal::Hup)) {
                return Err(Error::interrupted());
            }
        }
        std::future::pending().await
    };
    let ended = async { child.status().await.map_err(|e| Error::failed(format!("ssh: {e}"))) };
    let status = or(ended, told_to_end).await?;
    let by_signal = || std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or_default() + BY_SIGNAL;
    app.pass_on(u8::try_from(status.code().unwrap_or_else(by_signal)).unwrap_or(u8::MAX));
    Ok(())
}

fn no_ssh(error: std::io::Error) -> Error {
    Error::failed(format!("cannot run OpenSSH's programs: {error}"))
        .hint("install openssh-client, or use `hivectl shell` without --ssh")
}

/// For a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A folder for nobody else, with the session's key and the host key. Gone with this command.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|v| !v.is_empty()).map(PathBuf::from);
        let parent = runtime.filter(|path| path.is_dir()).unwrap_or_else(std::env::temp_dir);
        tidy(&parent);
        let path = parent.join(format!("{SCRATCH}{}", std::process::id()));
        // One that is left over from a process of this number that was killed would be in the way.
        let _ = fs::remove_dir_all(&path);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    /// A key for this session; answers its public half.
    fn key(&self) -> Result<String> {
        let mut command = Command::new("ssh-keygen");
        let made = command.args(["-q", "-t", "ed25519", "-N", "", "-C", "hivectl", "-f", &self.path("key")]).output();
        let made = made.map_err(no_ssh)?;
        let public = fs::read_to_string(self.path("key.pub")).unwrap_or_default();
        match (made.status.success(), public.trim()) {
            (true, public) if !public.is_empty() => Ok(public.to_owned()),
            _ => Err(Error::failed(format!("ssh-keygen: {}", String::from_utf8_lossy(&made.stderr).trim()))),
        }
    }

    /// The command that logs in, and the file it pins the host key with.
    fn command(&self, way: &Way) -> std::io::Result<Vec<String>> {
        let known = self.path("known_hosts");
        File::create(Path::new(&known))?.write_all(format!("{} {}\n", way.node, way.host.key).as_bytes())?;
        let options = [
            format!("HostKeyAlias={}", way.node),
            format!("UserKnownHostsFile={known}"),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            "UpdateHostKeys=no".to_owned(),
            format!("IdentityFile={}", self.path("key")),
            "IdentitiesOnly=yes".to_owned(),
            "PreferredAuthentications=publickey".to_owned(),
        ];
        let words = ["ssh", "-F", "none", "-p", &way.port.to_string()].map(str::to_owned).into_iter();
        let options = options.into_iter().flat_map(|option| ["-o".to_owned(), option]);
        Ok(words.chain(options).chain([format!("{USER}@127.0.0.1")]).collect())
    }
}

/// Removes what commands that were killed outright have left. Their keys open nothing any more.
fn tidy(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(SCRATCH)).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Another user's stays.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed opens nothing any more.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_command_left_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let (left, live) = (parent.path().join("hivectl-ssh-4194305"), parent.path().join("hivectl-ssh-1"));
        [&left, &live].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
        tidy(parent.path());
        assert!(!left.exists() && live.exists(), "no process has a number beyond the highest");
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("StrictHostKeyChecking=yes"), "StrictHostKeyChecking=yes");
        assert_eq!(quoted("it's here"), r"'it'\''s here'");
        assert_eq!(quoted(""), "''");
    }
}
