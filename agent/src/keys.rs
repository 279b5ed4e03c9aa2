//! The key store: named certificates, private keys and issuers, and the certificates that TLS is served with.
//!
//! An entry is checked before it is stored ([`check`]), a step is one transaction, and whoever serves TLS looks into the
//! snapshot of this moment, so a certificate is replaced without anybody noticing. A private key leaves this module only
//! as a [`CertifiedKey`] and, to an authorised client that asks for it by name, as text; it is never listed or logged.

pub mod check;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hive_protocol::{
    KeyEntry, KeyInfo, KeyName, KeyPrefix, KeyType, Timestamp,
    keys::{ENTRIES_MAX, PEM_MAX},
};
use rustls::sign::CertifiedKey;

use crate::{
    keys::check::{CheckError, Leaf},
    store::{KeyChange, Store, StoreError},
};

/// Most entries of a node.
const MOST: usize = 1024;

/// Why the key store does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// An entry is not what it is said to be.
    #[error("{name}: {source}")]
    Check {
        /// Which entry.
        name: KeyName,
        /// What is wrong with it.
        #[source]
        source: CheckError,
    },
    /// There is no such entry.
    #[error("there is no key {0}")]
    Unknown(KeyName),
    /// A private key was asked for like anything else.
    #[error("{0} is a private key")]
    Secret(KeyName),
    /// The text is too long.
    #[error("{0} is longer than {PEM_MAX} bytes")]
    TooLong(KeyName),
    /// Too many or no entries in one step.
    #[error("from 1 to {ENTRIES_MAX} entries are stored in one step")]
    Count,
    /// Too many entries.
    #[error("the key store holds {MOST} entries already")]
    Full,
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody else changed the set meanwhile.
    #[error("{0} was stored or removed by hand meanwhile, and that stays")]
    ByHand(KeyPrefix),
    /// Nothing that the key store does.
    #[error("this is no matter of the key store")]
    Other,
}

impl KeysError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Check { source, .. } => source.hint(),
            Self::Unknown(_) => Some("`hivectl keys` lists them"),
            Self::Secret(_) => Some("say --reveal if it shall be shown"),
            Self::Full => Some("remove some with `hivectl keys rm --key-name NAME`"),
            Self::ByHand(_) => Some("give the same command again to replace it"),
            Self::TooLong(_) | Self::Count | Self::Store(_) | Self::Other => None,
        }
    }
}

/// The key store of a node.
pub struct Keys {
    store: Arc<Store>,
    /// Held over a transaction: the order in memory is the order on disk.
    writer: Mutex<()>,
    /// Held for moments: whoever serves TLS does not wait for the disk.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    entries: BTreeMap<KeyName, KeyEntry>,
    served: BTreeMap<KeyPrefix, Arc<CertifiedKey>>,
    /// By which change each entry came, counted since the start.
    changes: BTreeMap<KeyName, u64>,
    latest: u64,
}

/// A set's certificate and key as somebody saw them, to tell later whether they are still the same ones: an entry that was
/// replaced by the same text is another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    prefix: KeyPrefix,
    changes: [Option<u64>; 2],
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// Takes up what is stored. What cannot be used is named in the log and served to nobody.
    pub fn load(store: Arc<Store>) -> Result<Self, StoreError> {
        let (entries, skipped) = store.load_keys()?;
        for entry in skipped {
            log::error!("{} is damaged and passed over: {}", entry.what, entry.why);
        }
        let entries: BTreeMap<_, _> = entries.into_iter().map(|entry| (entry.key_name.clone(), entry)).collect();
        let served = served(&entries);
        let changes = entries.keys().map(|name| (name.clone(), 0)).collect();
        let inner = Inner { entries, served, changes, latest: 0 };
        Ok(Self { store, writer: Mutex::default(), inner: Mutex::new(inner) })
    }

    /// All entries by name, without their texts.
    pub fn list(&self) -> Vec<KeyInfo> {
        self.lock().entries.values().map(info).collect()
    }

    /// An entry with its text.
    pub fn show(&self, name: &KeyName, reveal: bool) -> Result<KeyEntry, KeysError> {
        let entry = self.lock().entries.get(name).cloned().ok_or_else(|| KeysError::Unknown(name.clone()))?;
        if entry.key_type == KeyType::Key && !reveal {
            return Err(KeysError::Secret(name.clone()));
        }
        Ok(entry)
    }

    /// The certificate of a set with its key, for serving TLS; none while either is missing.
    pub fn certificate(&self, prefix: &KeyPrefix) -> Option<Arc<CertifiedKey>> {
        self.lock().served.get(prefix).cloned()
    }

    /// Stores entries, all or none, and serves with them from now on.
    pub fn put(&self, entries: Vec<KeyEntry>) -> Result<Vec<KeyInfo>, KeysError> {
        if entries.is_empty() || entries.len() > ENTRIES_MAX {
            return Err(KeysError::Count);
        }
        let told = entries.iter().map(info).collect();
        let by_hand = entries.iter().filter_map(|entry| managed(&entry.key_name));
        let also = by_hand.map(|prefix| KeyChange::Acme(crate::acme::record_key(&prefix), None)).collect();
        self.change(entries, &[], also)?;
        Ok(told)
    }

    /// Removes entries, all or none.
    pub fn remove(&self, names: &[KeyName]) -> Result<(), KeysError> {
        self.change(Vec::new(), names, Vec::new())
    }

    /// What stands in a set now.
    pub fn seen(&self, prefix: &KeyPrefix) -> Seen {
        let inner = self.lock();
        let changes = [KeyType::Cert, KeyType::Key].map(|part| inner.changes.get(&prefix.entry(part)).copied());
        Seen { prefix: prefix.clone(), changes }
    }

    /// Puts entries of a set, and whatever else belongs into the same transaction, unless somebody stored or removed its
    /// certificate or key since it was seen. Returns what stands there now.
    pub fn renew(&self, seen: &Seen, put: Vec<KeyEntry>, also: Vec<KeyChange>) -> Result<Seen, KeysError> {
        let _turn = self.turn();
        if self.seen(&seen.prefix) != *seen {
            return Err(KeysError::ByHand(seen.prefix.clone()));
        }
        if put.is_empty() {
            self.store.change_keys(&also)?
        } else {
            self.write(put, &[], also)?
        }
        Ok(self.seen(&seen.prefix))
    }

    fn change(&self, put: Vec<KeyEntry>, gone: &[KeyName], also: Vec<KeyChange>) -> Result<(), KeysError> {
        let _turn = self.turn();
        self.write(put, gone, also)
    }

    /// Puts and removes entries, and whatever else belongs into the same transaction. The caller has the turn.
    fn write(&self, put: Vec<KeyEntry>, gone: &[KeyName], mut also: Vec<KeyChange>) -> Result<(), KeysError> {
        let mut entries = self.lock().entries.clone();
        for name in gone {
            entries.remove(name).ok_or_else(|| KeysError::Unknown(name.clone()))?;
            also.push(KeyChange::Gone(name.clone()));
            also.extend(managed(name).map(|prefix| KeyChange::Acme(crate::acme::record_key(&prefix), None)));
        }
        for entry in &put {
            check_entry(entry)?;
            entries.insert(entry.key_name.clone(), entry.clone());
        }
        check_sets(&entries, &put)?;
        if entries.len() > MOST {
            return Err(KeysError::Full);
        }
        let stored: Vec<KeyName> = put.iter().map(|entry| entry.key_name.clone()).collect();
        also.extend(put.into_iter().map(KeyChange::Put));
        self.store.change_keys(&also)?;
        let served = served(&entries);
        self.lock().replace(entries, served, stored);
        Ok(())
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn replace(
        &mut self,
        entries: BTreeMap<KeyName, KeyEntry>,
        served: BTreeMap<KeyPrefix, Arc<CertifiedKey>>,
        stored: Vec<KeyName>,
    ) {
        self.latest += 1;
        let latest = self.latest;
        self.changes.extend(stored.into_iter().map(|name| (name, latest)));
        self.changes.retain(|name, _| entries.contains_key(name));
        (self.entries, self.served) = (entries, served);
    }
}

/// The set that renews itself no longer when this entry is removed or replaced by hand.
pub fn managed(name: &KeyName) -> Option<KeyPrefix> {
    name.split().filter(|(_, part)| *part != KeyType::Issuer).map(|(prefix, _)| prefix)
}

fn check_entry(entry: &KeyEntry) -> Result<(), KeysError> {
    if entry.pem.len() > PEM_MAX {
        return Err(KeysError::TooLong(entry.key_name.clone()));
    }
    let checked = match (entry.key_type, entry.key_name.split()) {
        (said, Some((_, named))) if said != named => Err(CheckError::OtherName { said, named }),
        (KeyType::Cert | KeyType::Issuer, _) => check::chain(&entry.pem).map(drop),
        (KeyType::Key, _) => check::private_key(&entry.pem).map(drop),
    };
    checked.map_err(|source| KeysError::Check { name: entry.key_name.clone(), source })
}

/// Whether what was put fits what it belongs to.
fn check_sets(entries: &BTreeMap<KeyName, KeyEntry>, put: &[KeyEntry]) -> Result<(), KeysError> {
    for entry in put {
        let Some((prefix, _)) = entry.key_name.split() else { continue };
        let checked = certified(entries, &prefix);
        checked.map_err(|source| KeysError::Check { name: entry.key_name.clone(), source })?;
    }
    Ok(())
}

fn served(entries: &BTreeMap<KeyName, KeyEntry>) -> BTreeMap<KeyPrefix, Arc<CertifiedKey>> {
    let prefixes = entries.keys().filter_map(KeyName::split).filter(|(_, part)| *part == KeyType::Cert);
    let mut served = BTreeMap::new();
    for (prefix, _) in prefixes {
        match certified(entries, &prefix) {
            Ok(Some(key)) => drop(served.insert(prefix, Arc::new(key))),
            Ok(None) => {}
            Err(e) => log::error!("certificate {prefix} cannot be served: {e}"),
        }
    }
    served
}

/// A set's certificate with the rest of its chain and its key; none while either is missing.
fn certified(entries: &BTreeMap<KeyName, KeyEntry>, prefix: &KeyPrefix) -> Result<Option<CertifiedKey>, CheckError> {
    let part = |part| entries.get(&prefix.entry(part)).map(|entry| entry.pem.as_str());
    let Some(cert) = part(KeyType::Cert) else { return Ok(None) };
    let chain = check::whole_chain(cert, part(KeyType::Issuer))?;
    part(KeyType::Key).map(|key| check::pair(chain, key)).transpose()
}

/// What may be told about an entry.
pub fn info(entry: &KeyEntry) -> KeyInfo {
    // What is stored was checked; an entry of an older agent that no longer passes is listed without these.
    let leaf = match entry.key_type {
        KeyType::Key => None,
        KeyType::Cert | KeyType::Issuer => check::chain(&entry.pem).ok().and_then(|chain| Leaf::of(&chain)),
    };
    let not_after: Option<Timestamp> = leaf.as_ref().map(|leaf| leaf.not_after);
    let hostnames = leaf.filter(|_| entry.key_type == KeyType::Cert).map(|leaf| leaf.names).unwrap_or_default();
    KeyInfo {
        key_name: entry.key_name.clone(),
        key_type: entry.key_type,
        not_after,
        hostnames,
        renews_at: None,
        last_error: None,
    }
}
