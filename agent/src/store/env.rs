//! The LMDB environment of a state folder, with a lock of ours in the place of LMDB's own.
//!
//! LMDB keeps processes apart by robust mutexes in a second file. A kernel need not have them: qemu's user mode has none,
//! and so no container for another processor. The folder's lock keeps other processes out already, which leaves the
//! threads of this one: they read side by side, and one that writes is alone.

use std::{
    ops::{Deref, DerefMut},
    path::Path,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use heed::{Database, EnvFlags, EnvOpenOptions, Error, RoTxn, RwTxn, WithTls};

/// Address space reserved for the map, in bytes: far above any table's size, small enough for 32-bit boards.
const MAP_SIZE: usize = 128 << 20;
const MAX_TABLES: u32 = 16;

/// An open environment.
pub struct Env {
    env: heed::Env,
    turn: RwLock<()>,
}

/// A transaction together with its turn, which lasts longer: fields are dropped in this order.
pub struct Turn<T, G> {
    txn: T,
    _turn: G,
}

/// A turn to read.
pub type Reading<'e> = Turn<RoTxn<'e, WithTls>, RwLockReadGuard<'e, ()>>;
/// A turn to write. What is not committed is undone.
pub type Writing<'e> = Turn<RwTxn<'e>, RwLockWriteGuard<'e, ()>>;

impl Env {
    /// Opens the environment in `folder`, which only this process uses, and only once.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_SIZE).max_dbs(MAX_TABLES);
        // SAFETY: LMDB's map must not be changed from outside while it is open: the folder is private to this user and
        // locked against a second agent (`folder::prepare`). Without LMDB's locks nobody may read or write while
        // another thread writes: all transactions come from below, where each waits for its turn.
        #[allow(unsafe_code)]
        let env = unsafe { options.flags(EnvFlags::NO_LOCK).open(folder) }?;
        Ok(Self { env, turn: RwLock::new(()) })
    }

    /// Waits until nobody writes.
    pub fn read_txn(&self) -> Result<Reading<'_>, Error> {
        // Nothing is guarded but the turn itself, so a panic of another thread leaves nothing half done.
        let turn = self.turn.read().unwrap_or_else(PoisonError::into_inner);
        Ok(Turn { txn: self.env.read_txn()?, _turn: turn })
    }

    /// Waits until nobody reads or writes.
    pub fn write_txn(&self) -> Result<Writing<'_>, Error> {
        let turn = self.turn.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Turn { txn: self.env.write_txn()?, _turn: turn })
    }

    /// A table by its name, made when it is not there.
    pub fn table<K: 'static, V: 'static>(&self, txn: &mut RwTxn<'_>, name: &str) -> Result<Database<K, V>, Error> {
        self.env.create_database(txn, Some(name))
    }
}

impl Writing<'_> {
    /// Puts what was written on disk.
    pub fn commit(self) -> Result<(), Error> {
        let Self { txn, _turn } = self;
        txn.commit()
    }
}

impl<T, G> Deref for Turn<T, G> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.txn
    }
}

impl<T, G> DerefMut for Turn<T, G> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.txn
    }
}
