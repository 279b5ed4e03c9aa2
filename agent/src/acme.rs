//! Certificates that this node obtains and renews by itself (ACME, RFC 8555).
//!
//! [`Acme`] keeps what is known of each ([`record`]) and runs orders ([`order`]), one at a time for each certificate. When
//! one is due, `hive-core` says. A failed renewal keeps the old certificate; the trouble stands in `keys` and `status`.
//! The new one is stored in one transaction with the end of its order, and is served from that moment on.

pub mod answers;
mod client;
mod http01;
mod order;
mod problems;
mod record;
mod renewal;
mod words;

pub use problems::problems;
pub use record::key as record_key;
pub use renewal::keep;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use blocking::unblock;
use event_listener::Event;
use hive_protocol::{
    HostPattern, KeyEntry, KeyInfo, KeyPrefix, KeyType,
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
    keys::check,
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
    records: BTreeMap<KeyPrefix, Record>,
    /// Those with an order under way in this process.
    running: BTreeSet<KeyPrefix>,
    /// Ports on which http-01 is answered.
    ports: BTreeMap<u16, Task<()>>,
}

impl Inner {
    /// Stops answering http-01 where no certificate needs it; not while orders run, whose ports are not known here.
    fn close_ports(&mut self) {
        if self.running.is_empty() {
            let needed: BTreeSet<u16> = self.records.values().filter_map(Record::http_port).collect();
            self.ports.retain(|port, _| needed.contains(port));
        }
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
    pub fn load(store: Arc<Store>, answers: Arc<Answers>) -> Result<Self, StoreError> {
        let mut records = BTreeMap::new();
        for (key, bytes) in store.list_acme("cert/")? {
            match minicbor::decode::<Record>(&bytes) {
                Ok(record) => drop(records.insert(record.wish.key_prefix.clone(), record)),
                Err(e) => log::error!("{key} is damaged and passed over: {e}"),
            }
        }
        let inner = Mutex::new(Inner { records, ..Inner::default() });
        Ok(Self { store, answers, inner, changed: Event::new() })
    }

    /// Adds to an entry of the key store what is known of its renewal.
    pub fn describe(&self, mut info: KeyInfo) -> KeyInfo {
        let Some((prefix, KeyType::Cert)) = info.key_name.split() else { return info };
        if let Some(record) = self.lock().records.get(&prefix) {
            info.renews_at = Some(record.course().order_at());
            info.last_error = record.trouble.as_ref().map(|trouble| trouble.what.clone());
        }
        info
    }

    /// Lets certificates be that were removed or replaced by hand. Their records are removed from the disk once more: a
    /// renewal may have written one meanwhile.
    pub async fn forget(&self, prefixes: Vec<KeyPrefix>) {
        if prefixes.is_empty() {
            return;
        }
        self.strike_out(&prefixes);
        self.write(prefixes.iter().map(|prefix| KeyChange::Acme(record::key(prefix), None)).collect()).await;
    }

    fn strike_out(&self, prefixes: &[KeyPrefix]) {
        let mut inner = self.lock();
        prefixes.iter().for_each(|prefix| drop(inner.records.remove(prefix)));
        inner.close_ports();
        self.changed.notify(usize::MAX);
    }

    /// Changes what is stored of certificates. What fails is told and tried again with the next change.
    async fn write(&self, changes: Vec<KeyChange>) {
        if let Err(e) = self.store.change_keys_aside(changes).await {
            log::error!("certificates: {e}");
        }
    }

    /// Stores a record, unless it was removed by hand meanwhile.
    async fn keep(&self, record: Record) {
        let prefix = record.wish.key_prefix.clone();
        if !self.lock().records.contains_key(&prefix) {
            return;
        }
        self.write(vec![record.change()]).await;
        let kept = self.lock().records.get_mut(&prefix).map(|known| *known = record).is_some();
        if !kept {
            self.forget(vec![prefix]).await;
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
    async fn claimed(self: &Arc<Self>, prefix: &KeyPrefix) -> Claim {
        loop {
            let changed = self.changed.listen();
            if let Some(claim) = self.claim(prefix) {
                return claim;
            }
            changed.await;
        }
    }

    fn claim(self: &Arc<Self>, prefix: &KeyPrefix) -> Option<Claim> {
        let free = self.lock().running.insert(prefix.clone());
        free.then(|| Claim { acme: self.clone(), prefix: prefix.clone() })
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
        let claim = node.acme.claimed(&wish.key_prefix).await;
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
    let before = node.acme.lock().records.get(&claim.prefix).cloned();
    let mut record = Record::new(wish, u16::from_le_bytes(random::bytes()));
    // The same wish again goes on with its order.
    record.order =
        before.as_ref().filter(|known| known.wish.is_like(&record.wish)).and_then(|known| known.order.clone());
    let prefix = claim.prefix.clone();
    let tell = |step: String| {
        log::info!("certificate {prefix}: {step}");
        let _ = news.try_send(News::Step(step));
    };
    match attempt(node, &mut record, None, &tell, FEW_ATTEMPTS).await {
        Ok(stored) => Ok(stored),
        Err(failed) => {
            undo(&node.acme, &claim.prefix, before).await;
            Err(Failure::new(FailureCode::Failed, failed.trouble.what).hint(failed.trouble.hint))
        }
    }
}

async fn undo(acme: &Acme, prefix: &KeyPrefix, before: Option<Record>) {
    match before {
        Some(record) => acme.keep(record).await,
        None => acme.forget(vec![prefix.clone()]).await,
    }
}

/// One attempt: the order, then the certificate with the end of the order in one transaction.
async fn attempt(
    node: &Handle,
    record: &mut Record,
    replaces: Option<CertificateDer<'static>>,
    tell: order::Tell<'_>,
    attempts: u32,
) -> Result<Vec<KeyInfo>, Failed> {
    let acme = &node.acme;
    if let Some(port) = record.http_port() {
        acme.answer_on(port).map_err(Failed::from)?;
    }
    let http = http(&record.wish).map_err(Failed::from)?;
    let job = Job { store: &acme.store, answers: &acme.answers, tell, http, attempts };
    let issued = job.run(record, replaces).await?;
    store(node, record, issued).await.map_err(Failed::from)
}

fn http(wish: &TlsRequest) -> Result<Http, Trouble> {
    Http::new(wish.roots.as_deref())
        .map_err(|e| Trouble { what: e.to_string(), hint: "give a PEM file with the root certificate".into() })
}

async fn store(node: &Handle, record: &mut Record, issued: Issued) -> Result<Vec<KeyInfo>, Trouble> {
    let prefix = record.wish.key_prefix.clone();
    let bad =
        |e: &dyn std::fmt::Display| Trouble { what: format!("the CA's certificate: {e}"), hint: "see the log".into() };
    let chain = check::chain(&issued.chain).map_err(|e| bad(&e))?;
    let leaf = check::Leaf::of(&chain).ok_or_else(|| bad(&"does not parse"))?;
    let entry = |part, pem: &str| KeyEntry { key_name: prefix.entry(part), key_type: part, pem: pem.to_owned() };
    let mut entries = vec![entry(KeyType::Cert, &issued.chain), entry(KeyType::Key, &issued.key)];
    entries.extend(issuers(&issued.chain).map(|rest| entry(KeyType::Issuer, rest)));
    let place = record.place;
    // The account is made; what bound it to another is not kept.
    let wish = TlsRequest { external: None, ..record.wish.clone() };
    let validity = Some((leaf.not_before, leaf.not_after));
    *record = Record { validity, ask_at: Some(now().wall), ..Record::new(wish, place) };
    let told = entries.iter().map(crate::keys::info).collect::<Vec<_>>();
    let (keys, change) = (node.keys.clone(), record.change());
    unblock(move || keys.change(entries, &[], vec![change])).await.map_err(|e| bad(&e))?;
    node.acme.lock().records.insert(prefix, record.clone());
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
