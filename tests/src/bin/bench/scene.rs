//! Two nodes whose way to each other is known, with tunnels between them: what relays and carriers are compared by.

use crate::{Servers, Way};
use hive_tests::{
    lab::{Host, Lab, Nat},
    node::Node,
    pair::{self, NETWORK, Pair},
    process::PATIENCE,
    wait::wait_until,
};

/// Two nodes with tunnels between them.
pub struct Scene {
    /// To the servers, through the tunnels.
    pub way: Way,
    /// At the far node.
    pub servers: Servers,
    /// The nodes.
    pub pair: Pair,
}

/// How a client gets to servers.
#[derive(Clone)]
pub struct Course {
    /// For people.
    pub name: &'static str,
    /// Where the client is.
    pub host: Host,
    /// To the servers.
    pub way: Way,
}

impl Scene {
    /// Two nodes on the public network that listen there only. `stretch` makes the way to a host long.
    pub fn direct(lab: &Lab, stretch: &impl Fn(&Host), listen: &str, transport: &str) -> Scene {
        let node = |name| {
            let host = lab.host(name);
            stretch(&host);
            Node::start(&host, pair::options().listen(listen))
        };
        let pair = Pair { near: node("near"), far: node("far") };
        pair.near.register(&pair.far, NETWORK);
        Scene::start(pair, "direct", transport)
    }

    /// The far node is behind a router that lets nobody in: tunnels use the connection that it dialled.
    pub fn walled(lab: &Lab) -> Scene {
        let near = Node::start(&lab.host("near"), pair::options());
        let far = Node::start(&lab.host_behind(Nat::PortRestricted, "far").0, pair::options());
        far.register(&near, NETWORK);
        Scene::start(Pair { near, far }, "direct", "tcp")
    }

    /// Two nodes behind routers that are kept from reaching each other.
    pub fn relayed(lab: &Lab, relay: &Node, name: &str, stretch: &impl Fn(&Host)) -> Scene {
        let [(near, near_router), (far, far_router)] = ["near", "far"].map(|side| {
            let (host, router) = lab.host_behind(Nat::PortRestricted, &format!("{name}-{side}"));
            stretch(router.outside());
            (host, router)
        });
        near_router.outside().cut_from(far_router.outside());
        let pair = Pair { near: Node::start(&near, pair::options()), far: Node::start(&far, pair::options()) };
        pair.near.register(relay, NETWORK);
        pair.far.register(relay, NETWORK);
        Scene::start(pair, "relayed", "tcp")
    }

    /// Tunnels of a pair, once it has found the path that is to be measured.
    fn start(pair: Pair, path: &str, transport: &str) -> Scene {
        pair.wait_until_connected();
        let far = pair.far.peer_id();
        wait_until(&format!("the pair is {path} over {transport}"), PATIENCE, || {
            let row = pair.near.row_of(&far);
            row["path"] == path && row["transport"] == transport
        });
        let servers = Servers::start(pair.far.host());
        let way = servers.through(&pair);
        Scene { way, servers, pair }
    }

    /// The way through its tunnels.
    pub fn course(&self, name: &'static str) -> Course {
        Course { name, host: self.pair.near.host().clone(), way: self.way }
    }
}

impl Course {
    /// Runs a client on its host.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.host.enter(act)
    }
}
