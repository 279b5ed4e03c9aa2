//! A machine whose first process is systemd, on this one: new namespaces, a root in memory, none of Debian's units. What
//! runs in it cannot change anything outside.

use crate::{
    lab::Host,
    notice,
    process::{self, Output, PATIENCE, Process},
    wait::{wait_for, wait_until},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const BOOT: &str = include_str!("systemd.sh");
const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// A running machine. Dropping it ends all that runs there.
pub struct Machine {
    // Fields are dropped in this order.
    _process: Process,
    _group: Group,
    /// Process id of systemd, as this machine counts.
    init: u32,
}

impl Machine {
    /// Boots one, with the programs under test as `/opt/hive-agent` and `/opt/hivectl`; `None` where that cannot be done,
    /// said for `test`.
    pub fn boot(test: &str, host: &Host) -> Option<Machine> {
        let possible = fs::read_link("/bin").is_ok() && Path::new(SYSTEMD).exists();
        let Some(group) = Group::create().filter(|_| possible) else {
            notice::left_out(test, "needs root, systemd, control groups of version 2, and a merged /usr");
            return None;
        };
        let (folder, root) = (host.folder("systemd"), host.folder("root"));
        let script = folder.join("boot");
        fs::write(&script, BOOT).expect("a file in the lab's folder");
        // Not in the host's namespace, where `/sys` is another one: the machine has a network of its own.
        let mut command = Command::new("sh");
        command.arg(script).arg(root).arg(&group.0);
        command.arg(process::binary("hive-agent")).arg(process::binary("hivectl"));
        let mut process = Process::start(host, "systemd", command);
        let children = format!("/proc/{0}/task/{0}/children", process.pid());
        let init = wait_for("systemd starts", PATIENCE, || {
            assert!(process.ended().is_none(), "the machine does not boot");
            let child: u32 = fs::read_to_string(&children).ok()?.trim().parse().ok()?;
            fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name == "systemd\n").then_some(child)
        });
        let machine = Machine { _process: process, _group: group, init };
        wait_until("it has booted", PATIENCE, || {
            machine.systemctl(&["is-active", "multi-user.target"]).status == Some(0)
        });
        Some(machine)
    }

    /// Runs a program there to its end.
    pub fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--all", "--root", "--wd", "--"]).args(words);
        process::run(command, b"", PATIENCE)
    }

    /// Asks systemd.
    pub fn systemctl(&self, words: &[&str]) -> Output {
        self.run(&[&["/usr/bin/systemctl", "--no-pager"], words].concat())
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.systemctl(&["show", "--value", "--property", name, unit]).success().trim().to_owned()
    }
}

/// A control group, removed with all in it.
struct Group(PathBuf);

impl Group {
    /// None where there are none of version 2, or this process may not make any.
    fn create() -> Option<Group> {
        let mounts = fs::read_to_string("/proc/mounts").ok()?;
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let among = mounts.find(|words| words.get(2) == Some(&"cgroup2"))?;
        let path = Path::new(among[1]).join(format!("hive-test-{}", std::process::id()));
        fs::create_dir(&path).ok().map(|()| Group(path))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel takes a moment to see that nobody is in there any more.
        wait_until("the machine's control groups are empty", PATIENCE, || remove_groups(&self.0).is_ok());
    }
}

fn remove_groups(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_groups(&entry.path())?;
    }
    fs::remove_dir(group)
}
