//! Certificates that this node obtains and renews by itself (ACME, RFC 8555).
//!
//! [`Acme`] keeps what is known of each ([`record`]) and runs orders ([`order`]), one at a time for each certificate. When
//! one is due, `hive-core` says. A failed renewal keeps the old certificate; the trouble stands in `keys` and `status`.
//! The new one is stored in one transaction with the end of its order, and is served from that moment on.

pub mod answers;
mod client;
mod http01;
mod order;
mod record;
mod words;

pub use record::key as record_key;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_io::Timer;
use blocking::unblock;
use event_listener::Event;
use hive_core::acme::{ASK_AGAIN, Act};
use hive_protocol::{
    HostPattern, KeyEntry, KeyInfo, KeyPrefix, KeyType, Problem, Timestamp,
    keys::TlsRequest,
    message::{Failure, FailureCode},
};
use rustls::pki_types::CertificateDer;
use smol::{
    Task,
    channel::{self, Receiver, Sender},
    future::or,
};

use self::{
    answers::Answers,
    client::Http,
    order::{Failed, Issued, Job},
    record::{Record, Trouble},
};
use crate::{
    exec,
    keys::{Keys, check},
    node::{Handle, now},
    random,
    store::{KeyChange, Store, StoreError},
};

/// Steps that wait to be told; more are left out, the log has them all.
const STEPS: usize = 64;
/// Longest sleep of the keeper: the wall clock may be set meanwhile.
const NAP: Duration = Duration::from_secs(3600);
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

    /// What went wrong with renewals, for `status`.
    pub fn problems(&self) -> Vec<Problem> {
        let inner = self.lock();
        let troubled = inner.records.iter().filter_map(|(prefix, record)| Some((prefix, record.trouble.as_ref()?)));
        troubled
            .map(|(prefix, trouble)| Problem {
                what: format!("certificate {prefix} was not renewed: {}", trouble.what),
                hint: trouble.hint.clone(),
            })
            .collect()
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
    match attempt(node, &mut record, None, &tell).await {
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
) -> Result<Vec<KeyInfo>, Failed> {
    let acme = &node.acme;
    let bare = |trouble| Failed { trouble, not_before: Timestamp(0) };
    if let Some(port) = record.http_port() {
        acme.answer_on(port).map_err(bare)?;
    }
    let http = http(&record.wish).map_err(bare)?;
    let job = Job { store: &acme.store, answers: &acme.answers, tell, http };
    let issued = job.run(record, replaces).await?;
    store(node, record, issued).await.map_err(bare)
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

/// Renews what is due, for as long as the node lives, and goes on with what a restart broke off.
pub async fn keep(node: Handle) {
    for port in ports(&node.acme) {
        if let Err(trouble) = node.acme.answer_on(port) {
            log::warn!("{}", trouble.what);
        }
    }
    loop {
        let changed = node.acme.changed.listen();
        let due = due(&node.acme);
        let wall = now().wall;
        match due {
            Some((at, prefix, act)) if at <= wall => act_on(&node, &prefix, act).await,
            Some((at, ..)) => {
                let nap = Duration::from_millis(at.0 - wall.0).min(NAP);
                or(
                    async {
                        Timer::after(nap).await;
                    },
                    changed,
                )
                .await;
            }
            None => changed.await,
        }
    }
}

fn ports(acme: &Acme) -> BTreeSet<u16> {
    acme.lock().records.values().filter_map(Record::http_port).collect()
}

/// The certificate that is due next, and for what.
fn due(acme: &Acme) -> Option<(Timestamp, KeyPrefix, Act)> {
    let inner = acme.lock();
    let idle = inner.records.iter().filter(|(prefix, _)| !inner.running.contains(*prefix));
    idle.map(|(prefix, record)| (record.course().next(), prefix.clone()))
        .min_by_key(|((at, _), _)| *at)
        .map(|((at, act), prefix)| (at, prefix, act))
}

async fn act_on(node: &Handle, prefix: &KeyPrefix, act: Act) {
    let Some(claim) = node.acme.claim(prefix) else { return };
    let Some(record) = node.acme.lock().records.get(prefix).cloned() else { return };
    match act {
        Act::Order => renew(node, record).await,
        Act::Ask => ask(node, record).await,
    }
    drop(claim);
}

async fn renew(node: &Handle, mut record: Record) {
    let prefix = record.wish.key_prefix.clone();
    let present = present(&node.keys, &prefix);
    // Only a CA that suggests windows knows what it is to replace a certificate.
    let replaces = present.filter(|_| record.window.is_some());
    let tell = |step: String| log::info!("certificate {prefix}: {step}");
    let Err(failed) = attempt(node, &mut record, replaces, &tell).await else {
        return log::info!("certificate {prefix}: renewed");
    };
    log::warn!("certificate {prefix}: not renewed: {}", failed.trouble.what);
    record.failures = record.failures.saturating_add(1);
    record.failed_at = now().wall;
    record.trouble = Some(failed.trouble);
    record.not_before = failed.not_before;
    node.acme.keep(record).await;
}

async fn ask(node: &Handle, mut record: Record) {
    let asked = async {
        let http = http(&record.wish).ok()?;
        let certificate = present(&node.keys, &record.wish.key_prefix)?;
        let tell = |step: String| log::debug!("{step}");
        let job = Job { store: &node.acme.store, answers: &node.acme.answers, tell: &tell, http };
        Some(job.window(&record.wish, &certificate).await)
    };
    let wall = now().wall;
    let later =
        |pause: Duration| Timestamp(wall.0.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)));
    match asked.await {
        Some(Ok(Some((window, again)))) => {
            record.window = Some(window);
            record.ask_at = Some(later(again.clamp(Duration::from_secs(60), ASK_AGAIN * 4)));
        }
        // The CA has no such answer.
        Some(Ok(None)) | None => record.ask_at = None,
        Some(Err(failed)) => {
            log::debug!("no renewal information: {}", failed.trouble.what);
            record.ask_at = Some(later(ASK_AGAIN));
        }
    }
    node.acme.keep(record).await;
}

fn present(keys: &Keys, prefix: &KeyPrefix) -> Option<CertificateDer<'static>> {
    keys.certificate(prefix)?.cert.first().cloned()
}

fn listed(names: &[HostPattern]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn cannot_listen(port: u16, error: &std::io::Error) -> Trouble {
    let hint =
        "free the port, or lead port 80 of the names to another with --http-port; or use --challenge tls-alpn-01";
    Trouble { what: format!("cannot answer http-01 on port {port}: {error}"), hint: hint.into() }
}
