//! TLS that ends at the far agent, against nginx that ends it in front of the same server, taking turns in one run.
//!
//! nginx is measured twice: on its own, where it saves the whole tunnel, and behind a tunnel of the same two agents, where
//! only the place differs at which TLS ends.

use crate::{bulk::Direction, drain, report::Report, send};
use argh::FromArgs;
use hive_tests::{
    lab::Lab,
    notice,
    pair::Pair,
    pki::Authority,
    services::Nginx,
    tcp,
    tls::{Client, Stream},
};
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// Compares TLS that ends at an agent with TLS that ends at nginx.
#[derive(FromArgs)]
#[argh(subcommand, name = "tls")]
pub struct Tls {}

const NAME: &str = "shed.example";
const GIB: f64 = (1 << 30) as f64;
/// The first byte of a connection to the server: from where the bytes go that the next eight count.
const UP: u8 = 1;
const DOWN: u8 = 0;

/// Where TLS ends in front of the one server.
struct Bench {
    pair: Pair,
    nginx: Nginx,
    client: Client,
    /// At the far agent.
    hive: SocketAddr,
    /// At nginx, without any agent.
    alone: SocketAddr,
    /// At nginx, to which the far agent carries what it does not open.
    behind: SocketAddr,
}

/// Both directions with one connection and with eight; an empty report where there is no nginx.
pub fn measure(lab: &Lab, rounds: usize, bytes: u64) -> io::Result<Report> {
    let mut report = Report::against("tls", "nginx");
    let Some(folder) = std::env::var_os("HIVE_NGINX").map(PathBuf::from) else {
        notice::left_out("the benchmark of TLS", "needs nginx: run tests/nginx, and name its folder in HIVE_NGINX");
        return Ok(report);
    };
    let server = tcp::Server::start(&lab.host("server"), 0, |stream| drop(serve(stream)));
    let bench = Bench::start(lab, &folder, server.address());
    for connections in [1, 8] {
        for (direction, name) in [(Direction::Up, "up"), (Direction::Down, "down")] {
            let case = format!("{connections} connection{} {name}", if connections == 1 { "" } else { "s" });
            bench.compare(&case, rounds, (direction, connections, bytes), &mut report)?;
        }
    }
    Ok(report)
}

/// From where the bytes go, over how many connections, and how many they are all together.
type Load = (Direction, u64, u64);

impl Bench {
    fn start(lab: &Lab, folder: &std::path::Path, server: SocketAddr) -> Bench {
        let pair = Pair::start(lab);
        let authority = Authority::create("a CA");
        authority.store(&pair.far, "web", &[NAME]);
        let nginx = Nginx::start(folder, &lab.host("nginx"), &authority.certify(&[NAME]), &[server]);
        let alone = nginx.entrances()[0];
        let behind = pair.tunnel(alone).entrance;
        let hive = terminated(&pair, server);
        let bench = Bench { client: Client::trusting(authority.pem(), &[]), pair, nginx, hive, alone, behind };
        assert_eq!(bench.cipher(hive), bench.cipher(alone), "both have the same work");
        bench
    }

    fn cipher(&self, to: SocketAddr) -> Option<rustls::CipherSuite> {
        let stream = self.connect(to).expect("a session");
        stream.conn.negotiated_cipher_suite().map(|suite| suite.suite())
    }

    fn connect(&self, to: SocketAddr) -> io::Result<Stream> {
        self.client.connect(self.pair.near.host(), to, NAME)
    }

    fn compare(&self, case: &str, rounds: usize, load: Load, report: &mut Report) -> io::Result<()> {
        let mut turns = [const { (Vec::new(), Vec::new()) }; 3];
        for _ in 0..rounds {
            for (to, (speeds, cpu)) in [self.alone, self.hive, self.behind].into_iter().zip(&mut turns) {
                let (speed, used) = self.turn(to, load)?;
                speeds.push(speed);
                cpu.push(used);
            }
        }
        let [alone, hive, behind] = turns;
        for (nginx, place) in [(alone, "nginx alone"), (behind, "nginx behind a tunnel")] {
            report.pair(&format!("{case}, {place}"), "MiB/s", &nginx.0, &hive.0);
            report.pair(&format!("{case}, {place}: CPU"), "s/GiB", &nginx.1, &hive.1);
        }
        Ok(())
    }

    /// MiB a second of one copy, and the CPU time of agents and nginx for each GiB.
    fn turn(&self, to: SocketAddr, (direction, connections, bytes): Load) -> io::Result<(f64, f64)> {
        let (before, began) = (self.cpu(), Instant::now());
        thread::scope(|scope| {
            let copies: Vec<_> =
                (0..connections).map(|_| scope.spawn(move || self.copy(to, direction, bytes / connections))).collect();
            copies.into_iter().try_for_each(|copy| copy.join().expect("a copy does not panic"))
        })?;
        let speed = bytes as f64 / f64::from(1 << 20) / began.elapsed().as_secs_f64();
        Ok((speed, (self.cpu() - before).as_secs_f64() * GIB / bytes as f64))
    }

    fn cpu(&self) -> Duration {
        let agents = [&self.pair.near, &self.pair.far].map(|agent| agent.usage().cpu);
        agents.into_iter().sum::<Duration>() + self.nginx.cpu()
    }

    fn copy(&self, to: SocketAddr, direction: Direction, bytes: u64) -> io::Result<()> {
        let mut stream = self.connect(to)?;
        let first = if direction == Direction::Up { UP } else { DOWN };
        stream.write_all(&[&[first][..], &bytes.to_le_bytes()].concat())?;
        match direction {
            Direction::Up => {
                send(&mut stream, bytes)?;
                stream.read_exact(&mut [0])
            }
            Direction::Down => match drain(&mut stream.take(bytes))? {
                received if received == bytes => Ok(()),
                received => Err(io::Error::other(format!("{received} of {bytes} bytes"))),
            },
        }
    }
}

/// A tunnel whose TLS ends at the far agent; returns its entrance.
fn terminated(pair: &Pair, server: SocketAddr) -> SocketAddr {
    let entrance = pair.near.host().at(pair.near.host().free_port());
    let (origin, target) = (format!("near:{}", entrance.port()), format!("far:{}", server.port()));
    let (from, to) = (entrance.port().to_string(), server.port().to_string());
    let (bind, host) = (entrance.ip().to_string(), server.ip().to_string());
    let ingress = ["proxy", "--direction", "ingress", "--origin", &origin, "--port", &to, "--host", &host];
    pair.far.ctl(&[&ingress[..], &["--tls", "true", "--key-prefix", "web"]].concat()).success();
    let egress = ["proxy", "--direction", "egress", "--target", &target, "--port", &from, "--bind", &bind];
    pair.near.ctl(&egress).success();
    entrance
}

/// Takes so many bytes and answers with one, or sends so many.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut wish = [0; 9];
    stream.read_exact(&mut wish)?;
    let bytes = u64::from_le_bytes(wish[1..].try_into().map_err(io::Error::other)?);
    if wish[0] == UP {
        drain(&mut (&stream).take(bytes))?;
        return stream.write_all(&[0]);
    }
    send(&mut stream, bytes)
}
