//! A dial: what the other end says of itself, and its answers to pings.

use crate::{BehaviourEvent, Failure, Peer, say, target};
use argh::FromArgs;
use libp2p::{Multiaddr, identify, ping, swarm::SwarmEvent};
use serde_json::json;
use std::time::Duration;

/// Connects to an address, identifies and pings the peer, and ends.
#[derive(FromArgs)]
#[argh(subcommand, name = "dial")]
pub struct Dial {
    /// with /p2p/PEER at its end
    #[argh(positional)]
    address: Multiaddr,
}

const PINGS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(20);

impl Dial {
    pub async fn run(self, peer: Peer) -> Result<(), Failure> {
        let late = async {
            smol::Timer::after(PATIENCE).await;
            Err("no answer".into())
        };
        smol::future::or(self.talk(peer), late).await
    }

    async fn talk(self, mut peer: Peer) -> Result<(), Failure> {
        peer.connect(&self.address).await?;
        let other = target(&self.address).ok_or("an address without /p2p/PEER")?;
        let (mut said, mut pings) = (None, Vec::new());
        while said.is_none() || pings.len() < PINGS {
            match peer.event().await {
                SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                    peer_id, info, ..
                })) if peer_id == other => {
                    said = Some(info);
                }
                SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { peer, result, .. })) if peer == other => {
                    pings.push(result?.as_secs_f64() * 1000.0);
                }
                _ => {}
            }
        }
        let said = said.ok_or("unidentified")?;
        let protocols: Vec<_> = said.protocols.iter().map(ToString::to_string).collect();
        say(&json!({
            "peer": other.to_string(),
            "agentVersion": said.agent_version,
            "protocolVersion": said.protocol_version,
            "protocols": protocols,
            "pings": pings,
        }));
        Ok(())
    }
}
