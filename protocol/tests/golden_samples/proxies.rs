//! Proxies as asked for, and as listed.

use hive_protocol::{
    Direction, PathKind, PathRule, ProxyInfo, ProxyKind, ProxyState, SshHost, SshLogin,
    message::{BindAddr, ProxyRequest, Request, Response},
};

use super::{name, network, node};

pub fn proxy_request() -> ProxyRequest {
    ProxyRequest {
        direction: Direction::Ingress,
        kind: ProxyKind::Tcp,
        port: 8080,
        peer: "shed".into(),
        peer_port: 18_080,
        network: Some(network()),
        bind: Some(BindAddr("192.0.2.1".parse().unwrap())),
        host: Some("localhost".into()),
        temporary: true,
        resume: None,
        key_prefix: None,
        sni: None,
        ssh: None,
        path_rule: None,
    }
}

/// With the fields that came after version 0.1.
pub fn ssh_proxy() -> Request {
    let login = SshLogin {
        user: "operator".into(),
        password: Some("$argon2id$v=19$m=19456,t=2,p=1$CQkJ$AAAA".into()),
        keys: vec!["ssh-ed25519 AAAA".into()],
    };
    let none = ProxyRequest { network: None, bind: None, host: None, temporary: false, ..proxy_request() };
    Request::ProxyAdd(ProxyRequest {
        direction: Direction::Egress,
        kind: ProxyKind::Ssh,
        peer: String::new(),
        peer_port: 0,
        ssh: Some(login),
        ..none
    })
}

/// With the fields that came after version 0.1, and without those that only a tunnel has.
pub fn ssh_proxies() -> Response {
    let host = SshHost { key: "ssh-ed25519 AAAA".into(), fingerprint: "SHA256:abc".into() };
    let ssh = ProxyInfo {
        kind: ProxyKind::Ssh,
        peer_id: None,
        peer_name: None,
        peer_port: None,
        network: None,
        ssh: Some(host),
        ..proxy_info()
    };
    Response::Proxies { rows: vec![ssh], more: false }
}

/// With the fields that came after version 0.1.
pub fn tls_proxy() -> Request {
    let (key_prefix, sni) = (Some("web".parse().unwrap()), Some("*.shed.example".parse().unwrap()));
    Request::ProxyAdd(ProxyRequest { direction: Direction::Egress, key_prefix, sni, ..proxy_request() })
}

/// With the field that came after version 0.1.
pub fn direct_proxy() -> Request {
    Request::ProxyAdd(ProxyRequest { path_rule: Some(PathRule::Direct), ..proxy_request() })
}

/// With the field that came after version 0.1.
pub fn direct_proxies() -> Response {
    let direct = ProxyInfo { path_rule: Some(PathRule::Direct), ..proxy_info() };
    Response::Proxies { rows: vec![direct], more: false }
}

/// With the field that came after version 0.1.
pub fn named_proxies() -> Response {
    let named = ProxyInfo { sni: Some("shed.example".parse().unwrap()), ..proxy_info() };
    Response::Proxies { rows: vec![named], more: false }
}

pub fn least_proxy() -> Request {
    let least = ProxyRequest { network: None, bind: None, host: None, temporary: false, ..proxy_request() };
    Request::ProxyAdd(ProxyRequest { direction: Direction::Egress, ..least })
}

pub fn proxy_info() -> ProxyInfo {
    ProxyInfo {
        id: 7,
        direction: Direction::Egress,
        kind: ProxyKind::Tcp,
        port: 18_080,
        bind: "::1".parse().unwrap(),
        host: "127.0.0.1".into(),
        peer_id: Some(node()),
        peer_name: Some(name()),
        peer_port: Some(8080),
        network: Some(network()),
        tls: false,
        key_prefix: Some("web".into()),
        enabled: true,
        temporary: false,
        state: ProxyState::Connected,
        path: PathKind::Relayed,
        streams: 3,
        streams_total: 400,
        bytes_in: 50_000,
        bytes_out: 6_000_000,
        last_error: Some("target refused".into()),
        sni: None,
        ssh: None,
        path_rule: None,
    }
}
