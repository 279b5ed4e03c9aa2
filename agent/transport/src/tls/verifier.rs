//! rustls' questions about the other end's certificate, answered by libp2p's rules.

use std::sync::Arc;

use libp2p::PeerId;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::certificate::{self, Invalid};

/// Accepts any valid libp2p certificate, or only that of the peer expected.
#[derive(Debug)]
pub(super) struct Verifier {
    expected: Option<PeerId>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(expected: Option<PeerId>, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { expected, algorithms }
    }

    fn check(&self, leaf: &[u8], rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        self.identify(leaf, rest, now).map_err(refusal)
    }

    fn identify(&self, leaf: &[u8], rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Invalid> {
        if !rest.is_empty() {
            return Err(Invalid::Chain);
        }
        let found = certificate::verify(leaf, now, &self.algorithms)?;
        match self.expected {
            Some(expected) if expected != found => {
                Err(Invalid::WrongPeer { expected: expected.into(), found: found.into() })
            }
            _ => Ok(()),
        }
    }

    fn check_handshake(
        &self,
        message: &[u8],
        leaf: &[u8],
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(certificate::public_key(leaf).map_err(refusal)?);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }
}

fn refusal(invalid: Invalid) -> Error {
    Error::InvalidCertificate(match invalid {
        Invalid::Malformed | Invalid::TooLong => CertificateError::BadEncoding,
        Invalid::SelfSignature => CertificateError::BadSignature,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}

/// TLS 1.2 is never negotiated: the configurations know version 1.3 alone.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerIncompatible::Tls12NotOffered.into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(leaf, rest, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_handshake(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(leaf, rest, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_handshake(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
