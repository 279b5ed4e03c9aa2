//! Proxies and who may use them: the one place where an incoming stream is admitted or refused.
//!
//! [`ProxyBook`] keeps the proxies and changes them; [`Routes`] is an immutable picture of proxies and joined
//! connections for the tasks that carry bytes, replaced whenever either changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use hive_protocol::{
    Direction, NetworkName, NodeId, PathRule, ProxyId, ProxySpec,
    message::{Failure, FailureCode},
    tunnel::{Open, Refusal, RefuseReason},
};

use crate::{
    Change, ConnId,
    connections::{Connection, Connections, Proof},
    membership::Membership,
    outbox::Outbox,
};

/// Most proxies of a node.
const MOST: usize = 1024;

/// What a stream's fate depends on, at one moment.
#[derive(Debug, Default)]
pub struct Routes {
    /// The enabled proxies, by number.
    pub proxies: Vec<Arc<ProxySpec>>,
    ingress: BTreeMap<IngressKey, Arc<ProxySpec>>,
    links: BTreeMap<ConnId, Link>,
    best: BTreeMap<(NetworkName, NodeId), Best>,
    kept_out: BTreeSet<(NetworkName, NodeId)>,
    /// The oldest password of each network that is accepted.
    accepted: BTreeMap<NetworkName, Epoch>,
}

/// Which of a network's passwords, counted since the start, a right was proven by.
pub type Epoch = u32;

/// What has become of a live stream's right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It holds.
    Held,
    /// The connection that gave it is gone, and nobody took it away: another connection would give it again.
    Absent,
    /// It was taken away.
    Revoked,
}

/// What an OPEN must match: network, peer, the peer's port, the port asked for.
type IngressKey = (NetworkName, NodeId, u16, u16);

/// The best connections to a member, of all and of either kind.
#[derive(Debug, Clone, Copy, Default)]
struct Best {
    any: Option<ConnId>,
    direct: Option<ConnId>,
    relayed: Option<ConnId>,
}

impl Best {
    fn by(self, rule: PathRule) -> Option<ConnId> {
        match rule {
            PathRule::Any => self.any,
            PathRule::Direct => self.direct,
            PathRule::Relay => self.relayed,
        }
    }
}

#[derive(Debug)]
struct Link {
    peer: NodeId,
    networks: BTreeMap<NetworkName, Epoch>,
    /// It most likely leads nowhere any more.
    past: bool,
}

impl Link {
    fn of(connection: &Connection, networks: &Membership) -> Self {
        let joined = connection.joined.iter();
        let epoch = |(name, proof): (&NetworkName, &Proof)| Some((name.clone(), networks.get(name)?.epoch(*proof)));
        let networks = joined.filter_map(epoch).collect();
        Self { peer: connection.peer, networks, past: connection.is_past() }
    }
}

impl Routes {
    pub(crate) fn new(book: &ProxyBook, connections: &Connections, networks: &Membership) -> Self {
        let proxies: Vec<_> = book.specs.values().filter(|spec| spec.enabled).cloned().collect();
        let ingress = proxies.iter().filter(|spec| spec.direction == Direction::Ingress);
        Self {
            ingress: ingress.filter_map(|spec| Some((ingress_key(spec)?, Arc::clone(spec)))).collect(),
            links: connections.iter().map(|(id, c)| (id, Link::of(c, networks))).collect(),
            best: best_paths(connections),
            kept_out: networks.iter().flat_map(|(name, n)| n.banned.iter().map(|node| (name.clone(), *node))).collect(),
            accepted: networks.iter().map(|(name, network)| (name.clone(), network.oldest_epoch())).collect(),
            proxies,
        }
    }

    /// The ingress that lets this stream in. `peer` is the proven key at the other end of `conn`, `relayed` whether a
    /// relay carries the stream.
    ///
    /// # Errors
    ///
    /// [`RefuseReason::NoRule`] where the connection has not joined the network, is another peer's, or no enabled
    /// ingress names this peer, its port and the port asked for. Which of these it was, the peer does not learn.
    /// [`RefuseReason::Path`] where the ingress takes other paths alone.
    pub fn admit(&self, conn: ConnId, peer: &NodeId, relayed: bool, open: &Open) -> Result<Arc<ProxySpec>, Refusal> {
        let key = (open.network.clone(), *peer, open.origin_port, open.target_port);
        let proven = self.links.get(&conn).is_some_and(|link| link.peer == *peer);
        let rule = self.ingress.get(&key).filter(|_| proven && self.joined(conn, &open.network));
        let rule = rule.cloned().ok_or_else(|| refusal(open))?;
        if rule.paths().allows(relayed) { Ok(rule) } else { Err(wrong_path(rule.paths())) }
    }

    /// By which password a connection has joined a network. Of one that is gone, the oldest that would do.
    #[must_use]
    pub fn epoch(&self, network: &NetworkName, conn: ConnId) -> Epoch {
        let joined = self.links.get(&conn).and_then(|link| link.networks.get(network));
        joined.or_else(|| self.accepted.get(network)).copied().unwrap_or_default()
    }

    /// What has become of the right of a stream of this proxy that `conn` gave it, by the password `epoch`. No connection
    /// gives the right to one that leads to this node.
    #[must_use]
    pub fn standing(&self, proxy: ProxyId, conn: Option<ConnId>, epoch: Epoch) -> Standing {
        let Ok(at) = self.proxies.binary_search_by_key(&proxy, |spec| spec.id) else { return Standing::Revoked };
        let spec = &self.proxies[at];
        let (remote, conn) = match (&spec.remote, conn) {
            (Some(remote), Some(conn)) => (remote, conn),
            (None, None) => return Standing::Held,
            _ => return Standing::Revoked,
        };
        let better = || self.path(&remote.network, &remote.node, spec.paths()).is_some_and(|best| best != conn);
        match self.links.get(&conn) {
            Some(link) if link.past && better() => Standing::Absent,
            Some(link) if link.peer == remote.node && link.networks.contains_key(&remote.network) => Standing::Held,
            None if self.would_be_let_in(&remote.network, remote.node, epoch) => Standing::Absent,
            _ => Standing::Revoked,
        }
    }

    /// Whether a member that proved a password once is still welcome by it.
    fn would_be_let_in(&self, network: &NetworkName, node: NodeId, epoch: Epoch) -> bool {
        let accepted = self.accepted.get(network).is_some_and(|oldest| *oldest <= epoch);
        accepted && !self.kept_out.contains(&(network.clone(), node))
    }

    /// Whether some connection of this peer has joined any network.
    #[must_use]
    pub fn is_member_peer(&self, peer: &NodeId) -> bool {
        self.links.values().any(|link| link.peer == *peer && !link.networks.is_empty())
    }

    /// Members that are connected, one in several networks counted for each.
    #[must_use]
    pub fn members(&self) -> usize {
        self.best.len()
    }

    /// The best connection to a member of those that the rule allows: direct before relayed, TCP before QUIC, the oldest
    /// first.
    #[must_use]
    pub fn path(&self, network: &NetworkName, peer: &NodeId, rule: PathRule) -> Option<ConnId> {
        self.best.get(&(network.clone(), *peer))?.by(rule)
    }

    /// Whether the connection has joined any network.
    #[must_use]
    pub fn is_member(&self, conn: ConnId) -> bool {
        self.links.get(&conn).is_some_and(|link| !link.networks.is_empty())
    }

    /// Whether the connection has joined this network.
    #[must_use]
    pub fn joined(&self, conn: ConnId, network: &NetworkName) -> bool {
        self.links.get(&conn).is_some_and(|link| link.networks.contains_key(network))
    }
}

fn best_paths(connections: &Connections) -> BTreeMap<(NetworkName, NodeId), Best> {
    let mut order: Vec<_> = connections.iter().collect();
    order.sort_by_key(|(id, c)| (c.rank(), *id));
    let mut best: BTreeMap<_, Best> = BTreeMap::new();
    for (id, connection) in order {
        for network in connection.networks() {
            let best = best.entry((network, connection.peer)).or_default();
            let kind = if connection.relayed { &mut best.relayed } else { &mut best.direct };
            kind.get_or_insert(id);
            best.any.get_or_insert(id);
        }
    }
    best
}

fn ingress_key(spec: &ProxySpec) -> Option<IngressKey> {
    let remote = spec.remote.as_ref()?;
    Some((remote.network.clone(), remote.node, remote.port, spec.port))
}

fn refusal(open: &Open) -> Refusal {
    let Open { network, origin_port, target_port, .. } = open;
    let text = format!(
        "no enabled ingress lets your port {origin_port} reach port {target_port} in network {network}: \
         add one on that node with the origin and port exactly so"
    );
    Refusal { reason: RefuseReason::NoRule, text }
}

/// What an ingress says of a stream that comes by a path it does not take.
#[must_use]
pub fn wrong_path(rule: PathRule) -> Refusal {
    let text = match rule {
        PathRule::Relay => {
            "this ingress takes connections over a relay only (--path relay), and this one came directly"
        }
        _ => "this ingress takes connections over a direct path only (--path direct), and this one came over a relay",
    };
    Refusal { reason: RefuseReason::Path, text: text.to_owned() }
}

/// The proxies of this node.
pub(crate) struct ProxyBook {
    specs: BTreeMap<ProxyId, Arc<ProxySpec>>,
    next: ProxyId,
}

impl ProxyBook {
    pub fn new(stored: Vec<ProxySpec>, next: ProxyId) -> Self {
        let beyond = stored.iter().map(|spec| spec.id + 1).max().unwrap_or(1);
        Self { specs: stored.into_iter().map(|spec| (spec.id, Arc::new(spec))).collect(), next: next.max(beyond) }
    }

    pub fn enabled(&self) -> impl Iterator<Item = &ProxySpec> {
        self.specs.values().map(AsRef::as_ref).filter(|spec| spec.enabled)
    }

    pub fn all(&self) -> impl Iterator<Item = &ProxySpec> {
        self.specs.values().map(AsRef::as_ref)
    }

    /// Adds a checked proxy under the next number.
    pub fn add(&mut self, spec: ProxySpec, out: &mut Outbox) -> Result<ProxyId, Failure> {
        if self.specs.len() >= MOST {
            let full = format!("this node has {MOST} proxies already");
            return Err(Failure::new(FailureCode::Busy, full).hint("remove one with `hivectl proxy rm ID`"));
        }
        if let Some(other) = self.all().find(|other| clash(other, &spec)) {
            return Err(duplicate(other));
        }
        let id = self.next;
        self.next += 1;
        out.persist(Change::NextProxy(self.next));
        self.put(ProxySpec { id, ..spec }, out);
        Ok(id)
    }

    fn put(&mut self, spec: ProxySpec, out: &mut Outbox) {
        if !spec.temporary {
            out.persist(Change::Proxy(spec.clone()));
        }
        self.specs.insert(spec.id, Arc::new(spec));
    }

    pub fn remove(&mut self, id: ProxyId, out: &mut Outbox) -> Result<(), Failure> {
        let spec = self.specs.remove(&id).ok_or_else(|| unknown(id))?;
        if !spec.temporary {
            out.persist(Change::ProxyGone(id));
        }
        Ok(())
    }

    /// Whether an enabled proxy listens there already and shares its port by host names.
    pub fn shares_port(&self, bind: IpAddr, port: u16) -> bool {
        let here = |spec: &&ProxySpec| spec.direction == Direction::Egress && (spec.bind, spec.port) == (bind, port);
        self.enabled().filter(here).any(|spec| spec.sni.is_some())
    }

    /// Starts or stops a proxy; says whether that was a change.
    pub fn enable(&mut self, id: ProxyId, enabled: bool, out: &mut Outbox) -> Result<bool, Failure> {
        let spec = self.specs.get(&id).ok_or_else(|| unknown(id))?;
        if spec.enabled == enabled {
            return Ok(false);
        }
        let spec = ProxySpec { enabled, ..spec.as_ref().clone() };
        self.put(spec, out);
        Ok(true)
    }

    /// Removes the proxies of a network.
    pub fn forget(&mut self, network: &NetworkName, out: &mut Outbox) {
        let gone: Vec<_> =
            self.all().filter(|s| s.remote.as_ref().is_some_and(|r| r.network == *network)).map(|s| s.id).collect();
        for id in gone {
            // The number comes from the book itself, so it is there.
            let _ = self.remove(id, out);
        }
    }
}

/// Whether two proxies would listen on the same place or answer the same streams.
fn clash(a: &ProxySpec, b: &ProxySpec) -> bool {
    a.direction == b.direction
        && match a.direction {
            Direction::Egress => (a.bind, a.port) == (b.bind, b.port) && !differ_by_name(a, b),
            Direction::Ingress => ingress_key(a) == ingress_key(b),
        }
}

/// Whether TLS clients tell two proxies on one port apart by the host name they ask for.
fn differ_by_name(a: &ProxySpec, b: &ProxySpec) -> bool {
    a.sni.is_some() && b.sni.is_some() && a.sni != b.sni
}

fn duplicate(other: &ProxySpec) -> Failure {
    let what = match other.direction {
        Direction::Egress => {
            let name = other.sni.as_ref().map(|sni| format!(" for {sni}")).unwrap_or_default();
            format!("proxy {} listens on {} port {}{name} already", other.id, other.bind, other.port)
        }
        Direction::Ingress => format!("proxy {} takes exactly these connections already", other.id),
    };
    Failure::new(FailureCode::Failed, what).hint(format!("remove it first with `hivectl proxy rm {}`", other.id))
}

fn unknown(id: ProxyId) -> Failure {
    Failure::new(FailureCode::Usage, format!("there is no proxy {id}")).hint("`hivectl proxy ls` lists them")
}
