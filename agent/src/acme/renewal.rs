//! Renewals by themselves: what is due is ordered, one certificate after the other, and what a restart broke off goes on.

use std::{collections::BTreeSet, time::Duration};

use async_io::Timer;
use hive_core::acme::{ASK_AGAIN, Act};
use hive_protocol::{KeyPrefix, Timestamp};
use rustls::pki_types::CertificateDer;
use smol::future::or;

use super::{ATTEMPTS, Acme, attempt, http, order::Job, record::Record};
use crate::{
    keys::Keys,
    node::{Handle, now},
};

/// Longest sleep of the keeper: the wall clock may be set meanwhile.
const NAP: Duration = Duration::from_secs(3600);

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
    let Err(failed) = attempt(node, &mut record, replaces, &tell, ATTEMPTS).await else {
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
        let job = Job { store: &node.acme.store, answers: &node.acme.answers, tell: &tell, http, attempts: ATTEMPTS };
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
