//! Carrying out what the core says: step three of a turn.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use hive_core::{ConnId, Event, Output, Probed, Routes};
use hive_protocol::{Identity, NetworkName, NodeId, peer::PeerMessage};
use hive_transport::quic::is_quic;
use libp2p::swarm::ConnectionId;
use smol::channel::Sender;

use super::{Dial, Dialled, Node, Reply, handle::Registration, now};
use crate::{
    exec, join,
    net::{self, Part, registry::is_relayed},
    peers, probe, punch,
    time::within,
};

/// How long a connection stays for the last words of its streams.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Node {
    pub(super) fn act(&mut self, action: Output) {
        match action {
            // Split off by `drain`, and written before.
            Output::Persist(_) => {}
            Output::Dial { peer, addresses } => self.dial(peer, addresses),
            Output::Upgrade { peer, addresses } => self.dial_better(peer, addresses),
            Output::Reserve { relay, address } => self.reserve(relay, address),
            Output::Unreserve { relay } => self.unreserve(relay),
            Output::ServeRelay { serving, addresses } => self.serve_relay(serving, &addresses),
            Output::Probe { conn, address } => self.probe(conn, address),
            Output::Punch { conn, addresses, speak_first } => self.punch(conn, addresses, speak_first),
            Output::Join { conn, network } => self.join(conn, network),
            Output::Send { conn, message } => self.send(conn, message),
            Output::Close { conn, reason } => self.close(conn, reason),
            Output::CloseIfIdle { conn } => self.close_if_idle(conn),
            Output::RoutesChanged => self.publish_routes(),
            Output::Registered { node, network, result } => self.registered(node, network, &result),
            Output::SessionEnded { key } => self.handle.sessions.end(&key),
        }
    }

    fn dial(&mut self, peer: NodeId, addresses: Vec<libp2p::Multiaddr>) {
        log::debug!("dialling {peer} at {addresses:?}");
        let dialled = if addresses.iter().any(is_relayed) { Dialled::Circuit } else { Dialled::Direct };
        let (beside, addresses) = split(addresses, dialled);
        match net::dial(&mut self.net, peer, addresses) {
            Ok(id) => {
                if !beside.is_empty() {
                    exec::spawn(self.handle.clone().dial_beside_later(id)).detach();
                }
                self.dials.insert(id, Dial { peer, dialled, beside });
            }
            Err(error) => self.dial_ended(Dial { peer, dialled, beside }, &error),
        }
    }

    /// The first addresses of a dial have led nowhere for a while: those left for later are dialled beside them.
    pub(super) fn dial_taking_long(&mut self, id: ConnectionId) -> Reply {
        if let Some(dial) = self.dials.get_mut(&id) {
            let (peer, beside) = (dial.peer, std::mem::take(&mut dial.beside));
            self.dial_beside(peer, beside);
        }
        Reply::none()
    }

    /// Dials the addresses that a dial left for later, unless that is needless by now.
    pub(super) fn dial_beside(&mut self, peer: NodeId, addresses: Vec<libp2p::Multiaddr>) {
        let under_way = |dial: &Dial| dial.peer == peer && dial.dialled == Dialled::Beside;
        let needless = addresses.is_empty() || self.handle.registry.is_direct(&peer);
        if !needless
            && !self.dials.values().any(under_way)
            && let Ok(id) = net::dial(&mut self.net, peer, addresses)
        {
            self.dials.insert(id, Dial::of(peer, Dialled::Beside));
        }
    }

    /// Dials a connected peer on a path that would be better; one such dial at a time.
    fn dial_better(&mut self, peer: NodeId, addresses: Vec<libp2p::Multiaddr>) {
        let under_way = |dial: &Dial| dial.peer == peer && dial.dialled == Dialled::Better;
        if self.dials.values().any(under_way) {
            return;
        }
        log::debug!("dialling {peer} for a better path at {addresses:?}");
        match net::dial(&mut self.net, peer, addresses) {
            Ok(id) => drop(self.dials.insert(id, Dial::of(peer, Dialled::Better))),
            Err(error) => self.dial_ended(Dial::of(peer, Dialled::Better), &error),
        }
    }

    fn probe(&mut self, conn: ConnId, address: libp2p::Multiaddr) {
        match self.handle.registry.by_conn(conn) {
            Some(connection) => exec::spawn(probe::ask(self.handle.clone(), connection, address)).detach(),
            None => self.core.handle(Event::Probed { conn, address, probed: Probed::Refused }, now()),
        }
    }

    /// Dials a member that asked for it; whoever waits has the connection, and nobody else hears of it.
    pub(super) fn dial_back(&mut self, peer: NodeId, address: libp2p::Multiaddr, reply: Sender<ConnectionId>) -> Reply {
        if let Ok(id) = net::dial_back(&mut self.net, peer, address) {
            self.dials_back.insert(id, reply);
        }
        Reply::none()
    }

    fn punch(&self, conn: ConnId, addresses: Vec<libp2p::Multiaddr>, speak_first: bool) {
        if let Some(connection) = self.handle.registry.by_conn(conn) {
            exec::spawn(punch::initiate(self.handle.clone(), connection, addresses, speak_first)).detach();
        }
    }

    pub(super) fn dial_through_hole(&mut self, peer: NodeId, addresses: Vec<libp2p::Multiaddr>, part: Part) -> Reply {
        match net::punch(&mut self.net, peer, addresses, part) {
            Ok(id) => drop(self.dials.insert(id, Dial::of(peer, Dialled::Punch))),
            Err(error) => self.dial_ended(Dial::of(peer, Dialled::Punch), &error),
        }
        Reply::none()
    }

    fn join(&self, conn: ConnId, network: NetworkName) {
        if let Some(connection) = self.handle.registry.by_conn(conn) {
            exec::spawn(join::initiate(self.handle.clone(), connection, network)).detach();
        }
    }

    fn send(&mut self, conn: ConnId, message: PeerMessage) {
        let Some(writer) = self.writer(conn) else { return };
        if writer.try_send(message).is_err() {
            // Nothing is lost for good: the next comparison of tables finds what is missing.
            log::debug!("connection #{} is too slow for table sync, a message is dropped", conn.0);
        }
    }

    /// The task that writes table sync to a connection, started if there is none.
    fn writer(&mut self, conn: ConnId) -> Option<&Sender<PeerMessage>> {
        let connection = self.handle.registry.by_conn(conn)?;
        // A writer that found no stream has ended: the connection was no member's then, and may be one's now.
        if self.writers.get(&conn).is_some_and(Sender::is_closed) {
            self.writers.remove(&conn);
        }
        let streams = &self.handle.streams;
        Some(self.writers.entry(conn).or_insert_with(|| peers::writer(streams.clone(), connection.id)))
    }

    /// Closes a connection, once its peer was told of the streams that end with it: else it would take them for streams
    /// whose path broke, and keep them for their grace.
    fn close(&mut self, conn: ConnId, reason: &str) {
        let Some(connection) = self.handle.registry.by_conn(conn) else { return };
        log::debug!("closing connection #{} to {}: {reason}", conn.0, connection.peer);
        // What the routes no longer allow ends now, whichever the core said first.
        self.handle.tunnels.enforce(&self.core.routes());
        if !self.handle.tunnels.is_ending_on(conn) {
            self.net.close_connection(connection.id);
            return;
        }
        let handle = self.handle.clone();
        exec::spawn(async move {
            let _ = within(LAST_WORDS, handle.tunnels.ended_on(conn)).await;
            handle.close(connection.id).await;
        })
        .detach();
    }

    pub(super) fn close_now(&mut self, id: ConnectionId) -> Reply {
        self.net.close_connection(id);
        Reply::none()
    }

    fn close_if_idle(&mut self, conn: ConnId) {
        if self.handle.tunnels.streams_on(conn) == 0 && !self.handle.conversations.are_on(conn) {
            return self.close(conn, "another connection serves as well");
        }
        log::debug!("connection {} is spare, but in use", conn.0);
    }

    /// Lets everybody see the new routes, and ends what they no longer allow.
    fn publish_routes(&mut self) {
        let routes = self.core.routes();
        self.handle.routes.set(routes.clone());
        self.handle.tunnels.enforce(&routes);
        self.handle.tunnels.keep_only(&self.core.proxies().map(|spec| spec.id).collect());
        self.follow_members(&routes);
    }

    /// A connection that was a member's and is not any more opens no further member streams; a new member's gets its
    /// writer. One that was just admitted and that the core has yet to hear of is left alone.
    fn follow_members(&mut self, routes: &Arc<Routes>) {
        let members: BTreeSet<ConnId> =
            self.handle.registry.conns().into_iter().filter(|conn| routes.is_member(*conn)).collect();
        for former in self.members.difference(&members) {
            if let Some(connection) = self.handle.registry.by_conn(*former) {
                self.handle.streams.expel(connection.id);
            }
        }
        for new in members.difference(&self.members.clone()) {
            self.writer(*new);
        }
        self.members = members;
    }

    pub(super) fn register(&mut self, identity: &Identity, network: NetworkName, reply: Sender<Registration>) -> Reply {
        match self.core.register(identity, &network, now()) {
            Ok(()) => self.registrations.entry((identity.node, network)).or_default().push(reply),
            Err(failure) => drop(reply.try_send(Err(failure))),
        }
        Reply::none()
    }

    fn registered(&mut self, node: NodeId, network: NetworkName, result: &Registration) {
        for waiting in self.registrations.remove(&(node, network)).unwrap_or_default() {
            // Who asked may have gone away meanwhile.
            let _ = waiting.try_send(result.clone());
        }
    }
}

/// What of a direct dial is left for a moment later: QUIC where there is TCP, too. It costs 1.6 times the CPU for each
/// byte, so it is for those whom TCP does not lead to.
fn split(addresses: Vec<libp2p::Multiaddr>, dialled: Dialled) -> (Vec<libp2p::Multiaddr>, Vec<libp2p::Multiaddr>) {
    let (quic, tcp): (Vec<_>, Vec<_>) = addresses.into_iter().partition(is_quic);
    match dialled {
        Dialled::Direct if !tcp.is_empty() => (quic, tcp),
        _ => (Vec::new(), tcp.into_iter().chain(quic).collect()),
    }
}
