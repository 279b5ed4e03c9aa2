//! The service on trees of files that stand for machines: what is written for each service manager, who may read it, and
//! what the managers' own checkers say to it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use argh::FromArgs;
use hive_agent::{
    install::{Error, Manager, System},
    options::{self, Options},
};

/// A machine with nothing but the sign of its service manager.
struct Machine {
    root: tempfile::TempDir,
}

const SIGNS: [(Manager, &str); 3] =
    [(Manager::Systemd, "run/systemd/system/x"), (Manager::OpenRc, "sbin/openrc-run"), (Manager::Procd, "sbin/procd")];

impl Machine {
    fn of(manager: Manager) -> Self {
        let machine = Self { root: tempfile::tempdir().unwrap() };
        let sign = SIGNS.iter().find(|(known, _)| *known == manager).unwrap().1;
        machine.put(sign, "");
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn put(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}")).permissions().mode() & 0o7777
    }

    /// Runs the command line; what it said, or why not.
    fn run(&self, line: &[&str]) -> Result<String, Error> {
        let options = Options::from_args(&["hive-agent"], line).unwrap();
        let mut said = Vec::new();
        let mut system = System::at(self.root.path(), &mut said);
        match &options.command {
            Some(options::Command::Install(how)) => system.install(&options, how)?,
            Some(options::Command::Uninstall(how)) => system.uninstall(how)?,
            other => panic!("{other:?}"),
        }
        Ok(String::from_utf8(said).unwrap())
    }

    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.root.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(self.root.path()).unwrap().display().to_string());
                }
            }
        }
        found.sort();
        found.retain(|path| SIGNS.iter().all(|(_, sign)| path != sign));
        found
    }
}

const GIVEN: [&str; 9] = [
    "--network",
    "lab:correct horse",
    "--admin",
    "root:battery staple",
    "--name",
    "gpu-box",
    "--listen",
    "/ip4/0.0.0.0/tcp/4180",
    "install",
];

fn service(manager: Manager) -> &'static str {
    if manager == Manager::Systemd { "etc/systemd/system/hive-agent.service" } else { "etc/init.d/hive-agent" }
}

fn program(manager: Manager) -> &'static str {
    if manager == Manager::Procd { "usr/bin/hive-agent" } else { "usr/local/bin/hive-agent" }
}

#[test]
fn options_are_kept_and_secrets_are_for_root_alone() {
    for (manager, _) in SIGNS {
        let machine = Machine::of(manager);
        let said = machine.run(&GIVEN).unwrap();
        assert_eq!((machine.mode("etc/hive/credentials"), machine.mode("etc/hive")), (0o600, 0o700));
        let secrets = machine.text("etc/hive/credentials");
        assert!(secrets.starts_with("network lab:correct horse\nadmin root:hash_$argon2id$"), "{secrets}");
        let expected = "HIVE_LISTEN=/ip4/0.0.0.0/tcp/4180\nHIVE_NAME=gpu-box\nHIVE_CREDENTIALS=/etc/hive/credentials\n";
        assert_eq!(machine.text("etc/hive/environment"), expected);
        for file in machine.files().iter().filter(|file| *file != "etc/hive/credentials" && *file != program(manager)) {
            let text = machine.text(file);
            assert!(!text.contains("horse") && !text.contains("staple") && !text.contains("argon2"), "{file}: {text}");
        }
        assert!(!said.contains("horse") && !said.contains("staple"), "{said}");
        assert_eq!(fs::read(machine.path(program(manager))).unwrap(), fs::read("/proc/self/exe").unwrap());
        assert_eq!(machine.mode(program(manager)), 0o755);
        let executable = machine.mode(service(manager)) & 0o111 != 0;
        assert_eq!(executable, manager != Manager::Systemd);
        assert!(said.contains("hive-agent") && said.contains("restart"), "{said}");
    }
}

#[test]
fn what_is_given_again_replaces_its_like_and_the_rest_stays() {
    let machine = Machine::of(Manager::Systemd);
    machine.run(&GIVEN).unwrap();
    let admin = machine.text("etc/hive/credentials").lines().last().unwrap().to_owned();
    machine.run(&["--network", "home:x", "--network", "lab:y", "--relay", "never", "install"]).unwrap();
    assert_eq!(machine.text("etc/hive/credentials"), format!("{admin}\nnetwork home:x\nnetwork lab:y\n"));
    let settings = machine.text("etc/hive/environment");
    for line in ["HIVE_NAME=gpu-box", "HIVE_RELAY=never", "HIVE_LISTEN=/ip4/0.0.0.0/tcp/4180"] {
        assert!(settings.lines().any(|kept| kept == line), "{line}: {settings}");
    }
}

#[test]
fn an_admin_password_is_made_once_and_shown_once() {
    let machine = Machine::of(Manager::OpenRc);
    let said = machine.run(&["install"]).unwrap();
    assert!(said.contains("admin account: user admin, password "), "{said}");
    let secrets = machine.text("etc/hive/credentials");
    assert!(!machine.run(&["install"]).unwrap().contains("password "));
    assert_eq!(machine.text("etc/hive/credentials"), secrets);
    // A node that has state has an admin.
    let known = Machine::of(Manager::OpenRc);
    known.put("var/lib/hive/data.mdb", "");
    assert!(!known.run(&["install"]).unwrap().contains("password "));
    assert!(!known.path("etc/hive/credentials").exists());
}

#[test]
fn the_admin_is_looked_for_in_the_state_folder_that_is_given() {
    let machine = Machine::of(Manager::Systemd);
    machine.put("var/lib/hive/data.mdb", "");
    let said = machine.run(&["--state", "/srv/hive", "install"]).unwrap();
    assert!(said.contains("admin account: user admin, password "), "a new node has no admin yet: {said}");
    let known = Machine::of(Manager::Systemd);
    known.put("srv/hive/data.mdb", "");
    assert!(!known.run(&["--state", "/srv/hive", "install"]).unwrap().contains("password "));
    assert!(!known.run(&["install"]).unwrap().contains("password "), "given once, it stays");
}

#[test]
fn what_cannot_be_kept_is_refused_before_anything_is_written() {
    let machine = Machine::of(Manager::Systemd);
    assert!(matches!(machine.run(&["--log", "$(reboot)", "install"]), Err(Error::Unkeepable("--log"))));
    assert!(matches!(machine.run(&["--network", "lab", "install"]), Err(Error::NoPassword(name)) if name == "lab"));
    assert_eq!(machine.files(), Vec::<String>::new());
    let bare = tempfile::tempdir().unwrap();
    let options = Options::from_args(&["hive-agent"], &["install"]).unwrap();
    let Some(options::Command::Install(how)) = &options.command else { panic!() };
    assert!(matches!(System::at(bare.path(), &mut Vec::new()).install(&options, how), Err(Error::NoManager)));
}

#[test]
fn a_dry_run_shows_everything_but_secrets_and_does_nothing() {
    let machine = Machine::of(Manager::Procd);
    let dry: Vec<&str> = GIVEN.iter().copied().chain(["--dry-run"]).collect();
    let said = machine.run(&dry).unwrap();
    for part in ["would write /etc/hive/credentials (mode 600)", "HIVE_NAME=gpu-box", "USE_PROCD=1", "would run"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("horse") && !said.contains("argon2"), "{said}");
    assert_eq!(machine.files(), Vec::<String>::new());
}

#[test]
fn uninstalling_keeps_state_and_settings_unless_it_shall_not() {
    for (manager, _) in SIGNS {
        let machine = Machine::of(manager);
        let state = if manager == Manager::Procd { "etc/hive/state" } else { "var/lib/hive" };
        machine.run(&GIVEN).unwrap();
        machine.put(&format!("{state}/data.mdb"), "identity");
        machine.put(&format!("{}.update/old", program(manager)), "the version before");
        machine.put("etc/hostname", "box");
        // Nobody can be asked here.
        assert!(matches!(machine.run(&["uninstall"]), Err(Error::NotConfirmed)));
        assert!(machine.path(service(manager)).exists());
        machine.run(&["uninstall", "--yes"]).unwrap();
        let mut kept = vec!["etc/hive/credentials", "etc/hive/environment", "etc/hostname"];
        let data = format!("{state}/data.mdb");
        kept.push(&data);
        kept.sort_unstable();
        assert_eq!(machine.files(), kept, "{manager:?}");
        machine.run(&["uninstall", "--purge", "--yes"]).unwrap();
        assert_eq!(machine.files(), ["etc/hostname"], "{manager:?}");
    }
}

#[test]
fn purging_takes_the_state_that_was_chosen_and_nothing_that_is_none() {
    let machine = Machine::of(Manager::Systemd);
    machine.run(&["--state", "/srv/hive", "--admin", "a:b", "install"]).unwrap();
    machine.put("srv/hive/photos", "not state");
    machine.run(&["uninstall", "--purge", "--yes"]).unwrap();
    assert!(machine.path("srv/hive/photos").exists(), "a folder without state in it is no state folder");
}

/// Runs a checker; none where it is not installed.
fn check(program: &str, arguments: &[&str]) -> Option<String> {
    let output = match Command::new(program).args(arguments).output() {
        Ok(output) => output,
        Err(_) => {
            eprintln!("LEFT OUT: {program} is not installed");
            return None;
        }
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    Some(said)
}

#[test]
fn scripts_are_scripts() {
    for manager in [Manager::OpenRc, Manager::Procd] {
        let machine = Machine::of(manager);
        machine.run(&GIVEN).unwrap();
        let script = machine.path(service(manager)).display().to_string();
        check("sh", &["-n", &script]);
        check("busybox", &["sh", "-n", &script]);
    }
}

/// The functions of procd, which say what they are told.
const PROCD: &str = r#"
procd_open_instance() { :; }
procd_close_instance() { :; }
procd_set_param() { echo "set $*"; }
procd_append_param() { echo "append $*"; }
"#;

/// Those of OpenRC.
const OPENRC: &str = r#"
checkpath() { echo "checkpath $*"; }
need() { :; }
use() { :; }
after() { :; }
"#;

#[test]
fn scripts_start_the_agent_with_its_settings() {
    for (manager, functions, act) in
        [(Manager::Procd, PROCD, "start_service"), (Manager::OpenRc, OPENRC, "start_pre; depend; echo $command; env")]
    {
        let machine = Machine::of(manager);
        machine.run(&GIVEN).unwrap();
        // The script, with its folders inside the machine.
        let inside = |text: String| {
            ["/etc/hive", "/var/run", "/run/hive"]
                .iter()
                .fold(text, |text, folder| text.replace(folder, &format!("{}{folder}", machine.root.path().display())))
        };
        machine.put("try", &format!("{functions}\n{}\n{act}\n", inside(machine.text(service(manager)))));
        let said = check("sh", &[&machine.path("try").display().to_string()]).unwrap();
        let program = format!("/{}", program(manager));
        for part in ["HIVE_NAME=gpu-box", "HIVE_CREDENTIALS=", "HIVE_STATE=", &program] {
            assert!(said.contains(part), "{manager:?} {part}: {said}");
        }
    }
}

#[test]
fn systemd_takes_the_unit() {
    let machine = Machine::of(Manager::Systemd);
    machine.run(&GIVEN).unwrap();
    // The checker wants the program to be there, which on this machine it is not.
    let unit = machine.text(service(Manager::Systemd));
    let present =
        unit.replace("/usr/local/bin/hive-agent", &machine.path(program(Manager::Systemd)).display().to_string());
    machine.put("hive-agent.service", &present);
    let file = machine.path("hive-agent.service").display().to_string();
    if let Some(said) = check("systemd-analyze", &["verify", "--man=no", &file]) {
        assert!(!said.contains("hive-agent"), "it has something to say: {said}");
        let said = check("systemd-analyze", &["security", "--offline=true", "--threshold=96", &file]).unwrap();
        assert!(said.contains("Overall exposure level"), "{said}");
    }
    for line in ["Type=notify", "Restart=always", "WatchdogSec=60", "StateDirectory=hive", "StateDirectoryMode=0700"] {
        assert!(unit.lines().any(|set| set == line), "{line}");
    }
}

#[test]
fn the_credentials_are_read_back_by_the_agent() {
    let machine = Machine::of(Manager::Systemd);
    machine.run(&GIVEN).unwrap();
    let file = machine.path("etc/hive/credentials");
    let read = Options::from_args(&["hive-agent"], &["--credentials", path(&file)]).unwrap().settings().unwrap();
    assert_eq!(read.networks.len(), 1);
    assert_eq!(read.networks[0].1.as_deref(), Some("correct horse"));
    assert_eq!(read.admin.unwrap().0, "root");
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
