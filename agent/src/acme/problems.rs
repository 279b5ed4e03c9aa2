//! What is wrong with certificates, for `status`.

use std::collections::BTreeSet;

use hive_core::acme::is_late;
use hive_protocol::{KeyPrefix, Problem, Timestamp};

use super::{Acme, record::Trouble};
use crate::keys::{Keys, check::Leaf};

const HOUR: u64 = 3_600_000;

/// Renewals that failed, and certificates of these prefixes that nobody renews and that end soon.
pub fn problems(acme: &Acme, keys: &Keys, served: &BTreeSet<KeyPrefix>, now: Timestamp) -> Vec<Problem> {
    let inner = acme.lock();
    let renewed = inner.certificates.iter();
    let troubled = renewed.filter_map(|(prefix, renewed)| Some(failed(prefix, renewed.record.trouble.as_ref()?)));
    let left = served.iter().filter(|prefix| !inner.certificates.contains_key(*prefix));
    troubled.chain(left.filter_map(|prefix| ending(prefix, keys, now))).collect()
}

fn failed(prefix: &KeyPrefix, trouble: &Trouble) -> Problem {
    let what = format!("certificate {prefix} was not renewed: {}", trouble.what);
    Problem { what, hint: trouble.hint.clone() }
}

/// One that was stored by hand or copied here.
fn ending(prefix: &KeyPrefix, keys: &Keys, now: Timestamp) -> Option<Problem> {
    let Leaf { not_before, not_after, .. } = Leaf::of(&keys.certificate(prefix)?.cert)?;
    if !is_late((not_before, not_after), now) {
        return None;
    }
    let what = match not_after.0.saturating_sub(now.0) / HOUR {
        0 if not_after <= now => format!("certificate {prefix} has ended"),
        hours @ 0..48 => format!("certificate {prefix} ends in {hours} h and is not renewed by this node"),
        hours => format!("certificate {prefix} ends in {} d and is not renewed by this node", hours / 24),
    };
    let hint = format!(
        "store its successor with `hivectl create-key`, or with `hivectl keys copy` where it comes from; or let this node \
         renew it: `hivectl tls --hostname HOST --key-prefix {prefix}`"
    );
    Some(Problem { what, hint })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hive_protocol::{KeyEntry, KeyType};
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;
    use crate::{acme::answers::Answers, store::Store};

    #[test]
    fn a_certificate_that_nobody_renews_is_told_of_before_it_ends() {
        let folder = std::env::temp_dir().join(format!("hive-problems-{}", std::process::id()));
        let store = Arc::new(Store::open(&folder).unwrap());
        let keys = Keys::load(store.clone()).unwrap();
        let acme = Acme::load(store, Arc::<Answers>::default(), &keys).unwrap();
        let mut params = CertificateParams::new(vec!["shed.example".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2030, 1, 1), date_time_ymd(2030, 4, 1));
        let key = KeyPair::generate().unwrap();
        let entry = |part, pem| KeyEntry { key_name: prefix().entry(part), key_type: part, pem };
        let cert = params.self_signed(&key).unwrap().pem();
        keys.put(vec![entry(KeyType::Cert, cert), entry(KeyType::Key, key.serialize_pem())]).unwrap();
        let told = |served: &[KeyPrefix], year, month, day| {
            let seconds = u64::try_from(date_time_ymd(year, month, day).unix_timestamp()).unwrap();
            let found = problems(&acme, &keys, &served.iter().cloned().collect(), Timestamp(seconds * 1000));
            found.into_iter().map(|problem| problem.what).collect::<Vec<_>>()
        };
        assert_eq!(told(&[prefix()], 2030, 3, 1), [""; 0]);
        assert_eq!(told(&[], 2030, 3, 30), [""; 0], "nobody is served with it");
        assert_eq!(told(&[prefix()], 2030, 3, 22), ["certificate web ends in 10 d and is not renewed by this node"]);
        assert_eq!(told(&[prefix()], 2030, 3, 31), ["certificate web ends in 24 h and is not renewed by this node"]);
        assert_eq!(told(&[prefix()], 2031, 1, 1), ["certificate web has ended"]);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    fn prefix() -> KeyPrefix {
        "web".parse().unwrap()
    }
}
