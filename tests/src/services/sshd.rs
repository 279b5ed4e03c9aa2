//! OpenSSH's server on the loopback of a host, with a key that may log in and a host key that is known.

use crate::{
    lab::Host,
    notice,
    process::{PATIENCE, Process},
    wait::wait_until,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const PROGRAM: &str = "/usr/sbin/sshd";

/// A running `sshd`; clients call it `far`.
pub struct Sshd {
    folder: PathBuf,
    port: u16,
    _process: Process,
}

impl Sshd {
    /// Starts it; says that `test` is left out where it cannot run.
    ///
    /// # Panics
    /// When keys cannot be made, or it does not listen within [`PATIENCE`].
    #[must_use]
    pub fn start(test: &str, host: &Host) -> Option<Sshd> {
        if !rustix::process::geteuid().is_root() || !Path::new(PROGRAM).exists() {
            notice::left_out(test, "needs root and Debian's openssh-server");
            return None;
        }
        let folder = host.folder("ssh");
        for key in ["host", "user"] {
            let made =
                Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(key)).status();
            assert!(made.expect("ssh-keygen").success());
        }
        let port = host.free_port();
        let process = serve(host, &folder, port);
        let address = ([127, 0, 0, 1], port).into();
        wait_until("sshd listens", PATIENCE, || host.connect(address).is_ok());
        let host_key = fs::read_to_string(folder.join("host.pub")).expect("a host key");
        fs::write(folder.join("known_hosts"), format!("far {host_key}")).expect("a file");
        Some(Sshd { folder, port, _process: process })
    }

    /// Where it keeps its keys; a test may put files there.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The port on the loopback of its host.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Options of every program of OpenSSH: the pinned host key, the key to log in, and no questions.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let in_folder = |name: &str| self.folder.join(name).display().to_string();
        [
            "HostKeyAlias=far".to_owned(),
            format!("UserKnownHostsFile={}", in_folder("known_hosts")),
            "StrictHostKeyChecking=yes".to_owned(),
            format!("IdentityFile={}", in_folder("user")),
            "IdentitiesOnly=yes".to_owned(),
            "BatchMode=yes".to_owned(),
        ]
        .into_iter()
        .flat_map(|option| ["-o".to_owned(), option])
        .collect()
    }
}

fn serve(host: &Host, folder: &Path, port: u16) -> Process {
    // Where sshd has its unprivileged half live.
    fs::create_dir_all("/run/sshd").expect("a folder");
    let config = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {0}/host\nAuthorizedKeysFile {0}/user.pub\nPidFile none\nStrictModes no\n\
         PasswordAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n",
        folder.display()
    );
    let path = folder.join("sshd_config");
    fs::write(&path, config).expect("a file");
    let mut command = host.command(PROGRAM);
    command.args(["-D", "-e", "-f"]).arg(path);
    Process::start(host, "sshd", command)
}
