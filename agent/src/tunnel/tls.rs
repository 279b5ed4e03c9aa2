//! TLS that ends at this node: a proxy with a certificate speaks TLS with the client and plain bytes with what is behind.
//!
//! A [`Session`] lives between two sockets: one with the TLS of the client, one with its plain bytes. Either is the
//! network's or one end of a [`pair`](super::pair) whose other end the tunnel carries, so the tunnel itself knows nothing
//! of TLS. TLS' own end (close_notify) stands for a FIN in both directions; a connection that ends without it was cut
//! and is aborted on the other side. Keys are looked up for each handshake: a new certificate needs no restart.

mod alpn;
mod postgres;

use std::{
    collections::BTreeMap,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{
    AsyncReadExt, AsyncWriteExt,
    future::BoxFuture,
    io::{AsyncRead, AsyncWrite, BufReader},
};
use futures_rustls::{LazyConfigAcceptor, server::TlsStream};
use hive_protocol::{KeyPrefix, ProxyId};
use hive_transport::buffers::Buffer;
use rustls::{
    ServerConfig,
    crypto::ring,
    server::{Acceptor, ClientHello},
    sign::{CertifiedKey, SingleCertAndKey},
};
use smol::future::try_zip;

use super::{
    alert, memory,
    pair::{self, Inner},
};
pub use alpn::ACME;

use crate::{acme::answers::Answers, keys::Keys, time::within};

/// From a connection's start to the end of its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Read from the network at once: a record of the largest size and some.
const READ_AHEAD: usize = 17 * 1024;

/// Why a session ended before both sides were done.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The client and this node did not agree on a session.
    #[error("TLS handshake: {0}")]
    Handshake(#[source] io::Error),
    /// The client did not finish its handshake.
    #[error("no TLS handshake within {} s", HANDSHAKE.as_secs())]
    Slow,
    /// There is nothing to serve TLS with.
    #[error("there is no certificate {0}")]
    NoCertificate(KeyPrefix),
    /// What is behind cannot be reached.
    #[error("{0}")]
    Behind(String),
    /// Either side broke off.
    #[error(transparent)]
    Broken(#[from] io::Error),
}

/// Connects to what is behind TLS.
pub type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<Inner, String>> + Send + Sync>;

/// What TLS is ended with, for all proxies of a node.
pub struct Termination {
    keys: Arc<Keys>,
    answers: Arc<Answers>,
    configs: Mutex<BTreeMap<KeyPrefix, Settings>>,
    behind: alpn::Behind,
}

/// A certificate and how TLS is served with it.
type Settings = (Arc<CertifiedKey>, Arc<ServerConfig>);

impl Termination {
    /// With these certificates, and these answers to challenges.
    pub fn new(keys: Arc<Keys>, answers: Arc<Answers>) -> Self {
        Self { keys, answers, configs: Mutex::default(), behind: alpn::Behind::default() }
    }

    /// Speaks TLS on `client` and carries its bytes to and from what `connect` connects to, until both are done.
    pub async fn serve(
        &self,
        (proxy, prefix): (ProxyId, &KeyPrefix),
        client: Inner,
        connect: Connect,
    ) -> Result<(), TlsError> {
        let handshake = self.handshake((proxy, prefix), &client, &connect);
        let opened = within(HANDSHAKE, handshake).await.unwrap_or(Err(TlsError::Slow));
        let stream = match opened {
            Ok(Some(stream)) => stream,
            Ok(None) => return Ok(()),
            Err(error) => {
                refuse(&client, &error).await;
                return Err(error);
            }
        };
        let plain = connect().await.map_err(TlsError::Behind);
        let outcome = match &plain {
            Ok(plain) => carry(stream, plain).await.map_err(TlsError::Broken),
            Err(_) => Ok(()),
        };
        if outcome.is_err() || plain.is_err() {
            client.abort();
            plain.iter().for_each(Inner::abort);
        }
        plain.and(outcome)
    }

    /// The session; none where the handshake itself was all that was wanted: the answer to a challenge.
    async fn handshake<'c>(
        &self,
        (proxy, prefix): (ProxyId, &KeyPrefix),
        client: &'c Inner,
        connect: &Connect,
    ) -> Result<Option<TlsStream<BufReader<&'c Inner>>>, TlsError> {
        let mut io = BufReader::with_capacity(READ_AHEAD, client);
        postgres::answer(&mut io).await.map_err(TlsError::Handshake)?;
        let start = LazyConfigAcceptor::new(Acceptor::default(), io).await.map_err(TlsError::Handshake)?;
        let asked = alpn::asked(&start.client_hello());
        if let Some(config) = self.challenge(&start.client_hello(), &asked) {
            let mut answered = start.into_stream(config).await.map_err(TlsError::Handshake)?;
            answered.close().await.map_err(TlsError::Handshake)?;
            return Ok(None);
        }
        let http2 = alpn::asks_for_http2(&asked) && self.behind.speaks_http2(proxy, connect).await;
        let mut config = self.config(prefix)?;
        config.alpn_protocols = alpn::offer(asked, http2);
        start.into_stream(Arc::new(config)).await.map(Some).map_err(TlsError::Handshake)
    }

    /// The answer to a challenge, where the client is a CA that asks for it (RFC 8737, section 3).
    fn challenge(&self, hello: &ClientHello<'_>, asked: &[Vec<u8>]) -> Option<Arc<ServerConfig>> {
        (asked == [ACME]).then(|| self.answers.for_host(hello.server_name()?)).flatten()
    }

    /// The settings of the certificate of this moment. They are kept, so that clients can resume their sessions, until
    /// there is another certificate.
    fn config(&self, prefix: &KeyPrefix) -> Result<ServerConfig, TlsError> {
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(certificate) = self.keys.certificate(prefix) else {
            configs.remove(prefix);
            return Err(TlsError::NoCertificate(prefix.clone()));
        };
        if let Some((of, config)) = configs.get(prefix)
            && Arc::ptr_eq(of, &certificate)
        {
            return Ok(config.as_ref().clone());
        }
        let config = server_config(certificate.clone()).map_err(|e| TlsError::Handshake(io::Error::other(e)))?;
        configs.insert(prefix.clone(), (certificate, Arc::new(config.clone())));
        Ok(config)
    }
}

/// TLS 1.2 and 1.3 by ring with one certificate, and tickets.
pub fn server_config(certificate: Arc<CertifiedKey>) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)));
    config.ticketer = ring::Ticketer::new()?;
    Ok(config)
}

/// Lets a client go with which there is no session. One that only could not agree has its alert from TLS already.
async fn refuse(client: &Inner, error: &TlsError) {
    let mut io = client;
    let told = match error {
        TlsError::NoCertificate(_) => io.write_all(&alert::INTERNAL_ERROR).await,
        TlsError::Handshake(_) => Ok(()),
        TlsError::Slow | TlsError::Behind(_) | TlsError::Broken(_) => Err(io::ErrorKind::ConnectionAborted.into()),
    };
    match told.and_then(|()| client.end()) {
        Ok(()) => alert::part(io).await,
        Err(_) => client.abort(),
    }
}

/// Carries both directions to their ends.
async fn carry(stream: TlsStream<BufReader<&Inner>>, plain: &Inner) -> io::Result<()> {
    let (reader, writer) = stream.split();
    try_zip(decrypt(reader, plain), encrypt(plain, writer)).await.map(drop)
}

/// The client's bytes, decrypted. Its end is that of TLS; an end of the connection alone is an error.
async fn decrypt(mut from: impl AsyncRead + Unpin, plain: &Inner) -> io::Result<()> {
    let mut to = plain;
    loop {
        let (buffer, len) = read(&mut from).await?;
        if len == 0 {
            return plain.end();
        }
        to.write_all(&buffer[..len]).await?;
    }
}

/// Bytes for the client, encrypted.
async fn encrypt(plain: &Inner, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut from = plain;
    loop {
        let (buffer, len) = read(&mut from).await?;
        if len == 0 && !plain.is_regular_end().await {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if len == 0 {
            return to.close().await;
        }
        to.write_all(&buffer[..len]).await?;
        to.flush().await?;
    }
}

/// Reads into a buffer that is held only while there is something in it: connections in silence keep none.
async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<(Buffer, usize)> {
    poll_fn(|cx| {
        let mut buffer = memory::frame_buffer();
        Pin::new(&mut *from).poll_read(cx, &mut buffer).map_ok(|len| (buffer, len))
    })
    .await
}

/// A pair for a session: the end that the tunnel carries, and the session's own.
pub fn pair() -> Result<(pair::Outer, Inner), String> {
    pair::pair().map_err(|e| format!("no sockets for TLS: {e}"))
}
