//! Faults of the machine and of people: each has a message that says what to do, and nothing stored before is lost.

use hive_tests::{
    lab::Lab,
    nobody,
    node::{Node, Options},
    notice,
    process::{self, PATIENCE, Process},
    view::column,
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

const SOMEBODY: &str = "12D3KooWRNKbdUKDb4UJx4sd5u5tt35eBWY7xT4YJL3tkfEpZurH";

fn options() -> Options {
    Options::member("garden:correct horse").admin("admin:battery staple")
}

/// What an agent says that does not start.
fn refusal(command: Command, status: i32) -> String {
    process::run(command, b"", PATIENCE).failure(status)
}

#[test]
fn a_port_that_is_taken_is_named_at_start() {
    let lab = Lab::new();
    let host = lab.host("a");
    let taken = host.listen(0);
    let listen = format!("/ip4/{}/tcp/{}", host.ipv4(), taken.local_addr().unwrap().port());
    let told = refusal(Node::prepare(&host, options().listen(&listen)).agent_command(), 1);
    assert!(told.contains(&format!("error: cannot listen on {listen}: the port is taken")), "{told}");
    assert!(told.contains("hint: stop the other program, or choose another port"), "{told}");
}

#[test]
fn a_port_below_1024_needs_rights() {
    let test = "a_port_below_1024_needs_rights";
    let Some(lab) = Lab::namespaces(test).filter(|_| nobody::is_possible(test)) else { return };
    let host = lab.host("a");
    let mut limit = host.command("sysctl");
    limit.args(["-qw", "net.ipv4.ip_unprivileged_port_start=1024"]);
    process::run(limit, b"", PATIENCE).success();
    let node = Node::prepare(&host, options().listen("/ip4/0.0.0.0/tcp/80"));
    nobody::open_way(lab.folder());
    let command = node.agent_command();
    nobody::give(node.state().parent().unwrap());
    let told = refusal(nobody::run_as(&command, &process::binary("hive-agent")), 1);
    assert!(told.contains("error: cannot listen on /ip4/0.0.0.0/tcp/80: not permitted"), "{told}");
    assert!(told.contains("hint: ports below 1024 need root or CAP_NET_BIND_SERVICE"), "{told}");
}

#[test]
fn malformed_words_are_told_apart() {
    let lab = Lab::new();
    let host = lab.host("a");
    let node = Node::start(&host, options());
    let told = node.ctl(&["register", "--b64", "no identity!", "--network", "garden"]).failure(2);
    assert!(told.contains("error: this is not the identity of a node: ") && told.contains("hint: copy"), "{told}");
    let identity = node.base64();
    let told = node.ctl(&["register", "--b64", &identity[..identity.len() - 8], "--network", "garden"]).failure(2);
    assert!(told.contains("cut off or altered"), "{told}");
    node.ctl(&["listen", "/ip4/nowhere/tcp/1"]).failure(2);
    node.ctl(&["--direct", "nowhere", "id"]).failure(2);
    node.ctl(&["networks", "join", "--name", "two words", "--password-stdin"]).failure(2);
    let other = |options: Options| refusal(Node::prepare(&host, options.name("b")).agent_command(), 2);
    let told = other(options().listen("4180"));
    assert!(told.contains("`4180` is not a multiaddress") && told.contains("write for example /ip4/"), "{told}");
    let told = other(Options::member("garden:"));
    assert!(told.contains("error: HIVE_NETWORK: the password is empty"), "{told}");
    let told = other(Options::default().admin("no-colon-secret"));
    assert!(told.contains("error: HIVE_ADMIN: write USER:PASSWORD") && !told.contains("no-colon-secret"), "{told}");
}

#[test]
fn two_agents_do_not_share_a_state() {
    let lab = Lab::new();
    let mut node = Node::start(&lab.host("a"), options());
    let mut second = node.agent_command();
    second.env("HIVE_LISTEN", "/ip4/127.0.0.1/tcp/0");
    let told = refusal(second, 1);
    assert!(told.contains("error: another hive-agent already uses the state folder "), "{told}");
    node.json(&["id"]);
    node.kill9();
    node.start_again();
}

fn check_command(node: &Node) -> Command {
    let mut command = Command::new(process::binary("hive-agent"));
    command.arg("--state").arg(node.state()).arg("check");
    command
}

/// Verifies the state of a node that is not running.
fn check(node: &Node) {
    let report = process::run(check_command(node), b"", PATIENCE).success();
    assert!(report.contains("damaged entries: 0\n"), "{report}");
    assert!(report.contains("records with a wrong signature: 0\n"), "{report}");
}

#[test]
fn damage_of_the_database_is_told_in_words() {
    const PAGE: usize = 4096;
    let lab = Lab::new();
    let mut node = Node::start(&lab.host("a"), options());
    node.kill9();
    let file = node.state().join("data.mdb");
    let whole = fs::read(&file).unwrap();
    let pages = whole.len() / PAGE;
    let zeroed = |page: usize| [&whole[..page * PAGE], &[0; PAGE], &whole[(page + 1) * PAGE..]].concat();
    let scrambled = |page: usize| {
        let noise = (0..PAGE).map(|at| (at * 31 + page * 7) as u8).collect::<Vec<_>>();
        [&whole[..page * PAGE], &noise, &whole[(page + 1) * PAGE..]].concat()
    };
    let cut_off = |page: usize| whole[..page * PAGE].to_vec();
    let (mut read, mut refused) = (0, 0);
    for damaged in (1..pages).flat_map(|page| [zeroed(page), scrambled(page), cut_off(page)]) {
        fs::write(&file, damaged).unwrap();
        let ended = process::run(check_command(&node), b"", PATIENCE);
        match ended.status {
            Some(0) => read += 1,
            Some(1) => {
                let told = ended.stderr;
                assert!(told.contains("error: the state database in ") && told.contains("put back a copy"), "{told}");
                refused += 1;
            }
            other => panic!("check ended with {other:?}: {}", ended.stderr),
        }
    }
    assert!(read > 0 && refused > 0, "LMDB lives with {read} damages and not with {refused}");
}

#[test]
fn check_makes_no_state() {
    let lab = Lab::new();
    let mut node = Node::start(&lab.host("a"), options());
    node.kill9();
    fs::remove_dir_all(node.state()).unwrap();
    let told = refusal(check_command(&node), 1);
    assert!(told.contains("error: there is no state in "), "{told}");
    assert!(!node.state().exists());
}

#[test]
fn a_state_that_others_could_read_is_refused() {
    let lab = Lab::new();
    let mut node = Node::start(&lab.host("a"), options());
    let id = node.peer_id();
    node.stop();
    for entry in fs::read_dir(node.state()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
    }
    for mode in [0o750, 0o705, 0o722] {
        fs::set_permissions(node.state(), fs::Permissions::from_mode(mode)).unwrap();
        let told = refusal(node.agent_command(), 1);
        assert!(told.contains(&format!("(mode 0{mode:o}): run `chmod 700 ")), "{told}");
    }
    fs::set_permissions(node.state(), fs::Permissions::from_mode(0o700)).unwrap();
    node.start_again();
    assert_eq!(node.peer_id(), id);
}

#[test]
fn a_state_folder_that_cannot_be_written_is_named() {
    let lab = Lab::new();
    let node = Node::prepare(&lab.host("a"), options());
    fs::write(node.state(), "a file in its place").unwrap();
    let told = refusal(node.agent_command(), 1);
    assert!(
        told.contains("error: cannot use the state folder ") && told.contains("choose another with --state"),
        "{told}"
    );
    assert_eq!(fs::read_to_string(node.state()).unwrap(), "a file in its place");
    if !nobody::is_possible("a_state_folder_that_cannot_be_written_is_named (as nobody)") {
        return;
    }
    fs::remove_file(node.state()).unwrap();
    nobody::open_way(lab.folder());
    let told = refusal(nobody::run_as(&node.agent_command(), &process::binary("hive-agent")), 1);
    assert!(told.contains("error: cannot use the state folder ") && told.contains("ermission denied"), "{told}");
    fs::create_dir(node.state()).unwrap();
    fs::set_permissions(node.state(), fs::Permissions::from_mode(0o700)).unwrap();
    let told = refusal(nobody::run_as(&node.agent_command(), &process::binary("hive-agent")), 1);
    assert!(told.contains("belongs to user id 0, not to this one"), "{told}");
}

/// A small disk of its own at a folder, as long as this lives.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, options: &str) -> Option<Disk> {
        fs::create_dir_all(at).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
        mount.is_ok_and(|done| done.status.success()).then(|| Disk(at.to_owned()))
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let mut file = fs::File::create(self.filler()).unwrap();
        while std::io::Write::write(&mut file, &[0; 4096]).is_ok_and(|written| written > 0) {}
    }

    fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // An agent may still run there; the rest goes with its last file.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Adds an ingress that nobody uses; its long host takes room on the disk.
fn proxy(port: usize) -> Vec<String> {
    let (origin, port) = (format!("{SOMEBODY}:{port}"), port.to_string());
    let host = format!("{}.example", "x".repeat(240));
    ["proxy", "--direction", "ingress", "--origin", &origin, "--port", &port, "--host", &host].map(str::to_owned).into()
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[test]
fn a_full_disk_loses_nothing_and_heals() {
    let lab = Lab::new();
    let mut node = Node::prepare(&lab.host("a"), options());
    let Some(disk) = Disk::mount(&node.state(), "size=2m,mode=0700") else {
        return notice::left_out("a_full_disk_loses_nothing_and_heals", "cannot mount a small file system here");
    };
    node.start_again();
    let id = node.peer_id();
    disk.fill();
    let refused = (1..2000).find_map(|port| {
        let output = node.ctl(&words(&proxy(port)));
        (output.status != Some(0)).then_some((port, output))
    });
    let (last, refused) = refused.expect("a full disk is noticed");
    let told = refused.failure(1);
    assert!(told.contains("not stored") && told.contains("no space left"), "{told}");
    assert!(told.contains("hint: see to the disk of the state folder"), "{told}");
    let problems = column(&node.json(&["status"])["problems"], "what");
    assert!(problems.iter().any(|what| what.starts_with("changes are not stored: no space left")), "{problems:?}");
    assert_eq!(node.json(&["proxy", "ls"]).as_array().unwrap().len(), last, "it is in force all the same");
    disk.free();
    node.ctl(&words(&proxy(last + 1))).success();
    let problems = column(&node.json(&["status"])["problems"], "what");
    assert!(!problems.iter().any(|what| what.contains("not stored")), "{problems:?}");
    node.kill9();
    check(&node);
    node.start_again();
    assert_eq!(node.peer_id(), id);
    assert_eq!(node.json(&["proxy", "ls"]).as_array().unwrap().len(), last + 1);
    node.stop();
    disk.fill();
    // Starting writes little, and old pages may have room for it: so it may go either way.
    let opened = process::run(check_command(&node), b"", PATIENCE);
    let told = opened.stderr.contains("no space left for the state: free some space on its disk");
    assert!(opened.status == Some(0) || (opened.status == Some(1) && told), "{opened:#?}");
    disk.free();
    node.start_again();
    assert_eq!(node.json(&["proxy", "ls"]).as_array().unwrap().len(), last + 1);
    drop((node, disk));
}

#[test]
fn a_kill_at_any_moment_leaves_a_state_that_starts() {
    let lab = Lab::new();
    let host = lab.host("a");
    let mut node = Node::start(&host, options());
    let id = node.peer_id();
    let mut stored: Vec<String> = Vec::new();
    for round in 0..16 {
        let made = node.json(&words(&proxy(1000 + 2 * round)));
        stored.push(made["id"].to_string());
        let arguments = proxy(1001 + 2 * round);
        let in_flight = Process::start(&host, &format!("change-{round}"), node.ctl_command("", &words(&arguments)));
        // Nothing is measured: this only moves the kill through what the agent does then.
        thread::sleep(Duration::from_millis(2 * round as u64));
        node.kill9();
        drop(in_flight);
        check(&node);
        node.start_again();
        let listed = node.json(&["proxy", "ls"]);
        let listed: Vec<String> = listed.as_array().unwrap().iter().map(|proxy| proxy["id"].to_string()).collect();
        assert!(stored.iter().all(|id| listed.contains(id)), "told but lost in round {round}: {stored:?} {listed:?}");
        stored = listed;
    }
    assert_eq!(node.peer_id(), id);
    assert!((16..=32).contains(&stored.len()), "{stored:?}");
}

#[test]
fn a_clock_set_back() {
    notice::left_out(
        "a_clock_set_back",
        "a time namespace does not move the wall clock, and moving this machine's would hurt others; \
         the simulation of hive-core sets clocks back",
    );
}
