//! `proxy --kind ssh`: from `--target USER:PASSWORD` and a file of keys to a request. The password is hashed here: the
//! node is told no more than its hash.

use std::path::Path;

use hive_protocol::{
    Direction, ProxyKind, SshLogin,
    message::{BindAddr, ProxyRequest},
    password::PasswordHashed,
};
use rand::{TryRng, rngs::SysRng};

use super::Proxy;
use crate::{
    cmds::required,
    error::{Error, Result},
    out::Out,
    prompt,
};

/// Marks a password that is hashed already, as in the agent's own options.
const HASHED: &str = "hash_";

/// The request that the flags make.
pub async fn request(out: Out, args: &Proxy) -> Result<ProxyRequest> {
    check(args)?;
    let port = required(args.port, "--port PORT")?;
    let keys = args.authorized_keys.as_deref().map_or_else(|| Ok(Vec::new()), keys)?;
    let target = required(args.target.as_deref(), "--target USER:PASSWORD")?;
    let (user, password) = match target.split_once(':') {
        Some((user, password)) => (user, Some(password.to_owned())),
        None if keys.is_empty() => (target, Some(asked(target).await?)),
        None => (target, None),
    };
    let strangers = args.bind.is_some_and(|bind| !bind.is_loopback());
    if let Some(password) = password.as_deref().filter(|text| strangers && !text.starts_with(HASHED)) {
        prompt::warn_if_weak(out, password);
    }
    let password = password.map(|password| hashed(&password)).transpose()?;
    let login = SshLogin { user: user.to_owned(), password, keys };
    Ok(ProxyRequest { bind: args.bind.map(BindAddr), ..server(login, port, args.temporary) })
}

/// An SSH server on loopback.
pub fn server(login: SshLogin, port: u16, temporary: bool) -> ProxyRequest {
    ProxyRequest {
        direction: Direction::Egress,
        kind: ProxyKind::Ssh,
        port,
        peer: String::new(),
        peer_port: 0,
        network: None,
        bind: None,
        host: None,
        temporary,
        key_prefix: None,
        resume: None,
        sni: None,
        ssh: Some(login),
        path_rule: None,
    }
}

fn check(args: &Proxy) -> Result<()> {
    if args.direction != Some(Direction::Egress) || args.origin.is_some() || args.host.is_some() {
        return Err(Error::usage("--kind ssh goes with --direction egress, --target USER:PASSWORD and --port PORT"));
    }
    let tls = args.tls.is_some() || args.key_prefix.is_some() || args.sni.is_some();
    if tls || args.resume.is_some() || args.path.is_some() {
        return Err(Error::usage(
            "--kind ssh goes with none of --tls, --sni, --resume and --path: the connection ends at the node",
        ));
    }
    Ok(())
}

async fn asked(user: &str) -> Result<String> {
    let asked = prompt::ask_new(&format!("Password for {user} over SSH: ")).await?;
    let nobody = || {
        Error::failed("--target names no password, and there is no terminal to ask at")
            .hint("give USER:hash_… as `hive-agent hash-password` prints it, or --authorized-keys FILE")
    };
    asked.map(|password| password.to_string()).ok_or_else(nobody)
}

fn hashed(password: &str) -> Result<String> {
    let unusable = |e: hive_protocol::password::PasswordError| Error::usage(format!("--target: {e}"));
    if let Some(phc) = password.strip_prefix(HASHED) {
        return phc.parse::<PasswordHashed>().map(|hashed| hashed.to_phc()).map_err(unusable);
    }
    let mut salt = [0; 16];
    SysRng.try_fill_bytes(&mut salt).map_err(|e| Error::failed(format!("no randomness from the system: {e}")))?;
    PasswordHashed::new(password, salt).map(|hashed| hashed.to_phc()).map_err(unusable)
}

/// The keys of a file in the format of `authorized_keys`.
fn keys(file: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::failed(format!("{}: {e}", file.display())))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<String> = lines.map(str::to_owned).collect();
    match keys.is_empty() {
        true => Err(Error::usage(format!("{} holds no keys", file.display()))),
        false => Ok(keys),
    }
}
