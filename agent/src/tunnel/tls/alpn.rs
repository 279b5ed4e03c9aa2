//! Which application protocol a session is for (ALPN, RFC 7301).
//!
//! The bytes go on as they are, so only what is behind can say what may be agreed on. All but HTTP/2 a client may be
//! believed: it offers what it came to speak. Browsers offer HTTP/2 to everybody, so whether the service behind speaks
//! it without TLS is asked once, with the connection preface of RFC 9113, and remembered for a while.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{AsyncReadExt, AsyncWriteExt};
use hive_protocol::ProxyId;
use rustls::server::ClientHello;

use super::Connect;
use crate::{time::within, tunnel::pair::Inner};

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
/// The protocol of challenges (RFC 8737), which is never passed on.
pub const ACME: &[u8] = b"acme-tls/1";

/// The client's connection preface and an empty SETTINGS frame (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The type of the frame with which a server answers.
const SETTINGS: u8 = 4;
/// How long a service may take to answer the preface.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer holds.
const KEPT: Duration = Duration::from_secs(60);

/// The protocols that a client offers, in its order.
pub fn asked(hello: &ClientHello<'_>) -> Vec<Vec<u8>> {
    hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect()
}

/// Whether HTTP/2 is among them.
pub fn asks_for_http2(asked: &[Vec<u8>]) -> bool {
    asked.iter().any(|protocol| protocol == HTTP2)
}

/// What this node offers in turn. A client that offers nothing else than what is not spoken is refused by TLS itself.
pub fn offer(asked: Vec<Vec<u8>>, http2: bool) -> Vec<Vec<u8>> {
    if asked.is_empty() {
        return Vec::new();
    }
    let spoken = |protocol: &Vec<u8>| protocol != ACME && (http2 || protocol != HTTP2);
    let offered: Vec<_> = asked.into_iter().filter(spoken).collect();
    if offered.is_empty() { vec![HTTP1.to_vec()] } else { offered }
}

/// What the services behind the proxies were found to speak.
#[derive(Default)]
pub struct Behind(Mutex<BTreeMap<ProxyId, (bool, Instant)>>);

impl Behind {
    /// Whether the service speaks HTTP/2 without TLS.
    pub async fn speaks_http2(&self, proxy: ProxyId, connect: &Connect) -> bool {
        if let Some((speaks, asked)) = self.lock().get(&proxy)
            && asked.elapsed() < KEPT
        {
            return *speaks;
        }
        let probed = async { answers_preface(connect().await.ok()?).await };
        let speaks = within(PATIENCE, probed).await.flatten().unwrap_or(false);
        self.lock().insert(proxy, (speaks, Instant::now()));
        speaks
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ProxyId, (bool, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answers_preface(service: Inner) -> Option<bool> {
    let mut io = &service;
    io.write_all(PREFACE).await.ok()?;
    let mut header = [0; 9];
    io.read_exact(&mut header).await.ok()?;
    Some(header[3] == SETTINGS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&[u8]]) -> Vec<Vec<u8>> {
        names.iter().map(|name| name.to_vec()).collect()
    }

    #[test]
    fn http2_is_offered_only_where_it_is_spoken() {
        let browser = || names(&[HTTP2, HTTP1]);
        assert_eq!(offer(browser(), true), browser());
        assert_eq!(offer(browser(), false), names(&[HTTP1]));
        assert_eq!(offer(names(&[HTTP2]), false), names(&[HTTP1]), "which the client refuses");
        assert_eq!(offer(names(&[b"postgresql"]), false), names(&[b"postgresql"]));
        assert_eq!(offer(names(&[ACME, HTTP1]), false), names(&[HTTP1]));
        assert_eq!(offer(Vec::new(), false), names(&[]));
    }
}
