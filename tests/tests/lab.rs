//! The lab itself: what the other tests rely on, shown without a node.

use hive_tests::{
    lab::{Host, Lab, Link},
    process::{self, Process, Signal},
    tcp,
    wait::wait_until,
};
use std::{
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const MOMENT: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(60);

/// Sends a word to an echo server and reads it back.
fn talks(stream: &mut TcpStream) -> bool {
    let mut back = [0; 5];
    stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut back)).is_ok() && &back == b"hello"
}

fn connects(from: &Host, to: SocketAddr) -> bool {
    from.enter(|| TcpStream::connect_timeout(&to, MOMENT)).is_ok()
}

/// After a fault it takes the kernel a second to ask for a neighbour again.
fn soon_connects(from: &Host, to: SocketAddr) {
    wait_until("a connection", SOON, || connects(from, to));
}

#[test]
fn two_hosts_talk_over_tcp() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    assert_ne!(a.ipv4(), b.ipv4());
    let server = tcp::Server::echo(&b, 0);
    let mut stream = a.connect(server.address()).unwrap();
    assert!(talks(&mut stream));
    assert_eq!((server.accepted(), server.open()), (1, 1));
    drop(stream);
    server.wait_until_idle(SOON);
}

#[test]
fn a_closed_server_refuses() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    let server = tcp::Server::echo(&b, 0);
    let address = server.address();
    drop(server);
    let refused = a.connect(address).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn hosts_have_ports_of_their_own() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    let first = a.listen(0);
    b.listen(first.local_addr().unwrap().port());
}

#[test]
fn two_hosts_talk_over_ipv6() {
    let Some(lab) = Lab::namespaces("two_hosts_talk_over_ipv6") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    let server = b.bind((b.ipv6(), 0).into());
    let address = server.local_addr().unwrap();
    soon_connects(&a, address);
}

#[test]
fn segments_are_apart() {
    let Some(lab) = Lab::namespaces("segments_are_apart") else { return };
    let (a, b) = (lab.host("a"), lab.host_on(&lab.segment(), "b"));
    let server = tcp::Server::echo(&b, 0);
    assert!(!connects(&a, server.address()));
}

#[test]
fn a_blocked_host_is_silent_until_unblocked() {
    let Some(lab) = Lab::namespaces("a_blocked_host_is_silent_until_unblocked") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    let server = tcp::Server::echo(&b, 0);
    let mut old = a.connect(server.address()).unwrap();
    assert!(talks(&mut old));
    b.block();
    assert!(!connects(&a, server.address()));
    b.unblock();
    soon_connects(&a, server.address());
    assert!(talks(&mut old), "an old connection outlives a block");
}

#[test]
fn a_cut_is_between_two_hosts_only() {
    let Some(lab) = Lab::namespaces("a_cut_is_between_two_hosts_only") else { return };
    let (a, b, c) = (lab.host("a"), lab.host("b"), lab.host("c"));
    let server = tcp::Server::echo(&b, 0);
    a.cut_from(&b);
    c.cut_from(&a);
    assert!(!connects(&a, server.address()));
    soon_connects(&c, server.address());
    b.mend_to(&a);
    soon_connects(&a, server.address());
}

#[test]
fn links_go_down_and_up() {
    let Some(lab) = Lab::namespaces("links_go_down_and_up") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    let server = tcp::Server::start_at(&b, (b.ipv6(), 0).into(), |_| ());
    for (down, up) in [(Host::link_down as fn(&Host), Host::link_up as fn(&Host)), (Host::unplug, Host::plug)] {
        soon_connects(&a, server.address());
        down(&b);
        assert!(!connects(&a, server.address()));
        up(&b);
    }
    soon_connects(&a, server.address());
}

#[test]
fn an_address_changes() {
    let Some(lab) = Lab::namespaces("an_address_changes") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    let server = tcp::Server::start_at(&b, "0.0.0.0:0".parse().unwrap(), |_| ());
    let old = b.at(server.port());
    soon_connects(&a, old);
    let fresh = b.renumber();
    assert_eq!(fresh, b.ipv4());
    assert!(!connects(&a, old));
    soon_connects(&a, b.at(server.port()));
}

#[test]
fn a_process_is_watched_stopped_and_measured() {
    let lab = Lab::new();
    let host = lab.host("a");
    let mut command = host.command("sh");
    command.args(["-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do read line; echo \"got $line\"; done"]);
    let mut process = Process::start_with_stdin(&host, "sh", command);
    assert_eq!(process.wait_for_line("ready"), "ready");
    let mut stdin = process.stdin();
    stdin.write_all(b"one\n").unwrap();
    process.wait_for_line("got one");
    assert!(process.usage().threads == 1 && process.usage().fds >= 3);
    process.signal(Signal::STOP);
    stdin.write_all(b"two\n").unwrap();
    process.signal(Signal::CONT);
    process.wait_for_line("got two");
    process.signal(Signal::TERM);
    // The shell looks at its trap when `read` returns.
    drop(stdin);
    assert_eq!(process.wait().code(), Some(7));
    assert_eq!(process.printed(), "ready\ngot one\ngot two\nbye\n");
}

#[test]
fn a_process_runs_on_its_host() {
    let Some(lab) = Lab::namespaces("a_process_runs_on_its_host") else { return };
    let host = lab.host("a");
    let mut command = host.command("ip");
    command.args(["-4", "-brief", "address", "show", "eth0"]);
    let shown = process::run(command, b"", SOON).success();
    assert!(shown.contains(&host.ipv4().to_string()), "{shown}");
}

#[test]
fn waiting_for_a_line_fails_when_the_process_ends() {
    let lab = Lab::new();
    let host = lab.host("a");
    let process = Process::start(&host, "true", host.command("true"));
    let waiting = std::panic::AssertUnwindSafe(|| process.wait_for_line("never"));
    assert!(std::panic::catch_unwind(waiting).is_err());
}

#[test]
fn nothing_remains_of_a_lab() {
    let Some(lab) = Lab::namespaces("nothing_remains_of_a_lab") else { return };
    let host = lab.host("gone");
    let mut command = host.command("sleep");
    command.arg("1000");
    let process = Process::start(&host, "sleep", command);
    let (pid, folder) = (process.pid(), lab.folder().to_owned());
    let mine = || namespaces(&format!("hv{}-", std::process::id())).len();
    let (before, others) = (mine(), 2);
    drop((process, lab, host));
    // Under plain `cargo test` other tests of this process have namespaces, too.
    assert!(mine() <= before - others || std::env::var_os("NEXTEST").is_none());
    assert!(!folder.exists());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

/// A child of this test makes what a killed test leaves: a namespace and a folder with the id of a dead process.
#[test]
fn leftovers_of_dead_processes_are_removed() {
    let test = "leftovers_of_dead_processes_are_removed";
    if Lab::namespaces(test).is_none() {
        return;
    }
    let mut dead = Command::new("true").spawn().unwrap();
    let name = format!("hv{}-0-left", dead.id());
    dead.wait().unwrap();
    let left = std::env::temp_dir().join(&name);
    std::fs::create_dir(&left).unwrap();
    let made = Command::new("ip").args(["netns", "add", &name]).status().unwrap();
    assert!(made.success());
    let mut sleeper = Command::new("ip").args(["netns", "exec", &name, "sleep", "1000"]).spawn().unwrap();
    // A fresh process sweeps, as this one has swept already.
    let other_test = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hosts_have_ports_of_their_own"])
        .stdout(Stdio::null())
        .status();
    assert!(other_test.unwrap().success());
    assert!(namespaces(&name).is_empty());
    assert!(!left.exists());
    assert!(!sleeper.wait().unwrap().success(), "it was killed");
}

fn namespaces(prefix: &str) -> Vec<String> {
    let listed = std::fs::read_dir("/run/netns").unwrap();
    let names = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// Only what must be slower is asked: a busy machine is slower still.
#[test]
fn a_long_link_takes_its_time() {
    const WAY: Duration = Duration::from_millis(20);
    const RATE: u64 = 16_000_000;
    const BYTES: u64 = 1 << 20;
    let Some(lab) = Lab::links("a_long_link_takes_its_time") else { return };
    let (near, far) = (lab.host("near"), lab.host("far"));
    near.emulate(Link::long(WAY));
    far.emulate(Link::long(WAY).rate(RATE));
    let addresses = [far.ipv4().into(), far.ipv6().into()];
    for server in addresses.map(|ip: IpAddr| tcp::Server::start_at(&far, (ip, 0).into(), echo)) {
        let began = Instant::now();
        let mut stream = near.connect(server.address()).unwrap();
        assert!(began.elapsed() >= 2 * WAY, "a handshake after {:?}", began.elapsed());
        let began = Instant::now();
        let sending = stream.try_clone().unwrap();
        let writer = thread::spawn(move || {
            (&sending).write_all(&vec![7; BYTES as usize]).unwrap();
            sending.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        writer.join().unwrap();
        assert_eq!(back.len() as u64, BYTES);
        let least = Duration::from_secs_f64(BYTES as f64 * 8.0 / RATE as f64);
        assert!(began.elapsed() >= least, "{BYTES} bytes after {:?}", began.elapsed());
    }
}

fn echo(stream: TcpStream) {
    let _ = io::copy(&mut &stream, &mut &stream).and_then(|_| stream.shutdown(Shutdown::Write));
}
