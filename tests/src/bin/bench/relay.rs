//! Tunnels over a relay against direct ones, over TCP and over QUIC, through links of the same kind and in turns: speed,
//! round trips, and what two circuits of one relay leave each other. Needs network namespaces.
//!
//! With `--rtt` and `--mbit` every node is at the end of a long link; the relay itself is near everybody, so that a
//! relayed round trip is as long as a direct one. Without them the machine is what limits.

use crate::{
    bulk::{Direction, speed},
    latency::{copy_until, trips},
    report::Report,
    scene::{Course, Scene},
};
use argh::FromArgs;
use hive_tests::{
    facts::{median, percentile},
    lab::{Host, Lab, Link},
    node::Node,
    pair,
};
use std::{
    io,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

/// Compares tunnels over a relay with direct ones, TCP and QUIC.
#[derive(FromArgs)]
#[argh(subcommand, name = "relay")]
pub struct Relay {
    /// round trip between the nodes in milliseconds (default: 0, that of the machine)
    #[argh(option, default = "0")]
    rtt: u64,
    /// megabits a second that arrive at a node at most (default: 0, as many as the machine carries)
    #[argh(option, default = "0")]
    mbit: u64,
    /// compare TCP and QUIC on direct paths alone
    #[argh(switch)]
    direct: bool,
}

const TEST: &str = "the benchmark of relays";
/// Round trips of one turn on the machine itself, and where each takes long.
const TRIPS: [usize; 2] = [1000, 50];

impl Relay {
    /// All courses in turns.
    pub fn measure(&self, rounds: usize, bytes: u64) -> io::Result<Report> {
        let mut report = Report::against("relay", "direct");
        let (Some(tcp_lab), Some(quic_lab), Some(lab)) = (Lab::links(TEST), Lab::links(TEST), Lab::links(TEST)) else {
            return Ok(report);
        };
        let stretch = |host: &Host| self.stretch(host);
        let tcp = Scene::direct(&tcp_lab, &stretch, "/ip4/0.0.0.0/tcp/4180", "tcp");
        let quic = Scene::direct(&quic_lab, &stretch, "/ip4/0.0.0.0/udp/4180/quic-v1", "quic");
        let plain = Course { name: "plain TCP", host: tcp.pair.near.host().clone(), way: tcp.servers.raw() };
        if self.direct {
            let courses = [tcp.course("direct"), plain, quic.course("direct over QUIC")];
            self.speeds(&courses, rounds, bytes, &mut report)?;
            self.round_trips(&courses, rounds, &mut report)?;
            return Ok(report);
        }
        let relay = Node::start(&lab.host("relay"), pair::options());
        let [one, other] = ["one", "other"].map(|name| Scene::relayed(&lab, &relay, name, &stretch));
        let courses = [tcp.course("direct"), plain, quic.course("direct over QUIC"), one.course("relayed")];
        self.speeds(&courses, rounds, bytes, &mut report)?;
        self.round_trips(&courses, rounds, &mut report)?;
        self.shares(&one.course("one circuit"), &other.course("other circuit"), rounds, bytes, &mut report)?;
        Ok(report)
    }

    fn stretch(&self, host: &Host) {
        if self.rtt > 0 || self.mbit > 0 {
            let long = Link::long(Duration::from_millis(self.rtt) / 2);
            host.emulate(if self.mbit > 0 { long.rate(self.mbit * 1_000_000) } else { long });
        }
    }

    fn trips(&self) -> usize {
        TRIPS[usize::from(self.rtt > 0)]
    }

    /// One connection in each direction.
    fn speeds(&self, courses: &[Course], rounds: usize, bytes: u64, report: &mut Report) -> io::Result<()> {
        for (direction, name) in [(Direction::Up, "up"), (Direction::Down, "down")] {
            let mut speeds = vec![Vec::new(); courses.len()];
            for _ in 0..rounds {
                for (course, speeds) in courses.iter().zip(&mut speeds) {
                    speeds.push(course.enter(|| speed(course.way, direction, 1, bytes))?);
                }
            }
            for (course, speeds_of) in courses.iter().zip(&speeds).skip(1) {
                report.pair(&format!("bulk {name}, {}", course.name), "MiB/s", &speeds[0], speeds_of);
            }
        }
        Ok(())
    }

    fn round_trips(&self, courses: &[Course], rounds: usize, report: &mut Report) -> io::Result<()> {
        let mut samples = vec![Vec::new(); courses.len()];
        for _ in 0..rounds {
            for (course, samples) in courses.iter().zip(&mut samples) {
                samples.extend(course.enter(|| trips(course.way, self.trips()))?);
            }
        }
        for (course, samples_of) in courses.iter().zip(&samples).skip(1) {
            for percent in [50.0, 99.0] {
                let of = |samples: &[f64]| percentile(samples, percent).unwrap_or(f64::NAN);
                let name = format!("round trip, {}, p{percent}", course.name);
                report.added(&name, "µs", of(&samples[0]), of(samples_of));
            }
        }
        Ok(())
    }

    /// Whether a bulk copy on one circuit starves the other one, or a small exchange on its own.
    fn shares(&self, one: &Course, other: &Course, rounds: usize, bytes: u64, report: &mut Report) -> io::Result<()> {
        let mut shares = Vec::new();
        for _ in 0..rounds {
            let copies = [one, other].map(|course| {
                let course = course.clone();
                thread::spawn(move || course.enter(|| speed(course.way, Direction::Down, 1, bytes / 2)))
            });
            let [one, other] = copies.map(|copy| copy.join().expect("a copy does not panic"));
            let (one, other) = (one?, other?);
            shares.push(one.min(other) / one.max(other));
        }
        report.figure("two copies on two circuits: the slower one's share of the faster one's", "", median(&shares));
        for (name, copied) in [("the other circuit", other), ("its own circuit", one)] {
            let mut samples = Vec::new();
            for _ in 0..rounds {
                samples.extend(self.beside(one, copied)?);
            }
            for percent in [50.0, 99.0] {
                let of = percentile(&samples, percent);
                report.figure(&format!("round trip, relayed, beside a copy on {name}, p{percent}"), "µs", of);
            }
        }
        Ok(())
    }

    /// Round trips on one course while the other copies.
    fn beside(&self, course: &Course, copied: &Course) -> io::Result<Vec<f64>> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let copying = scope.spawn(|| copied.enter(|| copy_until(&done, copied.way)));
            let taken = course.enter(|| trips(course.way, self.trips()));
            done.store(true, SeqCst);
            copying.join().expect("a copy does not panic").and(taken)
        })
    }
}
