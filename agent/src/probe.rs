//! AutoNAT v2 among members: asking one to dial this node, and dialling one that asks; see [`hive_transport::autonat`].
//!
//! Members alone may ask; whom to ask, and whether to dial, the core decides. Whoever knows the number of a probe under way
//! may say it here: it is 64 random bits, told to one member.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hive_core::{Event, Probed};
use hive_transport::{
    autonat::{self, DIAL_BACK, DIAL_REQUEST, Request, Verdict},
    streams::Stream,
};
use libp2p::{Multiaddr, StreamProtocol, swarm::ConnectionId};

use crate::{net::registry::Connection, node::Handle, random, time::within};

/// From the request to the verdict, the dial between them included.
const ASK_TIMEOUT: Duration = Duration::from_secs(30);
/// For one message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the dial and the number said.
const DIAL_TIMEOUT: Duration = Duration::from_secs(8);

/// The numbers of probes under way, and whether they were heard.
#[derive(Default)]
pub struct Nonces(Mutex<BTreeMap<u64, bool>>);

impl Nonces {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a number that was said; false for one that nobody waits for.
    fn heard(&self, nonce: u64) -> bool {
        self.lock().get_mut(&nonce).map(|heard| *heard = true).is_some()
    }
}

/// Asks a member to dial this node at an address, and tells the core what came of it.
pub async fn ask(node: Handle, connection: Connection, address: Multiaddr) {
    let nonce = u64::from_le_bytes(random::bytes());
    node.nonces.lock().insert(nonce, false);
    let exchange = async {
        let mut stream = node.streams.open_on(connection.id, StreamProtocol::new(DIAL_REQUEST)).await.ok()?;
        autonat::ask(&mut stream, &Request { addresses: vec![address.clone()], nonce }).await.ok()
    };
    let verdict = within(ASK_TIMEOUT, exchange).await.flatten();
    let heard = node.nonces.lock().remove(&nonce).unwrap_or(false);
    let probed = match verdict {
        Some(Verdict::Reached) if heard => Probed::Reached,
        // It says so, and was not heard: it reached somebody else.
        Some(Verdict::Reached | Verdict::Unreached) => Probed::Unreached,
        Some(Verdict::Refused) | None => Probed::Refused,
    };
    log::debug!("{} was asked to dial {address}: {probed:?}", connection.peer);
    node.event(Event::Probed { conn: connection.conn, address, probed }).await;
}

/// Hears the number of a probe. While none is under way nobody has anything to say here.
pub async fn hear(node: Handle, mut stream: Stream) {
    if node.nonces.lock().is_empty() {
        return;
    }
    let heard = autonat::heard_back(&mut stream, |nonce| node.nonces.heard(nonce));
    if let Some(Err(error)) = within(MESSAGE_TIMEOUT, heard).await {
        log::debug!("a dial back came to nothing: {error}");
    }
}

/// Dials a member that asks for it, where the core allows, and tells it what came of it.
pub async fn serve(node: Handle, connection: Connection, mut stream: Stream) {
    let Some(Ok(Request { addresses, nonce })) = within(MESSAGE_TIMEOUT, autonat::asked(&mut stream)).await else {
        return;
    };
    let (conn, asked) = (connection.conn, addresses.clone());
    let place = node.ask(move |core, now| core.answer_probe(conn, &asked, now)).await.ok().flatten();
    let found = place.and_then(|place| Some((place, addresses.into_iter().nth(place)?)));
    let (place, verdict) = match found {
        Some((place, address)) => (place, dial_back(&node, &connection, address, nonce).await),
        None => (0, Verdict::Refused),
    };
    let _ = within(MESSAGE_TIMEOUT, autonat::answer(&mut stream, place, verdict)).await;
}

async fn dial_back(node: &Handle, connection: &Connection, address: Multiaddr, nonce: u64) -> Verdict {
    log::debug!("dialling {} at {address} because it asks", connection.peer);
    let dialled = node.dial_back(connection.peer, address, DIAL_TIMEOUT).await;
    let Some(id) = dialled else { return Verdict::Unreached };
    let said = within(MESSAGE_TIMEOUT, say(node, id, nonce)).await.flatten();
    node.close(id).await;
    if said.is_some() { Verdict::Reached } else { Verdict::Unreached }
}

async fn say(node: &Handle, id: ConnectionId, nonce: u64) -> Option<()> {
    let mut stream = node.streams.open_on(id, StreamProtocol::new(DIAL_BACK)).await.ok()?;
    autonat::dial_back(&mut stream, nonce).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_counts_while_it_is_waited_for() {
        let nonces = Nonces::default();
        assert!(!nonces.heard(7));
        nonces.lock().insert(7, false);
        assert!(nonces.heard(7) && nonces.lock()[&7]);
    }
}
