//! The account that the agent runs under: its home and its shell (`passwd(5)`), and what programs are told of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

const DEFAULT_SHELL: &str = "/bin/sh";
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its home.
    pub home: PathBuf,
    /// Its login shell.
    pub shell: PathBuf,
}

/// The home of the agent's user: where relative paths begin.
pub fn home() -> PathBuf {
    Account::own().home
}

impl Account {
    /// The agent's own.
    pub fn own() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let listed = fs::read_to_string("/etc/passwd").unwrap_or_default();
        // A container may run under a user that nobody listed.
        Self::listed(&listed, uid).unwrap_or_else(|| Self {
            name: uid.to_string(),
            home: std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from),
            shell: PathBuf::from(DEFAULT_SHELL),
        })
    }

    fn listed(passwd: &str, uid: u32) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, number, _, _, home, shell] = fields[..] else { return None };
            let shell = if shell.is_empty() { DEFAULT_SHELL } else { shell };
            (number.parse() == Ok(uid)).then(|| Self { name: name.to_owned(), home: home.into(), shell: shell.into() })
        })
    }

    /// Where its programs start: at home, if it has one.
    pub fn folder(&self) -> &Path {
        if self.home.is_dir() { &self.home } else { Path::new("/") }
    }

    /// The environment of its programs. Little of the agent's own: that may hold secrets.
    pub fn environment(&self, terminal: Option<&str>) -> Vec<(String, std::ffi::OsString)> {
        let kept = |name: &str| name == "PATH" || name == "LANG" || name == "TZ" || name.starts_with("LC_");
        let mut environment: Vec<(String, std::ffi::OsString)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| kept(name))
            .collect();
        if !environment.iter().any(|(name, _)| name == "PATH") {
            environment.push(("PATH".into(), DEFAULT_PATH.into()));
        }
        let own = [
            ("HOME", self.home.clone().into_os_string()),
            ("USER", self.name.clone().into()),
            ("LOGNAME", self.name.clone().into()),
            ("SHELL", self.shell.clone().into_os_string()),
        ];
        environment.extend(own.map(|(name, value)| (name.to_owned(), value)));
        environment.extend(terminal.map(|kind| ("TERM".to_owned(), kind.into())));
        environment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_number() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken\nhive:x:990:990::/var/lib/hive:\n";
        let hive = Account::listed(passwd, 990).unwrap();
        assert_eq!(
            (hive.name.as_str(), hive.home.as_path(), hive.shell.as_path()),
            ("hive", Path::new("/var/lib/hive"), Path::new("/bin/sh"))
        );
        assert_eq!(Account::listed(passwd, 0).unwrap().shell, Path::new("/bin/bash"));
        assert_eq!(Account::listed(passwd, 7), None);
    }

    #[test]
    fn programs_see_nothing_of_the_agents_settings() {
        let environment = Account::own().environment(Some("xterm"));
        assert!(environment.iter().all(|(name, _)| !name.starts_with("HIVE_") && !name.starts_with("CARGO")));
        for wanted in ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM"] {
            assert_eq!(environment.iter().filter(|(name, _)| name == wanted).count(), 1, "{wanted}");
        }
    }
}
