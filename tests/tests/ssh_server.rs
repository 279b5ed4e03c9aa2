//! The agent's own SSH server (`proxy --kind ssh`) and OpenSSH's programs against it; and `shell --ssh`.

use hive_tests::{
    facts,
    lab::Lab,
    notice,
    pair::{self, ADMIN, Pair},
    payload,
    process::{self, Output, PATIENCE, Process},
    wait::{wait_for, wait_until},
};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const BIG: usize = 64 << 20;
/// What an agent may have in memory whatever its SSH clients do.
const MOST_MEMORY: u64 = 48 << 20;

/// A node with an SSH server of its own, and what it takes to log in there.
struct Server {
    pair: Pair,
    folder: PathBuf,
    port: u16,
    id: u64,
}

impl Server {
    fn start(lab: &Lab, test: &str) -> Option<Server> {
        if ["ssh", "ssh-keygen", "scp", "sftp"].iter().any(|program| !runs(program)) {
            notice::left_out(test, "needs openssh-client");
            return None;
        }
        let pair = Pair::start(lab);
        let folder = pair.far.host().folder("ssh");
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join("key")).status();
        assert!(made.expect("ssh-keygen").success());
        let port = pair.far.host().free_port();
        let keys = folder.join("key.pub");
        let made =
            pair.near.json(
                &[
                    &[
                        "proxy",
                        "--node",
                        "far",
                        "--direction",
                        "egress",
                        "--kind",
                        "ssh",
                        "--target",
                        "operator:sesame",
                    ][..],
                    &["--port", &port.to_string(), "--authorized-keys", keys.to_str().expect("text")],
                ]
                .concat(),
            );
        let key = made["ssh"]["key"].as_str().unwrap_or_else(|| panic!("no host key in {made}"));
        fs::write(folder.join("known_hosts"), format!("far {key}\n")).expect("a file");
        let id = made["id"].as_u64().expect("a number");
        Some(Server { pair, folder, port, id })
    }

    /// Options of every program of OpenSSH: the pinned host key, and no questions.
    fn options(&self) -> Vec<String> {
        let (known, key) = (self.folder.join("known_hosts"), self.folder.join("key"));
        [
            format!("Port={}", self.port),
            "HostKeyAlias=far".into(),
            format!("UserKnownHostsFile={}", known.display()),
            "StrictHostKeyChecking=yes".into(),
            format!("IdentityFile={}", key.display()),
            "IdentitiesOnly=yes".into(),
            "BatchMode=yes".into(),
        ]
        .into_iter()
        .flat_map(|option| ["-o".to_owned(), option])
        .collect()
    }

    fn command(&self, program: &str, options: &[String], words: &[&str]) -> Command {
        let mut command = self.pair.far.host().command(program);
        command.args(["-F", "/dev/null"].iter().filter(|_| program != "rsync")).args(options).args(words);
        command
    }

    fn run(&self, program: &str, words: &[&str], stdin: &[u8]) -> Output {
        process::run(self.command(program, &self.options(), words), stdin, 2 * PATIENCE)
    }

    /// Logs in with a password.
    fn log_in(&self, user: &str, password: &str) -> Output {
        let ask = self.folder.join("ask");
        fs::write(&ask, "#!/bin/sh\nprintf '%s\\n' \"$PASSWORD\"\n").expect("a file");
        fs::set_permissions(&ask, fs::Permissions::from_mode(0o700)).expect("a program");
        let mut options = self.options();
        options.retain(|option| option != "BatchMode=yes");
        let given = ["PubkeyAuthentication=no", "NumberOfPasswordPrompts=1"].map(|option| format!("-o{option}"));
        let options: Vec<String> =
            options.into_iter().filter(|word| word != "-o").map(|word| format!("-o{word}")).collect();
        let mut command =
            self.command("ssh", &[options, given.to_vec()].concat(), &[&format!("{user}@127.0.0.1"), "echo in"]);
        command.env("SSH_ASKPASS", ask).env("SSH_ASKPASS_REQUIRE", "force").env("PASSWORD", password);
        process::run(command, b"", PATIENCE)
    }

    fn proxy(&self) -> Value {
        pair::proxy(&self.pair.far, self.id)
    }
}

const AT: &str = "operator@127.0.0.1";

fn runs(program: &str) -> bool {
    Command::new("which").arg(program).output().is_ok_and(|output| output.status.success())
}

fn is_alive(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

#[test]
fn every_program_of_openssh_works() {
    let lab = Lab::new();
    let Some(server) = Server::start(&lab, "every_program_of_openssh_works") else { return };
    let output = server.run("ssh", &[AT, "echo out; echo err >&2; exit 3"], b"");
    assert_eq!((output.status, output.stdout.as_str()), (Some(3), "out\n"), "{output:#?}");
    assert!(output.stderr.contains("err\n"), "{output:#?}");
    let shell = server.run("ssh", &["-T", AT], b"echo $((6 * 7)); exit 4\n");
    assert_eq!((shell.status, shell.stdout.as_str()), (Some(4), "42\n"), "{shell:#?}");

    let (here, there) = (server.folder.join("here"), server.folder.join("there"));
    let content = payload::bytes(11, BIG);
    fs::write(&here, &content).unwrap();
    fs::set_permissions(&here, fs::Permissions::from_mode(0o640)).unwrap();
    let arrived = |what: &str| {
        assert!(fs::read(&there).unwrap() == content, "{what}");
        fs::remove_file(&there).unwrap();
    };
    let (from, to) = (here.to_str().unwrap(), format!("{AT}:{}", there.display()));
    server.run("ssh", &[AT, &format!("cat > {}", there.display())], &content).success();
    arrived("ssh cat");
    server.run("scp", &["-p", from, &to], b"").success();
    assert_eq!(fs::metadata(&there).unwrap().permissions().mode() & 0o777, 0o640);
    arrived("scp there");
    server.run("scp", &[&format!("{AT}:{from}"), there.to_str().unwrap()], b"").success();
    arrived("scp back");
    let other = server.folder.join("other");
    let batch = format!(
        "mkdir {0}\nput {from} {0}/a\nchmod 600 {0}/a\nrename {0}/a {0}/b\nln -s b {0}/link\nls -l {0}\nget {0}/b {1}\n\
         rm {0}/b\nrm {0}/link\nrmdir {0}\n",
        other.display(),
        there.display()
    );
    let listed = server.run("sftp", &["-b", "-", AT], batch.as_bytes()).success();
    assert!(listed.contains("-rw-------") && listed.contains("lrwxrwxrwx"), "{listed}");
    assert!(!other.exists());
    arrived("sftp");
    let (agent, near) = (process::binary("hive-agent"), &server.pair.near);
    let exec = near.ctl_command(ADMIN, &["exec", "--node", "far", "--", agent.to_str().unwrap(), "sftp-server"]);
    let words = std::iter::once(exec.get_program()).chain(exec.get_args()).map(|word| word.to_string_lossy());
    let environment = exec.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
    let mut sftp = near.host().command("sftp");
    sftp.envs(environment);
    sftp.args(["-b", "-", "-D", &words.collect::<Vec<_>>().join(" ")]);
    let batch = format!("put {from} {}\n", there.display());
    process::run(sftp, batch.as_bytes(), 2 * PATIENCE).success();
    arrived("sftp without ssh");
    if !runs("rsync") {
        return notice::left_out("rsync to the agent's SSH server", "needs rsync");
    }
    let words: Vec<String> = server.options().into_iter().map(|word| format!("'{word}'")).collect();
    let options = ["-e".to_owned(), format!("ssh -F /dev/null {}", words.join(" ")), "-a".to_owned()];
    process::run(server.command("rsync", &options, &[from, &to]), b"", 2 * PATIENCE).success();
    arrived("rsync");
}

#[test]
fn transfers_go_on_when_a_link_that_was_cut_is_back() {
    let test = "transfers_go_on_when_a_link_that_was_cut_is_back";
    let Some(lab) = Lab::namespaces(test) else { return };
    let Some(server) = Server::start(&lab, test) else { return };
    let (near, far) = (&server.pair.near, server.pair.far.host());
    let entrance = server.pair.tunnel(([127, 0, 0, 1], server.port).into()).entrance;
    let port = |word: String| if word.starts_with("Port=") { format!("Port={}", entrance.port()) } else { word };
    let options: Vec<String> = server.options().into_iter().map(port).collect();
    let quoted: Vec<String> = options.iter().map(|word| format!("'{word}'")).collect();
    let (here, content) = (server.folder.join("here"), payload::bytes(12, 2 * BIG));
    fs::write(&here, &content).unwrap();
    let (from, at) = (here.display(), format!("operator@{}", entrance.ip()));
    let (options, ssh) = (quoted.join(" "), format!("ssh -F /dev/null {}", quoted.join(" ")));
    let transfers = [
        ("ssh", format!("{ssh} {at} 'cat > TO' < {from}")),
        ("scp", format!("scp -F /dev/null {options} {from} {at}:TO")),
        ("sftp", format!("echo put {from} TO | sftp -F /dev/null {options} -b - {at}")),
        ("rsync", format!("rsync -e \"{ssh}\" {from} {at}:TO")),
    ];
    let mut running: Vec<(Process, PathBuf)> = transfers
        .iter()
        .filter(|(program, _)| runs(program))
        .map(|(program, line)| {
            let to = far.folder(&format!("by-{program}")).join("there");
            let mut command = near.host().command("sh");
            command.args(["-c", &line.replace("TO", &to.display().to_string())]);
            (Process::start(near.host(), program, command), to)
        })
        .collect();
    for (_, to) in &running {
        // rsync writes beside its place.
        wait_until("a part of it has arrived", PATIENCE, || {
            let files = fs::read_dir(to.parent().unwrap()).unwrap().flatten();
            files.into_iter().any(|file| file.metadata().is_ok_and(|file| file.len() > 1 << 20))
        });
    }
    far.block();
    wait_until("near knows that far is gone", PATIENCE, || near.json(&["status"])["connections"]["direct"] == 0);
    far.unblock();
    for (transfer, to) in &mut running {
        assert!(transfer.wait().success(), "{}", transfer.printed());
        assert!(fs::read(&to).unwrap() == content, "{}", to.display());
    }
}

#[test]
fn a_reader_that_stalls_costs_little_and_stops_nothing() {
    let lab = Lab::new();
    let Some(server) = Server::start(&lab, "a_reader_that_stalls_costs_little_and_stops_nothing") else { return };
    let path = server.folder.join("big");
    let content = payload::bytes(5, BIG);
    fs::write(&path, &content).unwrap();
    let mut echo = server.command("ssh", &server.options(), &[AT, "cat"]);
    echo.stdin(fs::File::open(&path).unwrap()).stdout(Stdio::piped());
    let mut echo = echo.spawn().unwrap();
    // Nobody reads. It has stalled when hardly anything comes from the client any more.
    let mut before = 0;
    wait_until("the client is held up", PATIENCE, || {
        let now = server.proxy()["bytes_in"].as_u64().unwrap();
        let slow = now > 1 << 20 && now - before < 16 << 10;
        before = now;
        slow
    });
    let memory = server.pair.far.usage().rss;
    let size = facts::iec(memory);
    notice::say(&format!("MEASURED: agent with an SSH client that does not read: {size} resident"));
    assert!(memory < MOST_MEMORY, "{size}");
    assert!(before < BIG as u64 / 2, "{before} bytes went somewhere");
    // Another client is none the worse for it.
    assert_eq!(server.run("ssh", &[AT, "cat"], &content).success().len(), String::from_utf8_lossy(&content).len());
    let mut echoed = Vec::new();
    echo.stdout.take().unwrap().read_to_end(&mut echoed).unwrap();
    assert!(echo.wait().unwrap().success());
    assert!(echoed == content, "{} bytes came back", echoed.len());
    let memory = server.pair.far.usage().rss;
    assert!(memory < MOST_MEMORY, "{}", facts::iec(memory));
}

#[test]
fn a_program_that_reads_slowly_gets_everything() {
    let lab = Lab::new();
    let Some(server) = Server::start(&lab, "a_program_that_reads_slowly_gets_everything") else { return };
    let content = payload::bytes(6, 8 << 20);
    let slowly = "for i in 1 2 3 4; do head -c 2097152; sleep 0.3; done | wc -c";
    assert_eq!(server.run("ssh", &[AT, slowly], &content).success().trim(), content.len().to_string());
    // A program that reads nothing has its input thrown away, and holds up nobody on the same connection.
    let socket = server.folder.join("control");
    let master = format!("ControlPath={}", socket.display());
    server.run("ssh", &["-o", &master, "-o", "ControlMaster=yes", "-N", "-f", AT], b"").success();
    for round in 0..12 {
        let beside = server.run("ssh", &["-o", &master, AT, "echo beside"], b"").success();
        assert_eq!(beside, "beside\n", "{round}");
        server.run("ssh", &["-o", &master, AT, "exit 0"], &content).success();
    }
    server.run("ssh", &["-o", &master, "-O", "exit", AT], b"").success();
}

#[test]
fn only_the_right_password_logs_in_and_nobody_is_told_it() {
    let lab = Lab::new();
    let Some(mut server) = Server::start(&lab, "only_the_right_password_logs_in_and_nobody_is_told_it") else { return };
    assert_eq!(server.log_in("operator", "sesame").success(), "in\n");
    for (user, password) in [("operator", "sesam"), ("root", "sesame")] {
        let refused = server.log_in(user, password).failure(255);
        assert!(refused.contains("Permission denied"), "{refused}");
    }
    let key = server.folder.join("key");
    fs::remove_file(&key).unwrap();
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.unwrap().success());
    let refused = server.run("ssh", &[AT, "true"], b"").failure(255);
    assert!(refused.contains("Permission denied"), "another's key: {refused}");

    let (listed, shown) =
        (server.proxy().to_string(), server.pair.near.ctl(&["proxy", "ls", "--node", "far"]).success());
    let fingerprint = server.proxy()["ssh"]["fingerprint"].as_str().unwrap().to_owned();
    assert!(fingerprint.starts_with("SHA256:") && shown.contains(&fingerprint), "{shown}");
    server.pair.far.restart();
    server.pair.wait_until_connected();
    assert_eq!(server.proxy()["ssh"]["fingerprint"], fingerprint.as_str());
    assert_eq!(server.log_in("operator", "sesame").success(), "in\n", "the host key and the password are kept");
    let logged = server.pair.far.process().printed();
    for secret in ["sesame", "operator", "argon2", "ssh-ed25519 AAAA"] {
        assert!(!logged.contains(secret), "{secret} in the log: {logged}");
        assert!(!shown.contains(secret), "{secret} is listed: {shown}");
    }
    assert!(!listed.contains("sesame") && !listed.contains("operator") && !listed.contains("argon2"), "{listed}");
}

#[test]
fn strangers_take_little_room_and_do_no_harm() {
    let lab = Lab::new();
    let Some(server) = Server::start(&lab, "strangers_take_little_room_and_do_no_harm") else { return };
    let (far, address) = (server.pair.far.host(), ([127, 0, 0, 1], server.port).into());
    let mut strangers: Vec<_> = (0..20).map(|_| far.connect(address).unwrap()).collect();
    let greeted = |stream: &std::net::TcpStream| {
        stream.set_nonblocking(true).unwrap();
        stream.peek(&mut [0; 4]).is_ok_and(|len| len > 0)
    };
    wait_until("silent ones have all the places", PATIENCE, || strangers.iter().filter(|s| greeted(s)).count() >= 4);
    assert_eq!(server.run("ssh", &[AT, "echo in"], b"").success(), "in\n", "they make room for one who speaks");
    // Far less than the minute in which one may log in.
    let mut silent = strangers.pop().unwrap();
    silent.set_nonblocking(false).unwrap();
    silent.set_read_timeout(Some(PATIENCE / 2)).unwrap();
    silent.read_to_end(&mut Vec::new()).expect("nobody may be silent for long");
    drop(strangers);
    for garbage in
        [&[0xff; 70_000][..], b"SSH-2.0-x\r\n\x7f\xff\xff\xff\x00garbage", b"SSH-2.0-x\r\n\0\0\0\x0c\x0a\x14", b"\n"]
    {
        let mut stream = far.connect(address).unwrap();
        let _ = std::io::Write::write_all(&mut stream, garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(server.run("ssh", &[AT, "echo in"], b"").success(), "in\n");
    wait_until("nobody is left", PATIENCE, || server.proxy()["streams"] == 0);
}

#[test]
fn a_session_ends_with_its_proxy() {
    let lab = Lab::new();
    let Some(server) = Server::start(&lab, "a_session_ends_with_its_proxy") else { return };
    let command = server.command("ssh", &server.options(), &[AT, "echo pid $$; exec sleep 1000"]);
    let mut session = Process::start(server.pair.far.host(), "ssh", command);
    let pid = session.wait_for_line("pid ");
    let pid: i32 = pid.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(is_alive(pid) && server.proxy()["streams"] == 1);
    server.pair.near.ctl(&["proxy", "rm", &server.id.to_string(), "--node", "far"]).success();
    assert_eq!(session.wait().code(), Some(255));
    wait_until("its program has ended", PATIENCE, || !is_alive(pid));
}

/// `shell --ssh` from the near node to the far one, with these words after it.
fn shell_ssh(pair: &Pair, words: &[&str]) -> Command {
    pair.near.ctl_command(ADMIN, &[&["shell", "--node", "far", "--ssh"], words].concat())
}

fn wait_until_gone(pair: &Pair) {
    for node in [&pair.near, &pair.far] {
        node.wait_for_json("the proxies are gone", PATIENCE, &["proxy", "ls"], |proxies| *proxies == json!([]));
    }
}

#[test]
fn shell_ssh_makes_its_way_and_leaves_nothing() {
    let lab = Lab::new();
    if !runs("ssh") {
        return notice::left_out("shell_ssh_makes_its_way_and_leaves_nothing", "needs openssh-client");
    }
    let pair = Pair::start(&lab);
    let output = process::run(shell_ssh(&pair, &[]), b"echo $((6 * 7)); exit 5\n", PATIENCE);
    assert_eq!((output.status, output.stdout.as_str()), (Some(5), "42\n"), "{output:#?}");
    assert_eq!([&pair.near, &pair.far].map(|node| node.json(&["proxy", "ls"])), [json!([]), json!([])]);

    let mut printed = Process::start(pair.near.host(), "nc", shell_ssh(&pair, &["--nc"]));
    let line = printed.wait_for_line("ssh -F none");
    assert!(line.contains("StrictHostKeyChecking=yes") && !line.contains("StrictHostKeyChecking=no"), "{line}");
    assert_eq!(pair.far.json(&["proxy", "ls"]).as_array().map(Vec::len), Some(2));
    assert_eq!(pair.near.json(&["proxy", "ls"]).as_array().map(Vec::len), Some(1));
    let mut command = pair.near.host().command("sh");
    command.args(["-c", &format!("{} 'echo through; exit 6'", line.trim())]);
    let output = process::run(command, b"", PATIENCE);
    assert_eq!((output.status, output.stdout.as_str()), (Some(6), "through\n"), "{output:#?}");
    let known = line.split_once("UserKnownHostsFile=").and_then(|(_, rest)| rest.split(' ').next()).unwrap();
    let known = Path::new(known);
    assert_eq!(fs::metadata(known.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    // Another host key in its place is not taken.
    let other = fs::read_to_string(known).unwrap().split(' ').next().unwrap().to_owned();
    fs::write(
        known,
        format!("{other} ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMkNdMlZVVm42GSUPqwNXP1nNKX2mCGKLqQ3YhD1kFYS\n"),
    )
    .unwrap();
    let mut command = pair.near.host().command("sh");
    command.args(["-c", &format!("{} true", line.trim())]);
    let refused = process::run(command, b"", PATIENCE).failure(255);
    assert!(refused.contains("Host key verification failed"), "{refused}");
    printed.signal(Signal::TERM);
    printed.wait();
    assert!(!known.exists(), "the session's key is gone with it");
    wait_until_gone(&pair);

    let mut killed = Process::start(pair.near.host(), "killed", shell_ssh(&pair, &["--nc"]));
    killed.wait_for_line("ssh -F none");
    killed.kill();
    wait_until_gone(&pair);
}

#[test]
fn a_cut_link_ends_the_session_and_its_program() {
    let lab = Lab::new();
    let test = "a_cut_link_ends_the_session_and_its_program";
    if !runs("ssh") {
        return notice::left_out(test, "needs openssh-client");
    }
    let mut pair = Pair::start(&lab);
    let mut session = Process::start_with_stdin(pair.near.host(), "session", shell_ssh(&pair, &[]));
    let mut input = session.stdin();
    std::io::Write::write_all(&mut input, b"echo pid $$; exec sleep 1000\n").unwrap();
    let pid = session.wait_for_line("pid ");
    let pid: i32 = pid.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(is_alive(pid));
    pair.near.kill9();
    wait_until("the program there has ended", PATIENCE, || !is_alive(pid));
    let status = wait_for("the client ends", PATIENCE, || session.ended());
    assert_eq!(status.code(), Some(255));
    pair.far.wait_for_json("the proxies are gone", PATIENCE, &["proxy", "ls"], |proxies| *proxies == json!([]));
}
