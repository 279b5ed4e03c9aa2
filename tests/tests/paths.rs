//! Which paths a tunnel takes: those that it was told to take, and the better one as soon as there is one again.

use hive_tests::{
    lab::{Lab, Nat, Router},
    node::Node,
    pair::{self, NETWORK, Pair, Tunnel, wait_for_proxy},
    tcp,
    wait::wait_until,
};
use serde_json::Value;
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

const SOON: Duration = Duration::from_secs(90);

/// Two nodes behind routers of their own that a public one relays for. What stands between the routers can be cut.
struct Scene {
    pair: Pair,
    routers: [Router; 2],
    server: tcp::Server,
    _public: Node,
}

impl Scene {
    /// Begins with the routers cut from each other.
    fn start(test: &str) -> Option<Scene> {
        let lab = Lab::namespaces(test)?;
        let public = Node::start(&lab.host("public"), pair::options());
        let [(near, near_router), (far, far_router)] =
            ["near", "far"].map(|name| lab.host_behind(Nat::PortRestricted, name));
        near_router.outside().cut_from(far_router.outside());
        let pair = Pair { near: Node::start(&near, pair::options()), far: Node::start(&far, pair::options()) };
        pair.near.register(&public, NETWORK);
        pair.far.register(&public, NETWORK);
        pair.wait_until_connected();
        let server = tcp::Server::echo(&far, 0);
        Some(Scene { pair, routers: [near_router, far_router], server, _public: public })
    }

    fn cut(&self) {
        self.routers[0].outside().cut_from(self.routers[1].outside());
    }

    fn mend(&self) {
        self.routers[0].outside().mend_to(self.routers[1].outside());
    }

    /// A tunnel that takes these paths alone.
    fn tunnel(&self, paths: &str) -> Tunnel {
        let (near, far) = (&self.pair.near, &self.pair.far);
        let port = near.host().free_port();
        let (from, to) = (format!("near:{port}"), format!("far:{}", self.server.address().port()));
        let (bind, host) = (near.host().ipv4().to_string(), far.host().ipv4().to_string());
        let ends = ["forward", "--from", &from, "--to", &to, "--bind", &bind, "--host", &host, "--path", paths];
        let made = near.json(&ends);
        let number = |side: &str| made[side]["id"].as_u64().unwrap();
        Tunnel { entrance: near.host().at(port), egress: number("egress"), ingress: number("ingress") }
    }

    fn dial(&self, tunnel: &Tunnel) -> TcpStream {
        let stream = self.pair.near.host().connect(tunnel.entrance).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    /// Waits until the peer is reached in this way, and says what the table has of it.
    fn wait_for_path(&self, path: &str) {
        let id = self.pair.far.peer_id();
        let is = |nodes: &Value| {
            let mut rows = nodes.as_array().into_iter().flatten();
            rows.any(|row| row["peer_id"] == id.as_str() && row["path"] == path)
        };
        self.pair.near.wait_for_json(&format!("the pair is {path}"), SOON, &["nodes"], is);
    }

    fn row(&self, tunnel: &Tunnel) -> Value {
        pair::proxy(&self.pair.near, tunnel.egress)
    }
}

fn exchange(mut stream: &TcpStream) -> io::Result<()> {
    let mut back = [0; 5];
    stream.write_all(b"hello")?;
    stream.read_exact(&mut back)?;
    if &back == b"hello" { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
}

#[test]
fn a_tunnel_keeps_to_the_paths_that_it_may_take() {
    let Some(scene) = Scene::start("a_tunnel_keeps_to_the_paths_that_it_may_take") else { return };
    let [any, direct, relay] = ["any", "direct", "relay"].map(|paths| scene.tunnel(paths));
    let patient = scene.dial(&direct);
    wait_until("an echo by any path", SOON, || exchange(&scene.dial(&any)).is_ok());
    wait_until("an echo over the relay", SOON, || exchange(&scene.dial(&relay)).is_ok());
    scene.wait_for_path("relayed");
    // What may only go direct waits, and then says why it cannot.
    assert!(exchange(&patient).is_err(), "bytes of a direct tunnel went over a relay");
    let row = wait_for_proxy(&scene.pair.near, direct.egress, "the error is told", |row| !row["last_error"].is_null());
    let error = row["last_error"].as_str().unwrap();
    assert!(error.contains("no direct path to far"), "{error}");
    assert_eq!((&row["path"], &row["path_rule"], &row["bytes_out"]), (&"none".into(), &"direct".into(), &0.into()));
    let status = scene.pair.near.json(&["status"]).to_string();
    assert!(status.contains("a proxy has no direct path to far"), "{status}");

    scene.mend();
    wait_until("an echo directly", SOON, || exchange(&scene.dial(&direct)).is_ok());
    assert_eq!(scene.row(&direct)["path"], "direct");
    // The relay stays in use by what may take nothing else.
    let over_relay = scene.dial(&relay);
    exchange(&over_relay).unwrap();
    assert_eq!(scene.row(&relay)["path"], "relayed");
    exchange(&over_relay).unwrap();
}

#[test]
fn a_direct_path_comes_back_by_itself() {
    let Some(scene) = Scene::start("a_direct_path_comes_back_by_itself") else { return };
    let [any, direct] = ["any", "direct"].map(|paths| scene.tunnel(paths));
    scene.mend();
    scene.wait_for_path("direct");
    let [moving, waiting] = [&any, &direct].map(|tunnel| scene.dial(tunnel));
    [&moving, &waiting].into_iter().for_each(|stream| exchange(stream).unwrap());
    scene.cut();
    // One goes on over the relay, the other stays where it is until there is a direct path again.
    exchange(&moving).unwrap();
    scene.wait_for_path("relayed");
    wait_for_proxy(&scene.pair.near, direct.egress, "no path may be taken", |row| row["path"] == "none");
    (&waiting).write_all(b"hello").unwrap();
    scene.mend();
    scene.wait_for_path("direct");
    let mut back = [0; 5];
    (&waiting).read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    exchange(&moving).unwrap();
}
