//! Saved logins: for each node the Ed25519 key that its session is bound to, in a file that only its owner reads.
//!
//! Owns the folder `$XDG_STATE_HOME/hivectl`; never talks to a node. A file that cannot be read is as good as none:
//! the worst it costs is another login.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use data_encoding::HEXLOWER;
use hive_protocol::{NodeId, Timestamp};
use libp2p_identity::ed25519::{Keypair, SecretKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A login that a node has accepted.
#[derive(Debug, Clone)]
pub struct Session {
    /// The node.
    pub node: NodeId,
    /// Who logged in.
    pub user: String,
    /// When the node forgets it.
    pub expires: Timestamp,
    /// The key it is bound to.
    pub key: Keypair,
}

/// The folder of saved sessions.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

/// A session as its file has it.
#[derive(Serialize, Deserialize)]
struct Saved {
    node: String,
    user: String,
    expires_ms: u64,
    key: String,
}

impl Store {
    /// The user's own folder, if the environment says where that is.
    pub fn of_user() -> Option<Self> {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")))?;
        Some(Self::at(state.join("hivectl")))
    }

    /// A folder that may not exist yet.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The session with `node`, if one is saved and has not lapsed. A lapsed one is deleted.
    pub fn load(&self, node: &NodeId) -> Option<Session> {
        let session = read(&self.file(node)).filter(|s| s.node == *node)?;
        if session.expires > Timestamp::from(SystemTime::now()) {
            return Some(session);
        }
        self.remove(node);
        None
    }

    /// Writes `session` in place of the one with the same node, whole or not at all, readable by its owner alone.
    pub fn save(&self, session: &Session) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o700))?;
        let (target, new) = (self.file(&session.node), self.scratch_file(&session.node));
        let written = write(&new, session).and_then(|()| fs::rename(&new, target));
        written.inspect_err(|_| drop(fs::remove_file(&new)))
    }

    /// Forgets the session with `node`.
    pub fn remove(&self, node: &NodeId) {
        // Gone already, or in a place that cannot be written: either way it will be refused by the node.
        let _ = fs::remove_file(self.file(node));
    }

    fn file(&self, node: &NodeId) -> PathBuf {
        self.folder.join(format!("{node}.json"))
    }

    /// Its own for every process, so that two logins at once do not write into one file.
    fn scratch_file(&self, node: &NodeId) -> PathBuf {
        self.folder.join(format!(".{node}.{}", std::process::id()))
    }
}

fn read(path: &Path) -> Option<Session> {
    let text = Zeroizing::new(fs::read(path).ok()?);
    let saved: Saved = serde_json::from_slice(&text).ok()?;
    let secret = Zeroizing::new(HEXLOWER.decode(saved.key.as_bytes()).ok()?);
    let key = Keypair::from(SecretKey::try_from_bytes(secret).ok()?);
    Some(Session { node: saved.node.parse().ok()?, user: saved.user, expires: Timestamp(saved.expires_ms), key })
}

fn write(path: &Path, session: &Session) -> io::Result<()> {
    let saved = Saved {
        node: session.node.to_string(),
        user: session.user.clone(),
        expires_ms: session.expires.0,
        key: HEXLOWER.encode(session.key.secret().as_ref()),
    };
    let text = Zeroizing::new(serde_json::to_vec(&saved)?);
    let mut file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(&text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(node: u8, lives_ms: u64) -> Session {
        Session {
            node: NodeId::from_bytes([node; 32]),
            user: "admin".into(),
            expires: Timestamp(Timestamp::from(SystemTime::now()).0 + lives_ms),
            key: Keypair::generate(),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_session_comes_back_and_nobody_else_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::at(home.path().join("state/hivectl"));
        let saved = session(1, 60_000);
        assert!(store.load(&saved.node).is_none());
        store.save(&saved).unwrap();
        let loaded = store.load(&saved.node).unwrap();
        assert_eq!((loaded.user, loaded.expires), (saved.user.clone(), saved.expires));
        assert_eq!(loaded.key.public(), saved.key.public());
        assert_eq!((mode(&store.folder), mode(&store.file(&saved.node))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 1, "no scratch file stays behind");
        assert!(store.load(&NodeId::from_bytes([2; 32])).is_none());
    }

    #[test]
    fn a_lapsed_session_is_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::at(home.path().to_owned());
        let lapsed = session(1, 0);
        store.save(&lapsed).unwrap();
        assert!(store.load(&lapsed.node).is_none());
        assert!(!store.file(&lapsed.node).exists());
    }

    #[test]
    fn damage_and_mixed_up_files_are_as_good_as_none() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::at(home.path().to_owned());
        let (a, b) = (session(1, 60_000), session(2, 60_000));
        store.save(&a).unwrap();
        fs::rename(store.file(&a.node), store.file(&b.node)).unwrap();
        assert!(store.load(&b.node).is_none());
        fs::write(store.file(&a.node), "{\"node\":").unwrap();
        assert!(store.load(&a.node).is_none());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_an_error_of_saving_alone() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        let store = Store::at(file.join("hivectl"));
        assert!(store.save(&session(1, 60_000)).is_err());
        assert!(store.load(&NodeId::from_bytes([1; 32])).is_none());
    }
}
