//! A tour of the hive on one machine, to see it work before installing it: two nodes in temporary folders join a
//! network, and a real HTTP server behind one is fetched through a port of the other. Every command is shown before it
//! runs. A byte that differs ends it loudly; either way nothing is left behind.

#![forbid(unsafe_code)]

use hive_tests::{
    facts,
    lab::Lab,
    node::{Node, Options},
    payload,
    process::PATIENCE,
    services::Sse,
};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    time::Instant,
};

const NETWORK: &str = "home";
const NETWORK_PASSWORD: &str = "only for this tour";
const ADMIN: &str = "admin:only for this tour, too";
/// A stream as a language model makes it, slow enough to watch.
const STREAM: &str = "/v1/chat/completions?tokens=8&interval_ms=150";
/// Bytes of the large answer; far more than all buffers on the way.
const LARGE: usize = 16 << 20;

fn main() {
    say("Both nodes run on this machine and meet on its loopback interface: that is what `LAB: loopback` means.");
    let lab = Lab::new();
    let mut tour = Tour::begin(&lab);
    tour.register();
    tour.forward();
    tour.fetch_stream();
    tour.fetch_large();
    tour.restart_both();
    tour.fetch_large();
    tour.look_around();
    say("Every byte was right. Both nodes and their folders are removed now.");
}

/// The nodes `laptop` and `shed`, and a server that only the shed can reach.
struct Tour {
    laptop: Node,
    shed: Node,
    server: Sse,
    /// The port of the laptop that leads to the server.
    port: u16,
}

impl Tour {
    fn begin(lab: &Lab) -> Tour {
        say("Two nodes start. Both are told the name and the password of one network, in the environment.");
        let (here, there) = (lab.host("laptop"), lab.host("shed"));
        let options = Options::member(&format!("{NETWORK}:{NETWORK_PASSWORD}")).admin(ADMIN);
        let (port, server) = (here.free_port(), Sse::start_at(&there, local(0)));
        let laptop = start(Node::prepare(&here, options.clone()));
        Tour { laptop, shed: start(Node::prepare(&there, options)), server, port }
    }

    fn register(&self) {
        say("One of them learns of the other. That is enough for both.");
        let identity = show(&self.shed, &["id", "--base64"]);
        show(&self.laptop, &["register", "--b64", identity.trim(), "--network", NETWORK]);
        self.laptop.wait_until_sees(&[&self.shed]);
        self.shed.wait_until_sees(&[&self.laptop]);
        show(&self.laptop, &["nodes"]);
        show(&self.shed, &["nodes"]);
    }

    fn forward(&self) {
        say(&format!("An HTTP server listens on {}, for the shed alone.", self.server.address()));
        say(&format!("The laptop's port {} is to lead there. Both sides are set up from the laptop.", self.port));
        let (from, to) = (format!("laptop:{}", self.port), format!("shed:{}", self.server.port()));
        show(&self.laptop, &["forward", "--from", &from, "--to", &to]);
        self.wait_until_connected();
    }

    /// The same events through the tunnel, as they arrive, and straight from the server.
    fn fetch_stream(&self) {
        say(&format!("A stream of events through the tunnel: http://{}{STREAM}", local(self.port)));
        let began = Instant::now();
        let tunnelled = get(&self.laptop, local(self.port), STREAM, |piece| show_events(piece, began));
        let direct = get(&self.shed, self.server.address(), STREAM, |_| {});
        assert_same(&tunnelled, &direct);
    }

    fn fetch_large(&self) {
        let path = format!("/bytes/{LARGE}");
        say(&format!("{} through the tunnel: http://{}{path}", facts::iec(LARGE as u64), local(self.port)));
        let fetched = get(&self.laptop, local(self.port), &path, |_| {});
        assert_same(&fetched, &payload::bytes(0, LARGE));
    }

    fn restart_both(&mut self) {
        say("Both agents stop, and start again in the other order. Nobody sets anything up again.");
        for node in [&mut self.laptop, &mut self.shed] {
            println!("{} $ kill -TERM PID    # or Ctrl-C in its terminal", node.name());
            node.stop();
        }
        for node in [&mut self.shed, &mut self.laptop] {
            println!("{} $ hive-agent    # with what is stored", node.name());
            node.start_again();
        }
        self.wait_until_connected();
    }

    fn look_around(&self) {
        say("What the laptop and the shed say about the tunnel, and the laptop about itself:");
        show(&self.laptop, &["proxy", "ls"]);
        show(&self.laptop, &["proxy", "ls", "--node", "shed"]);
        show(&self.laptop, &["status"]);
    }

    fn wait_until_connected(&self) {
        for node in [&self.laptop, &self.shed] {
            node.wait_for_json("the tunnel is connected", PATIENCE, &["proxy", "ls"], |proxies| {
                proxies[0]["state"] == "connected"
            });
        }
    }
}

/// Starts a node, showing the command.
fn start(mut node: Node) -> Node {
    let command = node.agent_command();
    let arguments: Vec<String> = command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let from_agent = arguments.iter().skip_while(|argument| *argument != "--state").map(String::as_str);
    println!("{} $ hive-agent {}", node.name(), line(from_agent));
    node.start_again();
    node
}

/// Runs `hivectl` at a node and returns what it printed, showing both. The node's own socket is left out of the line.
fn show(node: &Node, arguments: &[&str]) -> String {
    println!("\n{} $ hivectl {}", node.name(), line(arguments.iter().copied()));
    let printed = node.ctl(arguments).success();
    print!("{printed}");
    printed
}

fn say(text: &str) {
    println!("\n# {text}");
}

/// A command line as a person types it.
fn line<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let quoted = words.map(|word| if word.contains(' ') { format!("'{word}'") } else { word.to_owned() });
    quoted.collect::<Vec<_>>().join(" ")
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Fetches a body from a node's host, and calls `arrived` with each piece as it comes. It asks in HTTP/1.0, where a body
/// goes on until the connection ends.
fn get(node: &Node, address: SocketAddr, path: &str, mut arrived: impl FnMut(&[u8])) -> Vec<u8> {
    let mut fetch = || -> io::Result<Vec<u8>> {
        let mut stream = node.host().connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut reader = BufReader::new(stream);
        read_head(&mut reader)?;
        let (mut body, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            let length = reader.read(&mut buffer)?;
            if length == 0 {
                return Ok(body);
            }
            arrived(&buffer[..length]);
            body.extend_from_slice(&buffer[..length]);
        }
    };
    fetch().unwrap_or_else(|error| panic!("cannot fetch http://{address}{path}: {error}"))
}

fn read_head(reader: &mut impl BufRead) -> io::Result<()> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(io::Error::other(format!("the answer ended in its head: {head:?}")));
        }
    }
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(io::Error::other(status.to_owned())) }
}

/// Prints the events of a piece, with the time since the request: they come one by one, not all at the end.
fn show_events(piece: &[u8], began: Instant) {
    let text = String::from_utf8_lossy(piece);
    let after = began.elapsed().as_secs_f64();
    text.lines().filter(|line| !line.is_empty()).for_each(|line| println!("{after:5.2} s  {line}"));
}

/// Ends the tour when a byte differs.
fn assert_same(found: &[u8], expected: &[u8]) {
    let (size, wanted) = (found.len(), expected.len());
    let first = found.iter().zip(expected).position(|(a, b)| a != b);
    assert!(first.is_none() && size == wanted, "the bytes DIFFER: {size} of {wanted} came, first wrong: {first:?}");
    println!("{size} bytes, all as the server sent them");
}
