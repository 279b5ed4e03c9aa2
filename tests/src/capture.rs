//! What a host's network interfaces and a process's memory hold, looked at from outside, as somebody who owns the machine
//! would look. Needs root.

use crate::{lab::Host, process::Process};
use rustix::net::{
    AddressFamily, RecvFlags, SocketType, eth, recv, socket,
    sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout},
};
use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

/// How often a capture looks whether it shall end.
const LOOK: Duration = Duration::from_millis(100);
/// Longest frame: loopback and segmentation offload make them of 64 KiB.
const FRAME: usize = 256 << 10;
/// Most that a capture keeps.
const MOST: usize = 512 << 20;
/// Read of a process's memory at once.
const CHUNK: usize = 4 << 20;

/// Every frame that passes any interface of a host, loopback too (packet(7)).
pub struct Capture {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Vec<u8>>,
}

impl Capture {
    /// Begins; what passes before this returns is not seen.
    ///
    /// # Panics
    /// Without root.
    pub fn start(host: &Host) -> Capture {
        let packets = host.enter(|| {
            let packets = socket(AddressFamily::PACKET, SocketType::RAW, Some(eth::ALL)).expect("a packet socket");
            set_socket_recv_buffer_size_force(&packets, 64 << 20).expect("a large buffer");
            set_socket_timeout(&packets, Timeout::Recv, Some(LOOK)).expect("a timeout");
            packets
        });
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let reader = std::thread::spawn(move || read_frames(&packets, &stopped));
        Capture { stop, reader }
    }

    /// Ends it and returns all frames, one after the other.
    pub fn stop(self) -> Vec<u8> {
        self.stop.store(true, Relaxed);
        self.reader.join().expect("a reader does not panic")
    }
}

fn read_frames(packets: &OwnedFd, stopped: &AtomicBool) -> Vec<u8> {
    let (mut all, mut frame) = (Vec::new(), vec![0; FRAME]);
    loop {
        match recv(packets, &mut frame, RecvFlags::empty()) {
            Ok((length, _)) => all.extend_from_slice(&frame[..length]),
            // Nothing for a while: what came before the end was asked for is here.
            Err(_) if stopped.load(Relaxed) => return all,
            Err(_) => {}
        }
        assert!(all.len() < MOST, "a capture of more than {MOST} bytes");
    }
}

/// Whether these bytes are anywhere in the memory of a process now.
///
/// # Panics
/// When it is gone, or without root.
pub fn memory_holds(process: &Process, wanted: &[u8]) -> bool {
    let proc = |what: &str| format!("/proc/{}/{what}", process.pid());
    let maps = fs::read_to_string(proc("maps")).expect("the maps of a process that runs");
    let memory = File::open(proc("mem")).expect("root may read it");
    maps.lines().filter_map(readable).any(|(from, to)| region_holds(&memory, from, to, wanted).unwrap_or(false))
}

/// Begin and end of a mapping that can be read (proc_pid_maps(5)); the kernel's own do not count.
fn readable(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let readable = fields.next()?.starts_with('r') && !line.contains("[v");
    let number = |text| u64::from_str_radix(text, 16).ok();
    readable.then_some((number(from)?, number(to)?))
}

/// An error where the process has given the region back meanwhile.
fn region_holds(memory: &File, from: u64, to: u64, wanted: &[u8]) -> io::Result<bool> {
    let mut chunk = vec![0; CHUNK + wanted.len()];
    let mut at = from;
    while at < to {
        // Chunks overlap, so that none of these bytes hides at an edge.
        let length = chunk.len().min(usize::try_from(to - at).unwrap_or(CHUNK));
        memory.read_exact_at(&mut chunk[..length], at)?;
        if holds(&chunk[..length], wanted) {
            return Ok(true);
        }
        at += CHUNK as u64;
    }
    Ok(false)
}

/// Whether bytes are in others.
pub fn holds(all: &[u8], wanted: &[u8]) -> bool {
    let Some((first, rest)) = wanted.split_first() else { return true };
    let mut left = all;
    while let Some(at) = left.iter().position(|byte| byte == first) {
        left = &left[at + 1..];
        if left.starts_with(rest) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_where_they_are() {
        assert!(holds(b"xababc", b"abc") && holds(b"abc", b"abc") && holds(b"x", b""));
        assert!(!holds(b"xabab", b"abc") && !holds(b"", b"a"));
        assert_eq!(readable("00400000-00401000 r--p 00000000 00:00 0"), Some((0x40_0000, 0x40_1000)));
        assert_eq!(readable("00400000-00401000 ---p 00000000 00:00 0"), None);
    }
}
