use futures::{AsyncReadExt, AsyncWriteExt, future};
use rustls::CipherSuite;

use super::*;

type Outcome = Result<(PeerId, TlsStream<smol::net::unix::UnixStream>), Error>;

struct End {
    id: PeerId,
    config: Config,
}

fn end() -> End {
    let identity = Keypair::generate_ed25519();
    End { id: identity.public().to_peer_id(), config: Config::new(&identity).unwrap() }
}

async fn handshake(dialer: &Config, listener: &Config) -> (Outcome, Outcome) {
    let (here, there) = smol::net::unix::UnixStream::pair().unwrap();
    let dial = dialer.clone().upgrade_outbound(here, PROTOCOL);
    let listen = listener.clone().upgrade_inbound(there, PROTOCOL);
    future::join(dial, listen).await
}

#[test]
fn both_ends_learn_who_the_other_is_and_can_talk() {
    smol::block_on(async {
        let (a, b) = (end(), end());
        let (dialled, accepted) = handshake(&a.config, &b.config).await;
        let ((found_b, mut at_a), (found_a, mut at_b)) = (dialled.unwrap(), accepted.unwrap());
        assert_eq!((found_a, found_b), (a.id, b.id));
        at_a.write_all(b"ping").await.unwrap();
        at_a.flush().await.unwrap();
        let mut bytes = [0; 4];
        at_b.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        at_b.close().await.unwrap();
        assert_eq!(at_a.read(&mut bytes).await.unwrap(), 0);
    });
}

#[test]
fn the_expected_peer_is_accepted_in_both_roles() {
    smol::block_on(async {
        let (a, b) = (end(), end());
        let dialer = a.config.expecting(b.id).unwrap();
        let listener = b.config.expecting(a.id).unwrap();
        let (dialled, accepted) = handshake(&dialer, &listener).await;
        assert!(dialled.is_ok() && accepted.is_ok());
    });
}

#[test]
fn another_peer_is_refused_by_the_dialer() {
    smol::block_on(async {
        let (a, b) = (end(), end());
        let dialer = a.config.expecting(PeerId::random()).unwrap();
        let (dialled, accepted) = handshake(&dialer, &b.config).await;
        let refused = dialled.unwrap_err();
        assert!(refused.to_string().contains("expected peer"), "{refused}");
        assert!(accepted.is_err());
    });
}

#[test]
fn another_peer_is_refused_by_the_listener() {
    smol::block_on(async {
        let (a, b) = (end(), end());
        let listener = b.config.expecting(PeerId::random()).unwrap();
        let (dialled, accepted) = handshake(&a.config, &listener).await;
        assert!(accepted.is_err());
        // The dialler has finished before the listener looks: it learns of the refusal at its first read.
        let (_, mut stream) = dialled.unwrap();
        assert!(stream.read(&mut [0]).await.is_err());
    });
}

#[test]
fn a_dialer_without_a_certificate_is_refused() {
    smol::block_on(async {
        let b = end();
        let mut anonymous = (*b.config.client).clone();
        anonymous.client_auth_cert_resolver = Arc::new(NoCertificate);
        let config = Config { client: Arc::new(anonymous), ..end().config };
        let (_, accepted) = handshake(&config, &b.config).await;
        assert!(matches!(accepted, Err(Error::Handshake(_))));
    });
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn an_end_that_does_not_say_libp2p_is_refused() {
    smol::block_on(async {
        for protocols in [vec![], vec![b"http/1.1".to_vec()]] {
            let (a, b) = (end(), end());
            let mut client = (*a.config.client).clone();
            client.alpn_protocols = protocols;
            let config = Config { client: Arc::new(client), ..a.config };
            let (dialled, accepted) = handshake(&config, &b.config).await;
            assert!(dialled.is_err() && accepted.is_err());
        }
    });
}

#[test]
fn a_list_that_holds_libp2p_is_accepted() {
    smol::block_on(async {
        let (a, b) = (end(), end());
        let mut client = (*a.config.client).clone();
        client.alpn_protocols = vec![b"/yamux/1.0.0".to_vec(), ALPN.to_vec()];
        let config = Config { client: Arc::new(client), ..a.config };
        let (dialled, accepted) = handshake(&config, &b.config).await;
        assert!(dialled.is_ok() && accepted.is_ok());
    });
}

#[test]
fn bytes_that_are_no_tls_are_an_error() {
    smol::block_on(async {
        let (mut here, there) = smol::net::unix::UnixStream::pair().unwrap();
        here.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let accepted = end().config.upgrade_inbound(there, PROTOCOL).await;
        assert!(matches!(accepted, Err(Error::Handshake(_))));
    });
}

#[test]
fn the_cipher_suits_the_cpu() {
    let first = |aes| cipher_suites(aes)[0].suite();
    assert_eq!(first(true), CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(first(false), CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    assert_eq!(cipher_suites(false).len(), cipher_suites(true).len());
}

/// Boards without AES, as most of ARM, are spared it by either role.
#[test]
fn aes_is_agreed_on_where_both_cpus_have_it() {
    let end = |aes| Config::on_cpu(&Keypair::generate_ed25519(), aes).unwrap();
    let agreed = |dialer, listener| {
        let (dialled, _) = smol::block_on(handshake(&end(dialer), &end(listener)));
        dialled.unwrap().1.get_ref().1.negotiated_cipher_suite().unwrap().suite()
    };
    assert_eq!(agreed(true, true), CipherSuite::TLS13_AES_128_GCM_SHA256);
    for (dialer, listener) in [(true, false), (false, true), (false, false)] {
        assert_eq!(agreed(dialer, listener), CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    }
}

/// As when the SYNs of two dials from listening ports cross: one connection, and nobody listens.
#[test]
fn two_dialers_on_one_connection_fail_instead_of_waiting() {
    smol::block_on(async {
        let (here, there) = smol::net::unix::UnixStream::pair().unwrap();
        let one = end().config.upgrade_outbound(here, PROTOCOL);
        let other = end().config.upgrade_outbound(there, PROTOCOL);
        let (one, other) = future::join(one, other).await;
        assert!(one.is_err() && other.is_err());
    });
}
