//! Registrations under way: a person handed over a node's identity and waits to hear whether that node accepted.

use std::{collections::BTreeMap, time::Duration};

use hive_protocol::{
    Identity, NetworkName, NodeId, NodeName,
    message::{Failure, FailureCode},
    peer::JoinRefusal,
};
use multiaddr::Multiaddr;

use crate::Output;

/// How long a person waits at most.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for the node's own record after it was joined.
const RECORD: Duration = Duration::from_secs(2);
/// Most registrations at once.
const MOST: usize = 64;

/// One registration.
pub(crate) struct Registration {
    pub identity: Identity,
    deadline: Duration,
    /// A dial with the identity's own addresses was asked for.
    pub dialled: bool,
    joined: bool,
}

/// Registrations by network and node.
#[derive(Default)]
pub(crate) struct Registrations(BTreeMap<(NetworkName, NodeId), Registration>);

impl Registrations {
    pub fn begin(&mut self, identity: Identity, network: NetworkName, now: Duration) -> Result<(), Failure> {
        if self.0.len() >= MOST {
            let busy = Failure::new(FailureCode::Busy, "too many registrations are under way");
            return Err(busy.hint("wait until they have ended, 20 seconds at most"));
        }
        let deadline = now + PATIENCE;
        let key = (network, identity.node);
        self.0.insert(key, Registration { identity, deadline, dialled: false, joined: false });
        Ok(())
    }

    /// Networks in which a peer is being registered.
    pub fn networks(&self, peer: &NodeId) -> Vec<NetworkName> {
        self.0.keys().filter(|(_, node)| node == peer).map(|(network, _)| network.clone()).collect()
    }

    /// Peers being registered in a network.
    pub fn peers(&self, network: &NetworkName) -> Vec<NodeId> {
        self.0.keys().filter(|(name, _)| name == network).map(|(_, node)| *node).collect()
    }

    /// Registrations of a peer.
    pub fn of(&mut self, peer: &NodeId) -> impl Iterator<Item = &mut Registration> {
        self.0.iter_mut().filter(move |((_, node), _)| node == peer).map(|(_, registration)| registration)
    }

    /// Where each peer under registration may be, as the person said.
    pub fn addresses(&self) -> BTreeMap<NodeId, Vec<Multiaddr>> {
        self.0.iter().map(|((_, node), r)| (*node, r.identity.addresses.clone())).collect()
    }

    /// The connection has joined; the node's record is expected shortly.
    pub fn joined(&mut self, network: &NetworkName, peer: &NodeId, now: Duration) {
        if let Some(registration) = self.0.get_mut(&(network.clone(), *peer)) {
            registration.joined = true;
            registration.deadline = registration.deadline.min(now + RECORD);
        }
    }

    /// Ends a registration whose node has joined and said its name.
    pub fn complete(&mut self, network: &NetworkName, peer: &NodeId, name: &NodeName, members: u32) -> Option<Output> {
        let key = (network.clone(), *peer);
        self.0.get(&key).filter(|registration| registration.joined)?;
        self.end(key, Ok((name.clone(), members)))
    }

    /// Ends a registration with a failure.
    pub fn fail(&mut self, network: &NetworkName, peer: &NodeId, failure: Failure) -> Option<Output> {
        self.end((network.clone(), *peer), Err(failure))
    }

    fn end(&mut self, key: (NetworkName, NodeId), result: Result<(NodeName, u32), Failure>) -> Option<Output> {
        self.0.remove(&key)?;
        let (network, node) = key;
        Some(Output::Registered { node, network, result })
    }

    /// Ends the registrations whose time is over; `members` counts a network's members.
    pub fn expire(&mut self, now: Duration, members: impl Fn(&NetworkName) -> u32) -> Vec<Output> {
        let over: Vec<_> = self.0.iter().filter(|(_, r)| r.deadline <= now).map(|(key, _)| key.clone()).collect();
        let outcome = |registration: &Registration, network: &NetworkName| {
            let name = registration.identity.name.clone();
            if registration.joined { Ok((name, members(network))) } else { Err(silent(&name)) }
        };
        let end = |key: (NetworkName, NodeId)| {
            let result = outcome(self.0.get(&key)?, &key.0);
            self.end(key, result)
        };
        over.into_iter().filter_map(end).collect()
    }

    pub fn next(&self) -> Option<Duration> {
        self.0.values().map(|registration| registration.deadline).min()
    }
}

fn silent(name: &NodeName) -> Failure {
    let what = format!("{name} did not answer within {} seconds", PATIENCE.as_secs());
    Failure::new(FailureCode::Unreachable, what)
        .hint("check that it runs, and that one of its addresses can be reached")
}

/// What a person learns when no address answered.
pub(crate) fn unreachable(name: &NodeName, reason: &str) -> Failure {
    let what = format!("{name} cannot be reached: {reason}");
    Failure::new(FailureCode::Unreachable, what)
        .hint("check that it runs, and that one of its addresses can be reached")
}

/// What a person learns when the other node did not take the join.
pub(crate) fn refused(network: &NetworkName, refusal: Option<JoinRefusal>) -> Failure {
    match refusal {
        Some(JoinRefusal::TryLater) => {
            let what = "the other node has had too many failed attempts lately";
            Failure::new(FailureCode::Busy, what).hint("try again in a few minutes")
        }
        Some(JoinRefusal::NotAccepted) => {
            // Not `NotAuthorised`: whoever asked is authorised here, and no login would help.
            Failure::new(FailureCode::Failed, "the other node did not accept the network password").hint(format!(
                "check that it is in network {network}, with the same password, and does not ban this node: `hivectl networks` there"
            ))
        }
        None => {
            let what = "the other node broke off the join, or could not prove the network password itself";
            Failure::new(FailureCode::Failed, what)
                .hint(format!("check that it is in network {network} with the same password"))
        }
    }
}
