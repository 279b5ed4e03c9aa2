//! Reservations with relays as the swarm has them: each is a listener on a circuit address.
//!
//! libp2p's relay client tells of success by an event and of every end by the listener's; what it says of addresses is
//! the relay's word and is not used: the core knows under which address it asked.

use std::collections::BTreeMap;

use hive_core::Event;
use hive_protocol::NodeId;
use libp2p::{Multiaddr, core::transport::ListenerId, relay};

use super::{Node, now};

/// The listeners that stand for reservations.
#[derive(Default)]
pub struct Relays(BTreeMap<NodeId, ListenerId>);

impl Relays {
    /// Forgets a listener that closed; says whose it was.
    fn closed(&mut self, id: ListenerId) -> Option<NodeId> {
        let relay = self.0.iter().find(|(_, listener)| **listener == id).map(|(relay, _)| *relay)?;
        self.0.remove(&relay);
        Some(relay)
    }
}

impl Node {
    pub(super) fn reserve(&mut self, relay: NodeId, address: Multiaddr) {
        log::debug!("asking {relay} for a reservation at {address}");
        self.unreserve(relay);
        match self.net.listen_on(address) {
            Ok(id) => drop(self.relays.0.insert(relay, id)),
            Err(error) => {
                log::warn!("cannot ask {relay} for a reservation: {error}");
                self.core.handle(Event::ReservationLost { relay }, now());
            }
        }
    }

    pub(super) fn unreserve(&mut self, relay: NodeId) {
        if let Some(id) = self.relays.0.remove(&relay) {
            self.net.remove_listener(id);
        }
    }

    /// Relays for members from now on, or no longer. Clients take the addresses from the relay, so it must have some.
    pub(super) fn serve_relay(&mut self, serving: bool, addresses: &[Multiaddr]) {
        log::debug!("relaying for members: {serving}");
        let before: Vec<Multiaddr> = self.net.external_addresses().cloned().collect();
        for gone in before.iter().filter(|address| !addresses.contains(address)) {
            self.net.remove_external_address(gone);
        }
        for address in addresses {
            self.net.add_external_address(address.clone());
        }
        self.net.behaviour().relay.serve(serving);
    }

    pub(super) fn circuit_event(&mut self, event: &relay::client::Event) {
        let relay::client::Event::ReservationReqAccepted { relay_peer_id, renewal: false, .. } = event else { return };
        if let Some(relay) = NodeId::from_peer_id(relay_peer_id) {
            log::debug!("{relay} holds a reservation for this node");
            self.core.handle(Event::Reserved { relay }, now());
        }
    }

    /// A listener closed: true if it stood for a reservation, which the core then knows to be lost.
    pub(super) fn reservation_closed(&mut self, id: ListenerId) -> bool {
        let Some(relay) = self.relays.closed(id) else { return false };
        log::debug!("the reservation with {relay} ended");
        self.core.handle(Event::ReservationLost { relay }, now());
        true
    }
}
