use futures::AsyncReadExt;
use hive_protocol::{DEFAULT_BIND, DEFAULT_HOST, Direction, NodeId, ProxyKind, Remote};
use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring};

use super::*;

fn spec(id: u64, sni: &str) -> Arc<ProxySpec> {
    let remote = Remote { network: "lab".parse().unwrap(), node: NodeId::from_bytes([1; 32]), port: 443 };
    Arc::new(ProxySpec {
        id,
        direction: Direction::Egress,
        kind: ProxyKind::Tcp,
        port: 443,
        bind: DEFAULT_BIND,
        host: DEFAULT_HOST.into(),
        remote: Some(remote),
        enabled: true,
        temporary: false,
        resume: None,
        key_prefix: None,
        sni: Some(sni.parse().unwrap()),
        ssh: None,
        path_rule: None,
    })
}

/// What a client sends first.
fn hello(host: &str) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), host.to_owned().try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The outcome for a client that sends these pieces, and what it is sent.
fn routed(pieces: Vec<Vec<u8>>) -> (Result<u64, SniError>, Vec<u8>) {
    smol::block_on(async {
        let listener = Source::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let mut client = &Source::connect(listener.get_ref().local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let group = [spec(1, "a.example"), spec(2, "*.example"), spec(3, "b.example")];
        let writing = async {
            for piece in pieces {
                client.write_all(&piece).await.unwrap();
                Timer::after(LOOK_AGAIN * 2).await;
            }
            client.end().unwrap();
            client
        };
        let (mut client, outcome) = smol::future::zip(writing, route(&server, &group)).await;
        drop(server);
        let mut told = Vec::new();
        let _ = client.read_to_end(&mut told).await;
        (outcome.map(|spec| spec.id), told)
    })
}

#[test]
fn a_name_finds_its_proxy_and_a_wildcard_takes_the_rest() {
    for (host, id) in [("a.example", 1), ("B.example", 3), ("c.example", 2)] {
        assert_eq!(routed(vec![hello(host)]).0.unwrap(), id, "{host}");
    }
    let bytes = hello("b.example");
    let pieces = [&bytes[..1], &bytes[1..5], &bytes[5..100], &bytes[100..]].map(<[u8]>::to_vec);
    assert_eq!(routed(pieces.to_vec()).0.unwrap(), 3, "a ClientHello may come in pieces");
}

#[test]
fn an_unknown_name_or_none_gets_an_alert() {
    for host in ["elsewhere.test", "a.b.example", "192.0.2.1"] {
        let (outcome, told) = routed(vec![hello(host)]);
        assert!(matches!(outcome, Err(SniError::Unknown(_))), "{host}: {outcome:?}");
        assert_eq!(told, alert::UNRECOGNIZED_NAME);
    }
}

#[test]
fn what_is_no_client_hello_is_refused() {
    let huge_record = [&[22, 3, 1, 0xff, 0xff][..], &[0; 64]].concat();
    let half = hello("a.example")[..50].to_vec();
    // A handshake message that says it is longer than anything that is let in, in records that are well formed.
    let mut endless = vec![22, 3, 1, 0x3f, 0xfc, 1, 0, 0xff, 0x00];
    endless.resize(5 + 0x3ffc, 0);
    endless.extend([22, 3, 1, 0x10, 0]);
    endless.resize(LONGEST + 100, 0);
    for (what, bytes) in [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".to_vec()),
        ("another handshake message", vec![22, 3, 1, 0, 4, 2, 0, 0, 0]),
        ("an alert", vec![21, 3, 1, 0, 2, 2, 40]),
        ("a record that is too large", huge_record),
        ("half a ClientHello", half),
        ("an endless ClientHello", endless),
        ("nothing", Vec::new()),
        ("zeroes", vec![0; 4096]),
    ] {
        let (outcome, _) = routed(vec![bytes]);
        assert!(outcome.is_err(), "{what}");
    }
}

#[test]
fn no_bytes_make_the_parser_panic() {
    let whole = hello("a.example");
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            let _ = parse(&bytes);
            let _ = parse(&bytes[..at]);
        }
    }
}
