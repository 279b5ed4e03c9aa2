//! A window on a simulated path: a link of some rate and delay, and a reader of some rate, in steps of 1 ms.

use std::collections::VecDeque;

use super::*;
use crate::{
    share,
    stream::{Incoming, Outgoing, Stream},
};

const STEP: Duration = Duration::from_millis(1);
const MIB: usize = 1 << 20;
/// What one read takes from the application.
static RUN: [u8; 64 << 10] = [0; 64 << 10];

/// Bytes a millisecond.
const fn mbit(rate: u64) -> u64 {
    rate * 1_000_000 / 8 / 1000
}

struct Path {
    now: Duration,
    /// Bytes a millisecond, of the link and of the application that reads.
    link: u64,
    reader: u64,
    one_way: Duration,
    window: Window,
    sender: Outgoing<&'static [u8]>,
    receiver: Incoming,
    /// In the link's queue, then under way, then at the reader.
    queue: u64,
    under_way: VecDeque<(Duration, u64)>,
    unread: u64,
    acks: VecDeque<(Duration, u64)>,
    news: VecDeque<(Duration, usize)>,
    sent: u64,
    delivered: u64,
    share: usize,
}

impl Path {
    fn new(link: u64, round_trip: u64, reader: u64) -> Self {
        let Stream { outgoing: sender, incoming: receiver } = Stream::new();
        Self {
            now: Duration::from_secs(1),
            link,
            reader,
            one_way: Duration::from_millis(round_trip) / 2,
            window: Window::new(),
            sender,
            receiver,
            queue: 0,
            under_way: VecDeque::new(),
            unread: 0,
            acks: VecDeque::new(),
            news: VecDeque::new(),
            sent: 0,
            delivered: 0,
            share: usize::MAX,
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        self.write();
        self.carry();
        self.read();
        self.hear();
    }

    /// The application always has more.
    fn write(&mut self) {
        while self.sender.room(self.window.bytes(self.share)) > 0 {
            if self.window.is_curious() {
                self.window.sent(self.sent, self.sent - self.sender.unacknowledged() as u64, self.now);
            }
            self.sender.push(&RUN);
            self.sender.sent(RUN.len());
            self.sent += RUN.len() as u64;
            self.queue += RUN.len() as u64;
        }
        if let Some(news) = self.window.take_news() {
            self.news.push_back((self.now + self.one_way, news));
        }
    }

    fn carry(&mut self) {
        let carried = self.queue.min(self.link);
        self.queue -= carried;
        self.under_way.push_back((self.now + self.one_way, carried));
        while let Some((_, bytes)) = self.under_way.pop_front_if(|(at, _)| *at <= self.now) {
            self.unread += bytes;
        }
        while let Some((_, bytes)) = self.news.pop_front_if(|(at, _)| *at <= self.now) {
            self.receiver.peer_window(bytes as u32);
        }
    }

    fn read(&mut self) {
        let read = self.unread.min(self.reader);
        self.unread -= read;
        self.delivered += read;
        self.receiver.deliver(read as usize).unwrap();
        if let Some(count) = self.receiver.ack_due() {
            self.receiver.acknowledged();
            self.acks.push_back((self.now + self.one_way, count));
        }
    }

    fn hear(&mut self) {
        while let Some((_, count)) = self.acks.pop_front_if(|(at, _)| *at <= self.now) {
            let was_full = self.sender.is_full(self.window.bytes(self.share));
            self.sender.acknowledged(count).unwrap();
            self.window.acknowledged(count, was_full, self.share, self.now);
        }
    }

    /// Mbit/s that the reader got during some seconds.
    fn run(&mut self, seconds: u64) -> u64 {
        let before = self.delivered;
        (0..seconds * 1000).for_each(|_| self.step());
        (self.delivered - before) * 8 / 1_000_000 / seconds
    }
}

#[test]
fn a_long_path_is_kept_busy() {
    let mut path = Path::new(mbit(500), 60, u64::MAX);
    path.run(2);
    assert!(path.run(5) >= 475, "of 500 Mbit/s at 60 ms");
    let held = 500_000_000 / 8 * 60 / 1000;
    assert!((held..=4 * held).contains(&path.window.bytes), "{} for {held}", path.window.bytes);
    assert!(path.run(60) >= 475, "measuring anew costs little");
}

#[test]
fn a_slow_reader_keeps_its_window_small() {
    let mut path = Path::new(mbit(10_000), 60, mbit(16));
    path.run(10);
    assert!(path.window.bytes <= 2 * FIRST_WINDOW, "{}", path.window.bytes);
    assert_eq!(path.run(10), 16, "and waits for nothing");
}

#[test]
fn a_reader_that_turns_slow_gives_its_memory_back() {
    let mut path = Path::new(mbit(500), 60, u64::MAX);
    path.run(5);
    path.reader = mbit(8);
    path.run(100);
    assert!(path.window.bytes <= MIB, "{}", path.window.bytes);
    path.reader = u64::MAX;
    path.run(5);
    assert!(path.run(5) >= 475, "and gets it again");
}

#[test]
fn a_reader_that_stops_gets_no_more() {
    let mut path = Path::new(mbit(500), 60, mbit(100));
    path.run(5);
    let before = path.window.bytes;
    path.reader = 0;
    path.run(60);
    assert_eq!(path.window.bytes, before);
    assert!(path.sent - path.delivered <= (before + RUN.len()) as u64);
}

#[test]
fn a_path_that_gets_longer_is_measured_anew() {
    let mut path = Path::new(mbit(500), 10, u64::MAX);
    path.run(5);
    path.one_way = Duration::from_millis(50);
    path.run(90);
    assert!(path.run(5) >= 400, "{} bytes", path.window.bytes);
}

#[test]
fn a_share_bounds_the_window_and_the_peer_knows() {
    let mut path = Path::new(mbit(500), 60, u64::MAX);
    path.run(5);
    path.share = LEAST_WINDOW;
    path.run(5);
    // One window a round trip, and none that waits for an acknowledgement which the peer puts off.
    assert!(path.run(5) >= (LEAST_WINDOW * 8 * 12 / 1_000_000) as u64);
    assert!(path.sender.unacknowledged() <= LEAST_WINDOW + RUN.len());
}

#[test]
fn many_streams_share_what_there_is() {
    let budget = 8 * MIB;
    let mut paths: Vec<Path> = (0..16).map(|_| Path::new(mbit(500), 60, u64::MAX)).collect();
    for _ in 0..5000 {
        for at in 0..paths.len() {
            let kept: usize = paths.iter().map(|path| path.sender.unacknowledged()).sum();
            assert!(kept <= budget + 2 * RUN.len(), "{kept}");
            paths[at].share = share::share(kept, budget);
            paths[at].step();
        }
    }
    let got: Vec<u64> = paths.iter().map(|path| path.delivered).collect();
    let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
    assert!(*most <= 2 * least, "{got:?}");
}
