//! Which streams may be, for how long: a real core's routes, without any socket.

use hive_core::{Config, Core, Event, Now, RelayMode, Stored};
use hive_protocol::{
    PeerRecord, ProxyKind, SignedRecord, Timestamp,
    message::ProxyRequest,
    password::Secret,
    peer::{PeerMessage, SyncMessage},
};
use libp2p::identity::ed25519;

use super::*;

const NOW: Now = Now { mono: Duration::from_secs(100), wall: Timestamp(1_760_000_000_000) };
const CONN: ConnId = ConnId(1);
const LONG: Duration = Duration::from_secs(3600);

fn key(n: u8) -> ed25519::Keypair {
    ed25519::SecretKey::try_from_bytes([n; 32]).unwrap().into()
}

/// A core with one member and an ingress for it, and the streams of its node.
struct Bench {
    core: Core,
    routes: Watched<Routes>,
    tunnels: Arc<Tunnels>,
    spec: ProxySpec,
}

impl Bench {
    fn new() -> Self {
        let stored = Stored {
            name: "bench".parse().unwrap(),
            networks: Vec::new(),
            records: Vec::new(),
            proxies: Vec::new(),
            next_proxy: 1,
            admin: None,
            sessions: Vec::new(),
        };
        let config = Config { key: key(1), version: "0".into(), target: "test".into(), relay: RelayMode::Auto };
        let mut core = Core::new(config, stored, [7; 32], NOW);
        let (network, peer): (NetworkName, NodeId) = ("home".parse().unwrap(), NodeId::from(&key(2).public()));
        core.join_network(&network, Secret::from_bytes([1; 32]), NOW).unwrap();
        let address = "/ip4/192.0.2.2/tcp/4180".parse().unwrap();
        core.handle(Event::Connected { conn: CONN, peer, dialled: true, address, relayed: false }, NOW);
        core.handle(Event::Joined { conn: CONN, network: network.clone(), secret: Secret::from_bytes([1; 32]) }, NOW);
        let records = vec![SignedRecord::sign(&record(&network, peer), &key(2))];
        let message = PeerMessage { network, body: SyncMessage::Records { records } };
        core.handle(Event::Sync { conn: CONN, message }, NOW);
        let id = core.add_proxy(&ingress(), NOW).unwrap();
        let routes = core.routes();
        let spec = routes.proxies.iter().find(|spec| spec.id == id).unwrap().as_ref().clone();
        Self { core, routes: Watched::new(routes), tunnels: Arc::default(), spec }
    }

    fn enter(&self, grace: Duration) -> Option<Entry> {
        self.tunnels.enter(&self.spec, Some(CONN), grace, &self.routes)
    }

    fn publish(&self) {
        self.routes.set(self.core.routes());
        self.tunnels.enforce(&self.routes.get());
    }

    fn cut(&mut self) {
        self.core.handle(Event::Disconnected { conn: CONN }, NOW);
        self.publish();
    }
}

fn record(network: &NetworkName, node: NodeId) -> PeerRecord {
    PeerRecord {
        network: network.clone(),
        node,
        seq: NOW.wall.0,
        issued: NOW.wall,
        name: "peer".parse().unwrap(),
        addresses: vec!["/ip4/192.0.2.2/tcp/4180".parse().unwrap()],
        version: "0".into(),
        target: "test".into(),
        relay: false,
        left: false,
    }
}

fn ingress() -> ProxyRequest {
    ProxyRequest {
        direction: Direction::Ingress,
        kind: ProxyKind::Tcp,
        port: 8080,
        peer: "peer".into(),
        peer_port: 18_080,
        network: None,
        bind: None,
        host: None,
        temporary: false,
        resume: None,
        key_prefix: None,
        sni: None,
        ssh: None,
        path_rule: None,
    }
}

#[test]
fn what_a_removed_proxy_carried_stays_in_the_totals() {
    let tunnels = Tunnels::default();
    tunnels.counters(1).received(10);
    tunnels.counters(2).sent(5);
    tunnels.keep_only(&BTreeSet::from([2]));
    assert_eq!(tunnels.counted(1), Counted::default());
    assert_eq!(tunnels.totals(), TunnelCounts { active: 0, bytes_in: 10, bytes_out: 5 });
}

#[test]
fn a_stream_whose_path_goes_as_it_begins_waits_for_another() {
    let mut bench = Bench::new();
    assert!(bench.enter(Duration::ZERO).is_some());
    bench.cut();
    assert!(bench.enter(LONG).is_some(), "nobody took its right away");
    assert!(bench.enter(Duration::ZERO).is_none(), "one that does not wait has none");
    bench.core.remove_proxy(bench.spec.id, NOW).unwrap();
    bench.publish();
    assert!(bench.enter(LONG).is_none(), "its right was taken away");
    assert_eq!((bench.tunnels.streams(), bench.tunnels.counted(bench.spec.id).open), (0, 0));
}

#[test]
fn each_stream_waits_for_its_own_grace() {
    let mut bench = Bench::new();
    let (short, long) = (bench.enter(Duration::from_millis(50)).unwrap(), bench.enter(LONG).unwrap());
    bench.cut();
    exec::run(short.ended()).unwrap();
    assert_eq!(bench.tunnels.streams(), 1);
    drop((short, long));
    assert_eq!(bench.tunnels.streams(), 0);
}

#[test]
fn what_a_member_opened_is_counted_until_it_left() {
    let bench = Bench::new();
    let peer = NodeId::from(&key(2).public());
    let two = [bench.enter(LONG).unwrap(), bench.enter(LONG).unwrap()];
    assert_eq!(bench.tunnels.opened_by(&peer), 2);
    drop(two);
    assert_eq!(bench.tunnels.opened_by(&peer), 0);
    assert!(lock(&bench.tunnels.inner).opened.is_empty());
}
