//! A small device as `cross/deploy` meets it: BusyBox as its only userland and its init, an ssh server, and nothing that
//! copies files. It lives in namespaces on a host of the lab, in a root folder of its own.

use crate::{
    lab::Host,
    process::{self, Output, PATIENCE, Process},
    wait::wait_until,
};
use std::{
    fs,
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// The ssh server that a device runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ssh {
    /// Debian's dropbear.
    Dropbear,
    /// Debian's OpenSSH.
    OpenSsh,
}

/// A running device. Dropping it ends everything on it.
pub struct Board {
    host: Host,
    root: PathBuf,
    keys: PathBuf,
    init: Process,
}

/// What must be installed here, with the package that has it, for every device and for one server.
const NEEDED: [(&str, &str); 2] = [("/usr/bin/ssh-keygen", "openssh-client"), ("/bin/busybox", "busybox-static")];
const NEEDED_FOR_DROPBEAR: [(&str, &str); 2] =
    [("/usr/sbin/dropbear", "dropbear-bin"), ("/usr/bin/dropbearkey", "dropbear-bin")];
const NEEDED_FOR_OPENSSH: [(&str, &str); 1] = [("/usr/sbin/sshd", "openssh-server")];

/// What the servers, which are no static files, need of this machine; the device's own programs need none of it.
const MOUNTS: &str = r#"
set -e
mount --make-rprivate /
for folder in lib lib64 usr/lib dev; do mount --rbind "/$folder" "$0/$folder"; done
mount -t proc proc "$0/proc"
mount -t tmpfs tmpfs "$0/run"
exec chroot "$0" /bin/busybox init
"#;

impl Board {
    /// What is missing here to have one, or `None`.
    pub fn impossible(ssh: Ssh) -> Option<String> {
        let server = match ssh {
            Ssh::Dropbear => &NEEDED_FOR_DROPBEAR[..],
            Ssh::OpenSsh => &NEEDED_FOR_OPENSSH,
        };
        let missing = NEEDED.iter().chain(server).find(|(path, _)| !Path::new(path).exists());
        missing.map(|(path, package)| format!("{path} is not here (package {package})"))
    }

    /// Boots a device on this host, which must have a namespace, and waits for its ssh server.
    pub fn boot(host: &Host, ssh: Ssh) -> Board {
        let (root, keys) = (host.folder("root"), host.folder("keys"));
        install(&root, ssh);
        make_keys(&root, &keys, ssh);
        let mut command = host.command("unshare");
        command.args(["--mount", "--pid", "--uts", "--fork", "--kill-child", "sh", "-c", MOUNTS]).arg(&root);
        let init = Process::start(host, "board", command);
        let board = Board { host: host.clone(), root, keys, init };
        wait_until("the device's ssh server listens", PATIENCE, || board.reachable());
        board
    }

    /// The command `ssh` with the key that the device knows, as `HIVE_SSH` takes it. Each call is noted, see
    /// [`Board::calls`].
    pub fn ssh(&self) -> String {
        let wrapper = self.keys.join("ssh");
        let script = format!("#!/bin/sh\nprintf '%s\\n' \"$*\" >>{}\nexec ssh \"$@\"\n", self.noted().display());
        fs::write(&wrapper, script).expect("a script");
        make_executable(&wrapper);
        let key = self.keys.join("key");
        format!(
            "{} -i {} -o BatchMode=yes -o LogLevel=ERROR -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
            wrapper.display(),
            key.display()
        )
    }

    /// The arguments of every call of [`Board::ssh`].
    pub fn calls(&self) -> String {
        fs::read_to_string(self.noted()).unwrap_or_default()
    }

    /// The host of the lab that it is.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// A file of the device.
    pub fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Runs a command line on the device, over ssh, and returns what it did.
    pub fn run(&self, line: &str) -> Output {
        let ssh = self.ssh();
        let mut words = ssh.split(' ');
        let mut command = self.host.command(words.next().expect("a command"));
        command.args(words).arg(format!("root@{}", self.host.ipv4())).arg(line);
        process::run(command, b"", PATIENCE)
    }

    /// The process id, on the device, of its agent.
    pub fn agent(&self) -> Option<u32> {
        self.run("pidof hive-agent").stdout.trim().parse().ok()
    }

    fn reachable(&self) -> bool {
        assert!(!self.init.printed().contains("chroot:"), "the device did not boot");
        self.host.enter(|| TcpStream::connect(self.host.at(22)).is_ok())
    }

    fn noted(&self) -> PathBuf {
        self.keys.join("calls")
    }
}

/// The root folder: BusyBox under all its names, root as its only person, and the server.
fn install(root: &Path, ssh: Ssh) {
    let folders =
        "bin sbin dev etc/keys proc run sys tmp usr/bin usr/lib usr/sbin usr/local lib lib64 root/.ssh var/lib";
    for folder in folders.split(' ') {
        fs::create_dir_all(root.join(folder)).expect("a folder of the device");
    }
    for program in ["/bin/busybox", ssh.program()] {
        fs::copy(program, root.join(&program[1..])).expect("a program for the device");
    }
    run(Command::new("chroot").arg(root).args(["/bin/busybox", "--install", "-s", "/bin"]));
    for (name, text) in [
        ("passwd", "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n"),
        ("group", "root:x:0:\nnogroup:x:65534:\n"),
        ("shadow", "root:*:20000:0:99999:7:::\n"),
        ("shells", "/bin/sh\n"),
        ("sshd_config", "PasswordAuthentication no\nUsePAM no\nHostKey /etc/keys/openssh\n"),
        ("inittab", &format!("::sysinit:/bin/mkdir -p /run/sshd\n::respawn:{}\n", ssh.command_line())),
    ] {
        fs::write(root.join("etc").join(name), text).expect("a file of the device");
    }
}

/// A key for the server, and one that logs in.
fn make_keys(root: &Path, keys: &Path, ssh: Ssh) {
    let openssh_key =
        |path: PathBuf| run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path));
    openssh_key(keys.join("key"));
    match ssh {
        Ssh::OpenSsh => openssh_key(root.join("etc/keys/openssh")),
        Ssh::Dropbear => {
            run(Command::new("dropbearkey").args(["-t", "ed25519", "-f"]).arg(root.join("etc/keys/dropbear")))
        }
    }
    let known = root.join("root/.ssh/authorized_keys");
    fs::copy(keys.join("key.pub"), &known).expect("a key for the device");
    for (path, mode) in [(&*root.join("root"), 0o700), (&root.join("root/.ssh"), 0o700), (&known, 0o600), (root, 0o755)]
    {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the mode of a file");
    }
}

impl Ssh {
    fn program(self) -> &'static str {
        match self {
            Ssh::Dropbear => "/usr/sbin/dropbear",
            Ssh::OpenSsh => "/usr/sbin/sshd",
        }
    }

    fn command_line(self) -> String {
        let arguments = match self {
            Ssh::Dropbear => "-F -E -s -r /etc/keys/dropbear -p 22",
            Ssh::OpenSsh => "-D -e -f /etc/sshd_config",
        };
        format!("{} {arguments}", self.program())
    }
}

fn make_executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the mode of a file");
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}
