//! The command line of `hive-agent`, its environment variables and its credentials file.
//!
//! Everything a person can get wrong here ends in one sentence that says what to do; nothing secret is ever echoed.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use argh::FromArgs;
use hive_core::RelayMode;
use hive_protocol::{NetworkName, NodeName, password::PasswordHashed};
use libp2p::Multiaddr;

use crate::update::ReleaseKey;

/// Runs one node of a hive: a private, federated network of machines that carry tunnels for each other.
#[derive(FromArgs, Debug)]
#[argh(
    help_triggers("-h", "--help", "help"),
    example = "First node:\n  hive-agent --network lab:correct-horse --name gpu-box",
    example = "Another one, with secrets kept out of the process list:\n  hive-agent --credentials /etc/hive/credentials",
    note = "Every option has an environment variable: HIVE_STATE, HIVE_LISTEN, HIVE_ANNOUNCE, HIVE_NETWORK, HIVE_ADMIN, HIVE_CREDENTIALS, HIVE_NAME, HIVE_SOCKET, HIVE_RELAY, HIVE_PORT_MAPPING, HIVE_UPDATE_KEY, RUST_LOG. Options win."
)]
pub struct Options {
    /// state folder (default: /var/lib/hive as root, else ~/.local/state/hive)
    #[argh(option, arg_name = "dir")]
    pub state: Option<PathBuf>,
    /// address to listen on, repeatable (default: TCP and QUIC on port 4180 of all addresses, as in /ip4/0.0.0.0/tcp/4180); port 0 takes any free port and keeps it
    #[argh(option, arg_name = "multiaddr")]
    pub listen: Vec<String>,
    /// extra address to publish, repeatable: a forwarded port of a router, or a DNS name
    #[argh(option, arg_name = "multiaddr")]
    pub announce: Vec<String>,
    /// network to join or create, NAME:PASSWORD, repeatable; NAME alone makes a strong password and prints it once
    #[argh(option, arg_name = "name:password")]
    pub network: Vec<String>,
    /// the same as --network
    #[argh(option, arg_name = "name:password")]
    pub dnc: Vec<String>,
    /// the admin account, USER:PASSWORD or USER:hash_… (see hash-password); another password than before ends all sessions
    #[argh(option, arg_name = "user:password")]
    pub admin: Option<String>,
    /// the same as --admin
    #[argh(option, arg_name = "user:password")]
    pub rc: Option<String>,
    /// file with lines `network NAME:PASSWORD` and `admin USER:PASSWORD`, readable by this user alone
    #[argh(option, arg_name = "file")]
    pub credentials: Option<PathBuf>,
    /// node name (default: the host name)
    #[argh(option)]
    pub name: Option<String>,
    /// local control socket (default: /run/hive/agent.sock as root, else under $XDG_RUNTIME_DIR or the state folder)
    #[argh(option, arg_name = "path")]
    pub socket: Option<PathBuf>,
    /// serve as relay for members: auto, always or never
    #[argh(option, arg_name = "mode")]
    pub relay: Option<String>,
    /// have the router lead a public port here (PCP, NAT-PMP): auto, where it is needed, or never
    #[argh(option, arg_name = "mode")]
    pub port_mapping: Option<String>,
    /// take new agents (hivectl update-node) only with a signature of this Ed25519 key: a PEM file of the public key, or its base64
    #[argh(option, arg_name = "key")]
    pub update_key: Option<String>,
    /// what to log, an env_logger filter such as `debug` or `hive_agent=debug,info` (default: info)
    #[argh(option, arg_name = "filter")]
    pub log: Option<String>,
    /// print version, target triple and commit
    #[argh(switch)]
    pub version: bool,
    /// something else than running
    #[argh(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of running.
#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub enum Command {
    /// `hash-password`
    HashPassword(HashPassword),
    /// `check`
    Check(Check),
    /// `sftp-server`
    SftpServer(SftpServer),
    /// `install`
    Install(Install),
    /// `uninstall`
    Uninstall(Uninstall),
}

/// Print the hash of a password, for --admin USER:hash_…
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "hash-password",
    help_triggers("-h", "--help", "help"),
    note = "The password is read from the terminal, or from standard input when that is no terminal. Keep the hash as carefully as the password: with it one can log in."
)]
pub struct HashPassword {}

/// Open the state, verify it, print what it holds, and exit
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "check",
    help_triggers("-h", "--help", "help"),
    example = "hive-agent --state /var/lib/hive check"
)]
pub struct Check {}

/// Serve files to one SFTP client on standard input and output: what the agent's SSH server runs for scp and sftp
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "sftp-server", help_triggers("-h", "--help", "help"))]
pub struct SftpServer {}

/// Install this agent as a service of this machine, with the options given before this word, and start it
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "install",
    help_triggers("-h", "--help", "help"),
    example = "sudo hive-agent --network lab:correct-horse --name gpu-box install",
    note = "For systemd, OpenRC and procd (OpenWrt). Options are kept in /etc/hive/environment, passwords in /etc/hive/credentials, which only root can read. Given again it replaces the program and what is given, and keeps the rest."
)]
pub struct Install {
    /// only show what would be written and run
    #[argh(switch)]
    pub dry_run: bool,
}

/// Stop the service and remove it from this machine; the state stays unless --purge is given
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "uninstall",
    help_triggers("-h", "--help", "help"),
    example = "sudo hive-agent uninstall\nsudo hive-agent uninstall --purge --yes"
)]
pub struct Uninstall {
    /// also remove the settings, the passwords and the state: the node's identity is lost
    #[argh(switch)]
    pub purge: bool,
    /// do not ask
    #[argh(switch)]
    pub yes: bool,
    /// only show what would be removed and run
    #[argh(switch)]
    pub dry_run: bool,
}

/// An option, variable or line that makes no sense, in a sentence that never repeats a secret.
#[derive(Debug, thiserror::Error)]
pub enum OptionError {
    /// The value of an option.
    #[error("{option}: {problem}")]
    Value {
        /// Which option.
        option: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The credentials file.
    #[error("credentials file {}: {problem}", .file.display())]
    Credentials {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// Everything an agent is started with, checked.
#[derive(Debug)]
pub struct Settings {
    /// State folder.
    pub state: PathBuf,
    /// Addresses to listen on; none given is none here.
    pub listen: Vec<Multiaddr>,
    /// Addresses to publish besides.
    pub announce: Vec<Multiaddr>,
    /// Networks to join; without a password, one is made unless the network is known.
    pub networks: Vec<(NetworkName, Option<String>)>,
    /// Admin account.
    pub admin: Option<(String, AdminPassword)>,
    /// Node name.
    pub name: Option<NodeName>,
    /// Control socket.
    pub socket: PathBuf,
    /// Whether to relay for members.
    pub relay: RelayMode,
    /// Whether to ask the router for a public port.
    pub port_mapping: bool,
    /// Whose signature a new agent must have.
    pub update_key: Option<ReleaseKey>,
}

/// The admin's password, or its hash.
pub enum AdminPassword {
    /// In the clear.
    Plain(String),
    /// Hashed before.
    Hashed(PasswordHashed),
}

impl std::fmt::Debug for AdminPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminPassword(…)")
    }
}

impl Options {
    /// Joins options, environment and credentials file; options win over the environment.
    pub fn settings(&self) -> Result<Settings, OptionError> {
        let credentials = self.credentials.clone().or_else(|| env_path("HIVE_CREDENTIALS"));
        let file = credentials.as_deref().map(Credentials::read).transpose()?.unwrap_or_default();
        let state = self.state_folder();
        Ok(Settings {
            listen: addresses("--listen", &self.listen, "HIVE_LISTEN")?,
            announce: addresses("--announce", &self.announce, "HIVE_ANNOUNCE")?,
            networks: self.networks(&file)?,
            admin: self.admin(&file)?,
            name: self.node_name()?,
            socket: self.socket.clone().or_else(|| env_path("HIVE_SOCKET")).unwrap_or_else(|| default_socket(&state)),
            relay: self.relay_mode()?,
            port_mapping: self.maps_ports()?,
            update_key: self.release_key()?,
            state,
        })
    }

    /// The state folder, by option, environment, or who runs this.
    pub fn state_folder(&self) -> PathBuf {
        self.state.clone().or_else(|| env_path("HIVE_STATE")).unwrap_or_else(default_state)
    }

    fn networks(&self, file: &Credentials) -> Result<Vec<(NetworkName, Option<String>)>, OptionError> {
        let mut given: Vec<_> = self.network.iter().chain(&self.dnc).map(|text| ("--network", text.clone())).collect();
        if given.is_empty() {
            given.extend(env_text("HIVE_NETWORK").map(|text| ("HIVE_NETWORK", text)));
        }
        given.extend(file.networks.iter().map(|text| (IN_CREDENTIALS, text.clone())));
        given.iter().map(|(option, text)| parse_network(option, text)).collect()
    }

    fn admin(&self, file: &Credentials) -> Result<Option<(String, AdminPassword)>, OptionError> {
        let given = self.admin.clone().or_else(|| self.rc.clone()).map(|text| ("--admin", text));
        let given = given.or_else(|| env_text("HIVE_ADMIN").map(|text| ("HIVE_ADMIN", text)));
        let given = given.or_else(|| file.admin.clone().map(|text| (IN_CREDENTIALS, text)));
        given.map(|(option, text)| parse_admin(option, &text)).transpose()
    }

    fn node_name(&self) -> Result<Option<NodeName>, OptionError> {
        let given = self.name.clone().map(|text| ("--name", text));
        let given = given.or_else(|| env_text("HIVE_NAME").map(|text| ("HIVE_NAME", text)));
        let parsed = |(option, text): (&'static str, String)| {
            let name: NodeName = parse(option, &text)?;
            name.check_own().map_err(|e| value(option, e.to_string()))?;
            Ok(name)
        };
        given.map(parsed).transpose()
    }

    fn release_key(&self) -> Result<Option<ReleaseKey>, OptionError> {
        let given = self.update_key.clone().or_else(|| env_text("HIVE_UPDATE_KEY"));
        given.map(|text| parse("--update-key", &text)).transpose()
    }

    fn relay_mode(&self) -> Result<RelayMode, OptionError> {
        match self.relay.clone().or_else(|| env_text("HIVE_RELAY")).as_deref() {
            None | Some("auto") => Ok(RelayMode::Auto),
            Some("always") => Ok(RelayMode::Always),
            Some("never") => Ok(RelayMode::Never),
            Some(other) => Err(value("--relay", format!("`{other}` is not auto, always or never"))),
        }
    }

    fn maps_ports(&self) -> Result<bool, OptionError> {
        match self.port_mapping.clone().or_else(|| env_text("HIVE_PORT_MAPPING")).as_deref() {
            None | Some("auto") => Ok(true),
            Some("never") => Ok(false),
            Some(other) => Err(value("--port-mapping", format!("`{other}` is not auto or never"))),
        }
    }
}

/// Where a value comes from that no option gave.
const IN_CREDENTIALS: &str = "the credentials file";

fn value(option: &'static str, problem: impl Into<String>) -> OptionError {
    OptionError::Value { option, problem: problem.into() }
}

fn parse<T: FromStr<Err: std::fmt::Display>>(option: &'static str, text: &str) -> Result<T, OptionError> {
    text.parse().map_err(|e: T::Err| value(option, e.to_string()))
}

fn addresses(option: &'static str, given: &[String], variable: &'static str) -> Result<Vec<Multiaddr>, OptionError> {
    let from_env = env_text(variable).filter(|_| given.is_empty());
    let split = from_env.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|text| !text.is_empty());
    let texts = given.iter().map(|text| (option, text.as_str())).chain(split.map(|text| (variable, text)));
    let example = if option == "--announce" { "/dns4/home.example.org/tcp/4180" } else { "/ip4/0.0.0.0/tcp/4180" };
    let parsed = |(from, text): (&'static str, &str)| {
        text.parse()
            .map_err(|e| value(from, format!("`{text}` is not a multiaddress ({e}); write for example {example}")))
    };
    texts.map(parsed).collect()
}

/// `NAME:PASSWORD`, or `NAME`: the first colon splits.
fn parse_network(option: &'static str, text: &str) -> Result<(NetworkName, Option<String>), OptionError> {
    let (name, password) = match text.split_once(':') {
        Some((_, "")) => return Err(value(option, "the password is empty; leave out the colon to have one made")),
        Some((name, password)) => (name, Some(password.to_owned())),
        None => (text, None),
    };
    Ok((parse(option, name)?, password))
}

fn parse_admin(option: &'static str, text: &str) -> Result<(String, AdminPassword), OptionError> {
    let (user, password) = text.split_once(':').ok_or_else(|| value(option, "write USER:PASSWORD or USER:hash_…"))?;
    // A user name obeys the same rules as a node's name: it appears in listings and messages.
    let user = parse::<NodeName>(option, user)?.to_string();
    let password = match password.strip_prefix("hash_") {
        Some(phc) => AdminPassword::Hashed(parse(option, phc)?),
        None if password.is_empty() => return Err(value(option, "the password is empty")),
        None => AdminPassword::Plain(password.to_owned()),
    };
    Ok((user, password))
}

/// What a credentials file says.
#[derive(Default)]
struct Credentials {
    networks: Vec<String>,
    admin: Option<String>,
}

impl Credentials {
    fn read(file: &Path) -> Result<Self, OptionError> {
        let fail = |problem: String| OptionError::Credentials { file: file.to_owned(), problem };
        let metadata = fs::metadata(file).map_err(|e| fail(e.to_string()))?;
        if metadata.mode() & 0o077 != 0 {
            return Err(fail(format!("others may read it; run `chmod 600 {}`", file.display())));
        }
        Self::parse(&fs::read_to_string(file).map_err(|e| fail(e.to_string()))?).map_err(fail)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut found = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            match line.split_once(char::is_whitespace) {
                _ if line.is_empty() || line.starts_with('#') => {}
                Some(("network", value)) => found.networks.push(value.trim().to_owned()),
                Some(("admin", value)) if found.admin.is_none() => found.admin = Some(value.trim().to_owned()),
                Some(("admin", _)) => return Err(format!("line {}: a second admin", index + 1)),
                _ => return Err(format!("line {}: write `network NAME:PASSWORD` or `admin USER:PASSWORD`", index + 1)),
            }
        }
        Ok(found)
    }
}

fn env_text(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|text| !text.is_empty())
}

fn env_path(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|text| !text.is_empty()).map(PathBuf::from)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn default_state() -> PathBuf {
    if is_root() {
        return "/var/lib/hive".into();
    }
    let home = || env_path("HOME").unwrap_or_else(|| ".".into()).join(".local/state");
    env_path("XDG_STATE_HOME").unwrap_or_else(home).join("hive")
}

fn default_socket(state: &Path) -> PathBuf {
    if is_root() {
        return "/run/hive/agent.sock".into();
    }
    env_path("XDG_RUNTIME_DIR").map_or_else(|| state.join("agent.sock"), |dir| dir.join("hive/agent.sock"))
}

/// The host's name as a node name; characters that a node name cannot have become dashes.
pub fn host_name() -> NodeName {
    let uname = rustix::system::uname();
    let text: String = uname.nodename().to_string_lossy().chars().take(NodeName::MAX_BYTES).collect();
    let clean: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '-' }).collect();
    let own = clean.parse::<NodeName>().ok().filter(|name| name.check_own().is_ok());
    own.map_or_else(|| "node".parse(), Ok).unwrap_or_else(|_| unreachable!("`node` is a name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_colon_splits_a_network() {
        let (name, password) = parse_network("--network", "lab:pass:word").unwrap();
        assert_eq!((name.as_str(), password.as_deref()), ("lab", Some("pass:word")));
        assert_eq!(parse_network("--network", "lab").unwrap().1, None);
        assert!(
            parse_network("--network", "lab:").is_err()
                && parse_network("--network", ":x").is_err()
                && parse_network("--network", "a b:x").is_err()
        );
    }

    #[test]
    fn an_admin_has_a_password_or_a_hash() {
        assert!(matches!(parse_admin("--admin", "root:secret").unwrap().1, AdminPassword::Plain(p) if p == "secret"));
        assert!(parse_admin("--admin", "root").is_err() && parse_admin("--admin", "root:").is_err());
        let error = parse_admin("--admin", "root:hash_nonsense").unwrap_err().to_string();
        assert!(error.contains("hash-password"), "{error}");
        let phc = PasswordHashed::new("x", [1; 16]).unwrap().to_phc();
        assert!(matches!(parse_admin("--admin", &format!("root:hash_{phc}")).unwrap().1, AdminPassword::Hashed(_)));
    }

    #[test]
    fn a_credentials_file_has_two_kinds_of_lines() {
        let found = Credentials::parse("# mine\n\nnetwork a:b\nnetwork c:d e\nadmin root:x\n").unwrap();
        assert_eq!(found.networks, ["a:b", "c:d e"]);
        assert_eq!(found.admin.as_deref(), Some("root:x"));
        assert!(Credentials::parse("admin a:b\nadmin c:d").is_err());
        assert!(Credentials::parse("nonsense").is_err_and(|e| e.contains("line 1")));
    }

    #[test]
    fn errors_never_repeat_a_secret() {
        for error in
            [parse_network("--network", "a b:hunter2").unwrap_err(), parse_admin("--admin", "a b:hunter2").unwrap_err()]
        {
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        assert!(Credentials::parse("netwrk lab:hunter2").is_err_and(|e| !e.contains("hunter2")));
    }
}
