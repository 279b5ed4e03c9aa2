//! From flags to requests.

use super::*;
use crate::{
    args::{Parsed, Verb, parse},
    error::Status,
};

fn flags(line: &str) -> Result<ProxyRequest> {
    let words = format!("proxy {line}").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let Parsed::Run(args) = parse(words)? else { panic!("{line} prints") };
    let Some(Verb::Proxy(proxy)) = args.verb else { panic!("{line} is another verb") };
    request(&proxy)
}

#[test]
fn the_flags_of_the_original_make_requests() {
    let egress = flags("--direction egress --target shed:80 --port 8080 --bind 0.0.0.0 --network home").unwrap();
    let expected = ProxyRequest {
        direction: Direction::Egress,
        kind: ProxyKind::Tcp,
        port: 8080,
        peer: "shed".into(),
        peer_port: 80,
        network: Some("home".parse().unwrap()),
        bind: Some(BindAddr("0.0.0.0".parse().unwrap())),
        host: None,
        temporary: false,
        resume: None,
        key_prefix: None,
        sni: None,
        ssh: None,
        path_rule: None,
    };
    assert_eq!(egress, expected);
    let direct = flags("--direction egress --target shed:80 --port 8080 --path direct").unwrap();
    assert_eq!(direct.path_rule, Some(PathRule::Direct));
    let ingress = flags("--direction ingress --origin laptop:8080 --port 80 --host db.lan --temporary").unwrap();
    let changes =
        ProxyRequest { direction: Direction::Ingress, port: 80, peer: "laptop".into(), peer_port: 8080, ..expected };
    assert_eq!(
        ingress,
        ProxyRequest { network: None, bind: None, host: Some("db.lan".into()), temporary: true, ..changes }
    );
}

#[test]
fn what_does_not_fit_together_is_a_usage_error() {
    for line in [
        "",
        "--direction egress --port 80",
        "--direction egress --target shed:80",
        "--direction egress --origin shed:80 --port 80",
        "--direction egress --target shed:80 --port 80 --host x",
        "--direction ingress --target shed:80 --port 80",
        "--direction ingress --origin shed:80 --port 80 --bind 127.0.0.1",
        "--direction sideways --target shed:80 --port 80",
        "--direction egress --target shed --port 80",
        "--direction egress --target shed:80 --port 0",
        "--direction egress --target shed:80 --port 8080 --path fast",
    ] {
        assert_eq!(flags(line).unwrap_err().status, Status::Usage, "{line}");
    }
}

#[test]
fn kinds_are_known_and_keys_are_for_ssh() {
    let base = "--direction ingress --origin shed:80 --port 80";
    for line in ["--kind udp", "--authorized-keys file"] {
        assert_eq!(flags(&format!("{base} {line}")).unwrap_err().status, Status::Usage, "{line}");
    }
    assert!(flags(&format!("{base} --tls false --kind tcp")).is_ok());
}

fn ssh(line: &str) -> Result<ProxyRequest> {
    let words = format!("proxy --kind ssh {line}").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let Parsed::Run(args) = parse(words)? else { panic!("{line} prints") };
    let Some(Verb::Proxy(proxy)) = args.verb else { panic!("{line} is another verb") };
    smol::block_on(super::ssh::request(crate::out::Out::new(false, true), &proxy))
}

#[test]
fn an_ssh_server_has_a_user_and_the_hash_of_a_password() {
    let request = ssh("--direction egress --target operator:se:cret --port 2222").unwrap();
    let login = request.ssh.clone().unwrap();
    let hashed: hive_protocol::password::PasswordHashed = login.password.clone().unwrap().parse().unwrap();
    assert!(login.user == "operator" && hashed.matches("se:cret"));
    assert_eq!((request.kind, request.peer.as_str(), request.bind), (ProxyKind::Ssh, "", None));
    let again = ssh(&format!("--direction egress --target x:hash_{} --port 22", hashed.to_phc())).unwrap();
    assert_eq!(again.ssh.unwrap().password, login.password);
    assert!(!format!("{request:?}").contains("operator"), "neither name nor hash is ever logged");
}

#[test]
fn what_an_ssh_server_cannot_be_is_a_usage_error() {
    for line in [
        "--direction ingress --target a:b --port 80",
        "--direction egress --target a:b",
        "--direction egress --port 80",
        "--direction egress --target a:b --port 80 --host x",
        "--direction egress --target a:b --port 80 --sni shed.example",
        "--direction egress --target a:b --port 80 --tls true --key-prefix web",
        "--direction egress --target a:hash_nonsense --port 80",
        "--direction egress --target a: --port 80",
    ] {
        assert_eq!(ssh(line).unwrap_err().status, Status::Usage, "{line}");
    }
}

#[test]
fn tls_names_its_certificate_and_an_egress_its_host() {
    let ingress = flags("--direction ingress --origin gate:443 --port 80 --tls true --key-prefix web").unwrap();
    assert_eq!(ingress.key_prefix, Some("web".parse().unwrap()));
    let egress = flags("--direction egress --target shed:443 --port 443 --sni *.Shed.example").unwrap();
    assert_eq!((egress.key_prefix, egress.sni), (None, Some("*.shed.example".parse().unwrap())));
    for line in [
        "--direction ingress --origin gate:443 --port 80 --tls true",
        "--direction ingress --origin gate:443 --port 80 --key-prefix web",
        "--direction ingress --origin gate:443 --port 80 --sni shed.example",
        "--direction egress --target shed:443 --port 443 --sni not/a/host",
    ] {
        assert_eq!(flags(line).unwrap_err().status, Status::Usage, "{line}");
    }
}

#[test]
fn the_list_and_the_rest_are_nested_verbs() {
    let parsed = parse(["proxy", "--node", "a", "rm", "7", "--node", "b"].map(str::to_owned)).unwrap();
    let Parsed::Run(args) = parsed else { panic!() };
    let Some(Verb::Proxy(Proxy { verb: Some(ProxyVerb::Rm(rm)), node, .. })) = args.verb else { panic!() };
    assert_eq!((rm.id, rm.node.as_deref(), node.as_deref()), (7, Some("b"), Some("a")));
}
