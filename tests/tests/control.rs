//! The doors of a node: its control socket and its port, when what knocks is no friend, and the socket file's life.

use hive_tests::{
    lab::Lab,
    node::{Node, Options},
    notice,
    process::{self, PATIENCE, Process},
    wait::wait_until,
};
use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// Largest control message, see `hive_protocol::frame`.
const MOST: u32 = 256 * 1024;
// Messages of version 1, as the golden files of hive-protocol have them.
const HELLO: &[u8] = &[0x82, 0, 0x82, 1, 1];
const HELLO_FROM_THE_FUTURE: &[u8] = &[0x82, 0, 0x82, 7, 9];
const ASK_IDENTITY: &[u8] = &[0x82, 5, 0x81, 0x82, 0, 0x80];
/// The 200th kind of message, of which version 1 has six.
const UNKNOWN: &[u8] = &[0x82, 0x18, 200, 0x80];

fn member(lab: &Lab, name: &str) -> Node {
    let options = Options::member("garden:correct horse").admin("admin:battery staple");
    Node::start(&lab.host(name), options.name(name))
}

/// A program that speaks to the agent's socket by hand.
struct Raw(UnixStream);

impl Raw {
    fn connect(node: &Node) -> Raw {
        let stream = UnixStream::connect(node.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Raw(stream)
    }

    fn say(&mut self, body: &[u8]) {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        self.0.write_all(&[&length, body].concat()).unwrap();
    }

    /// The body of the next message; texts in CBOR are readable as they are.
    fn hear(&mut self) -> String {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut body).unwrap();
        String::from_utf8_lossy(&body).into_owned()
    }

    /// Whether the agent has closed the stream without another word.
    fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0; 64]) {
            Ok(length) => length == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn an_unknown_message_is_answered_and_the_conversation_goes_on() {
    let lab = Lab::new();
    let node = member(&lab, "shed");
    let mut raw = Raw::connect(&node);
    raw.say(HELLO);
    assert!(raw.hear().contains("shed"), "the welcome has the name");
    raw.say(UNKNOWN);
    let told = raw.hear();
    assert!(told.contains("does not know the request") && told.contains("update the node's agent"), "{told}");
    raw.say(ASK_IDENTITY);
    assert!(raw.hear().contains("shed"));
}

#[test]
fn garbage_ends_one_conversation_and_nothing_else() {
    let lab = Lab::new();
    let node = member(&lab, "shed");
    let before = node.usage().rss;
    for length in [MOST + 1, u32::MAX, 0] {
        let mut raw = Raw::connect(&node);
        raw.0.write_all(&length.to_be_bytes()).unwrap();
        assert!(raw.is_closed(), "a frame of {length} bytes");
    }
    for body in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0x82, 0], &[0x9f; 4096], UNKNOWN, ASK_IDENTITY] {
        let mut raw = Raw::connect(&node);
        raw.say(body);
        // Some kinds are told why before the stream ends.
        let _ = raw.0.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = raw.0.read_to_end(&mut rest);
        assert!(!String::from_utf8_lossy(&rest).contains("shed"), "{body:x?} was taken for a greeting");
    }
    let mut broken_later = Raw::connect(&node);
    broken_later.say(HELLO);
    broken_later.hear();
    broken_later.say(&[0xa0, 0xff, 0x01]);
    assert!(broken_later.hear().contains("not understood"));
    let grown = node.usage().rss.saturating_sub(before);
    assert!(grown < 32 << 20, "the announced gigabytes were not allocated: {grown} bytes more");
    node.json(&["id"]);
}

#[test]
fn a_client_of_another_time_is_told_so() {
    let lab = Lab::new();
    let node = member(&lab, "shed");
    let mut raw = Raw::connect(&node);
    raw.say(HELLO_FROM_THE_FUTURE);
    let told = raw.hear();
    assert!(told.contains("speaks control protocol 1 to 1, the client 7 to 9"), "{told}");
}

/// Established TCP connections to a port of the node, as the kernel lists them.
fn connections(node: &Node, port: u16) -> usize {
    let tables = ["tcp", "tcp6"].map(|table| format!("/proc/{}/net/{table}", node.process().pid()));
    let text: String = tables.iter().map(|table| std::fs::read_to_string(table).unwrap_or_default()).collect();
    let local = format!(":{port:04X}");
    let is_one = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        // `01` is the state ESTABLISHED.
        fields.next().is_some_and(|address| address.ends_with(&local)) && fields.nth(1) == Some("01")
    };
    text.lines().filter(is_one).count()
}

#[test]
fn strangers_are_shown_the_door() {
    let lab = Lab::new();
    let node = member(&lab, "shed");
    let identity = node.json(&["id"]);
    let address = identity["addresses"][0].as_str().unwrap();
    let port = address.rsplit('/').next().unwrap().parse().unwrap();
    let stranger = Node::prepare(&lab.host("stranger"), Options::default());
    // One completes the handshakes and then does not say a password; one says nothing at all.
    let direct = format!("{address}/p2p/{}", node.peer_id());
    let command = stranger.ctl_command("", &["--direct", &direct, "login", "--password-stdin"]);
    let mut undecided = Process::start_with_stdin(stranger.host(), "undecided", command);
    wait_until("the undecided one is connected", PATIENCE, || connections(&node, port) == 1);
    let mut silent: TcpStream = stranger.host().connect(node.host().at(port)).unwrap();
    let start = Instant::now();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(silent.read(&mut [0; 64]), Ok(0) | Err(_)), "nothing is said to who says nothing");
    wait_until("both are gone", PATIENCE, || connections(&node, port) == 0);
    let seconds = start.elapsed().as_secs_f32();
    notice::say(&format!("TIME: strangers were closed after {seconds:.1} s (agreed: about 10 s)"));
    assert!(start.elapsed() > Duration::from_secs(3), "there was time to say something");
    assert!(undecided.ended().is_none(), "the node closed it, not the stranger");
    undecided.stdin().write_all(b"battery staple\n").unwrap();
    assert_ne!(undecided.wait().code(), Some(0));
    node.json(&["id"]);
}

#[test]
fn sigterm_is_a_clean_end() {
    let lab = Lab::new();
    let mut node = member(&lab, "shed");
    let socket = node.socket();
    assert!(socket.exists());
    node.stop();
    assert!(!socket.exists());
    let told = node.ctl(&["id"]).failure(4);
    assert!(told.contains("error: no agent is running at ") && told.contains("hint: start `hive-agent`"), "{told}");
}

#[test]
fn a_socket_that_a_killed_agent_left_is_in_nobodys_way() {
    let lab = Lab::new();
    let mut node = member(&lab, "shed");
    let id = node.peer_id();
    node.kill9();
    assert!(node.socket().exists(), "a killed agent cleans nothing up");
    node.start_again();
    assert_eq!(node.peer_id(), id);
}

/// The same command with another value of `--socket`.
fn with_socket(command: &Command, socket: &Path) -> Command {
    let words: Vec<_> = command.get_args().collect();
    let option = words.iter().position(|word| *word == "--socket").expect("the option");
    let mut changed = Command::new(command.get_program());
    changed.args(&words[..=option]).arg(socket).args(&words[option + 2..]);
    changed.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    changed
}

#[test]
fn what_is_no_socket_and_whose_socket_lives_is_left_alone() {
    let lab = Lab::new();
    let first = member(&lab, "first");
    let second = Node::prepare(first.host(), Options::default().name("second").listen("/ip4/127.0.0.1/tcp/0"));
    let start = |socket: &Path| process::run(with_socket(&second.agent_command(), socket), b"", PATIENCE).failure(1);
    let told = start(&first.socket());
    assert!(told.contains("error: another hive-agent already listens on the control socket"), "{told}");
    first.json(&["id"]);
    let file = lab.folder().join("letters");
    std::fs::write(&file, "dear").unwrap();
    let told = start(&file);
    assert!(told.contains("is in the way of the control socket and is no socket"), "{told}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "dear");
}
