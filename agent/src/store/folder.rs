//! The state folder: made private, checked, and locked so that one agent at a time uses it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be made or read.
    #[error("cannot use the state folder {}: {source}; choose another with --state or give this user the right to write there", .folder.display())]
    Unusable {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others may read or write it.
    #[error("the state folder {} is open to others (mode {mode:04o}): run `chmod 700 {}`", .folder.display(), .folder.display())]
    Open {
        /// The folder.
        folder: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("the state folder {} belongs to user id {owner}, not to this one: run the agent as its owner or choose another --state", .folder.display())]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Another agent holds the lock.
    #[error("another hive-agent already uses the state folder {}: stop it first, or give this one its own --state", .folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
}

/// The folder's lock; released when dropped, also by the kernel when the process dies.
pub struct Lock(#[allow(dead_code, reason = "held, not read")] File);

/// Makes the folder if it is missing, checks that it is private, and takes its lock.
pub fn prepare(folder: &Path) -> Result<Lock, FolderError> {
    let unusable = |source| FolderError::Unusable { folder: folder.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
    check_private(folder, &fs::metadata(folder).map_err(unusable)?)?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(folder.join("lock"));
    let file = file.map_err(unusable)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| FolderError::Locked { folder: folder.to_owned() })?;
    Ok(Lock(file))
}

fn check_private(folder: &Path, metadata: &fs::Metadata) -> Result<(), FolderError> {
    let mode = metadata.mode() & 0o7777;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(FolderError::Foreign { folder: folder.to_owned(), owner: metadata.uid() });
    }
    if mode & 0o077 != 0 { Err(FolderError::Open { folder: folder.to_owned(), mode }) } else { Ok(()) }
}

/// Gives every file in the folder mode 0600, whatever the umask was.
pub fn restrict_files(folder: &Path) -> Result<(), FolderError> {
    let restrict = || {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::set_permissions(entry.path(), Permissions::from_mode(0o600))?;
            }
        }
        Ok(())
    };
    restrict().map_err(|source| FolderError::Unusable { folder: folder.to_owned(), source })
}
