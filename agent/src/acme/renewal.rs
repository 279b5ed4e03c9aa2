//! Renewals by themselves: what is due is ordered, beside whatever waits for its CA, and what a restart broke off goes on.

use std::time::Duration;

use async_io::Timer;
use hive_core::acme::{ASK_AGAIN, Act};
use hive_protocol::{KeyPrefix, Timestamp};
use rustls::pki_types::CertificateDer;
use smol::{Task, future::or};

use super::{ATTEMPTS, Certificate, attempt, http, order::Job};
use crate::{
    exec,
    keys::Keys,
    node::{Handle, now},
};

/// Longest sleep of the keeper: the wall clock may be set meanwhile.
const NAP: Duration = Duration::from_secs(3600);

/// Renews what is due, for as long as the node lives, and goes on with what a restart broke off.
pub async fn keep(node: Handle) {
    let ports = node.acme.lock().http_ports();
    for port in ports {
        if let Err(trouble) = node.acme.answer_on(port) {
            log::warn!("{}", trouble.what);
        }
    }
    let mut orders: Vec<Task<()>> = Vec::new();
    loop {
        let changed = node.acme.changed.listen();
        orders.retain(|order| !order.is_finished());
        let due = node.acme.lock().due();
        let wall = now().wall;
        match due {
            Some((at, act, certificate)) if at <= wall => orders.extend(begin(&node, act, certificate)),
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
            // Nothing renews itself, or as many orders as may be are under way.
            None => changed.await,
        }
    }
}

/// Does what is due, beside whatever else is under way, unless somebody who asked for an order was faster.
fn begin(node: &Handle, act: Act, certificate: Certificate) -> Option<Task<()>> {
    let claim = node.acme.claim(&certificate.record.wish)?;
    let node = node.clone();
    Some(exec::spawn(async move {
        match act {
            Act::Order => renew(&node, certificate).await,
            Act::Ask => ask(&node, certificate).await,
        }
        drop(claim);
    }))
}

async fn renew(node: &Handle, mut certificate: Certificate) {
    let prefix = certificate.record.wish.key_prefix.clone();
    let present = present(&node.keys, &prefix);
    // Only a CA that suggests windows knows what it is to replace a certificate.
    let replaces = present.filter(|_| certificate.record.window.is_some());
    let tell = |step: String| log::info!("certificate {prefix}: {step}");
    let Err(failed) = attempt(node, &mut certificate, replaces, &tell, ATTEMPTS).await else {
        return log::info!("certificate {prefix}: renewed");
    };
    log::warn!("certificate {prefix}: not renewed: {}", failed.trouble.what);
    let record = &mut certificate.record;
    record.failures = record.failures.saturating_add(1);
    record.failed_at = now().wall;
    record.trouble = Some(failed.trouble);
    record.not_before = failed.not_before;
    node.acme.keep(&node.keys, certificate).await;
}

async fn ask(node: &Handle, mut certificate: Certificate) {
    let Certificate { record, seen } = &mut certificate;
    let asked = async {
        let http = http(&record.wish).ok()?;
        let present = present(&node.keys, &record.wish.key_prefix)?;
        let tell = |step: String| log::debug!("{step}");
        let (store, answers) = (&node.acme.store, &node.acme.answers);
        let job = Job { store, keys: &node.keys, seen, answers, tell: &tell, http, attempts: ATTEMPTS };
        Some(job.window(&record.wish, &present).await)
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
    node.acme.keep(&node.keys, certificate).await;
}

fn present(keys: &Keys, prefix: &KeyPrefix) -> Option<CertificateDer<'static>> {
    keys.certificate(prefix)?.cert.first().cloned()
}
