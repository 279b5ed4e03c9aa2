//! What this node says of itself: name, addresses and version, signed anew for each network when they change.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use hive_protocol::{NetworkName, NodeId, NodeName, PeerRecord, SignedRecord, record};
use multiaddr::Multiaddr;

use crate::{
    Config, Now, RelayMode,
    outbox::Dice,
    reach::{ip, is_relayed},
};

/// Changes within this time go out as one record.
const COALESCE: Duration = Duration::from_millis(200);
/// How often an unchanged record is made again.
const REFRESH: Duration = Duration::from_secs(30 * 60);
/// Bytes that addresses may take in a record; the rest of it needs well under 1 KiB.
const ADDRESS_BYTES: usize = 2048;

/// What became of tries to dial one of this node's addresses: those that lead here are named first. None is left out,
/// since what is closed to the world may be open to the same local network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Rank {
    Reached,
    #[default]
    Untried,
    Failed,
}

/// This node.
pub(crate) struct Own {
    config: Config,
    pub id: NodeId,
    pub name: NodeName,
    /// Whether it relays for members.
    pub relay: bool,
    /// What it publishes: its own addresses, then those of the relays that hold a reservation for it.
    pub addresses: Vec<Multiaddr>,
    direct: Vec<Multiaddr>,
    ranks: BTreeMap<Multiaddr, Rank>,
    circuits: Vec<Multiaddr>,
    issue_at: Option<Duration>,
    refresh_at: Duration,
}

impl Own {
    pub fn new(config: Config, name: NodeName, now: Duration, dice: &mut Dice) -> Self {
        let id = NodeId::from(&config.key.public());
        let refresh_at = now + dice.jitter(REFRESH);
        let (addresses, direct, ranks, circuits) = Default::default();
        Self { config, id, name, relay: false, addresses, direct, ranks, circuits, issue_at: None, refresh_at }
    }

    /// Where it can be dialled without a relay.
    pub fn direct(&self) -> &[Multiaddr] {
        &self.direct
    }

    /// Whether it is on loopback alone, as several nodes on one machine are.
    pub fn is_local(&self) -> bool {
        self.direct.iter().filter_map(ip).all(|ip| ip.is_loopback())
    }

    /// Its only IP address of this one's family, from which what goes there must come. Loopback is not looked at.
    pub fn only_ip_like(&self, remote: &IpAddr) -> Option<IpAddr> {
        let alike = self.direct.iter().filter_map(ip).filter(|ip| ip.is_ipv4() == remote.is_ipv4());
        let mut all: Vec<IpAddr> = alike.filter(|ip| !ip.is_loopback() && !remote.is_loopback()).collect();
        all.dedup();
        if let [only] = all[..] { Some(only) } else { None }
    }

    pub fn relay_mode(&self) -> RelayMode {
        self.config.relay
    }

    /// Takes new addresses of its own, best first. True if what it publishes differs.
    pub fn set_addresses(&mut self, addresses: Vec<Multiaddr>) -> bool {
        self.direct = addresses;
        self.direct.retain(|address| !is_relayed(address));
        self.publish()
    }

    /// Takes what became of tries to dial it. True if what it publishes differs.
    pub fn set_ranks(&mut self, ranks: BTreeMap<Multiaddr, Rank>) -> bool {
        self.ranks = ranks;
        self.publish()
    }

    /// Takes the addresses of its relays. True if what it publishes differs.
    pub fn set_circuits(&mut self, circuits: Vec<Multiaddr>) -> bool {
        self.circuits = circuits;
        self.publish()
    }

    /// Puts both kinds together; direct addresses that would not fit into a record are left out.
    fn publish(&mut self) -> bool {
        let mut bytes = 0;
        let mut fits = |address: &Multiaddr| {
            bytes += address.len() + 3;
            bytes <= ADDRESS_BYTES
        };
        let circuits: Vec<_> = self.circuits.iter().filter(|address| fits(address)).cloned().collect();
        let room = record::MAX_ADDRESSES.saturating_sub(circuits.len());
        let mut direct: Vec<_> = self.direct.iter().collect();
        direct.sort_by_key(|address| self.ranks.get(address).copied().unwrap_or_default());
        let mut kept: Vec<_> = direct.into_iter().take(room).take_while(|address| fits(address)).cloned().collect();
        kept.extend(circuits);
        let differs = self.addresses != kept;
        self.addresses = kept;
        differs
    }

    /// The first addresses are known: until this is said, nobody who hears of this node could find it.
    pub fn located(&mut self, now: Duration) {
        self.issue_at = Some(now);
    }

    /// Something to say changed: a new record is due soon.
    pub fn changed(&mut self, now: Duration) {
        self.issue_at.get_or_insert(now + COALESCE);
    }

    /// Whether a changed record is due; asking clears it.
    pub fn is_issue_due(&mut self, now: Duration) -> bool {
        self.issue_at.take_if(|at| *at <= now).is_some()
    }

    /// Whether unchanged records are due again; asking sets the next time.
    pub fn is_refresh_due(&mut self, now: Duration, dice: &mut Dice) -> bool {
        let due = self.refresh_at <= now;
        if due {
            self.refresh_at = now + dice.jitter(REFRESH);
        }
        due
    }

    pub fn next(&self) -> Option<Duration> {
        Some(self.issue_at.map_or(self.refresh_at, |at| at.min(self.refresh_at)))
    }

    /// What this node would say now.
    pub fn record(&self, network: &NetworkName, seq: u64, left: bool, now: Now) -> PeerRecord {
        PeerRecord {
            network: network.clone(),
            node: self.id,
            seq,
            issued: now.wall,
            name: self.name.clone(),
            addresses: if left { Vec::new() } else { self.addresses.clone() },
            version: label(&self.config.version),
            target: label(&self.config.target),
            relay: self.relay && !left,
            left,
        }
    }

    pub fn sign(&self, record: &PeerRecord) -> SignedRecord {
        SignedRecord::sign(record, &self.config.key)
    }
}

/// A text as records may hold it.
fn label(text: &str) -> String {
    let mut kept = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if kept.len() + c.len_utf8() > record::MAX_LABEL {
            break;
        }
        kept.push(c);
    }
    kept
}
