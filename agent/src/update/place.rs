//! The files of an update, beside the executable and so on one file system with it: every change is a rename of something
//! that is on disk, followed by the folder's own sync.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use hive_core::update::{Record, Step, Waiting};
use rustix::{
    fs::{Access, FlockOperation, OFlags, access, flock},
    io::Errno,
};

use super::process;

/// What the folder's name adds to the executable's.
const FOLDER: &str = ".update";
const OLD: &str = "old";
const RECORD: &str = "record";

/// Why something could not be done beside the executable.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The system refuses.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The executable is mounted by itself, as in a container.
    #[error("{} is on another file system than its folder, and cannot be replaced", .0.display())]
    OtherFileSystem(PathBuf),
    /// There is no `/proc`.
    #[error("without /proc there are no updates")]
    NoProc,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PlaceError + use<> {
    let path = path.to_owned();
    move |source| PlaceError::Io { path, source }
}

/// A lock on the folder of an executable, which ends with the process at the latest.
#[derive(Debug)]
pub struct Lock {
    _folder: File,
}

/// An executable and the folder beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    executable: PathBuf,
    folder: PathBuf,
    on_trial: bool,
}

impl Place {
    /// That of this process, if its executable is still where it was started from.
    pub fn of_this() -> Option<Self> {
        let path = fs::read_link("/proc/self/exe").ok().filter(|path| path.exists())?;
        Some(Self::of(&path))
    }

    /// That of an executable, or of the one that a new binary would replace.
    fn of(path: &Path) -> Self {
        let (name, parent) = (path.file_name().unwrap_or_default(), path.parent().unwrap_or(Path::new("/")));
        if parent.file_name() == Some(&with_suffix(name)) {
            return Self { executable: parent.with_file_name(name), folder: parent.to_owned(), on_trial: true };
        }
        Self { executable: path.to_owned(), folder: parent.join(with_suffix(name)), on_trial: false }
    }

    /// Whether this process is a new binary that has yet to prove itself.
    pub fn on_trial(&self) -> bool {
        self.on_trial
    }

    /// The executable.
    pub fn executable(&self) -> &Path {
        &self.executable
    }

    /// Where a new binary waits, under the executable's name: that is how the process will be called.
    pub fn staged(&self) -> PathBuf {
        self.folder.join(self.executable.file_name().unwrap_or_default())
    }

    /// Keeps other agents of this executable out of the folder for as long as it is held; none while one of them does.
    pub fn lock(&self) -> Result<Option<Lock>, PlaceError> {
        let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed();
        let folder = OpenOptions::new().read(true).custom_flags(flags).open(&self.folder).map_err(at(&self.folder))?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _folder: folder })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(at(&self.folder)(e.into())),
        }
    }

    /// What waits to take the executable's place, by its hash.
    pub fn waiting(&self, record: Option<&Record>) -> Waiting {
        let Ok(mut staged) = File::open(self.staged()) else { return Waiting::Nothing };
        let mut hasher = blake3::Hasher::new();
        let read = io::copy(&mut staged, &mut hasher).is_ok();
        let recorded = record.and_then(|record| record.hash);
        let same = read && recorded.is_some_and(|hash| hasher.finalize() == hash);
        if same { Waiting::Recorded } else { Waiting::Other }
    }

    /// The record of the last update, if there is one that can be read.
    pub fn record(&self) -> Option<Record> {
        if !self.is_ours() {
            return None;
        }
        Record::parse(&fs::read_to_string(self.folder.join(RECORD)).ok()?)
    }

    /// Whether nobody else can put anything into the folder: what is found there is run.
    fn is_ours(&self) -> bool {
        let ours = |found: fs::Metadata| {
            found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0
        };
        fs::symlink_metadata(&self.folder).is_ok_and(ours)
    }

    /// Makes the folder, and sees whether the executable can be replaced at all.
    pub fn prepare(&self) -> Result<(), PlaceError> {
        let parent = self.executable.parent().unwrap_or(Path::new("/"));
        access(parent, Access::WRITE_OK).map_err(|e| at(parent)(e.into()))?;
        match fs::DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(at(&self.folder)(e)),
            _ if self.is_ours() => {}
            _ => {
                return Err(at(&self.folder)(io::Error::other(
                    "it belongs to somebody else, or others may write to it",
                )));
            }
        }
        let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).map_err(at(path));
        if device(&self.executable)? != device(&self.folder)? {
            return Err(PlaceError::OtherFileSystem(self.executable.clone()));
        }
        Ok(())
    }

    /// Removes what broken transfers of other binaries than that of `hash` have left.
    pub fn tidy(&self, hash: &[u8; 32]) {
        let start: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".part") && !name.contains(&start) {
                // It costs room, nothing else.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Does one thing after the other; the first that fails ends it.
    pub fn carry_out(&self, steps: &[Step]) -> Result<(), PlaceError> {
        steps.iter().try_for_each(|step| self.step(step))
    }

    fn step(&self, step: &Step) -> Result<(), PlaceError> {
        match step {
            Step::EndTrial => {
                process::end_all(&self.staged());
                Ok(())
            }
            Step::Write(record) => self.write(record),
            Step::KeepOld => self.keep_old(),
            Step::PutInPlace => {
                fs::rename(self.staged(), &self.executable).map_err(at(&self.executable))?;
                sync(&self.folder)?;
                sync(self.executable.parent().unwrap_or(Path::new("/")))
            }
            Step::Discard => {
                fs::remove_file(self.staged()).map_err(at(&self.staged()))?;
                sync(&self.folder)
            }
        }
    }

    fn write(&self, record: &Record) -> Result<(), PlaceError> {
        let new = self.folder.join("record.new");
        let written = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&new)?;
            file.write_all(record.to_string().as_bytes())?;
            file.sync_all()
        };
        written().map_err(at(&new))?;
        fs::rename(&new, self.folder.join(RECORD)).map_err(at(&new))?;
        sync(&self.folder)
    }

    /// A second name for the executable, or a copy where the file system has no such thing.
    fn keep_old(&self) -> Result<(), PlaceError> {
        let (old, new) = (self.folder.join(OLD), self.folder.join("old.new"));
        // Left by a kill in the middle.
        let _ = fs::remove_file(&new);
        if fs::hard_link(&self.executable, &new).is_err() {
            fs::copy(&self.executable, &new).map_err(at(&new))?;
            File::open(&new).and_then(|file| file.sync_all()).map_err(at(&new))?;
        }
        fs::rename(&new, &old).map_err(at(&old))?;
        // A rename of one file to another name of itself does nothing, and leaves both.
        let _ = fs::remove_file(&new);
        sync(&self.folder)
    }
}

fn with_suffix(name: &OsStr) -> std::ffi::OsString {
    let mut folder = name.to_owned();
    folder.push(FOLDER);
    folder
}

fn sync(folder: &Path) -> Result<(), PlaceError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_binary_knows_whose_place_it_wants() {
        let old = Place::of(Path::new("/usr/local/bin/hive-agent"));
        assert_eq!(old.staged(), Path::new("/usr/local/bin/hive-agent.update/hive-agent"));
        assert!(!old.on_trial());
        let new = Place::of(&old.staged());
        assert_eq!((new.executable(), new.staged(), new.on_trial()), (old.executable(), old.staged(), true));
    }

    #[test]
    fn the_old_one_is_kept_and_the_new_one_takes_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::of(&folder.path().join("agent"));
        fs::write(place.executable(), "one").unwrap();
        place.prepare().unwrap();
        for (new, old) in [("two", "one"), ("three", "two")] {
            fs::write(place.staged(), new).unwrap();
            place.carry_out(&[Step::KeepOld, Step::KeepOld, Step::PutInPlace]).unwrap();
            assert_eq!(fs::read_to_string(place.executable()).unwrap(), new);
            assert_eq!(fs::read_to_string(place.folder.join(OLD)).unwrap(), old);
            assert_eq!(fs::read_dir(&place.folder).unwrap().count(), 1);
        }
    }

    #[test]
    fn what_waits_is_known_by_its_hash_and_the_folder_is_for_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::of(&folder.path().join("agent"));
        fs::write(place.executable(), "one").unwrap();
        place.prepare().unwrap();
        assert_eq!(place.waiting(None), Waiting::Nothing);
        fs::write(place.staged(), "two").unwrap();
        let text = "number 1\nstage trial\nfrom 1\nto 2\nboot b\npid 1\nstarted 1\nrejoin true\npatience 5\n";
        let mut record = Record::parse(text).unwrap();
        assert_eq!(place.waiting(Some(&record)), Waiting::Other);
        record.hash = Some(*blake3::hash(b"two").as_bytes());
        assert_eq!(place.waiting(Some(&record)), Waiting::Recorded);
        fs::write(place.staged(), "three").unwrap();
        assert_eq!(place.waiting(Some(&record)), Waiting::Other);

        let held = place.lock().unwrap();
        assert!(held.is_some() && place.lock().unwrap().is_none());
        drop(held);
        assert!(place.lock().unwrap().is_some());
    }
}
