//! OpenSSH's own programs to a node's `sshd`, by way of `ssh -o ProxyCommand='hivectl connect …'` and nothing else: a
//! command and its status, a large file through `cat`, `scp`, `sftp` and `rsync`.

use hive_tests::{
    lab::Lab,
    notice,
    pair::{ADMIN, Pair},
    payload,
    process::{self, Output, PATIENCE},
    services::Sshd,
};
use std::{fs, os::unix::fs::PermissionsExt, process::Command};

/// A node with an `sshd` on its loopback.
struct Server {
    pair: Pair,
    sshd: Sshd,
}

impl Server {
    fn start(lab: &Lab, test: &str) -> Option<Server> {
        let pair = Pair::start(lab);
        let sshd = Sshd::start(test, pair.far.host())?;
        Some(Server { pair, sshd })
    }

    /// Options of every program of OpenSSH: the way, and what it takes to log in.
    fn options(&self) -> Vec<String> {
        let connect = self.pair.near.ctl_command(ADMIN, &["connect", &format!("far:{}", self.sshd.port())]);
        let words = std::iter::once(connect.get_program()).chain(connect.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        let way = ["-o".to_owned(), format!("ProxyCommand={}", words.join(" "))];
        way.into_iter().chain(self.sshd.options()).collect()
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

#[test]
fn every_program_of_openssh_goes_through_connect() {
    let lab = Lab::new();
    let Some(server) = Server::start(&lab, "every_program_of_openssh_goes_through_connect") else { return };
    let output = server.run("ssh", &["root@far", "echo out; echo err >&2; exit 3"], b"");
    assert_eq!((output.status, output.stdout.as_str()), (Some(3), "out\n"), "{output:#?}");
    assert!(output.stderr.contains("err\n"), "{output:#?}");

    let (here, there) = (server.sshd.folder().join("here"), server.sshd.folder().join("there"));
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
