//! The table of `proxy ls`.

use std::net::SocketAddr;

use hive_protocol::{Direction, PathKind, PathRule, ProxyInfo, ProxyState};

use crate::{
    format::bytes,
    style::Style,
    table::{Cell, Table},
};

/// One row a proxy, its last error below it.
pub fn table(proxies: &[ProxyInfo]) -> Table {
    let mut table = Table::new(&["id", "direction", "tunnel", "network", "state", "path", "streams", "in", "out"]);
    for proxy in proxies {
        table.row(cells(proxy));
        if let Some(host) = &proxy.ssh {
            table.note(1, Cell::new(format!("host key: {}", host.fingerprint), Style::Dim));
        }
        if let Some(error) = &proxy.last_error {
            table.note(1, Cell::new(format!("error: {error}"), Style::Bad));
        }
    }
    table
}

fn cells(proxy: &ProxyInfo) -> [Cell; 9] {
    let direction = match proxy.direction {
        Direction::Egress => "egress",
        Direction::Ingress => "ingress",
    };
    [
        proxy.id.to_string().into(),
        direction.into(),
        tunnel(proxy).into(),
        proxy.network.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string).into(),
        state(proxy),
        path(proxy.path, proxy.path_rule),
        format!("{} of {}", proxy.streams, proxy.streams_total).into(),
        bytes(proxy.bytes_in).into(),
        bytes(proxy.bytes_out).into(),
    ]
}

/// Both ends, the local one first; the arrow says which way connections are made.
fn tunnel(proxy: &ProxyInfo) -> String {
    let name = proxy.peer_name.as_ref().map(ToString::to_string).or_else(|| Some(proxy.peer_id?.to_string()));
    let (Some(name), Some(port)) = (name, proxy.peer_port) else {
        return format!("{} → SSH here", SocketAddr::new(proxy.bind, proxy.port));
    };
    let peer = format!("{name}:{port}");
    let tls = proxy.key_prefix.as_ref().map(|prefix| format!(" (TLS: {prefix})")).unwrap_or_default();
    let name = proxy.sni.as_ref().map(|sni| format!(" for {sni}")).unwrap_or_default();
    match proxy.direction {
        Direction::Egress => format!("{}{name}{tls} → {peer}", SocketAddr::new(proxy.bind, proxy.port)),
        Direction::Ingress if proxy.host.contains(':') => format!("[{}]:{}{tls} ← {peer}", proxy.host, proxy.port),
        Direction::Ingress => format!("{}:{}{tls} ← {peer}", proxy.host, proxy.port),
    }
}

fn state(proxy: &ProxyInfo) -> Cell {
    let (text, style) = match proxy.state {
        _ if !proxy.enabled => ("disabled", Style::Dim),
        ProxyState::Listening => ("listening", Style::Fair),
        ProxyState::Connected => ("connected", Style::Good),
        ProxyState::Waiting => ("waiting", Style::Fair),
        ProxyState::Failed => ("failed", Style::Bad),
    };
    Cell::new(if proxy.temporary { format!("{text}, temporary") } else { text.to_owned() }, style)
}

/// The path of the moment, and which one alone would be taken.
fn path(path: PathKind, rule: Option<PathRule>) -> Cell {
    let (text, style) = match path {
        PathKind::Direct | PathKind::This => ("direct", Style::Good),
        PathKind::Relayed => ("relayed", Style::Fair),
        PathKind::None => ("none", Style::Dim),
    };
    let only = rule.filter(|rule| *rule != PathRule::Any).map(|rule| format!(" ({rule} only)")).unwrap_or_default();
    Cell::new(format!("{text}{only}"), style)
}

#[cfg(test)]
mod tests {
    use hive_protocol::{DEFAULT_BIND, DEFAULT_HOST, NodeId, ProxyKind, SshHost};

    use super::*;

    fn proxy() -> ProxyInfo {
        ProxyInfo {
            id: 1,
            direction: Direction::Egress,
            kind: ProxyKind::Tcp,
            port: 8080,
            bind: DEFAULT_BIND,
            host: DEFAULT_HOST.into(),
            peer_id: Some(NodeId::from_bytes([5; 32])),
            peer_name: Some("shed".parse().unwrap()),
            peer_port: Some(80),
            network: Some("home".parse().unwrap()),
            tls: false,
            key_prefix: None,
            enabled: true,
            temporary: false,
            state: ProxyState::Connected,
            path: PathKind::Direct,
            streams: 2,
            streams_total: 14,
            bytes_in: 1 << 20,
            bytes_out: 3_500,
            last_error: None,
            sni: None,
            ssh: None,
            path_rule: Some(PathRule::Any),
        }
    }

    #[test]
    fn the_table_tells_direction_state_and_trouble() {
        let failed = ProxyInfo {
            id: 12,
            direction: Direction::Ingress,
            host: "::1".into(),
            state: ProxyState::Failed,
            path: PathKind::None,
            last_error: Some("[::1]:8080 refused the connection".into()),
            ..proxy()
        };
        let path_rule = Some(PathRule::Direct);
        let paused = ProxyInfo { id: 13, enabled: false, temporary: true, path_rule, ..proxy() };
        let expected = "\
id  direction  tunnel                    network  state                path                  streams  in       out
1   egress     127.0.0.1:8080 → shed:80  home     connected            direct                2 of 14  1.0 MiB  3.4 KiB
12  ingress    [::1]:8080 ← shed:80      home     failed               none                  2 of 14  1.0 MiB  3.4 KiB
    error: [::1]:8080 refused the connection
13  egress     127.0.0.1:8080 → shed:80  home     disabled, temporary  direct (direct only)  2 of 14  1.0 MiB  3.4 KiB
";
        assert_eq!(table(&[proxy(), failed, paused]).render(false), expected);
    }

    #[test]
    fn the_tunnel_tells_host_name_and_certificate() {
        let named = ProxyInfo { sni: Some("*.shed.example".parse().unwrap()), ..proxy() };
        assert_eq!(tunnel(&named), "127.0.0.1:8080 for *.shed.example → shed:80");
        let ending = ProxyInfo { direction: Direction::Ingress, key_prefix: Some("web".into()), ..proxy() };
        assert_eq!(tunnel(&ending), "127.0.0.1:8080 (TLS: web) ← shed:80");
    }

    #[test]
    fn an_ssh_server_shows_its_fingerprint_and_no_peer() {
        let host = SshHost { key: "ssh-ed25519 AAAA".into(), fingerprint: "SHA256:abc".into() };
        let server = ProxyInfo {
            kind: ProxyKind::Ssh,
            peer_id: None,
            peer_name: None,
            peer_port: None,
            network: None,
            path: PathKind::None,
            state: ProxyState::Listening,
            ssh: Some(host),
            ..proxy()
        };
        let expected = "\
id  direction  tunnel                     network  state      path  streams  in       out
1   egress     127.0.0.1:8080 → SSH here  -        listening  none  2 of 14  1.0 MiB  3.4 KiB
    host key: SHA256:abc
";
        assert_eq!(table(&[server]).render(false), expected);
    }

    #[test]
    fn a_peer_without_a_name_is_shown_whole() {
        let nameless = ProxyInfo { peer_name: None, ..proxy() };
        assert!(tunnel(&nameless).ends_with(&format!("→ {}:80", nameless.peer_id.unwrap())));
    }

    #[test]
    fn json_has_the_keys_of_the_contract() {
        let value = serde_json::to_value(proxy()).unwrap();
        let keys = ["id", "direction", "kind", "port", "bind", "peer_id", "peer_port", "network", "tls", "key_prefix"];
        let more = ["enabled", "temporary", "state", "path", "streams", "bytes_in", "bytes_out", "last_error"];
        assert!(keys.iter().chain(&more).all(|key| value.get(key).is_some()));
        assert_eq!(
            (&value["direction"], &value["state"], &value["bind"]),
            (&"egress".into(), &"connected".into(), &"127.0.0.1".into())
        );
    }
}
