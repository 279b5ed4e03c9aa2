//! Answers to the challenges of orders that run: what this node says when a CA asks it for proof of a host name.
//!
//! http-01 (RFC 8555, section 8.3) is answered by [`http01`](super::http01), tls-alpn-01 (RFC 8737) wherever TLS ends at
//! this node. An answer is there exactly as long as its [`Answer`] lives.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use instant_acme::KeyAuthorization;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring::sign::any_supported_type,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use crate::tunnel::tls::{ACME, server_config};

/// The answers that are there now.
#[derive(Default)]
pub struct Answers(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    http: BTreeMap<String, String>,
    tls: BTreeMap<String, Arc<ServerConfig>>,
}

/// An answer; gone when dropped.
pub struct Answer {
    answers: Arc<Answers>,
    key: Key,
}

enum Key {
    Http(String),
    Tls(String),
}

impl Answers {
    /// Answers http-01 for a token.
    pub fn http(self: &Arc<Self>, token: &str, authorization: &KeyAuthorization) -> Answer {
        self.lock().http.insert(token.to_owned(), authorization.as_str().to_owned());
        Answer { answers: self.clone(), key: Key::Http(token.to_owned()) }
    }

    /// Answers tls-alpn-01 for a host name.
    pub fn tls(self: &Arc<Self>, host: &str, authorization: &KeyAuthorization) -> Result<Answer, String> {
        let certificate = challenge(host, authorization.digest().as_ref())?;
        let mut config = server_config(certificate).map_err(|e| e.to_string())?;
        config.alpn_protocols = vec![ACME.to_vec()];
        self.lock().tls.insert(host.to_ascii_lowercase(), Arc::new(config));
        Ok(Answer { answers: self.clone(), key: Key::Tls(host.to_ascii_lowercase()) })
    }

    /// The key authorization for a token.
    pub fn for_token(&self, token: &str) -> Option<String> {
        self.lock().http.get(token).cloned()
    }

    /// The settings of a handshake for a host name.
    pub fn for_host(&self, host: &str) -> Option<Arc<ServerConfig>> {
        self.lock().tls.get(&host.to_ascii_lowercase()).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let mut inner = self.answers.lock();
        match &self.key {
            Key::Http(token) => drop(inner.http.remove(token)),
            Key::Tls(host) => drop(inner.tls.remove(host)),
        }
    }
}

/// A certificate for nothing but the challenge: the host name, and the digest in a critical extension.
fn challenge(host: &str, digest: &[u8]) -> Result<Arc<CertifiedKey>, String> {
    let key = KeyPair::generate().map_err(|e| e.to_string())?;
    let mut params = CertificateParams::new(vec![host.to_owned()]).map_err(|e| e.to_string())?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key).map_err(|e| e.to_string())?;
    let secret = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let secret = any_supported_type(&secret).map_err(|e| e.to_string())?;
    // Not `CertifiedKey::from_der`, which refuses a critical extension that it does not know.
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], secret)))
}
