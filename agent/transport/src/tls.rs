//! The libp2p TLS 1.3 handshake (libp2p specs, `tls/tls.md`) on rustls and ring.
//!
//! Owns the certificate that carries this node's identity, the verification of the other end's, and the upgrade
//! of a byte stream under `/tls/1.0.0`. Connections are mutually authenticated, never resumed, and their keys
//! are never written anywhere (`SSLKEYLOGFILE` has no effect). It trusts no authority and reads no names: a peer
//! is the key that signed its certificate.

mod certificate;
mod der;
mod verifier;

use std::{io, sync::Arc};

use futures::{AsyncRead, AsyncWrite, future::BoxFuture};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::{
    PeerId,
    core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
    identity::Keypair,
};
use rustls::{
    CipherSuite, ClientConfig, CommonState, ServerConfig, SupportedCipherSuite,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName},
    server::NoServerSessionStorage,
    sign::SingleCertAndKey,
    version::TLS13,
};

pub use certificate::{Invalid, verify};
use verifier::Verifier;

/// The protocol's name in multistream-select.
pub const PROTOCOL: &str = "/tls/1.0.0";
const ALPN: &[u8] = b"libp2p";

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This node's certificate could not be made.
    #[error("cannot make a TLS certificate for this node: {0}")]
    Certificate(#[from] certificate::GenerateError),
    /// rustls refused the configuration.
    #[error("cannot configure TLS")]
    Configuration(#[source] rustls::Error),
    /// The handshake failed; the source says at which end and why.
    #[error("TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The other end speaks TLS, but not libp2p's.
    #[error("the other end did not agree on the libp2p application protocol")]
    NotLibp2p,
    /// The other end's certificate does not hold; the source is an [`Invalid`].
    #[error("the other end's certificate is invalid: {0}")]
    Peer(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::Peer(Arc::new(invalid))
    }
}

impl Error {
    /// Digs our own verifier's reason out of what rustls made of it.
    fn handshake(error: io::Error) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        cause.and_then(Self::refused).unwrap_or(Self::Handshake(error))
    }

    /// The verifier's reason, if it was the verifier that ended the handshake.
    pub(crate) fn refused(error: &rustls::Error) -> Option<Self> {
        use rustls::{CertificateError::Other, Error::InvalidCertificate};
        match error {
            InvalidCertificate(Other(reason)) => Some(Self::Peer(reason.0.clone())),
            _ => None,
        }
    }
}

/// Both roles of the handshake for one identity. Cheap to clone.
#[derive(Clone)]
pub struct Config {
    purpose: Purpose,
    /// Whether the CPU is one with AES, which decides on the cipher.
    aes: bool,
    certificate: Arc<SingleCertAndKey>,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// What a configuration's connections are for.
#[derive(Clone, Copy)]
struct Purpose {
    alpn: &'static [u8],
    /// Whether the keys may be taken over by another record layer than rustls' own.
    own_records: bool,
}

const LIBP2P: Purpose = Purpose { alpn: ALPN, own_records: false };
const BULK: Purpose = Purpose { alpn: crate::bulk::PROTOCOL, own_records: true };

impl Config {
    /// A configuration that accepts any peer and reports who it is.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn new(identity: &Keypair) -> Result<Self, Error> {
        Self::on_cpu(identity, cpu_has_aes())
    }

    fn on_cpu(identity: &Keypair, aes: bool) -> Result<Self, Error> {
        Self::with_certificate(Arc::new(certificate::generate(identity)?.into()), None, LIBP2P, aes)
    }

    /// The same identity, refusing every peer but `peer` in both roles.
    ///
    /// # Errors
    /// If rustls refuses the configuration.
    pub fn expecting(&self, peer: PeerId) -> Result<Self, Error> {
        Self::with_certificate(self.certificate.clone(), Some(peer), self.purpose, self.aes)
    }

    /// The same identity for the [bulk plane](crate::bulk), accepting any peer.
    ///
    /// # Errors
    /// If rustls refuses the configuration.
    pub fn for_bulk(&self) -> Result<Self, Error> {
        Self::with_certificate(self.certificate.clone(), None, BULK, self.aes)
    }

    fn with_certificate(
        certificate: Arc<SingleCertAndKey>,
        expected: Option<PeerId>,
        purpose: Purpose,
        aes: bool,
    ) -> Result<Self, Error> {
        let provider = Arc::new(provider(aes));
        let verifier = Arc::new(Verifier::new(expected, provider.signature_verification_algorithms));
        Ok(Self {
            client: Arc::new(client(provider.clone(), verifier.clone(), certificate.clone(), purpose)?),
            server: Arc::new(server(provider, verifier, certificate.clone(), purpose, aes)?),
            certificate,
            purpose,
            aes,
        })
    }

    /// The rustls configuration for the dialling role, for TLS outside a libp2p swarm.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }

    /// The rustls configuration for the listening role, for TLS outside a libp2p swarm.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }
}

/// Whether this CPU computes AES-GCM in hardware; without that ChaCha20-Poly1305 is faster.
pub fn cpu_has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

/// Who the other end of a finished handshake is.
///
/// # Errors
/// If it did not agree on libp2p, or (never after [`Config`]'s own verification) shows no valid certificate.
pub fn authenticated(session: &CommonState) -> Result<PeerId, Error> {
    authenticated_for(session, ALPN)
}

/// The same for another application protocol.
pub(crate) fn authenticated_for(session: &CommonState, alpn: &[u8]) -> Result<PeerId, Error> {
    if session.alpn_protocol() != Some(alpn) {
        return Err(Error::NotLibp2p);
    }
    let certificates = session.peer_certificates().unwrap_or_default();
    let leaf = certificates.first().ok_or(Invalid::Chain)?;
    Ok(certificate::peer_id(leaf)?)
}

/// The same of a QUIC connection, which shows the certificates alone.
///
/// # Errors
/// If they do not begin with a valid one (never after [`Config`]'s own verification).
pub(crate) fn peer_of(certificates: &[CertificateDer<'_>]) -> Result<PeerId, Error> {
    let leaf = certificates.first().ok_or(Invalid::Chain)?;
    Ok(certificate::peer_id(leaf)?)
}

fn client(
    provider: Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
    certificate: Arc<SingleCertAndKey>,
    purpose: Purpose,
) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::Configuration)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(certificate);
    config.alpn_protocols = vec![purpose.alpn.to_vec()];
    config.enable_secret_extraction = purpose.own_records;
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

fn server(
    provider: Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
    certificate: Arc<SingleCertAndKey>,
    purpose: Purpose,
    aes: bool,
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::Configuration)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![purpose.alpn.to_vec()];
    config.enable_secret_extraction = purpose.own_records;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    // With AES at both ends the client's order already says AES; if either end lacks it, ChaCha20 wins.
    config.ignore_client_order = !aes;
    Ok(config)
}

fn provider(aes: bool) -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites = cipher_suites(aes);
    provider
}

fn cipher_suites(aes: bool) -> Vec<SupportedCipherSuite> {
    use rustls::crypto::ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    let mut suites = vec![TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256, TLS13_AES_256_GCM_SHA384];
    if !aes {
        suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    }
    suites
}

impl UpgradeInfo for Config {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(PROTOCOL)
    }
}

impl<C> InboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, TlsStream<C>);
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Output, Error>>;

    fn upgrade_inbound(self, socket: C, _: &'static str) -> Self::Future {
        Box::pin(async move {
            let stream = TlsAcceptor::from(self.server).accept(socket).await.map_err(Error::handshake)?;
            Ok((authenticated(stream.get_ref().1)?, stream.into()))
        })
    }
}

impl<C> OutboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, TlsStream<C>);
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Output, Error>>;

    fn upgrade_outbound(self, socket: C, _: &'static str) -> Self::Future {
        Box::pin(async move {
            // rustls wants a name; with SNI off it is neither sent nor compared.
            let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
            let stream = TlsConnector::from(self.client).connect(name, socket).await.map_err(Error::handshake)?;
            Ok((authenticated(stream.get_ref().1)?, stream.into()))
        })
    }
}

#[cfg(test)]
mod tests;
