//! OpenSSH's own programs to a node's `sshd`, by way of `ssh -o ProxyCommand='hivectl connect …'` and nothing else: a
//! command and its status, a large file through `cat`, `scp`, `sftp` and `rsync`.

use hive_tests::{
    lab::Lab,
    notice,
    pair::{ADMIN, Pair},
    payload,
    process::{self, Output, PATIENCE, Process},
    wait::wait_until,
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

const SSHD: &str = "/usr/sbin/sshd";

/// A node with an `sshd` on its loopback, and what it takes to log in there.
struct Server {
    pair: Pair,
    folder: PathBuf,
    port: u16,
    _sshd: Process,
}

impl Server {
    fn start(lab: &Lab, test: &str) -> Option<Server> {
        if !rustix::process::geteuid().is_root() || !Path::new(SSHD).exists() {
            notice::left_out(test, "needs root and Debian's openssh-server");
            return None;
        }
        let pair = Pair::start(lab);
        let folder = pair.far.host().folder("ssh");
        for key in ["host", "user"] {
            let made =
                Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(key)).status();
            assert!(made.expect("ssh-keygen").success());
        }
        let port = pair.far.host().free_port();
        let sshd = sshd(&pair, &folder, port);
        let address = ([127, 0, 0, 1], port).into();
        wait_until("sshd listens", PATIENCE, || pair.far.host().connect(address).is_ok());
        let host_key = fs::read_to_string(folder.join("host.pub")).expect("a host key");
        fs::write(folder.join("known_hosts"), format!("far {host_key}")).expect("a file");
        Some(Server { pair, folder, port, _sshd: sshd })
    }

    /// Options of every program of OpenSSH: the way, the pinned host key, and no questions.
    fn options(&self) -> Vec<String> {
        let connect = self.pair.near.ctl_command(ADMIN, &["connect", &format!("far:{}", self.port)]);
        let words = std::iter::once(connect.get_program()).chain(connect.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        let known = self.folder.join("known_hosts");
        let user = self.folder.join("user");
        [
            format!("ProxyCommand={}", words.join(" ")),
            format!("UserKnownHostsFile={}", known.display()),
            "StrictHostKeyChecking=yes".into(),
            format!("IdentityFile={}", user.display()),
            "IdentitiesOnly=yes".into(),
            "BatchMode=yes".into(),
        ]
        .into_iter()
        .flat_map(|option| ["-o".to_owned(), option])
        .collect()
    }

    fn run(&self, program: &str, words: &[&str], stdin: &[u8]) -> Output {
        self.run_with(program, &self.options(), words, stdin)
    }

    fn run_with(&self, program: &str, options: &[String], words: &[&str], stdin: &[u8]) -> Output {
        let mut command = Command::new(program);
        command.args(["-F", "/dev/null"].iter().filter(|_| program != "rsync")).args(options).args(words);
        for (name, value) in self.pair.near.ctl_command(ADMIN, &[]).get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        process::run(command, stdin, 2 * PATIENCE)
    }
}

fn sshd(pair: &Pair, folder: &Path, port: u16) -> Process {
    // Where sshd has its unprivileged half live.
    fs::create_dir_all("/run/sshd").expect("a folder");
    let config = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {0}/host\nAuthorizedKeysFile {0}/user.pub\nPidFile none\nStrictModes no\n\
         PasswordAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n",
        folder.display()
    );
    let path = folder.join("sshd_config");
    fs::write(&path, config).expect("a file");
    let mut command = pair.far.host().command(SSHD);
    command.args(["-D", "-e", "-f"]).arg(path);
    Process::start(pair.far.host(), "sshd", command)
}

#[test]
fn every_program_of_openssh_goes_through_connect() {
    let lab = Lab::new();
    let Some(server) = Server::start(&lab, "every_program_of_openssh_goes_through_connect") else { return };
    let output = server.run("ssh", &["root@far", "echo out; echo err >&2; exit 3"], b"");
    assert_eq!((output.status, output.stdout.as_str()), (Some(3), "out\n"), "{output:#?}");
    assert!(output.stderr.contains("err\n"), "{output:#?}");

    let (here, there) = (server.folder.join("here"), server.folder.join("there"));
    let content = payload::bytes(11, 64 << 20);
    fs::write(&here, &content).unwrap();
    fs::set_permissions(&here, fs::Permissions::from_mode(0o640)).unwrap();
    let arrived = |what: &str| {
        assert!(fs::read(&there).unwrap() == content, "{what}");
        fs::remove_file(&there).unwrap();
    };
    let (from, to) = (here.to_str().unwrap(), format!("root@far:{}", there.display()));
    server.run("ssh", &["root@far", &format!("cat > {}", there.display())], &content).success();
    arrived("ssh cat");
    server.run("scp", &[from, &to], b"").success();
    arrived("scp");
    let batch = format!("put {from} {}\n", there.display());
    server.run("sftp", &["-b", "-", "root@far"], batch.as_bytes()).success();
    arrived("sftp");
    let shell: Vec<String> = server.options().into_iter().map(|word| format!("'{word}'")).collect();
    let options = ["-e".to_owned(), format!("ssh -F /dev/null {}", shell.join(" ")), "-a".to_owned()];
    let Ok(_) = Command::new("rsync").arg("--version").output() else {
        return notice::left_out("rsync through connect", "needs rsync");
    };
    server.run_with("rsync", &options, &[from, &to], b"").success();
    assert_eq!(fs::metadata(&there).unwrap().permissions().mode() & 0o777, 0o640);
    arrived("rsync");
}
