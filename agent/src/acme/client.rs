//! HTTP for ACME: one request, one connection, TLS that trusts the roots it was given, on smol. It remembers when the
//! server last asked for patience, which instant-acme tells nobody.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_net::TcpStream;
use futures_rustls::TlsConnector;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response, Uri,
    body::{Body, Bytes},
    client::conn::http1,
    header::{HOST, HeaderValue, RETRY_AFTER},
};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use smol::future::or;
use smol_hyper::rt::FuturesIo;

use crate::time::within;

/// For a whole request, its connection included.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer; a certificate chain has some KiB.
const LONGEST: usize = 1 << 20;
/// Longest that a server's wish for patience is believed.
const LONGEST_WAIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What went wrong with a request; [`Error::Other`] holds it.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address.
    #[error("{0} is no https:// address")]
    Address(Uri),
    /// The connection.
    #[error("cannot connect to {0}: {1}")]
    Connect(String, #[source] std::io::Error),
    /// The exchange.
    #[error("{0} broke off: {1}")]
    Exchange(String, #[source] hyper::Error),
    /// Too slow.
    #[error("{0} did not answer within {seconds} s", seconds = PATIENCE.as_secs())]
    Slow(String),
    /// The answer's body.
    #[error("the answer of {0} is too long or broke off")]
    Body(String),
}

/// The roots are no certificates.
#[derive(Debug, thiserror::Error)]
#[error("the CA file holds no usable certificate")]
pub struct BadRoots;

/// A client.
#[derive(Clone)]
pub struct Http {
    tls: TlsConnector,
    patience: Arc<Mutex<Option<SystemTime>>>,
}

impl Http {
    /// Trusts the roots in this PEM text; without one those of the public web.
    pub fn new(roots: Option<&str>) -> Result<Self, BadRoots> {
        let store = match roots {
            Some(pem) => private_roots(pem)?,
            None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|_| BadRoots)?;
        let config = builder.with_root_certificates(store).with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), patience: Arc::default() })
    }

    /// Until when the server asked to wait in its last answer; asking clears it.
    pub fn wait_until(&self) -> Option<SystemTime> {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn exchange(&self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, HttpError> {
        let (host, request) = addressed(request)?;
        let answered = async {
            let response = self.send(&host, request).await?;
            let until = response.headers().get(RETRY_AFTER).and_then(moment);
            *self.patience.lock().unwrap_or_else(PoisonError::into_inner) = until;
            Ok(BytesResponse::from(response))
        };
        within(PATIENCE, answered).await.unwrap_or_else(|| Err(HttpError::Slow(host.clone())))
    }

    async fn send(&self, host: &str, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Full<Bytes>>, HttpError> {
        let broken = |e| HttpError::Exchange(host.to_owned(), e);
        let stream = self.connect(host).await.map_err(|e| HttpError::Connect(host.to_owned(), e))?;
        let (mut sender, connection) = http1::handshake(FuturesIo::new(stream)).await.map_err(broken)?;
        let exchange = async {
            let (parts, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
            let body = Limited::new(body, LONGEST).collect().await.map_err(|_| HttpError::Body(host.to_owned()))?;
            Ok(Response::from_parts(parts, Full::new(body.to_bytes())))
        };
        // The connection moves the bytes; its own end is that of the exchange, which says more about it.
        let driven = async {
            let _ = connection.await;
            std::future::pending().await
        };
        or(exchange, driven).await
    }

    async fn connect(&self, host: &str) -> std::io::Result<futures_rustls::client::TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(host).await?;
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
        let name = ServerName::try_from(name.to_owned()).map_err(std::io::Error::other)?;
        self.tls.connect(name, tcp).await
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let http = self.clone();
        Box::pin(async move { http.exchange(request).await.map_err(|e| Error::Other(Box::new(e))) })
    }
}

fn private_roots(pem: &str) -> Result<RootCertStore, BadRoots> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        store.add(certificate.map_err(|_| BadRoots)?).map_err(|_| BadRoots)?;
    }
    if store.is_empty() { Err(BadRoots) } else { Ok(store) }
}

/// `host:port`, and the request as it stands on the wire: origin-form with a Host header (RFC 9112, section 3.2).
fn addressed<B: Body>(mut request: Request<B>) -> Result<(String, Request<B>), HttpError> {
    let uri = request.uri().clone();
    let bad = || HttpError::Address(uri.clone());
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("https")).ok_or_else(bad)?;
    let host = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(443));
    let header = HeaderValue::from_str(authority.as_str()).map_err(|_| bad())?;
    request.headers_mut().insert(HOST, header);
    *request.uri_mut() = uri.path_and_query().map_or("/", |path| path.as_str()).parse().map_err(|_| bad())?;
    Ok((host, request))
}

/// A number of seconds, or a date (RFC 9110, section 10.2.3).
fn moment(header: &HeaderValue) -> Option<SystemTime> {
    let text = header.to_str().ok()?.trim();
    let now = SystemTime::now();
    let until = match text.parse() {
        Ok(seconds) => now + Duration::from_secs(seconds).min(LONGEST_WAIT),
        Err(_) => httpdate::parse_http_date(text).ok()?,
    };
    Some(until.min(now + LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_addressed_as_http_1_1_wants_it() {
        let to = |uri: &str| addressed(Request::builder().uri(uri).body(Full::<Bytes>::default()).unwrap());
        let (host, request) = to("https://ca.example:14000/dir?x=1").unwrap();
        assert_eq!((host.as_str(), request.uri().to_string().as_str()), ("ca.example:14000", "/dir?x=1"));
        assert_eq!(request.headers()[HOST], "ca.example:14000");
        assert_eq!(to("https://ca.example").unwrap().0, "ca.example:443");
        assert!(to("http://ca.example/").is_err() && to("/dir").is_err());
    }

    #[test]
    fn patience_is_a_number_or_a_date() {
        let parsed = |text: &str| moment(&HeaderValue::from_str(text).unwrap());
        assert!(parsed("120").unwrap() > SystemTime::now() + Duration::from_secs(100));
        assert!(parsed("99999999999").unwrap() < SystemTime::now() + LONGEST_WAIT * 2);
        assert!(parsed("Sun, 06 Nov 1994 08:49:37 GMT").unwrap() < SystemTime::now());
        assert_eq!(parsed("soon"), None);
    }
}
