//! Replacing a node's agent: good, bad and unwanted binaries, broken links, and a kill at every step. Each ends on an
//! agent that works, and on tunnels that come back.

use hive_tests::{
    facts::iec,
    lab::Lab,
    node::Node,
    notice,
    pair::{ADMIN, NETWORK, Pair, Tunnel, options},
    payload,
    process::{self, Output, PATIENCE, Process, Signal},
    tcp, usage,
    variants::{self, NEWER, OLDER, VERSION},
    wait::{wait_for, wait_until},
};
use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// What an agent may have had in memory whatever binary it was sent: less than any board has.
const MOST_MEMORY: u64 = 48 << 20;
/// What an update of a busy machine may take.
const UPDATE: Duration = Duration::from_secs(240);

/// A pair whose far node has an executable of its own, a tunnel to it, and something behind that.
struct Scene {
    pair: Pair,
    tunnel: Tunnel,
    /// The far node's executable.
    executable: PathBuf,
    binaries: PathBuf,
    _echo: tcp::Server,
}

impl Scene {
    fn new(lab: &Lab) -> Scene {
        Scene::with(lab, |options| options)
    }

    fn with(lab: &Lab, change: impl FnOnce(hive_tests::node::Options) -> hive_tests::node::Options) -> Scene {
        let (near, far) = (lab.host("near"), lab.host("far"));
        let programs = far.folder("programs");
        write_program(&programs.join("hive-agent"), &variants::agent());
        symlink(process::binary("hivectl"), programs.join("hivectl")).unwrap();
        let near = Node::start(&near, options());
        let far = Node::start(&far, change(options().programs(&programs)));
        near.register(&far, NETWORK);
        let pair = Pair { near, far };
        pair.wait_until_connected();
        let echo = tcp::Server::echo(pair.far.host(), 0);
        let tunnel = pair.tunnel(echo.address());
        let (binaries, executable) = (pair.near.host().folder("binaries"), programs.join("hive-agent"));
        Scene { pair, tunnel, executable, binaries, _echo: echo }
    }

    /// The arguments that update the far node to these bytes.
    fn words(&self, image: &[u8], more: &[&str]) -> Vec<String> {
        let path = self.binaries.join("hive-agent");
        write_program(&path, image);
        let words = ["update-node", "--node", "far", "--binary", path.to_str().unwrap()];
        words.iter().chain(more).map(|word| (*word).to_owned()).collect()
    }

    fn command(&self, image: &[u8], more: &[&str]) -> Command {
        let words = self.words(image, more);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.pair.near.ctl_command(ADMIN, &words)
    }

    fn update(&self, image: &[u8], more: &[&str]) -> Output {
        process::run(self.command(image, more), b"", UPDATE)
    }

    /// The version that the far node's agent says of itself.
    fn version(&self) -> String {
        let status = self.pair.near.wait_for_json("far answers", PATIENCE, &["status", "--node", "far"], |_| true);
        status["version"].as_str().expect("a version").to_owned()
    }

    /// The far node serves, in this version, under the process id it had, and nothing is left of another one.
    fn works(&self, version: &str, pid: u32) {
        assert_eq!(self.version(), version);
        assert_eq!(self.pair.far.process().pid(), pid);
        assert!(!self.staged().exists() && runs(&self.staged()).is_empty());
        let running = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        assert_eq!(running, self.executable, "a restart would start something else");
        self.carries();
    }

    /// The tunnel to the far node comes back.
    fn carries(&self) {
        wait_until("the tunnel carries bytes", PATIENCE, || {
            let Ok(mut stream) = self.pair.near.host().connect(self.tunnel.entrance) else { return false };
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let (sent, mut back) = (payload::bytes(1, 1000), vec![0; 1000]);
            stream.write_all(&sent).is_ok() && stream.read_exact(&mut back).is_ok() && back == sent
        });
    }

    fn folder(&self) -> PathBuf {
        self.executable.with_extension("update")
    }

    fn staged(&self) -> PathBuf {
        self.folder().join("hive-agent")
    }

    fn stage(&self) -> String {
        let record = fs::read_to_string(self.folder().join("record")).unwrap_or_default();
        record.lines().find_map(|line| line.strip_prefix("stage ")).unwrap_or_default().to_owned()
    }

    /// A part of a binary that is arriving, and its size.
    fn part(&self) -> Option<(PathBuf, u64)> {
        let entries = fs::read_dir(self.folder()).ok()?;
        let part =
            entries.flatten().map(|entry| entry.path()).find(|path| path.extension() == Some("part".as_ref()))?;
        let size = fs::metadata(&part).ok()?.len();
        Some((part, size))
    }
}

fn write_program(path: &Path, image: &[u8]) {
    // Never into a file that may be running.
    let new = path.with_extension("new");
    fs::write(&new, image).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, path).unwrap();
}

/// The processes that run this file.
fn runs(executable: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path == executable)).collect()
}

#[test]
fn a_good_one_is_kept_and_an_older_one_only_when_it_may() {
    let lab = Lab::new();
    let scene = Scene::new(&lab);
    let pid = scene.pair.far.process().pid();
    scene.update(&variants::version(NEWER), &[]).success();
    scene.works(NEWER, pid);
    let again = scene.update(&variants::version(NEWER), &[]).success();
    assert!(again.contains("already"), "{again}");
    let refused = scene.update(&variants::version(OLDER), &[]).failure(1);
    assert!(refused.contains("--allow-downgrade"), "{refused}");
    scene.works(NEWER, pid);
    scene.update(&variants::version(OLDER), &["--allow-downgrade"]).success();
    scene.works(OLDER, pid);
    // The near agent's own executable, which is the version under test.
    scene.pair.near.ctl(&["update-node", "--node", "far"]).success();
    scene.works(VERSION, pid);
    assert_eq!(fs::read(scene.folder().join("old")).unwrap(), variants::version(OLDER), "the one before is kept");
}

#[test]
fn one_that_crashes_or_hangs_is_rolled_back() {
    let lab = Lab::new();
    let scene = Scene::new(&lab);
    let pid = scene.pair.far.process().pid();
    let said = scene.update(&variants::crashing(), &[]).failure(1);
    assert!(said.contains("rolled back") && said.contains("signal"), "{said}");
    scene.works(VERSION, pid);
    match variants::hanging() {
        Some(hanging) => {
            let said = scene.update(&hanging, &["--patience", "5"]).failure(1);
            assert!(said.contains("rolled back") && said.contains("within 5 s"), "{said}");
            scene.works(VERSION, pid);
        }
        None => notice::left_out("one_that_crashes_or_hangs_is_rolled_back", "no code that hangs for this processor"),
    }
}

#[test]
fn one_that_rejoins_nobody_is_rolled_back_also_when_it_stands_still() {
    let Some(lab) = Lab::namespaces("one_that_rejoins_nobody_is_rolled_back") else { return };
    let scene = Scene::new(&lab);
    let (far, pid) = (&scene.pair.far, scene.pair.far.process().pid());
    let mut words = scene.words(&variants::version(NEWER), &["--patience", "10"]);
    // From the far node itself: with its link cut, nobody else can ask.
    words.drain(1..3);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for stands_still in [false, true] {
        // The agent has yet to notice that its member is gone.
        far.host().block();
        let mut update = Process::start(far.host(), "update", far.ctl_command(ADMIN, &words));
        let trial = wait_for("the new agent runs", UPDATE, || runs(&scene.staged()).first().copied());
        if stands_still {
            wait_until("it has the state open", PATIENCE, || holds(trial, &far.state().join("lock")));
            let trial = rustix::process::Pid::from_raw(trial.cast_signed()).unwrap();
            rustix::process::kill_process(trial, Signal::STOP).unwrap();
        }
        wait_until("the update has ended", UPDATE, || update.ended().is_some());
        let said = update.printed();
        assert!(said.contains("rolled back") && said.contains("did not rejoin a member within 10 s"), "{said}");
        far.host().unblock();
        scene.works(VERSION, pid);
        scene.pair.wait_until_connected();
    }
}

/// Whether a process has this file open.
fn holds(pid: u32, file: &Path) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.into_iter().any(|entry| fs::read_link(entry.path()).is_ok_and(|path| path == file))
}

#[test]
fn one_that_cannot_be_right_is_refused_before_it_is_tried() {
    let lab = Lab::new();
    let scene = Scene::new(&lab);
    let pid = scene.pair.far.process().pid();
    let good = variants::version(NEWER);
    let refused = |image: &[u8], why: &str| {
        let said = scene.update(image, &[]).failure(1);
        assert!(said.contains(why), "{said}");
        assert_eq!(scene.stage(), "", "it was not even tried");
        scene.works(VERSION, pid);
    };
    refused(&variants::other_machine(), "another kind of processor");
    refused(&good[..good.len() - 1], "cut off");
    refused(b"#!/bin/sh\nexit 0\n", "no hive-agent");
    let mut two = good.clone();
    two.extend_from_slice(b"<hive-agent build>\n0.2.0\nx\ny\n");
    refused(&two, "no hive-agent");
    // A node whose folder is read-only says so before anything is sent.
    if !rustix::process::geteuid().is_root() {
        let folder = scene.executable.parent().unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o555)).unwrap();
        refused(&good, "cannot be replaced");
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    scene.update(&good, &[]).success();
    scene.works(NEWER, pid);
}

#[test]
fn a_node_with_a_release_key_takes_what_is_signed_and_nothing_else() {
    let lab = Lab::new();
    let folder = lab.host("release").folder("release");
    let openssl = |words: &[&str]| {
        let ran = Command::new("openssl").current_dir(&folder).args(words).status();
        ran.is_ok_and(|status| status.success())
    };
    let made = openssl(&["genpkey", "-algorithm", "ed25519", "-out", "release.pem"])
        && openssl(&["pkey", "-in", "release.pem", "-pubout", "-out", "release.pub"]);
    if !made {
        let name = "a_node_with_a_release_key_takes_what_is_signed_and_nothing_else";
        return notice::left_out(name, "needs openssl 3");
    }
    let key = folder.join("release.pub");
    let scene = Scene::with(&lab, |options| options.argument("--update-key").argument(key.to_str().unwrap()));
    let pid = scene.pair.far.process().pid();
    let good = variants::version(NEWER);
    let said = scene.update(&good, &[]).failure(1);
    assert!(said.contains("signed"), "{said}");
    fs::write(folder.join("hive-agent"), &good).unwrap();
    let sign = ["pkeyutl", "-sign", "-rawin", "-inkey", "release.pem", "-in", "hive-agent", "-out", "hive-agent.sig"];
    assert!(openssl(&sign));
    let signature = folder.join("hive-agent.sig");
    let mut tampered = good.clone();
    *tampered.last_mut().unwrap() ^= 1;
    let said = scene.update(&tampered, &["--signature", signature.to_str().unwrap()]).failure(1);
    assert!(said.contains("signature"), "{said}");
    scene.works(VERSION, pid);
    let peak = usage::peak(pid);
    notice::say(&format!(
        "MEASURED: an agent that checked a binary of {}: {} at most",
        iec(good.len() as u64),
        iec(peak)
    ));
    assert!(peak < MOST_MEMORY, "all of it was in memory: {}", iec(peak));
    // Where nothing else is said, the signature is looked for beside the binary.
    fs::copy(&signature, scene.binaries.join("hive-agent.sig")).unwrap();
    scene.update(&good, &[]).success();
    scene.works(NEWER, pid);
}

#[test]
fn a_transfer_goes_on_where_the_link_broke() {
    let Some(lab) = Lab::namespaces("a_transfer_goes_on_where_the_link_broke") else { return };
    let scene = Scene::new(&lab);
    let pid = scene.pair.far.process().pid();
    let command = scene.command(&variants::version(NEWER), &[]);
    let mut update = Process::start(scene.pair.near.host(), "update", command);
    let (part, _) = wait_for("a part has arrived", PATIENCE, || scene.part().filter(|(_, size)| *size > 1 << 20));
    scene.pair.far.host().block();
    let file = fs::metadata(part).unwrap().ino();
    wait_until("near knows that far is gone", 3 * PATIENCE, || {
        scene.pair.near.json(&["status"])["connections"]["direct"] == 0
    });
    scene.pair.far.host().unblock();
    wait_until("the update has ended", UPDATE, || update.ended().is_some());
    assert!(update.printed().contains("updated from"), "{}", update.printed());
    scene.works(NEWER, pid);
    assert_eq!(fs::metadata(&scene.executable).unwrap().ino(), file, "it began anew");
}

#[test]
fn agents_that_share_an_executable_take_turns() {
    let lab = Lab::new();
    let scene = Scene::new(&lab);
    let pid = scene.pair.far.process().pid();
    let sharing = Node::start(&lab.host("sharing"), options().programs(scene.executable.parent().unwrap()));
    let command = scene.command(&variants::version(NEWER), &[]);
    let mut update = Process::start(scene.pair.near.host(), "update", command);
    let (part, _) = wait_for("a part has arrived", PATIENCE, || scene.part().filter(|(_, size)| *size > 1 << 20));
    update.signal(Signal::STOP);
    let other = scene.binaries.join("other");
    write_program(&other, &variants::version(OLDER));
    let words = ["update-node", "--allow-downgrade", "--binary", other.to_str().unwrap()];
    let said = process::run(sharing.ctl_command(ADMIN, &words), b"", UPDATE).failure(1);
    assert!(said.contains("another update is under way"), "{said}");
    assert!(part.exists(), "what arrives for the other is not thrown away");
    update.signal(Signal::CONT);
    wait_until("the update has ended", UPDATE, || update.ended().is_some());
    assert!(update.printed().contains("updated from"), "{}", update.printed());
    scene.works(NEWER, pid);
    assert_eq!(sharing.json(&["status"])["version"], VERSION, "it runs on with what it was started from");
}

#[test]
fn all_nodes_one_after_the_other_until_one_fails() {
    let lab = Lab::new();
    let scene = Scene::new(&lab);
    let shared = fs::metadata(process::binary("hive-agent")).unwrap().ino();
    // Far comes first by name and fails; near, which shares the executable of all tests, must not be touched.
    let path = scene.binaries.join("hive-agent");
    write_program(&path, &variants::crashing());
    let words = ["update-node", "--all", "--binary", path.to_str().unwrap()];
    let said = process::run(scene.pair.near.ctl_command(ADMIN, &words), b"", UPDATE).failure(1);
    assert!(said.contains("far: ") && said.contains("1 node after it not tried"), "{said}");
    assert_eq!(fs::metadata(process::binary("hive-agent")).unwrap().ino(), shared);
    scene.works(VERSION, scene.pair.far.process().pid());
    let same = scene.pair.near.json(&["update-node", "--all"]);
    let outcomes: Vec<_> = same.as_array().unwrap().iter().map(|report| &report["outcome"]).collect();
    assert_eq!(outcomes, ["unchanged", "unchanged"]);
}

#[test]
fn nobody_without_credentials_updates_anything() {
    let lab = Lab::new();
    let scene = Scene::new(&lab);
    let words = scene.words(&variants::version(NEWER), &[]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    scene.pair.near.ctl(&["logout", "--node", "far"]).success();
    scene.pair.near.ctl_as("", &words).failure(3);
    scene.pair.near.ctl_as("admin:wrong", &words).failure(3);
    assert!(!scene.folder().exists());
    scene.works(VERSION, scene.pair.far.process().pid());
}

/// Moments of an update, as they can be seen from outside.
type Moment = (&'static str, fn(&Scene) -> bool);

const MOMENTS: [Moment; 7] = [
    ("a part has arrived", |scene| scene.part().is_some_and(|(_, size)| size > 1 << 20)),
    ("the binary waits", |scene| scene.staged().exists()),
    ("the trial is agreed on", |scene| scene.stage() == "trial"),
    ("the new agent runs", |scene| !runs(&scene.staged()).is_empty()),
    ("it has proven itself", |scene| scene.stage() == "confirmed"),
    ("it is in place", |scene| scene.folder().join("old").exists()),
    ("it is kept", |scene| scene.stage() == "kept"),
];

#[test]
fn a_kill_at_every_step_leaves_an_agent_that_works() {
    let lab = Lab::new();
    let mut scene = Scene::new(&lab);
    let good = variants::version(NEWER);
    for (moment, reached) in MOMENTS {
        let update = Process::start(scene.pair.near.host(), "update", scene.command(&good, &[]));
        let patience = Instant::now() + UPDATE;
        // Without a pause: some of these last for less than a millisecond.
        while !reached(&scene) && scene.stage() != "kept" {
            assert!(Instant::now() < patience, "{moment}: {}", update.printed());
        }
        let at = scene.stage();
        scene.pair.far.kill9();
        drop(update);
        scene.pair.far.start_again();
        let version = scene.version();
        let settled = scene.stage();
        notice::say(&format!("UPDATE: killed when {moment} (record: {at:?}): {version}, {settled:?}"));
        match settled.as_str() {
            "kept" => assert_eq!(version, NEWER, "{moment}"),
            "" | "rolled-back" => assert_eq!(version, VERSION, "{moment}"),
            other => panic!("{moment}: {other}"),
        }
        scene.works(&version, scene.pair.far.process().pid());
        // The next attempt succeeds, wherever the one before ended.
        let pid = scene.pair.far.process().pid();
        scene.update(&good, &[]).success();
        scene.works(NEWER, pid);
        scene.pair.far.stop();
        write_program(&scene.executable, &variants::agent());
        fs::remove_dir_all(scene.folder()).unwrap();
        scene.pair.far.start_again();
        scene.pair.wait_until_connected();
    }
}
