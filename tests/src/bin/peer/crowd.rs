//! Strangers in numbers, at once and from many addresses of this machine: each connects, stays until it is closed, and
//! comes again.

use crate::{Failure, Peer, say};
use argh::FromArgs;
use futures::{FutureExt, future};
use hive_transport::Security;
use libp2p::{Multiaddr, swarm::SwarmEvent};
use serde_json::json;
use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// Strangers that crowd a node on loopback.
#[derive(FromArgs)]
#[argh(subcommand, name = "crowd")]
pub struct Crowd {
    /// how many at once (default: 500)
    #[argh(option, default = "500")]
    count: u32,
    /// seconds in which they come again when they were closed; 0: each comes once (default: 0)
    #[argh(option, default = "0")]
    seconds: u64,
    /// the node's address, with /p2p/PEER at its end
    #[argh(positional)]
    address: Multiaddr,
}

/// Strangers of one address: fewer than a node takes from there, so that the others' bound is what they meet.
const PER_ADDRESS: u32 = 16;
/// Between being turned away and coming again.
const PAUSE: Duration = Duration::from_secs(1);

/// What became of one stranger's visits.
#[derive(Default)]
struct Visits {
    turned_away: usize,
    /// How long each stay was, in seconds.
    stays: Vec<f64>,
}

impl Crowd {
    pub async fn run(self, security: Security) -> Result<(), Failure> {
        let until = Instant::now() + Duration::from_secs(self.seconds);
        let visitor = |number| smol::spawn(visit(security, number, self.address.clone(), until));
        let all = future::try_join_all((0..self.count).map(visitor)).await?;
        let turned_away: usize = all.iter().map(|visits| visits.turned_away).sum();
        let stays: Vec<f64> = all.into_iter().flat_map(|visits| visits.stays).collect();
        let shortest = stays.iter().copied().reduce(f64::min);
        let longest = stays.iter().copied().reduce(f64::max);
        say(&json!({ "stayed": stays.len(), "turned_away": turned_away, "shortest": shortest, "longest": longest }));
        Ok(())
    }
}

/// One stranger, with a key and a port of its own.
async fn visit(security: Security, number: u32, address: Multiaddr, until: Instant) -> Result<Visits, Failure> {
    let mut peer = Peer::new(security)?;
    // Dials leave from where something listens: 127.200.0.1 and on.
    let source = Ipv4Addr::from_bits(Ipv4Addr::new(127, 200, 0, 1).to_bits() + number / PER_ADDRESS);
    peer.swarm.listen_on(format!("/ip4/{source}/tcp/0").parse()?)?;
    let mut visits = Visits::default();
    loop {
        let began = Instant::now();
        match peer.connect(&address).await {
            Ok(_) => {
                while !matches!(peer.event().await, SwarmEvent::ConnectionClosed { .. }) {}
                visits.stays.push(began.elapsed().as_secs_f64());
            }
            Err(_) => visits.turned_away += 1,
        }
        if Instant::now() >= until {
            return Ok(visits);
        }
        let pause = smol::Timer::after(PAUSE);
        futures::select! {
            _ = pause.fuse() => {}
            () = async { loop { peer.event().await; } }.fuse() => {}
        }
    }
}
