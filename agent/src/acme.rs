//! Certificates that this node obtains and renews by itself (ACME, RFC 8555).
//!
//! [`Acme`] keeps what is known of each ([`record`]) and runs orders ([`order`]), one at a time for each certificate and a
//! few at a time for each CA. When one is due, `hive-core` says. A failed renewal keeps the old certificate; the trouble
//! stands in `keys` and `status`. The new one is stored in one transaction with the end of its order, and is served from
//! that moment on, unless somebody stored or removed the certificate by hand meanwhile: then that stays.

pub mod answers;
mod client;
mod http01;
mod order;
mod problems;
mod record;
mod renewal;
#[cfg(test)]
mod tests;
mod words;

pub use problems::problems;
pub use record::key as record_key;
pub use renewal::keep;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use event_listener::Event;
use hive_core::acme::Act;
use hive_protocol::{
    HostPattern, KeyEntry, KeyInfo, KeyPrefix, KeyType, Timestamp,
    keys::{Challenge, TlsRequest},
    message::{Failure, FailureCode},
};
use rustls::pki_types::CertificateDer;
use smol::{
    Task,
    channel::{self, Receiver, Sender},
};

use self::{
    answers::Answers,
    client::Http,
    order::{Failed, Issued, Job},
    record::{Record, Trouble},
};
use crate::{
    exec,
    keys::{Keys, KeysError, Seen, check},
    node::{Handle, now},
    random,
    store::{KeyChange, Store, StoreError},
};

/// Steps that wait to be told; more are left out, the log has them all.
const STEPS: usize = 64;
/// Attempts of one request to the CA, the first included, while somebody waits: a quarter of a minute.
const FEW_ATTEMPTS: u32 = 5;
/// Attempts where nobody does.
const ATTEMPTS: u32 = 8;
/// Orders under way at once beyond which no further one begins by itself: what each takes of memory is bounded, a CA's
/// patience is not known.
const MOST_AT_ONCE: usize = 16;
/// The same at one CA, so that one which does not answer leaves places for the others.
const MOST_AT_ONE_CA: usize = 4;
/// Most names of one certificate: what Let's Encrypt allows.
const MOST_NAMES: usize = 100;

/// The certificates that renew themselves.
pub struct Acme {
    store: Arc<Store>,
    answers: Arc<Answers>,
    inner: Mutex<Inner>,
    changed: Event,
}

#[derive(Default)]
struct Inner {
    certificates: BTreeMap<KeyPrefix, Certificate>,
    /// Those with an order under way in this process, and the CA's directory.
    running: BTreeMap<KeyPrefix, String>,
    /// Ports on which http-01 is answered.
    ports: BTreeMap<u16, Task<()>>,
}

/// A certificate that renews itself.
#[derive(Clone)]
struct Certificate {
    record: Record,
    /// What the record is about: once something else stands there, it is nobody's business any more.
    seen: Seen,
}

impl Inner {
    /// Stops answering http-01 where no certificate needs it; not while orders run, whose ports are not known here.
    fn close_ports(&mut self) {
        if self.running.is_empty() {
            let needed = self.http_ports();
            self.ports.retain(|port, _| needed.contains(port));
        }
    }

    fn http_ports(&self) -> BTreeSet<u16> {
        self.certificates.values().filter_map(|certificate| certificate.record.http_port()).collect()
    }

    /// What is due next of what may begin now, and when.
    fn due(&self) -> Option<(Timestamp, Act, Certificate)> {
        if self.running.len() >= MOST_AT_ONCE {
            return None;
        }
        let idle = self.certificates.iter().filter(|(prefix, _)| !self.running.contains_key(*prefix));
        let free = idle.filter(|(_, certificate)| self.at_ca(&certificate.record.wish.directory) < MOST_AT_ONE_CA);
        let next = free.map(|(_, certificate)| (certificate.record.course().next(), certificate));
        next.min_by_key(|((at, _), _)| *at).map(|((at, act), certificate)| (at, act, certificate.clone()))
    }

    fn at_ca(&self, directory: &str) -> usize {
        self.running.values().filter(|running| *running == directory).count()
    }
}

/// News of an order that somebody waits for.
pub enum News {
    /// A step.
    Step(String),
    /// The end.
    End(Result<Vec<KeyInfo>, Failure>),
}

impl Acme {
    /// Takes up what is stored.
    pub fn load(store: Arc<Store>, answers: Arc<Answers>, keys: &Keys) -> Result<Self, StoreError> {
        let mut certificates = BTreeMap::new();
        for (key, bytes) in store.list_acme("cert/")? {
            match minicbor::decode::<Record>(&bytes) {
                Ok(record) => {
                    let prefix = record.wish.key_prefix.clone();
                    let seen = keys.seen(&prefix);
                    certificates.insert(prefix, Certificate { record, seen });
                }
                Err(e) => log::error!("{key} is damaged and passed over: {e}"),
            }
        }
        let inner = Mutex::new(Inner { certificates, ..Inner::default() });
        Ok(Self { store, answers, inner, changed: Event::new() })
    }

    /// Adds to an entry of the key store what is known of its renewal.
    pub fn describe(&self, mut info: KeyInfo) -> KeyInfo {
        let Some((prefix, KeyType::Cert)) = info.key_name.split() else { return info };
        if let Some(Certificate { record, .. }) = self.lock().certificates.get(&prefix) {
            info.renews_at = Some(record.course().order_at());
            info.last_error = record.trouble.as_ref().map(|trouble| trouble.what.clone());
        }
        info
    }

    /// Lets certificates be that were removed or replaced by hand, which has removed their records from the disk.
    pub fn forget(&self, prefixes: &[KeyPrefix]) {
        if prefixes.is_empty() {
            return;
        }
        let mut inner = self.lock();
        prefixes.iter().for_each(|prefix| drop(inner.certificates.remove(prefix)));
        inner.close_ports();
        drop(inner);
        self.changed.notify(usize::MAX);
    }

    /// Stores a record, unless its certificate was changed by hand. What the disk does not take is told, and tried again with
    /// the next change.
    async fn keep(&self, keys: &Arc<Keys>, certificate: Certificate) {
        match certificate.record.keep(keys, &certificate.seen).await {
            Ok(_) | Err(KeysError::ByHand(_)) => {}
            Err(e) => log::error!("certificate {}: {e}", certificate.record.wish.key_prefix),
        }
        self.remember(keys, certificate);
    }

    /// Takes up what was stored, unless it was changed by hand since: then it is forgotten, if whoever did that has not come
    /// to it.
    fn remember(&self, keys: &Keys, certificate: Certificate) {
        let mut inner = self.lock();
        let prefix = certificate.record.wish.key_prefix.clone();
        let present = keys.seen(&prefix);
        if present == certificate.seen {
            inner.certificates.insert(prefix, certificate);
        } else {
            inner.certificates.retain(|known, certificate| *known != prefix || certificate.seen == present);
        }
    }

    /// Forgets a certificate that did not come to be, with what was stored for its order.
    async fn abandon(&self, prefix: KeyPrefix) {
        self.forget(std::slice::from_ref(&prefix));
        if let Err(e) = self.store.change_keys_aside(vec![KeyChange::Acme(record::key(&prefix), None)]).await {
            log::error!("certificates: {e}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers http-01 on a port from now on.
    fn answer_on(&self, port: u16) -> Result<(), Trouble> {
        let mut inner = self.lock();
        if let Entry::Vacant(place) = inner.ports.entry(port) {
            place.insert(http01::listen(port, self.answers.clone()).map_err(|e| cannot_listen(port, &e))?);
        }
        Ok(())
    }

    /// Claims a certificate for one order, once no other has it.
    async fn claimed(self: &Arc<Self>, wish: &TlsRequest) -> Claim {
        loop {
            let changed = self.changed.listen();
            if let Some(claim) = self.claim(wish) {
                return claim;
            }
            changed.await;
        }
    }

    fn claim(self: &Arc<Self>, wish: &TlsRequest) -> Option<Claim> {
        let mut inner = self.lock();
        let Entry::Vacant(place) = inner.running.entry(wish.key_prefix.clone()) else { return None };
        place.insert(wish.directory.clone());
        Some(Claim { acme: self.clone(), prefix: wish.key_prefix.clone() })
    }
}

/// An order under way.
struct Claim {
    acme: Arc<Acme>,
    prefix: KeyPrefix,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut inner = self.acme.lock();
        inner.running.remove(&self.prefix);
        inner.close_ports();
        drop(inner);
        self.acme.changed.notify(usize::MAX);
    }
}

/// Obtains a certificate; it goes on when nobody listens any more.
pub fn obtain(node: &Handle, wish: TlsRequest) -> Result<Receiver<News>, Failure> {
    check_names(&wish.hostnames)?;
    check_proxies(node, &wish)?;
    let (sender, news) = channel::bounded(STEPS);
    let node = node.clone();
    exec::spawn(async move {
        let claim = node.acme.claimed(&wish).await;
        let outcome = first(&node, &claim, wish, &sender).await;
        drop(claim);
        let _ = sender.send(News::End(outcome)).await;
    })
    .detach();
    Ok(news)
}

/// A wildcard can be proven by DNS alone, which this node does not serve.
fn check_names(names: &[HostPattern]) -> Result<(), Failure> {
    let usage = |what: String| Err(Failure::new(FailureCode::Usage, what));
    if names.is_empty() || names.len() > MOST_NAMES {
        return usage(format!("a certificate is for 1 to {MOST_NAMES} host names"));
    }
    match names.iter().find(|name| name.is_wildcard()) {
        Some(wild) => usage(format!("{wild}: a wildcard can be proven by DNS only, which this node does not serve")),
        None => Ok(()),
    }
}

/// A CA counts failures, so one that can be foreseen is told here.
fn check_proxies(node: &Handle, wish: &TlsRequest) -> Result<(), Failure> {
    let routes = node.routes.get();
    let ends_here = routes.proxies.iter().any(|proxy| proxy.key_prefix.is_some());
    if wish.challenge != Challenge::TlsAlpn01 || ends_here {
        return Ok(());
    }
    let hint = format!(
        "first add the proxy that port 443 of the names leads to, with --tls true --key-prefix {}; it needs no certificate \
         yet",
        wish.key_prefix
    );
    Err(Failure::new(FailureCode::Usage, "TLS ends at no proxy of this node, so none answers tls-alpn-01").hint(hint))
}

/// An order that somebody asked for. Where it fails, all is as before.
async fn first(node: &Handle, claim: &Claim, wish: TlsRequest, news: &Sender<News>) -> Result<Vec<KeyInfo>, Failure> {
    let before = node.acme.lock().certificates.get(&claim.prefix).cloned();
    let mut record = Record::new(wish, u16::from_le_bytes(random::bytes()));
    // The same wish again goes on with its order.
    record.order = before
        .as_ref()
        .filter(|known| known.record.wish.is_like(&record.wish))
        .and_then(|known| known.record.order.clone());
    let mut certificate = Certificate { record, seen: node.keys.seen(&claim.prefix) };
    let prefix = claim.prefix.clone();
    let tell = |step: String| {
        log::info!("certificate {prefix}: {step}");
        let _ = news.try_send(News::Step(step));
    };
    match attempt(node, &mut certificate, None, &tell, FEW_ATTEMPTS).await {
        Ok(stored) => Ok(stored),
        Err(failed) => {
            match before {
                Some(before) => node.acme.keep(&node.keys, before).await,
                None => node.acme.abandon(claim.prefix.clone()).await,
            }
            Err(Failure::new(FailureCode::Failed, failed.trouble.what).hint(failed.trouble.hint))
        }
    }
}

/// One attempt: the order, then the certificate with the end of the order in one transaction.
async fn attempt(
    node: &Handle,
    certificate: &mut Certificate,
    replaces: Option<CertificateDer<'static>>,
    tell: order::Tell<'_>,
    attempts: u32,
) -> Result<Vec<KeyInfo>, Failed> {
    let acme = &node.acme;
    let Certificate { record, seen } = certificate;
    if let Some(port) = record.http_port() {
        acme.answer_on(port).map_err(Failed::from)?;
    }
    let http = http(&record.wish).map_err(Failed::from)?;
    let job = Job { store: &acme.store, keys: &node.keys, seen, answers: &acme.answers, tell, http, attempts };
    let issued = job.run(record, replaces).await?;
    store(node, certificate, issued).await.map_err(Failed::from)
}

fn http(wish: &TlsRequest) -> Result<Http, Trouble> {
    Http::new(wish.roots.as_deref())
        .map_err(|e| Trouble { what: e.to_string(), hint: "give a PEM file with the root certificate".into() })
}

async fn store(node: &Handle, certificate: &mut Certificate, issued: Issued) -> Result<Vec<KeyInfo>, Trouble> {
    let Certificate { record, seen } = certificate;
    let prefix = record.wish.key_prefix.clone();
    let bad =
        |e: &dyn std::fmt::Display| Trouble { what: format!("the CA's certificate: {e}"), hint: "see the log".into() };
    let chain = check::chain(&issued.chain).map_err(|e| bad(&e))?;
    let leaf = check::Leaf::of(&chain).ok_or_else(|| bad(&"does not parse"))?;
    let entry = |part, pem: &str| KeyEntry { key_name: prefix.entry(part), key_type: part, pem: pem.to_owned() };
    let mut entries = vec![entry(KeyType::Cert, &issued.chain), entry(KeyType::Key, &issued.key)];
    entries.extend(issuers(&issued.chain).map(|rest| entry(KeyType::Issuer, rest)));
    let told = entries.iter().map(crate::keys::info).collect::<Vec<_>>();
    // The account is made; what bound it to another is not kept.
    let wish = TlsRequest { external: None, ..record.wish.clone() };
    let validity = Some((leaf.not_before, leaf.not_after));
    let done = Record { validity, ask_at: Some(now().wall), ..Record::new(wish, record.place) };
    *seen = done.keep_with(entries, &node.keys, seen).await.map_err(|e| Trouble::of(&e))?;
    *record = done;
    node.acme.remember(&node.keys, certificate.clone());
    Ok(told.into_iter().map(|info| node.acme.describe(info)).collect())
}

/// The text after the first certificate.
fn issuers(chain: &str) -> Option<&str> {
    const END: &str = "-----END CERTIFICATE-----";
    let rest = chain[chain.find(END)? + END.len()..].trim_start();
    (!rest.is_empty()).then_some(rest)
}

fn listed(names: &[HostPattern]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn cannot_listen(port: u16, error: &std::io::Error) -> Trouble {
    let hint =
        "free the port, or lead port 80 of the names to another with --http-port; or use --challenge tls-alpn-01";
    Trouble { what: format!("cannot answer http-01 on port {port}: {error}"), hint: hint.into() }
}
