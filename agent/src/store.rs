//! What a node keeps: one LMDB environment in the state folder, written in whole transactions.
//!
//! The store decides nothing. It opens and locks the folder, checks the schema version, loads everything once at start
//! and then writes each turn's changes in one transaction, so kill -9 at any moment leaves the state before or after it.

mod damage;
mod disk;
mod env;
mod folder;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use heed::{
    Database, RoTxn, RwTxn,
    types::{Bytes, Str},
};
use hive_core::{Change, Stored, StoredNetwork};
use hive_protocol::{KeyEntry, KeyName, NetworkName, NodeId, NodeName, ProxySpec};
use minicbor::{Decode, Encode};

use env::Env;
pub use folder::FolderError;

/// Version of the tables' layout that this build writes.
pub const SCHEMA: u32 = 1;
/// LMDB's name for it.
const DATA_FILE: &str = "data.mdb";

/// Why state could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder itself.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Written by a newer agent.
    #[error("the state in {} has schema {found}, this agent knows up to {SCHEMA}: start a newer agent, or use another --state", .folder.display())]
    Newer {
        /// The state folder.
        folder: PathBuf,
        /// Schema found.
        found: u32,
    },
    /// A stored entry is damaged.
    #[error("the stored {what} is damaged: {detail}")]
    Damaged {
        /// Which entry.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The database's own structure is damaged.
    #[error("{}", damage::describe(.folder, &.source.to_string()))]
    Corrupt {
        /// The state folder.
        folder: PathBuf,
        /// What LMDB found.
        #[source]
        source: heed::Error,
    },
    /// What is there cannot be all that was.
    #[error("{}", damage::describe(.folder, .why))]
    Incomplete {
        /// The state folder.
        folder: PathBuf,
        /// What is missing.
        why: &'static str,
    },
    /// There is none.
    #[error("there is no state in {}: give the folder of an agent by --state", .folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
    },
    /// The disk is full.
    #[error("no space left for the state: free some space on its disk")]
    Full,
    /// LMDB says the same of a disk that is full in the middle of a write and of one that fails.
    #[error(
        "the state cannot be read or written ({0}): free some space on its disk, or look in the kernel's log for its faults"
    )]
    Disk(#[source] std::io::Error),
    /// Anything else that LMDB reports.
    #[error("state database: {0}")]
    Database(#[source] heed::Error),
}

impl From<heed::Error> for StoreError {
    fn from(error: heed::Error) -> Self {
        match error {
            heed::Error::Io(e) if e.raw_os_error() == Some(libc::ENOSPC) => Self::Full,
            heed::Error::Io(e) if e.raw_os_error() == Some(libc::EIO) => Self::Disk(e),
            heed::Error::Mdb(heed::MdbError::MapFull) => Self::Full,
            other => Self::Database(other),
        }
    }
}

/// What LMDB, or the kernel on its behalf, says of numbers in its file that can never have been right.
fn is_damage(error: &heed::Error) -> bool {
    match error {
        heed::Error::Mdb(_) => true,
        heed::Error::Io(error) => matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EFBIG)),
        _ => false,
    }
}

type Table = Database<Bytes, Bytes>;

/// The open state of one node. Holds the folder's lock while it lives.
pub struct Store {
    env: Arc<Env>,
    meta: Database<Str, Bytes>,
    networks: Table,
    records: Table,
    proxies: Table,
    sessions: Table,
    keys: Table,
    acme: Table,
    _lock: folder::Lock,
}

/// An entry that could not be read and was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Which entry.
    pub what: String,
    /// Why.
    pub why: String,
}

/// A change of the key store.
pub enum KeyChange {
    /// An entry, new or in place of another.
    Put(KeyEntry),
    /// An entry is gone.
    Gone(KeyName),
    /// What belongs to a certificate that renews itself, or to an account: key and encoded value, or none to remove it.
    Acme(String, Option<Vec<u8>>),
}

impl Store {
    /// Opens the state in `folder`, making it (mode 0700) when it is not there, and locks it. All of it is read once, so
    /// that damage shows here and not in the middle of something.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let lock = folder::prepare(folder)?;
        if fs::metadata(folder.join(DATA_FILE)).is_ok_and(|file| file.len() == 0) {
            return Err(StoreError::Incomplete { folder: folder.to_owned(), why: "its file is empty" });
        }
        let opened = damage::survived(folder, || {
            let store = Self::open_locked(folder, lock)?;
            store.read_through()?;
            Ok(store)
        });
        opened.map_err(|error| match error {
            StoreError::Database(source) if is_damage(&source) => {
                StoreError::Corrupt { folder: folder.to_owned(), source }
            }
            other => other,
        })
    }

    /// Whether nothing was ever stored.
    pub fn is_new(&self) -> Result<bool, StoreError> {
        let txn = self.env.read_txn()?;
        let tables = [self.networks, self.records, self.proxies, self.sessions, self.keys, self.acme];
        let empty = tables.iter().map(|table| table.is_empty(&txn)).collect::<Result<Vec<_>, _>>()?;
        // The schema is there from the beginning.
        Ok(empty.iter().all(|empty| *empty) && self.meta.len(&txn)? <= 1)
    }

    /// Opens state that is there, and makes none.
    pub fn open_existing(folder: &Path) -> Result<Self, StoreError> {
        if !folder.join(DATA_FILE).exists() {
            return Err(StoreError::Missing { folder: folder.to_owned() });
        }
        Self::open(folder)
    }

    fn open_locked(folder: &Path, lock: folder::Lock) -> Result<Self, StoreError> {
        let env = Arc::new(Env::open(folder)?);
        let mut txn = env.write_txn()?;
        let store = Self {
            meta: env.table(&mut txn, "meta")?,
            networks: env.table(&mut txn, "networks")?,
            records: env.table(&mut txn, "records")?,
            proxies: env.table(&mut txn, "proxies")?,
            sessions: env.table(&mut txn, "sessions")?,
            keys: env.table(&mut txn, "keys")?,
            acme: env.table(&mut txn, "acme")?,
            env: env.clone(),
            _lock: lock,
        };
        store.migrate(&mut txn, folder)?;
        txn.commit()?;
        folder::restrict_files(folder)?;
        Ok(store)
    }

    /// Touches every entry of every table.
    fn read_through(&self) -> Result<(), StoreError> {
        let txn = self.env.read_txn()?;
        for table in
            [self.meta.remap_key_type(), self.networks, self.records, self.proxies, self.sessions, self.keys, self.acme]
        {
            for entry in table.iter(&txn)? {
                std::hint::black_box(entry?.1.last());
            }
        }
        Ok(())
    }

    /// Brings the tables to [`SCHEMA`], one numbered step after the other, in the transaction that opened them.
    fn migrate(&self, txn: &mut RwTxn<'_>, folder: &Path) -> Result<(), StoreError> {
        let found = self.meta_value::<u32>(txn, "schema")?.unwrap_or(SCHEMA);
        if found > SCHEMA {
            return Err(StoreError::Newer { folder: folder.to_owned(), found });
        }
        self.put_meta(txn, "schema", &SCHEMA)
    }

    /// Everything the core starts from. Damaged entries are passed over and named, so one bad record keeps no node from
    /// starting.
    pub fn load(&self, default_name: NodeName) -> Result<(Stored, Vec<Skipped>), StoreError> {
        let txn = self.env.read_txn()?;
        let mut skipped = Vec::new();
        let stored = Stored {
            name: self.meta_value(&txn, "name")?.unwrap_or(default_name),
            networks: list(&txn, self.networks, "network", &mut skipped, disk::Network::into_core)?,
            records: list(&txn, self.records, "record", &mut skipped, disk::Record::into_core)?,
            proxies: list(&txn, self.proxies, "proxy", &mut skipped, |spec: ProxySpec| spec)?,
            next_proxy: self.meta_value(&txn, "next-proxy")?.unwrap_or(1),
            admin: self.admin(&txn)?,
            sessions: list(&txn, self.sessions, "session", &mut skipped, disk::Session::into_core)?,
        };
        Ok((stored, skipped))
    }

    fn admin(&self, txn: &RoTxn<'_>) -> Result<Option<hive_core::Admin>, StoreError> {
        let stored: Option<disk::Admin> = self.meta_value(txn, "admin")?;
        stored.map(disk::Admin::into_core).transpose().map_err(|e| damaged("admin account", e))
    }

    /// Writes all changes in one transaction, on disk when this returns.
    pub fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut txn = self.env.write_txn()?;
        changes.iter().try_for_each(|change| self.apply(&mut txn, change))?;
        Ok(txn.commit()?)
    }

    fn apply(&self, txn: &mut RwTxn<'_>, change: &Change) -> Result<(), StoreError> {
        match change {
            Change::Name(name) => self.put_meta(txn, "name", name),
            Change::NextProxy(next) => self.put_meta(txn, "next-proxy", next),
            Change::Admin(admin) => self.put_meta(txn, "admin", &disk::Admin::from_core(admin)),
            Change::Network(network) => {
                put(txn, self.networks, &network_key(network), &disk::Network::from_core(network))
            }
            Change::NetworkGone(name) => self.forget_network(txn, name),
            Change::Record { network, node, record, contact } => {
                let entry = disk::Record { signed: record.clone(), contact: *contact };
                put(txn, self.records, &record_key(network, node), &entry)
            }
            Change::Contact { network, node, contact } => {
                let key = record_key(network, node);
                let Some(entry) = get::<disk::Record>(txn, self.records, &key)? else { return Ok(()) };
                put(txn, self.records, &key, &disk::Record { contact: *contact, ..entry })
            }
            Change::RecordGone { network, node } => remove(txn, self.records, &record_key(network, node)),
            Change::Proxy(spec) => put(txn, self.proxies, &spec.id.to_be_bytes(), spec),
            Change::ProxyGone(id) => remove(txn, self.proxies, &id.to_be_bytes()),
            Change::Session(session) => put(txn, self.sessions, &session.key, &disk::Session::from_core(session)),
            Change::SessionGone(key) => remove(txn, self.sessions, key),
        }
    }

    fn forget_network(&self, txn: &mut RwTxn<'_>, name: &NetworkName) -> Result<(), StoreError> {
        remove(txn, self.networks, name.as_str().as_bytes())?;
        let prefix = record_prefix(name);
        let doomed: Vec<Vec<u8>> = self
            .records
            .prefix_iter(txn, &prefix)?
            .map(|entry| entry.map(|(key, _)| key.to_vec()))
            .collect::<Result<_, _>>()?;
        doomed.iter().try_for_each(|key| remove(txn, self.records, key))
    }

    /// The key store, and what did not decode.
    pub fn load_keys(&self) -> Result<(Vec<KeyEntry>, Vec<Skipped>), StoreError> {
        let txn = self.env.read_txn()?;
        let mut skipped = Vec::new();
        let entries = list(&txn, self.keys, "key", &mut skipped, |entry: KeyEntry| entry)?;
        Ok((entries, skipped))
    }

    /// Changes the key store and what belongs to it in one transaction, on disk when this returns.
    pub fn change_keys(&self, changes: &[KeyChange]) -> Result<(), StoreError> {
        let mut txn = self.env.write_txn()?;
        for change in changes {
            match change {
                KeyChange::Put(entry) => put(&mut txn, self.keys, entry.key_name.as_str().as_bytes(), entry)?,
                KeyChange::Gone(name) => remove(&mut txn, self.keys, name.as_str().as_bytes())?,
                KeyChange::Acme(key, Some(value)) => self.acme.put(&mut txn, key.as_bytes(), value)?,
                KeyChange::Acme(key, None) => remove(&mut txn, self.acme, key.as_bytes())?,
            }
        }
        Ok(txn.commit()?)
    }

    /// The same on a thread of its own, for those that must not wait for the disk.
    pub async fn change_keys_aside(self: &Arc<Self>, changes: Vec<KeyChange>) -> Result<(), StoreError> {
        let store = self.clone();
        blocking::unblock(move || store.change_keys(&changes)).await
    }

    /// What belongs to certificates that renew themselves and to accounts, by key.
    pub fn list_acme(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let txn = self.env.read_txn()?;
        let found = self.acme.prefix_iter(&txn, prefix.as_bytes())?;
        let owned = |(key, value): (&[u8], &[u8])| (String::from_utf8_lossy(key).into_owned(), value.to_vec());
        Ok(found.map(|entry| entry.map(owned)).collect::<Result<_, _>>()?)
    }

    /// One of them.
    pub fn acme(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let txn = self.env.read_txn()?;
        Ok(self.acme.get(&txn, key.as_bytes())?.map(<[u8]>::to_vec))
    }

    /// A single value kept beside the tables, for the shell itself.
    pub fn get<T: for<'b> Decode<'b, ()>>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let txn = self.env.read_txn()?;
        self.meta_value(&txn, key)
    }

    /// Stores a single value, on disk when this returns.
    pub fn put<T: Encode<()>>(&self, key: &str, value: &T) -> Result<(), StoreError> {
        let mut txn = self.env.write_txn()?;
        self.put_meta(&mut txn, key, value)?;
        Ok(txn.commit()?)
    }

    fn meta_value<T: for<'b> Decode<'b, ()>>(&self, txn: &RoTxn<'_>, key: &str) -> Result<Option<T>, StoreError> {
        let bytes = self.meta.get(txn, key)?;
        bytes.map(|b| minicbor::decode(b).map_err(|e| damaged(key, e))).transpose()
    }

    fn put_meta<T: Encode<()>>(&self, txn: &mut RwTxn<'_>, key: &str, value: &T) -> Result<(), StoreError> {
        Ok(self.meta.put(txn, key, &encoded(value))?)
    }
}

/// Reads a whole table; what does not decode is named in `skipped`.
fn list<D: for<'b> Decode<'b, ()>, T>(
    txn: &RoTxn<'_>,
    table: Table,
    what: &str,
    skipped: &mut Vec<Skipped>,
    into_core: impl Fn(D) -> T,
) -> Result<Vec<T>, StoreError> {
    let mut entries = Vec::new();
    for entry in table.iter(txn)? {
        let (key, value) = entry?;
        match minicbor::decode::<D>(value) {
            Ok(decoded) => entries.push(into_core(decoded)),
            Err(e) => skipped.push(Skipped { what: named(what, key), why: e.to_string() }),
        }
    }
    Ok(entries)
}

/// An entry in words, by its key.
fn named(what: &str, key: &[u8]) -> String {
    if let Ok(id) = key.try_into().map(u64::from_be_bytes) {
        return format!("{what} {id}");
    }
    let parts = key.iter().position(|byte| *byte == 0).map(|end| (&key[..end], &key[end + 1..]));
    match parts.map(|(network, node)| (network.escape_ascii(), node.try_into().map(NodeId::from_bytes))) {
        Some((network, Ok(node))) => format!("{what} of {node} in network {network}"),
        _ => format!("{what} {}", key.escape_ascii()),
    }
}

fn get<T: for<'b> Decode<'b, ()>>(txn: &RoTxn<'_>, table: Table, key: &[u8]) -> Result<Option<T>, StoreError> {
    // A damaged entry counts as absent: it is about to be replaced, or nobody asks for it again.
    Ok(table.get(txn, key)?.and_then(|bytes| minicbor::decode(bytes).ok()))
}

fn put<T: Encode<()>>(txn: &mut RwTxn<'_>, table: Table, key: &[u8], value: &T) -> Result<(), StoreError> {
    Ok(table.put(txn, key, &encoded(value))?)
}

fn remove(txn: &mut RwTxn<'_>, table: Table, key: &[u8]) -> Result<(), StoreError> {
    table.delete(txn, key)?;
    Ok(())
}

fn encoded<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).unwrap_or_else(|_| unreachable!("encoding to memory"))
}

fn damaged(what: &str, detail: impl ToString) -> StoreError {
    StoreError::Damaged { what: what.to_owned(), detail: detail.to_string() }
}

fn network_key(network: &StoredNetwork) -> Vec<u8> {
    network.name.as_str().as_bytes().to_vec()
}

/// A network's name cannot contain a control character, so the zero byte ends it.
fn record_prefix(network: &NetworkName) -> Vec<u8> {
    [network.as_str().as_bytes(), &[0]].concat()
}

fn record_key(network: &NetworkName, node: &NodeId) -> Vec<u8> {
    [&record_prefix(network)[..], node.as_bytes()].concat()
}

#[cfg(test)]
mod tests;
