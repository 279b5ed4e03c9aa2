//! Certificates from a real ACME server, pebble, in a network of namespaces.

use hive_tests::{
    lab::{Host, Lab},
    node::Node,
    pair::{self, NETWORK},
    pebble::{Behaviour, Pebble},
    process::{self, PATIENCE, Process},
    services::Sse,
    tcp,
    tls::{self, Client},
    wait::wait_until,
};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    time::Duration,
};

/// Two thirds of the short life of a certificate, and time to renew it on a busy machine.
const RENEWAL: Duration = Duration::from_secs(180);

/// A CA on a host of its own, and a node that the names of these tests lead to.
struct World {
    lab: Lab,
    ca: Pebble,
    gate: Node,
}

impl World {
    fn start(test: &str, behaviour: &Behaviour) -> Option<World> {
        let lab = Lab::namespaces(test)?;
        let ca = Pebble::start(test, &lab.host("ca"), behaviour)?;
        let gate = Node::start(&lab.host("gate"), pair::options());
        Some(World { lab, ca, gate })
    }

    /// A node that the gate leads port 443 to; TLS ends there, and `target` is behind it.
    fn home(&self, target: impl FnOnce(&Host) -> u16) -> Node {
        let home = Node::start(&self.lab.host("home"), pair::options());
        home.register(&self.gate, NETWORK);
        self.gate.wait_until_sees(&[&home]);
        home.wait_until_sees(&[&self.gate]);
        let (port, host) = (target(home.host()).to_string(), home.host().ipv4().to_string());
        let ingress = ["proxy", "--direction", "ingress", "--origin", "gate:443", "--port", &port, "--host", &host];
        home.ctl(&[&ingress[..], &["--tls", "true", "--key-prefix", "web"]].concat()).success();
        let target = format!("home:{port}");
        let egress = ["proxy", "--direction", "egress", "--target", &target, "--port", "443", "--bind", "0.0.0.0"];
        self.gate.ctl(&egress).success();
        home
    }

    /// The arguments that obtain a certificate for these names.
    fn tls(&self, challenge: &str, names: &[&str]) -> Vec<String> {
        let (directory, file) = (self.ca.directory(), self.ca.ca_file().display().to_string());
        let fixed =
            ["tls", "--key-prefix", "web", "--challenge", challenge, "--directory", &directory, "--ca-file", &file];
        let names = names.iter().flat_map(|name| ["--hostname", name]);
        fixed.into_iter().chain(names).map(str::to_owned).collect()
    }

    fn obtain(&self, node: &Node, challenge: &str, names: &[&str]) -> process::Output {
        let arguments = self.tls(challenge, names);
        node.ctl(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

fn certificate(node: &Node) -> Option<Value> {
    let keys = node.json(&["keys"]);
    keys.as_array().unwrap().iter().find(|key| key["key_name"] == "web_cert.pem").cloned()
}

fn curl(host: &Host, arguments: &[&str]) -> process::Output {
    let mut command = host.command("curl");
    command.args(["--silent", "--show-error", "--noproxy", "*"]).args(arguments);
    process::run(command, b"", PATIENCE)
}

#[test]
fn a_public_node_proves_its_names_by_http() {
    let test = "a_public_node_proves_its_names_by_http";
    let Some(world) = World::start(test, &Behaviour { nonces_rejected: 30, ..Behaviour::default() }) else { return };
    let names = ["shed.example", "www.shed.example"];
    names.iter().for_each(|name| world.ca.lead(name, world.gate.host().ipv4()));
    let told = world.obtain(&world.gate, "http-01", &names).success();
    for step in ["making an account", "ordering a certificate", "shed.example: the CA may ask", "is renewed in"] {
        assert!(told.contains(step), "{step}: {told}");
    }
    let certificate = certificate(&world.gate).unwrap();
    assert_eq!(certificate["hostnames"], json!(names));
    assert!(certificate["renews_at"].is_string() && certificate["last_error"].is_null(), "{certificate}");

    let to = format!("shed.example:80:{}", world.gate.host().ipv4());
    let head = curl(world.gate.host(), &["--head", "--resolve", &to, "http://shed.example/a?b"]).success();
    assert!(head.contains("308") && head.contains("https://shed.example/a?b"), "{head}");

    let again = world.obtain(&world.gate, "http-01", &names[..1]).success();
    assert!(again.contains("using the account"), "{again}");
}

#[test]
fn a_private_node_proves_its_name_through_the_tunnel() {
    let test = "a_private_node_proves_its_name_through_the_tunnel";
    let Some(world) = World::start(test, &Behaviour::default()) else { return };
    let client = world.lab.host("client");
    let mut service = None;
    let home = world.home(|host| service.insert(Sse::start(host)).port());
    world.ca.lead("home.example", world.gate.host().ipv4());
    world.obtain(&home, "tls-alpn-01", &["home.example"]).success();
    let root = client.folder("trust").join("root.pem");
    std::fs::write(&root, world.ca.root()).unwrap();
    let to = format!("home.example:443:{}", world.gate.host().ipv4());
    let answer = curl(&client, &["--cacert", root.to_str().unwrap(), "--resolve", &to, "https://home.example/health"]);
    assert_eq!(answer.success(), "ok\n");
    assert_eq!(world.gate.json(&["keys"]), json!([]), "nothing is kept on the public node");
}

#[test]
fn a_refusal_is_told_in_words_and_leaves_nothing() {
    let test = "a_refusal_is_told_in_words_and_leaves_nothing";
    let behaviour = Behaviour { blocked: vec!["blocked.example".into()], ..Behaviour::default() };
    let Some(world) = World::start(test, &behaviour) else { return };
    // An address that nobody has, and one where another machine answers.
    world.ca.lead("away.example", world.lab.host("other").ipv4());
    let cases = [
        ("unknown.example", "http-01", "hint: "),
        ("away.example", "http-01", "could not connect"),
        ("blocked.example", "http-01", "issues no certificates"),
    ];
    for (name, challenge, words) in cases {
        let told = world.obtain(&world.gate, challenge, &[name]).failure(1);
        assert!(told.contains(words) && told.contains("hint: "), "{name}: {told}");
    }
    assert_eq!(world.gate.json(&["keys"]), json!([]));
    let problems = world.gate.json(&["status"])["problems"].to_string();
    assert!(!problems.contains("certificate"), "{problems}");
    let arguments = ["tls", "--hostname", "a.example", "--key-prefix", "web", "--directory", &world.ca.directory()];
    let told = world.gate.ctl(&arguments).failure(1);
    assert!(told.contains("--ca-file"), "its root is not trusted: {told}");
}

#[test]
fn an_order_goes_on_after_a_restart() {
    let test = "an_order_goes_on_after_a_restart";
    let Some(mut world) = World::start(test, &Behaviour { checks_for: 4, ..Behaviour::default() }) else { return };
    world.ca.lead("shed.example", world.gate.host().ipv4());
    let arguments = world.tls("http-01", &["shed.example"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut command = Process::start(world.gate.host(), "tls", world.gate.ctl_command(pair::ADMIN, &arguments));
    command.wait_for_line("the CA may ask");
    world.gate.kill9();
    assert!(!command.wait().success());
    world.gate.start_again();
    wait_until("the certificate is there", RENEWAL, || certificate(&world.gate).is_some());
    // The CA may have looked while nobody was there: then that order has failed, and another one took its place.
    let log = world.gate.process().printed();
    assert!(log.contains("going on with the order") || log.contains("ordering a certificate"), "{log}");
}

#[test]
fn a_certificate_is_renewed_under_fifty_streams() {
    let test = "a_certificate_is_renewed_under_fifty_streams";
    let Some(world) = World::start(test, &Behaviour { validity: 60, ..Behaviour::default() }) else { return };
    let mut server = None;
    let home = world.home(|host| server.insert(tcp::Server::echo(host, 0)).port());
    world.ca.lead("home.example", world.gate.host().ipv4());
    world.obtain(&home, "tls-alpn-01", &["home.example"]).success();
    let client = world.lab.host("client");
    let root = world.ca.root();
    let connect = || Client::trusting(&root, &[]).connect(&client, world.gate.host().at(443), "home.example").unwrap();
    let mut streams: Vec<_> = (0..50).map(|_| connect()).collect();
    let talk = |stream: &mut tls::Stream| {
        let mut back = [0; 1000];
        stream.write_all(&[7; 1000]).and_then(|()| stream.read_exact(&mut back)).unwrap();
    };
    streams.iter_mut().for_each(talk);
    let before = certificate(&home).unwrap()["not_after"].clone();
    // Sixty seconds of life are over by a third at the soonest, by two thirds at the latest.
    wait_until("it is renewed", RENEWAL, || {
        streams.iter_mut().for_each(talk);
        certificate(&home).unwrap()["not_after"] != before
    });
    streams.iter_mut().for_each(talk);
    assert_ne!(tls::session(&connect()).0, tls::session(&streams[0]).0, "new connections get the new certificate");
}
