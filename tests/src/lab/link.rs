//! A long way to a host: what arrives there comes later, no faster than a rate, and is dropped where a router's queue would
//! be full. A stand-in for the kernel's NETEM, which many kernels lack.
//!
//! The kernel keeps every packet that arrives at the host's interface and tells a thread its number and length
//! (NFQUEUE, linux/netfilter/nfnetlink_queue.h); the thread lets it go on when its time has come. No byte is copied, and
//! packets that the kernel has gathered (GSO) stay together. It knows nothing of what the packets are.

use super::netns::{self, Netns};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketType,
        netlink::{self, SocketAddrNetlink},
        recv, sendto, sockopt,
    },
};
use std::{
    collections::VecDeque,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// What arrives at a host, and when.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// From being sent to arriving, on an empty link.
    pub delay: Duration,
    /// Bits a second that arrive at most; `None`: as many as are sent.
    pub rate: Option<u64>,
    /// How long the queue before the link may be, in time; what comes later is dropped.
    pub queue: Duration,
}

impl Link {
    /// A link that is long and as fast as the machine.
    pub fn long(delay: Duration) -> Link {
        Link { delay, rate: None, queue: Duration::from_secs(1) }
    }

    /// The same with a rate in bits a second, and a queue of 50 ms.
    pub fn rate(self, rate: u64) -> Link {
        Link { rate: Some(rate), queue: Duration::from_millis(50), ..self }
    }
}

/// The thread that lets packets go on. Dropping it ends the delays, and drops what was on its way.
pub struct Emulator {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Emulator {
    /// Puts a link before a namespace's `eth0`.
    pub fn start(netns: &Netns, link: Link) -> Emulator {
        let queue = netns.enter(Queue::open);
        if let Err(why) = divert(netns) {
            panic!("{why}");
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = netns.spawn(move || carry(&queue, link, &stopped));
        Emulator { stop, thread: Some(thread) }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Why this machine delays nothing; asked once.
pub fn why_impossible() -> Option<&'static str> {
    static ANSWER: OnceLock<Option<&'static str>> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let probe = Netns::create(format!("{}{}-link", super::PREFIX, std::process::id()));
        let why = "the kernel queues no packets to programs: install Debian's package iptables";
        divert(&probe).err().map(|_| why)
    })
}

/// Has what arrives given to [`Queue`], before the kernel has looked at whose it is.
fn divert(netns: &Netns) -> Result<(), String> {
    let rules =
        "table inet link { chain arrive { type filter hook prerouting priority raw; iifname eth0 queue to 0; } }";
    let mut nft = netns.command("nft");
    if netns::feed(nft.args(["-f", "-"]), rules).status.success() {
        return Ok(());
    }
    // A kernel whose nftables lacks queues may have those of iptables.
    for program in ["iptables", "ip6tables"] {
        let mut command = netns.command(program);
        command.args(["-t", "raw", "-A", "PREROUTING", "-i", "eth0", "-j", "NFQUEUE", "--queue-num", "0"]);
        let done = netns::feed(&mut command, "");
        if !done.status.success() {
            return Err(format!("{program}: {}", String::from_utf8_lossy(&done.stderr)));
        }
    }
    Ok(())
}

/// How long the thread waits at most before it looks whether it is to stop.
const IDLE: Duration = Duration::from_millis(50);

/// A packet that waits in the kernel.
struct Waiting {
    id: u32,
    due: Instant,
}

fn carry(queue: &Queue, link: Link, stop: &AtomicBool) {
    let (mut waiting, mut free) = (VecDeque::<Waiting>::new(), Instant::now());
    let mut buffer = [0; 4096];
    while !stop.load(Relaxed) {
        queue.wait(waiting.front().map(|next| next.due));
        let now = Instant::now();
        while let Some((id, length)) = queue.next(&mut buffer) {
            free = free.max(now);
            if free - now > link.queue {
                queue.decide(VERDICT, DROP, id);
                continue;
            }
            free +=
                link.rate.map_or(Duration::ZERO, |rate| Duration::from_nanos(length as u64 * 8 * 1_000_000_000 / rate));
            waiting.push_back(Waiting { id, due: free + link.delay });
        }
        let now = Instant::now();
        let due = waiting.iter().take_while(|packet| packet.due <= now).count();
        if let Some(last) = waiting.drain(..due).next_back() {
            queue.decide(VERDICT_BATCH, ACCEPT, last.id);
        }
    }
}

/// Messages of NFNL_SUBSYS_QUEUE.
const VERDICT: u16 = 1;
const CONFIG: u16 = 2;
/// A verdict on a packet and all before it.
const VERDICT_BATCH: u16 = 3;
/// Verdicts (linux/netfilter.h).
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// Queue 0 of a namespace.
struct Queue {
    socket: OwnedFd,
}

impl Queue {
    fn open() -> Queue {
        /// NFQA_CFG_CMD with NFQNL_CFG_CMD_BIND.
        const BIND: (u16, [u8; 4]) = (1, [1, 0, 0, 0]);
        /// NFQA_CFG_PARAMS: 64 bytes of each packet (NFQNL_COPY_PACKET), so that its whole length is told.
        const PARAMS: (u16, [u8; 5]) = (2, [0, 0, 0, 64, 2]);
        /// NFQA_CFG_QUEUE_MAXLEN: more packets than any link holds.
        const MAXLEN: (u16, [u8; 4]) = (3, [0, 2, 0, 0]);
        /// NFQA_CFG_MASK and NFQA_CFG_FLAGS with NFQA_CFG_F_GSO.
        const FLAGS: [(u16, [u8; 4]); 2] = [(4, [0, 0, 0, 4]), (5, [0, 0, 0, 4])];
        const QUEUED: usize = 8 << 20;
        let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER));
        let queue = Queue { socket: socket.expect("a netlink socket") };
        // Messages that find no room would be packets lost.
        sockopt::set_socket_recv_buffer_size_force(&queue.socket, QUEUED).expect("a buffer size, as root");
        queue.send(CONFIG, &attribute(BIND.0, &BIND.1));
        queue.send(CONFIG, &attribute(PARAMS.0, &PARAMS.1));
        queue.send(CONFIG, &attribute(MAXLEN.0, &MAXLEN.1));
        queue.send(CONFIG, &FLAGS.map(|(kind, value)| attribute(kind, &value)).concat());
        queue
    }

    /// Waits for a packet, until `due` or [`IDLE`].
    fn wait(&self, due: Option<Instant>) {
        let until = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()).min(IDLE));
        let timeout = Timespec::try_from(until).expect("seconds that fit");
        // An interrupted wait is a short one.
        let _ = poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout));
    }

    /// The number and the length of the next packet that has come.
    fn next(&self, buffer: &mut [u8]) -> Option<(u32, usize)> {
        loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    if let Some(packet) = parse(&buffer[..length]) {
                        return Some(packet);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => eprintln!("the machine is too slow for a link: packets are lost"),
                Err(_) => return None,
            }
        }
    }

    fn decide(&self, message: u16, verdict: u32, id: u32) {
        /// NFQA_VERDICT_HDR.
        const HEADER: u16 = 2;
        self.send(message, &attribute(HEADER, &[verdict.to_be_bytes(), id.to_be_bytes()].concat()));
    }

    /// Sends a message that the kernel answers only when it cannot carry it out.
    fn send(&self, message: u16, attributes: &[u8]) {
        /// NFNL_SUBSYS_QUEUE.
        const SUBSYSTEM: u16 = 3 << 8;
        /// NLM_F_REQUEST (linux/netlink.h).
        const REQUEST: u16 = 1;
        let length = u32::try_from(HEADER_LEN + attributes.len()).expect("a short message");
        let mut bytes = Vec::from(length.to_ne_bytes());
        bytes.extend([(SUBSYSTEM | message).to_ne_bytes(), REQUEST.to_ne_bytes()].concat());
        // Sequence number, port, then AF_UNSPEC, version 0 and queue 0.
        bytes.extend([0; 12]);
        bytes.extend(attributes);
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, &bytes, SendFlags::empty(), &kernel).expect("a message to the kernel");
    }
}

/// Of the netlink message and of nfnetlink.
const HEADER_LEN: usize = 20;

/// One attribute with its padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a short attribute");
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The number and length of the packet in a message; none for an answer of the kernel's.
fn parse(message: &[u8]) -> Option<(u32, usize)> {
    const PACKET: u16 = 3 << 8;
    const PACKET_HDR: u16 = 1;
    const PAYLOAD: u16 = 10;
    const CAP_LEN: u16 = 13;
    let number = |bytes: &[u8]| bytes.get(..4)?.try_into().ok().map(u32::from_be_bytes);
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let mut rest = message.get(HEADER_LEN..).filter(|_| kind == PACKET)?;
    let (mut id, mut length) = (None, None);
    while let Some((head, _)) = rest.split_first_chunk::<4>() {
        let whole = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let value = rest.get(4..whole)?;
        match u16::from_ne_bytes([head[2], head[3]]) & 0x3fff {
            PACKET_HDR => id = number(value),
            PAYLOAD => length = length.or(Some(value.len())),
            CAP_LEN => length = number(value).and_then(|whole| usize::try_from(whole).ok()),
            _ => {}
        }
        rest = rest.get(whole.next_multiple_of(4)..).unwrap_or_default();
    }
    Some((id?, length?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_from_messages() {
        let mut message = vec![0; HEADER_LEN];
        message[4..6].copy_from_slice(&(3u16 << 8).to_ne_bytes());
        message.extend(attribute(1, &[0, 0, 0, 9, 8, 0, 0]));
        message.extend(attribute(10, &[0; 64]));
        assert_eq!(parse(&message), Some((9, 64)));
        message.extend(attribute(13, &1500u32.to_be_bytes()));
        assert_eq!(parse(&message), Some((9, 1500)));
        assert_eq!(parse(&message[..18]), None);
    }
}
