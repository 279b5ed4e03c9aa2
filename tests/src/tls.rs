//! TLS clients inside the test's own process, which trust one authority and no other.

use crate::lab::Host;
use rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

/// A connection after its handshake.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A client.
pub struct Client {
    config: Arc<ClientConfig>,
}

impl Client {
    /// Trusts this root, PEM, and offers these application protocols.
    pub fn trusting(root: &str, protocols: &[&str]) -> Client {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(root.as_bytes()).expect("a certificate");
        roots.add(root).expect("a root");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("versions that ring has");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Client { config: Arc::new(config) }
    }

    /// Connects from `host` and asks for `name`.
    pub fn connect(&self, host: &Host, to: SocketAddr, name: &str) -> io::Result<Stream> {
        let name = name.to_owned().try_into().expect("a host name");
        let mut tls = ClientConnection::new(self.config.clone(), name).expect("settings that fit");
        let mut tcp = host.connect(to)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        Ok(StreamOwned::new(tls, tcp))
    }
}

/// The serial number of the certificate that the server showed, and the session's version and application protocol.
pub fn session(stream: &Stream) -> (Vec<u8>, Option<ProtocolVersion>, Option<String>) {
    let shown = stream.conn.peer_certificates().and_then(|chain| chain.first()).map(|cert| cert.to_vec());
    let protocol = stream.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    (shown.unwrap_or_default(), stream.conn.protocol_version(), protocol)
}
