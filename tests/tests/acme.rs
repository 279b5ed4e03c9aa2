//! Certificates from a real ACME server, pebble, in a network of namespaces.

use hive_tests::{
    acme::{World, certificate},
    pair,
    pebble::{Behaviour, Pebble},
    pki::Authority,
    process::Process,
    services::Sse,
    tcp,
    tls::{self, Client},
    wait::wait_until,
};
use serde_json::json;
use std::{
    io::{Read, Write},
    time::Duration,
};

/// Two thirds of the short life of a certificate, and time to renew it on a busy machine.
const RENEWAL: Duration = Duration::from_secs(180);

#[test]
fn a_public_node_proves_its_names_by_http() {
    let test = "a_public_node_proves_its_names_by_http";
    let Some(mut world) = World::start(test, &Behaviour { nonces_rejected: 30, ..Behaviour::default() }) else {
        return;
    };
    let names = ["shed.example", "www.shed.example"];
    names.iter().for_each(|name| world.ca.lead(name, world.gate.host().ipv4()));
    let told = world.obtain(&world.gate, "http-01", &names).success();
    for step in ["making an account", "ordering a certificate", "shed.example: the CA may ask", "is renewed in"] {
        assert!(told.contains(step), "{step}: {told}");
    }
    let certificate = certificate(&world.gate).unwrap();
    assert_eq!(certificate["hostnames"], json!(names));
    assert!(certificate["renews_at"].is_string() && certificate["last_error"].is_null(), "{certificate}");

    let head = world.curl(world.gate.host(), "shed.example", &["--head", "http://shed.example/a?b"]).success();
    assert!(head.contains("308") && head.contains("https://shed.example/a?b"), "{head}");

    world.gate.restart();
    let again = world.obtain(&world.gate, "http-01", &names[..1]).success();
    assert!(again.contains("using the account"), "{again}");
    let accounts = world.ca.process().printed();
    assert_eq!(accounts.matches("accounts in memory").count(), 1, "one account, whatever happens: {accounts}");
}

#[test]
fn a_private_node_proves_its_name_through_the_tunnel() {
    let test = "a_private_node_proves_its_name_through_the_tunnel";
    let Some(world) = World::start(test, &Behaviour::default()) else { return };
    let client = world.lab.host("client");
    let host = world.lab.host("home");
    let service = Sse::start(&host);
    let home = world.home(&host, None, service.port());
    world.ca.lead("home.example", world.gate.host().ipv4());
    world.obtain(&home, "tls-alpn-01", &["home.example"]).success();
    let answer = world.curl(&client, "home.example", &["https://home.example/health"]);
    assert_eq!(answer.success(), "ok\n");
    assert_eq!(world.gate.json(&["keys"]), json!([]), "nothing is kept on the public node");
}

#[test]
fn a_refusal_is_told_in_words_and_leaves_nothing() {
    let test = "a_refusal_is_told_in_words_and_leaves_nothing";
    let behaviour = Behaviour { blocked: vec!["blocked.example".into()], ..Behaviour::default() };
    let Some(world) = World::start(test, &behaviour) else { return };
    // One machine where nobody answers, and one where somebody else does.
    world.ca.lead("away.example", world.lab.host("away").ipv4());
    let other = world.lab.host("other");
    let _other = tcp::Server::start(&other, 80, |mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
    });
    world.ca.lead("other.example", other.ipv4());
    let cases = [
        ("unknown.example", "could not resolve"),
        ("away.example", "could not connect"),
        ("other.example", "did not get this node's answer"),
        ("blocked.example", "issues no certificates"),
    ];
    for (name, words) in cases {
        let told = world.obtain(&world.gate, "http-01", &[name]).failure(1);
        assert!(told.contains(words) && told.contains("hint: "), "{name}: {told}");
    }
    assert_eq!(world.gate.json(&["keys"]), json!([]));
    let problems = world.gate.json(&["status"])["problems"].to_string();
    assert!(!problems.contains("certificate"), "{problems}");
    let told = world.obtain(&world.gate, "tls-alpn-01", &["shed.example"]).failure(2);
    assert!(told.contains("TLS ends at no proxy") && told.contains("--tls true"), "the CA is not even asked: {told}");
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
    let host = world.lab.host("home");
    let server = tcp::Server::echo(&host, 0);
    let home = world.home(&host, None, server.port());
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

#[test]
fn a_failed_renewal_keeps_the_old_certificate_and_says_so() {
    let test = "a_failed_renewal_keeps_the_old_certificate_and_says_so";
    let behaviour = Behaviour { validity: 120, remembers_proofs: false, ..Behaviour::default() };
    let Some(world) = World::start(test, &behaviour) else { return };
    let host = world.lab.host("home");
    let server = tcp::Server::echo(&host, 0);
    let home = world.home(&host, None, server.port());
    world.ca.lead("home.example", world.gate.host().ipv4());
    world.obtain(&home, "tls-alpn-01", &["home.example"]).success();
    let (before, client, root) = (certificate(&home).unwrap(), world.lab.host("client"), world.ca.root());
    let served = || {
        let stream = Client::trusting(&root, &[]).connect(&client, world.gate.host().at(443), "home.example");
        tls::session(&stream.unwrap()).0
    };
    let old = served();

    world.ca.lead("home.example", world.lab.host("away").ipv4());
    wait_until("its renewal fails", RENEWAL, || certificate(&home).unwrap()["last_error"].is_string());
    // A fifth of its life, at the least, is left to look at this.
    assert_eq!(served(), old, "the old certificate is served");
    let after = certificate(&home).unwrap();
    assert_eq!(after["not_after"], before["not_after"]);
    assert!(
        after["last_error"]
            .as_str()
            .unwrap()
            .contains("home.example: the CA did not get this node's answer: Failed to connect"),
        "{after}"
    );
    let problem = &home.json(&["status"])["problems"][0];
    assert!(
        problem["what"].as_str().unwrap().starts_with("certificate web was not renewed: home.example"),
        "{problem}"
    );
    assert!(problem["hint"].as_str().unwrap().contains("for tls-alpn-01 a proxy with --tls true"), "{problem}");
    let listed = home.ctl(&["keys"]).success();
    assert!(listed.contains("the CA did not get"), "{listed}");

    world.ca.lead("home.example", world.gate.host().ipv4());
    world.obtain(&home, "tls-alpn-01", &["home.example"]).success();
    assert_ne!(served(), old);
    assert_eq!(home.json(&["status"])["problems"], json!([]), "what is mended is no problem");
    assert!(certificate(&home).unwrap()["last_error"].is_null());
}

#[test]
fn a_renewal_under_way_leaves_be_what_was_stored_by_hand() {
    let test = "a_renewal_under_way_leaves_be_what_was_stored_by_hand";
    let behaviour = Behaviour { validity: 60, checks_for: 6, remembers_proofs: false, ..Behaviour::default() };
    let Some(world) = World::start(test, &behaviour) else { return };
    let (gate, ca) = (&world.gate, world.ca.host());
    world.ca.lead("shed.example", gate.host().ipv4());
    world.obtain(gate, "http-01", &["shed.example"]).success();
    let begun = || gate.process().printed().matches("the CA may ask").count();
    wait_until("its renewal is under way", RENEWAL, || begun() > 1);
    // It stands still while somebody stores another certificate.
    ca.block();
    let own = Authority::create("another CA").store(gate, "web", &["shed.example"]);
    ca.unblock();
    wait_until("the renewal has ended", RENEWAL, || {
        let log = gate.process().printed();
        log.contains("certificate web: renewed") || log.contains("certificate web: not renewed")
    });
    assert_eq!(gate.ctl(&["keys", "show", "--key-name", "web_cert.pem"]).success().trim(), own.cert.trim());
    assert!(certificate(gate).unwrap()["renews_at"].is_null(), "it is nobody's business any more");
}

#[test]
fn a_ca_that_does_not_answer_holds_up_no_other() {
    let test = "a_ca_that_does_not_answer_holds_up_no_other";
    let Some(world) = World::start(test, &Behaviour { validity: 60, ..Behaviour::default() }) else { return };
    let (gate, host) = (&world.gate, world.lab.host("dead"));
    // The certificate of this one is due first.
    let Some(dead) = Pebble::start(test, &host, &Behaviour { validity: 24, ..Behaviour::default() }) else { return };
    dead.lead("shed.example", gate.host().ipv4());
    world.ca.lead("shed.example", gate.host().ipv4());
    let (directory, file) = (dead.directory(), dead.ca_file().display().to_string());
    let of_dead = ["tls", "--key-prefix", "dead", "--hostname", "shed.example", "--directory", &directory];
    gate.ctl(&[&of_dead[..], &["--ca-file", &file]].concat()).success();
    host.block();
    world.obtain(gate, "http-01", &["shed.example"]).success();
    let renewed = || gate.process().printed().contains("certificate web: renewed");
    let given_up = || gate.process().printed().contains("certificate dead: not renewed");
    wait_until("the other is renewed", RENEWAL, || {
        assert!(!given_up(), "it had to wait for the CA that does not answer");
        renewed()
    });
}

#[test]
fn an_account_made_elsewhere_is_bound() {
    let test = "an_account_made_elsewhere_is_bound";
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let external = Some(("shed-1".to_owned(), key.to_owned()));
    let Some(world) = World::start(test, &Behaviour { external, ..Behaviour::default() }) else { return };
    world.ca.lead("shed.example", world.gate.host().ipv4());
    let file = |name: &str, text: &str| {
        let path = world.gate.host().folder("eab").join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (file("right", &format!("{key}\n")), file("wrong", &key.replace('z', "y")));
    let obtain = |more: &[&str]| world.obtain_with(&world.gate, "http-01", &["shed.example"], more);

    let told = obtain(&[]).failure(1);
    assert!(told.contains("wants an account made elsewhere") && told.contains("--eab-key-file"), "{told}");
    let told = obtain(&["--eab-kid", "shed-1", "--eab-key-file", &wrong]).failure(1);
    assert!(told.contains("hint: ") && !told.contains(&key[1..]), "{told}");
    obtain(&["--eab-kid", "shed-1", "--eab-key-file", &right]).success();
    let again = obtain(&[]).success();
    assert!(again.contains("using the account"), "it is bound once: {again}");
}

#[test]
fn an_account_that_the_ca_has_forgotten_is_made_anew() {
    let test = "an_account_that_the_ca_has_forgotten_is_made_anew";
    let Some(mut world) = World::start(test, &Behaviour::default()) else { return };
    world.ca.lead("shed.example", world.gate.host().ipv4());
    let obtain =
        |world: &World, more: &[&str]| world.obtain_with(&world.gate, "http-01", &["shed.example"], more).success();
    obtain(&world, &[]);
    let told = obtain(&world, &["--email", "me@shed.example"]);
    assert!(told.contains("using the account") && told.contains("to write to me@shed.example"), "{told}");
    let told = obtain(&world, &["--email", "me@shed.example"]);
    assert!(!told.contains("to write to"), "it was told once: {told}");
    world.ca.replace();
    let told = obtain(&world, &[]);
    assert!(told.contains("does not know this node's account") && told.contains("making an account"), "{told}");
    assert!(obtain(&world, &[]).contains("using the account"), "which is kept");
}
