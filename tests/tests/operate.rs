//! Operating the machine behind a node: its figures, its log, programs, shells and files, with real programs at both
//! ends, and with the link cut in the middle.

use hive_tests::{
    lab::Lab,
    node::Node,
    notice,
    pair::{ADMIN, Pair},
    payload,
    process::{PATIENCE, Process, Signal},
    wait::{wait_for, wait_until},
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// What every verb of this file is asked in its least form.
const VERBS: [&[&str]; 5] = [
    &["get-metrics", "--node", "far"],
    &["logs", "--node", "far"],
    &["exec", "--node", "far", "--", "true"],
    &["shell", "--node", "far"],
    &["cp", "/etc/hostname", "far:/nowhere/at/all"],
];
/// What the agent may take at most while a program's output waits for a reader that stalls.
const MOST_MEMORY: u64 = 48 << 20;

/// Runs a command to its end with a shell's view of its status.
fn exec(pair: &Pair, words: &[&str], stdin: &[u8]) -> hive_tests::process::Output {
    pair.near.ctl_with_stdin(ADMIN, &[&["exec", "--node", "far", "--"], words].concat(), stdin)
}

/// A program at the far node that says its process id first and then sleeps, and its session at the near node.
fn sleeper(pair: &Pair) -> (Process, PathBuf) {
    let command =
        pair.near.ctl_command(ADMIN, &["exec", "--node", "far", "--", "sh", "-c", "echo pid $$ .; sleep 1000"]);
    let process = Process::start(pair.near.host(), "sleeper", command);
    let line = process.wait_for_line("pid ");
    let pid = line.split_whitespace().nth(1).expect("a process id").to_owned();
    (process, Path::new("/proc").join(pid))
}

#[test]
fn figures_of_one_node_and_of_all() {
    let lab = Lab::new();
    let mut pair = Pair::start(&lab);
    let one = pair.near.json(&["get-metrics", "--node", "far"]);
    assert!(one["memory"]["total_bytes"].as_u64() > Some(1 << 20), "{one}");
    assert!(one["agent"]["rss_bytes"].is_u64() && one["cpu"]["usage_percent"].is_f64(), "{one}");
    for list in ["disks", "temperatures", "gpus", "network"] {
        assert!(one[list].is_array(), "{list}: {one}");
    }
    let text = pair.near.ctl(&["get-metrics", "--all", "--prometheus"]).success();
    for name in ["near", "far"] {
        assert!(text.contains(&format!("hive_up{{node=\"{name}\"")), "{text}");
    }
    pair.far.kill9();
    let all = pair.near.json(&["get-metrics", "--all"]);
    let rows = all.as_array().expect("a list");
    let row = |name: &str| rows.iter().find(|row| row["node_name"] == name).expect("a row for each member");
    assert!(row("near")["metrics"]["uptime_s"].is_u64() && row("near")["error"].is_null(), "{all}");
    assert!(row("far")["metrics"].is_null() && row("far")["error"].is_string(), "{all}");
}

#[test]
fn the_log_is_shown_and_followed() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let shown = pair.near.ctl(&["logs", "--node", "far", "--lines", "1000"]).success();
    assert!(shown.contains(" INFO  hive-agent "), "{shown}");
    assert_eq!(pair.near.ctl(&["logs", "--node", "far", "--lines", "1"]).success().lines().count(), 1);
    let follower = pair.near.ctl_command(ADMIN, &["logs", "--node", "far", "--follow"]);
    let follower = Process::start(pair.near.host(), "follower", follower);
    follower.wait_for_line("hive-agent ");
    exec(&pair, &["true"], b"").success();
    follower.wait_for_line(" runs true");
}

#[test]
fn a_program_has_our_streams_and_we_have_its_status() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let output = exec(&pair, &["sh", "-c", "echo out; echo err >&2; exit 7"], b"");
    assert_eq!((output.status, output.stdout.as_str(), output.stderr.as_str()), (Some(7), "out\n", "err\n"));
    assert_eq!(exec(&pair, &["sh", "-c", "kill -9 $$"], b"").status, Some(137));
    assert_eq!(exec(&pair, &["no-such-program"], b"").status, Some(127));
    assert_eq!(exec(&pair, &["/"], b"").status, Some(126));
    assert_eq!(exec(&pair, &["printf", "%s|", "two words", "$HOME", "*"], b"").success(), "two words|$HOME|*|");
    let environment = exec(&pair, &["env"], b"").success();
    assert!(!environment.contains("HIVE_"), "secrets of the agent do not leak: {environment}");
    let (text, script) = (payload::bytes(7, 3 << 20), "cat >/dev/null; echo done");
    assert_eq!(exec(&pair, &["sh", "-c", script], &text).success(), "done\n");
    assert_eq!(exec(&pair, &["sh", "-c", "exit 0"], &text).status, Some(0), "nobody reads our input");
    let text = "line of text\n".repeat(200_000);
    assert!(exec(&pair, &["cat"], text.as_bytes()).success() == text);
    assert_eq!(exec(&pair, &["sh", "-c", "cat >&2"], text.as_bytes()).stderr, text);
}

#[test]
fn ctrl_c_reaches_the_program_and_its_end_reaches_us() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let (mut process, program) = sleeper(&pair);
    assert!(program.exists());
    process.signal(Signal::INT);
    assert_eq!(process.wait().code(), Some(130));
    assert!(!program.exists());
}

#[test]
fn a_reader_that_stalls_costs_a_window_and_no_more() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let count = pair.far.host().folder("count").join("written");
    let script = format!("while head -c 1048576 /dev/zero; do echo x >> {}; done", count.display());
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = pair.near.ctl_command(ADMIN, &["exec", "--node", "far", "--", "sh", "-c", &script]);
    let mut child = command.stdout(writer).stdin(std::process::Stdio::null()).spawn().unwrap();
    let written = || fs::read(&count).map_or(0, |marks| marks.len());
    wait_until("the program has written something", PATIENCE, || written() > 0);
    // It stands still when two looks in a row see the same.
    let mut before = 0;
    wait_until("the program is held up", PATIENCE, || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        let now = written();
        let still = now == before;
        before = now;
        still
    });
    assert!(before < 2 * 16, "{before} MiB were written for nobody");
    for node in [&pair.near, &pair.far] {
        assert!(node.usage().anonymous < MOST_MEMORY, "{}: {:?}", node.name(), node.usage());
    }
    // Beside the one that stalls, others are served.
    assert_eq!(exec(&pair, &["echo", "alive"], b"").success(), "alive\n");
    drop(reader);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn nobody_without_credentials_gets_anything() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let at_far = |credentials: &str, verb: &[&str]| pair.near.ctl_as(credentials, verb);
    for verb in VERBS {
        at_far("", verb).failure(3);
    }
    // Once each: more attempts are not even looked at.
    at_far("admin:wrong", VERBS[0]).failure(3);
    at_far("somebody:else", VERBS[2]).failure(3);
    // A session of another node opens nothing here.
    wait_until("attempts are looked at again", PATIENCE, || {
        at_far(ADMIN, &["login", "--node", "far"]).status == Some(0)
    });
    let folder = pair.near.state().parent().unwrap().join("home/state/hivectl");
    let of = |node: &Node| folder.join(format!("{}.json", node.peer_id()));
    let own = fs::read_to_string(of(&pair.far)).unwrap();
    at_far("", &["logout", "--node", "far"]).success();
    for verb in VERBS {
        at_far("", verb).failure(3);
        fs::write(of(&pair.far), &own).unwrap();
        fs::set_permissions(of(&pair.far), fs::Permissions::from_mode(0o600)).unwrap();
        at_far("", verb).failure(3);
    }
}

#[test]
fn a_session_that_ends_takes_its_programs_with_it() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let (mut process, program) = sleeper(&pair);
    let sessions = pair.far.json(&["sessions"]);
    let id = sessions[0]["id"].as_str().expect("a session");
    pair.far.ctl(&["sessions", "rm", id]).success();
    assert_eq!(process.wait().code(), Some(1), "{}", process.printed());
    wait_until("the program is ended", PATIENCE, || !program.exists());
}

#[test]
fn a_link_that_dies_takes_the_program_with_it() {
    let Some(lab) = Lab::namespaces("a_link_that_dies_takes_the_program_with_it") else { return };
    let pair = Pair::start(&lab);
    let (mut process, program) = sleeper(&pair);
    pair.far.host().block();
    wait_until("the program is ended", 3 * PATIENCE, || !program.exists());
    assert_eq!(process.wait().code(), Some(1), "{}", process.printed());
}

#[test]
fn a_file_is_copied_whole_with_its_mode() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let (here, there) = (pair.near.host().folder("files"), pair.far.host().folder("place"));
    let (source, content) = (here.join("model.bin"), payload::bytes(3, 5_000_000));
    fs::write(&source, &content).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o751)).unwrap();
    let folder = format!("far:{}", there.display());
    pair.near.ctl(&["cp", source.to_str().unwrap(), &folder]).success();
    let arrived = there.join("model.bin");
    assert!(fs::read(&arrived).unwrap() == content);
    assert_eq!(fs::metadata(&arrived).unwrap().permissions().mode() & 0o7777, 0o751);
    let back = here.join("back");
    let from = format!("far:{}", arrived.display());
    let copied = pair.near.json(&["cp", &from, back.to_str().unwrap()]);
    assert_eq!((&copied["bytes"], &copied["resumed_at"]), (&5_000_000.into(), &0.into()));
    assert!(fs::read(&back).unwrap() == content);
    pair.near.ctl(&["cp", "far:/no/such/file", back.to_str().unwrap()]).failure(1);
    let told = pair.near.ctl(&["cp", source.to_str().unwrap(), &format!("{folder}/missing/x")]).failure(1);
    assert!(told.contains("at far: no file can be made in ") && told.contains("/missing: No such file"), "{told}");
    assert!(fs::read(&back).unwrap() == content, "a copy that fails changes nothing");
    assert_eq!(fs::read_dir(&there).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_copy_that_was_cut_goes_on_where_it_stopped() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let (here, there) = (pair.near.host().folder("files"), pair.far.host().folder("place"));
    let (source, content) = (here.join("big"), payload::bytes(5, 200_000_000));
    fs::write(&source, &content).unwrap();
    let place = format!("far:{}", there.join("big").display());
    let words = ["cp", source.to_str().unwrap(), &place];
    let mut cut = Process::start(pair.near.host(), "cut", pair.near.ctl_command(ADMIN, &words));
    let part = wait_for("a part of the file has arrived", PATIENCE, || {
        let entry = fs::read_dir(&there).unwrap().next()?.ok()?.path();
        (fs::metadata(&entry).ok()?.len() > 1_000_000).then_some(entry)
    });
    cut.kill();
    assert!(!there.join("big").exists(), "no half file stands in the place");
    // The node notices that the copy is gone and lets go of the part.
    let copied = wait_for("the copy goes on", PATIENCE, || {
        let output = pair.near.ctl(&[&["--json"], &words[..]].concat());
        (output.status == Some(0)).then(|| serde_json::from_str::<serde_json::Value>(&output.stdout).unwrap())
    });
    assert!(copied["resumed_at"].as_u64() >= Some(1_000_000), "{copied}");
    assert!(fs::read(there.join("big")).unwrap() == content);
    assert!(!part.exists());
}

#[test]
fn a_copy_whose_link_was_cut_goes_on_where_it_stopped() {
    let Some(lab) = Lab::namespaces("a_copy_whose_link_was_cut_goes_on_where_it_stopped") else { return };
    let pair = Pair::start(&lab);
    let (here, there) = (pair.near.host().folder("files"), pair.far.host().folder("place"));
    let content = payload::bytes(8, 200_000_000);
    let (upward, downward) = (here.join("up"), there.join("down"));
    fs::write(&upward, &content).unwrap();
    fs::write(&downward, &content).unwrap();
    let at_far = |path: &Path| format!("far:{}", path.display());
    let (up, down) = (at_far(&there.join("up")), at_far(&downward));
    let copies = [["cp", upward.to_str().unwrap(), &up], ["cp", &down, here.to_str().unwrap()]];
    let start = |name, words| Process::start(pair.near.host(), name, pair.near.ctl_command(ADMIN, words));
    let mut cut = [start("up", &copies[0]), start("down", &copies[1])];
    for folder in [&there, &here] {
        wait_until("a part of each has arrived", PATIENCE, || {
            let entries = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
            let mut parts = entries.filter(|path| path.extension() == Some("part".as_ref()));
            parts.any(|part| fs::metadata(part).is_ok_and(|part| part.len() > 1_000_000))
        });
    }
    pair.far.host().block();
    for copy in &mut cut {
        wait_until("the copy gives up", 3 * PATIENCE, || copy.ended().is_some());
        assert!(!copy.wait().success(), "{}", copy.printed());
    }
    assert!(!there.join("up").exists() && !here.join("down").exists(), "no half file stands in its place");
    pair.far.host().unblock();
    pair.wait_until_connected();
    for words in &copies {
        // The node that receives may have yet to notice that the link was cut.
        let copied = wait_for("the copy goes on", PATIENCE, || {
            let output = pair.near.ctl(&[&["--json"], &words[..]].concat());
            (output.status == Some(0)).then(|| serde_json::from_str::<serde_json::Value>(&output.stdout).unwrap())
        });
        assert!(copied["resumed_at"].as_u64() >= Some(1_000_000), "{copied}");
    }
    assert!(fs::read(there.join("up")).unwrap() == content && fs::read(here.join("down")).unwrap() == content);
}

/// A terminal of its own for a command: a server of tmux that ends with it.
struct Tmux(String);

impl Tmux {
    fn start(name: &str, command: &Command) -> Option<Tmux> {
        let socket = format!("hive-{}-{name}", std::process::id());
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
        let line = format!("{}; echo \"status $?\"; stty -a | grep -o -- ' -\\?icanon'; cat", line.join(" "));
        let mut tmux = Command::new("tmux");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => tmux.env(name, value),
                None => tmux.env_remove(name),
            };
        }
        tmux.args(["-f", "/dev/null", "-L", &socket, "new-session", "-d", "-x", "100", "-y", "30", "sh", "-c", &line]);
        match tmux.status() {
            Ok(status) => assert!(status.success()),
            Err(_) => return None,
        }
        Some(Tmux(socket))
    }

    fn command(&self, words: &[&str]) -> String {
        let output = Command::new("tmux").args(["-L", &self.0]).args(words).output().expect("tmux");
        String::from_utf8(output.stdout).expect("text")
    }

    fn keys(&self, keys: &[&str]) {
        self.command(&[&["send-keys"], keys].concat());
    }

    fn line(&self, text: &str) {
        self.keys(&["-l", text]);
        self.keys(&["Enter"]);
    }

    fn screen(&self) -> String {
        self.command(&["capture-pane", "-p"])
    }

    /// Waits until a line of the screen is this.
    fn wait_for(&self, line: &str) {
        let mut screen = String::new();
        wait_until(&format!("the screen shows {line:?}"), PATIENCE, || {
            screen = self.screen();
            let shown = screen.lines().any(|shown| shown.trim_end() == line);
            if !shown && std::env::var_os("HIVE_TMUX").is_some() {
                eprintln!("{screen}");
            }
            shown
        });
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the screen\n{}----", self.screen());
        }
        self.command(&["kill-server"]);
    }
}

#[test]
fn a_shell_is_a_terminal() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let command = pair.near.ctl_command(ADMIN, &["shell", "--node", "far"]);
    let Some(tmux) = Tmux::start("shell", &command) else {
        return notice::left_out("a_shell_is_a_terminal", "needs tmux");
    };
    tmux.line("PS1='> '; stty size");
    tmux.wait_for("30 100");
    tmux.command(&["resize-window", "-x", "90", "-y", "25"]);
    tmux.line("stty size");
    tmux.wait_for("25 90");
    tmux.line("echo grün; tty | cut -c -8");
    tmux.wait_for("grün");
    tmux.wait_for("/dev/pts");
    // A key that comes before the program would be the shell's.
    tmux.line("sh -c 'echo sleeps; exec sleep 1000'");
    tmux.wait_for("sleeps");
    tmux.keys(&["C-c"]);
    tmux.line("echo \"caught $?\"");
    tmux.wait_for("caught 130");
    tmux.line("sh -c 'echo rests; exec sleep 1000'");
    tmux.wait_for("rests");
    tmux.keys(&["C-z"]);
    tmux.line("echo stopped: $(jobs | grep -c Stopped); kill -9 %1");
    tmux.wait_for("stopped: 1");
    let file = pair.far.host().folder("edited").join("text");
    tmux.line(&format!("clear; vi {}", file.display()));
    tmux.wait_for("~");
    tmux.keys(&["-l", "ihello from vi"]);
    tmux.keys(&["Escape"]);
    tmux.line(":wq");
    wait_until("vi has written", PATIENCE, || fs::read_to_string(&file).is_ok_and(|text| text == "hello from vi\n"));
    tmux.line("exit 42");
    tmux.wait_for("status 42");
    tmux.wait_for(" icanon");
}

#[test]
fn a_shell_that_hangs_is_left_by_tilde_dot() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let command = pair.near.ctl_command(ADMIN, &["shell", "--node", "far"]);
    let Some(tmux) = Tmux::start("escape", &command) else {
        return notice::left_out("a_shell_that_hangs_is_left_by_tilde_dot", "needs tmux");
    };
    tmux.line("echo pid-$$-; trap '' HUP INT; sleep 1000");
    let pid = wait_for("the shell says its process id", PATIENCE, || {
        let screen = tmux.screen();
        screen.lines().find_map(|line| line.strip_prefix("pid-")?.strip_suffix('-').map(str::to_owned))
    });
    let shell = Path::new("/proc").join(pid);
    assert!(shell.exists());
    tmux.line("");
    tmux.keys(&["-l", "~."]);
    tmux.wait_for("status 1");
    tmux.wait_for(" icanon");
    wait_until("the shell is ended", PATIENCE, || !shell.exists());
}
