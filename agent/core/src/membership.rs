//! The networks this node belongs to: their secrets, whom they keep out, and which members turned a join down.
//!
//! The shell runs the key exchange; this room says with which secrets, and when to try again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hive_protocol::{
    NetworkName, NodeId, Timestamp,
    message::{Failure, FailureCode},
    password::Secret,
};

use crate::{Change, Now, StoredNetwork, connections::Proof, outbox::Dice, outbox::Outbox};

/// Most networks of a node.
const MOST: usize = 64;
/// Most nodes that a network keeps out.
const MOST_BANNED: usize = 4096;
/// Most members remembered for turning a join down.
const MOST_REFUSALS: usize = 1024;
const FIRST_REFUSAL: Duration = Duration::from_secs(30);
const LONGEST_REFUSAL: Duration = Duration::from_secs(600);
/// How long a refused join counts as news: a node that cannot join tries again every ten minutes.
const RECENT: Duration = Duration::from_secs(3600);

/// One network.
pub(crate) struct Network {
    secret: Secret,
    /// Counts the passwords since the start: what an older one gave ends with it.
    epoch: u32,
    previous: Option<(Secret, Timestamp)>,
    pub banned: BTreeSet<NodeId>,
    /// Joins refused here since the start.
    pub refused_joins: u64,
    /// Who was refused here and has not joined since: how often, and when last.
    refused: BTreeMap<NodeId, (u64, Duration)>,
    refusals: BTreeMap<NodeId, Refusals>,
}

/// A member that did not take our join.
struct Refusals {
    count: u32,
    until: Duration,
}

impl Network {
    fn new(secret: Secret) -> Self {
        Self {
            secret,
            // The one before may be stored, too.
            epoch: 1,
            previous: None,
            banned: BTreeSet::new(),
            refused_joins: 0,
            refused: BTreeMap::new(),
            refusals: BTreeMap::new(),
        }
    }

    fn stored(&self, name: &NetworkName) -> StoredNetwork {
        StoredNetwork {
            name: name.clone(),
            secret: self.secret.clone(),
            previous: self.previous.clone(),
            banned: self.banned.iter().copied().collect(),
        }
    }

    /// Until when the password before the last rotation is accepted.
    pub fn old_until(&self) -> Option<Timestamp> {
        self.previous.as_ref().map(|(_, until)| *until)
    }

    /// Which of the passwords a proof was of.
    pub fn epoch(&self, proof: Proof) -> u32 {
        match proof {
            Proof::Current => self.epoch,
            Proof::Old => self.epoch - 1,
        }
    }

    /// The oldest password that is accepted.
    pub fn oldest_epoch(&self) -> u32 {
        self.epoch(if self.previous.is_some() { Proof::Old } else { Proof::Current })
    }

    /// What the knowledge of a secret proves at this moment; nothing when its time is over.
    pub fn proof(&self, secret: &Secret, now: Timestamp) -> Option<Proof> {
        if *secret == self.secret {
            return Some(Proof::Current);
        }
        let previous = self.previous.as_ref().filter(|(old, until)| old == secret && *until > now);
        previous.map(|_| Proof::Old)
    }

    /// Secrets to prove to a peer, or by which to judge its proof: the current one, then the previous one in grace.
    pub fn secrets(&self, peer: &NodeId, now: Timestamp) -> Vec<Secret> {
        if self.banned.contains(peer) {
            return Vec::new();
        }
        let previous = self.previous.iter().filter(|(_, until)| *until > now).map(|(secret, _)| secret.clone());
        std::iter::once(self.secret.clone()).chain(previous).collect()
    }

    /// Notes that a member did not take our join; returns when to ask it again.
    pub fn turned_down(&mut self, peer: NodeId, now: Duration, dice: &mut Dice) -> Duration {
        let count = self.refusals.get(&peer).map_or(0, |r| r.count);
        let wait = FIRST_REFUSAL.saturating_mul(1 << count.min(8)).min(LONGEST_REFUSAL);
        let until = now + dice.jitter(wait);
        if self.refusals.len() >= MOST_REFUSALS && !self.refusals.contains_key(&peer) {
            self.refusals.pop_first();
        }
        self.refusals.insert(peer, Refusals { count: count.saturating_add(1), until });
        until
    }

    /// Until when there is no sense in asking a member again.
    pub fn turned_down_until(&self, peer: &NodeId, now: Duration) -> Option<Duration> {
        self.refusals.get(peer).map(|r| r.until).filter(|until| *until > now)
    }

    /// A peer has joined: what was refused before, on either side, was on the way to that.
    pub fn taken_in(&mut self, peer: &NodeId) {
        self.refusals.remove(peer);
        self.refused.remove(peer);
    }

    /// Members that do not take our join, though the table says they belong here.
    pub fn refusing(&self) -> impl Iterator<Item = &NodeId> {
        self.refusals.keys()
    }

    /// Notes that a peer's join was refused here. One that is in already, or kept out, is no news.
    pub fn refused_here(&mut self, peer: NodeId, is_news: bool, now: Duration) {
        self.refused_joins += 1;
        self.refused.retain(|_, (_, at)| now.saturating_sub(*at) < RECENT);
        if is_news
            && !self.banned.contains(&peer)
            && (self.refused.len() < MOST_REFUSALS || self.refused.contains_key(&peer))
        {
            let (count, at) = self.refused.entry(peer).or_default();
            (*count, *at) = (*count + 1, now);
        }
    }

    /// Who was refused here lately and is still outside, and how often.
    pub fn refused_lately(&self, now: Duration) -> impl Iterator<Item = (&NodeId, u64)> {
        let outside = self
            .refused
            .iter()
            .filter(move |(peer, (_, at))| now.saturating_sub(*at) < RECENT && !self.banned.contains(*peer));
        outside.map(|(peer, (count, _))| (peer, *count))
    }
}

/// The networks by name.
pub(crate) struct Membership(BTreeMap<NetworkName, Network>);

impl Membership {
    pub fn new(stored: Vec<StoredNetwork>) -> Self {
        let network = |n: StoredNetwork| {
            let banned = n.banned.into_iter().collect();
            (n.name, Network { previous: n.previous, banned, ..Network::new(n.secret) })
        };
        Self(stored.into_iter().map(network).collect())
    }

    pub fn get(&self, name: &NetworkName) -> Option<&Network> {
        self.0.get(name)
    }

    pub fn get_mut(&mut self, name: &NetworkName) -> Option<&mut Network> {
        self.0.get_mut(name)
    }

    /// The network, or the failure a person gets who named one that this node is not in.
    pub fn require(&mut self, name: &NetworkName) -> Result<&mut Network, Failure> {
        self.0.get_mut(name).ok_or_else(|| not_a_member(name))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&NetworkName, &Network)> {
        self.0.iter()
    }

    pub fn names(&self) -> Vec<NetworkName> {
        self.0.keys().cloned().collect()
    }

    pub fn is_banned(&self, network: &NetworkName, node: &NodeId) -> bool {
        self.0.get(network).is_some_and(|n| n.banned.contains(node))
    }

    /// Joins or creates a network. True if it is new here.
    pub fn join(&mut self, name: &NetworkName, secret: Secret, out: &mut Outbox) -> Result<bool, Failure> {
        if let Some(network) = self.0.get(name) {
            return if network.secret == secret { Ok(false) } else { Err(other_password(name)) };
        }
        if self.0.len() >= MOST {
            let full = Failure::new(FailureCode::Busy, format!("this node is in {MOST} networks already"));
            return Err(full.hint("leave one with `hivectl networks leave --name NAME`"));
        }
        let network = Network::new(secret);
        out.persist(Change::Network(network.stored(name)));
        self.0.insert(name.clone(), network);
        Ok(true)
    }

    pub fn leave(&mut self, name: &NetworkName, out: &mut Outbox) -> Result<(), Failure> {
        self.0.remove(name).ok_or_else(|| not_a_member(name).hint("`hivectl networks` lists those it is in"))?;
        out.persist(Change::NetworkGone(name.clone()));
        Ok(())
    }

    /// Replaces the secret; the old one is accepted until `grace` is over.
    pub fn rotate(
        &mut self,
        name: &NetworkName,
        secret: Secret,
        grace: Duration,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let network = self.require(name)?;
        if network.secret == secret {
            let same = format!("this already is the password of network {name}");
            return Err(Failure::new(FailureCode::Usage, same));
        }
        let old = std::mem::replace(&mut network.secret, secret);
        network.epoch += 1;
        let millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        network.previous = (millis > 0).then(|| (old, Timestamp(now.wall.0.saturating_add(millis))));
        network.refusals.clear();
        out.persist(Change::Network(network.stored(name)));
        Ok(())
    }

    /// Keeps a node out of a network or lets it in again. False if nothing changed.
    pub fn ban(&mut self, name: &NetworkName, node: NodeId, banned: bool, out: &mut Outbox) -> Result<bool, Failure> {
        let network = self.require(name)?;
        if banned && network.banned.len() >= MOST_BANNED && !network.banned.contains(&node) {
            let full = Failure::new(FailureCode::Busy, format!("network {name} keeps {MOST_BANNED} nodes out already"));
            return Err(full.hint("rotate the password instead: it keeps out all who do not learn the new one"));
        }
        let changed = if banned { network.banned.insert(node) } else { network.banned.remove(&node) };
        if changed {
            out.persist(Change::Network(network.stored(name)));
        }
        Ok(changed)
    }

    /// Forgets the old passwords whose grace is over; returns their networks.
    pub fn end_graces(&mut self, now: Timestamp, out: &mut Outbox) -> Vec<NetworkName> {
        let over = |n: &Network| n.old_until().is_some_and(|until| until <= now);
        let ended: Vec<_> = self.0.iter().filter(|(_, n)| over(n)).map(|(name, _)| name.clone()).collect();
        for name in &ended {
            if let Some(network) = self.0.get_mut(name) {
                network.previous = None;
                out.persist(Change::Network(network.stored(name)));
            }
        }
        ended
    }

    /// When the next old password's grace is over.
    pub fn next_grace(&self) -> Option<Timestamp> {
        self.0.values().filter_map(Network::old_until).min()
    }
}

pub(crate) fn not_a_member(name: &NetworkName) -> Failure {
    let what = format!("this node is not in network {name}");
    Failure::new(FailureCode::Usage, what).hint(format!("join it with `hivectl networks join --name {name}`"))
}

fn other_password(name: &NetworkName) -> Failure {
    let what = format!("this node is in network {name} already, with another password");
    Failure::new(FailureCode::Usage, what)
        .hint(format!("change it with `hivectl networks rotate --name {name}`, or leave the network first"))
}
