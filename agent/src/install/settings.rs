//! The two files that a service's agent is started with: settings, and secrets. What is given replaces what they had of
//! the same kind; everything else in them stays.

use std::env;

use hive_protocol::password::PasswordHashed;

use super::Error;
use crate::{
    agent::salt,
    options::{AdminPassword, Options, Settings},
};

/// The folder of both, for root alone.
pub const FOLDER: &str = "/etc/hive";
/// Lines `NAME=value`, as systemd, a shell and procd read them.
pub const ENVIRONMENT: &str = "/etc/hive/environment";
/// Lines `network …` and `admin …`.
pub const CREDENTIALS: &str = "/etc/hive/credentials";

/// The settings with what was given.
pub fn environment(before: &str, options: &Options, settings: &Settings, secrets: bool) -> Result<String, Error> {
    let list =
        |addresses: &[libp2p::Multiaddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let given = |option: Option<String>, name: &str| given(option, name).unwrap_or_default();
    let values = [
        ("--state", "HIVE_STATE", given(path(&options.state), "HIVE_STATE")),
        ("--socket", "HIVE_SOCKET", given(path(&options.socket), "HIVE_SOCKET")),
        ("--listen", "HIVE_LISTEN", list(&settings.listen)),
        ("--announce", "HIVE_ANNOUNCE", list(&settings.announce)),
        ("--name", "HIVE_NAME", settings.name.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("--relay", "HIVE_RELAY", given(options.relay.clone(), "HIVE_RELAY")),
        ("--port-mapping", "HIVE_PORT_MAPPING", given(options.port_mapping.clone(), "HIVE_PORT_MAPPING")),
        ("--update-key", "HIVE_UPDATE_KEY", settings.update_key.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("--log", "RUST_LOG", given(options.log.clone(), "RUST_LOG")),
        ("", "HIVE_CREDENTIALS", if secrets { CREDENTIALS.to_owned() } else { String::new() }),
    ];
    let mut text = before.to_owned();
    for (option, name, value) in values.iter().filter(|(.., value)| !value.is_empty()) {
        if !value.chars().all(|c| c.is_ascii_alphanumeric() || "._=+,:/@-".contains(c)) {
            return Err(Error::Unkeepable(option));
        }
        text = replaced(&text, &format!("{name}="), &format!("{name}={value}"));
    }
    Ok(text)
}

/// What an option says, else its environment variable.
pub fn given(option: Option<String>, name: &str) -> Option<String> {
    option.or_else(|| env::var(name).ok()).filter(|value| !value.is_empty())
}

/// The secrets with what was given: passwords of networks as they are, the admin's as a hash.
pub fn credentials(before: &str, settings: &Settings) -> Result<String, Error> {
    let mut text = before.to_owned();
    for (network, password) in &settings.networks {
        let password = password.as_ref().ok_or_else(|| Error::NoPassword(network.to_string()))?;
        text = replaced(&text, &format!("network {network}:"), &format!("network {network}:{password}"));
    }
    if let Some((user, password)) = &settings.admin {
        let hash = match password {
            AdminPassword::Hashed(hash) => hash.to_phc(),
            AdminPassword::Plain(password) => PasswordHashed::new(password, salt())?.to_phc(),
        };
        text = replaced(&text, "admin ", &format!("admin {user}:hash_{hash}"));
    }
    Ok(text)
}

/// A text without the lines that begin so, and with this one.
fn replaced(text: &str, start: &str, line: &str) -> String {
    let kept = text.lines().filter(|line| !line.starts_with(start)).chain([line]);
    kept.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_replaces_its_like_and_leaves_the_others() {
        let text = "# mine\nHIVE_NAME=a\nHIVE_NAMES=b\n";
        assert_eq!(replaced(text, "HIVE_NAME=", "HIVE_NAME=c"), "# mine\nHIVE_NAMES=b\nHIVE_NAME=c\n");
        assert_eq!(replaced("", "x", "x y"), "x y\n");
    }
}
