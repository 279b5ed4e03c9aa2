//! Files that `hivectl cp` carries, at whichever end they arrive: written beside their place under a name made of their content, so that a
//! broken copy goes on where it stopped, checked whole by BLAKE3, and renamed into place at once.

use std::{
    fs::{self, File, Metadata, OpenOptions, Permissions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use hive_protocol::message::FileInfo;
use rustix::fs::OFlags;

const BUFFER: usize = 128 * 1024;
/// How long a copy that broke off can be gone on with.
const PART_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
const PERMISSIONS: u32 = 0o777;
/// The mode of what has not arrived yet.
const PRIVATE: u32 = 0o600;
const OTHERS_WRITE: u32 = 0o022;

/// Why a file cannot be had or put in its place.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refuses.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No file can be made in the folder that it is to stand in.
    #[error("no file can be made in {}: {source}", .folder.display())]
    Folder {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A folder, a device.
    #[error("{} is no regular file", .0.display())]
    NotAFile(PathBuf),
    /// What stands in the place of the part was not left there by an earlier copy.
    #[error("{} is in the way, and not what an earlier copy has left", .0.display())]
    Foreign(PathBuf),
    /// Another copy of the same content to the same place is under way.
    #[error("{} is being written by another copy", .0.display())]
    Busy(PathBuf),
    /// What arrived is not what was announced.
    #[error("{}: what arrived is not what was sent; the copy is thrown away", .0.display())]
    Damaged(PathBuf),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FileError + use<> {
    let path = path.to_owned();
    move |source| FileError::Io { path, source }
}

/// What a file is; reads all of it.
pub fn stat(path: &Path) -> Result<FileInfo, FileError> {
    let mut file = open(path)?;
    let metadata = file.metadata().map_err(at(path))?;
    let mut hasher = blake3::Hasher::new();
    let size = hash(&mut file, &mut hasher).map_err(at(path))?;
    Ok(FileInfo { size, mode: metadata.mode() & PERMISSIONS, hash: *hasher.finalize().as_bytes() })
}

/// A file to read, from `offset` on.
pub fn read_from(path: &Path, offset: u64) -> Result<File, FileError> {
    let mut file = open(path)?;
    file.seek(SeekFrom::Start(offset)).map_err(at(path))?;
    Ok(file)
}

fn open(path: &Path) -> Result<File, FileError> {
    // Opening a pipe without a writer would wait for one.
    if !fs::metadata(path).map_err(at(path))?.is_file() {
        return Err(FileError::NotAFile(path.to_owned()));
    }
    File::open(path).map_err(at(path))
}

fn hash(file: &mut File, hasher: &mut blake3::Hasher) -> io::Result<u64> {
    let (mut buffer, mut size) = (vec![0; BUFFER], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(size),
            len => {
                hasher.update(&buffer[..len]);
                size += len as u64;
            }
        }
    }
}

/// A file on its way to its place.
pub struct Incoming {
    place: PathBuf,
    part: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    wanted: FileInfo,
    held: u64,
}

impl Incoming {
    /// Begins, or goes on where an earlier copy of the same content stopped. A `path` that is a folder gets a file of
    /// this `name`.
    pub fn begin(path: &Path, name: &str, wanted: FileInfo) -> Result<Self, FileError> {
        let place =
            if path.is_dir() { path.join(Path::new(name).file_name().unwrap_or_default()) } else { path.to_owned() };
        check(&place)?;
        tidy(folder_of(&place));
        let part = part_of(&place, &wanted);
        let mut file = create(&part).map_err(|error| of_folder(error, &place))?;
        let mut hasher = blake3::Hasher::new();
        let held = hash(&mut file, &mut hasher).map_err(at(&part))?;
        let incoming = Self { place, part, file, hasher, wanted, held };
        if held > wanted.size { incoming.restarted() } else { Ok(incoming) }
    }

    /// Bytes that are there already.
    pub fn offset(&self) -> u64 {
        self.held
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        if self.held + bytes.len() as u64 > self.wanted.size {
            return Err(self.damaged());
        }
        self.file.write_all(bytes).map_err(at(&self.part))?;
        self.hasher.update(bytes);
        self.held += bytes.len() as u64;
        Ok(())
    }

    /// Checks all of it and puts it in its place; the place has the old file or the whole new one at any time.
    pub fn finish(self) -> Result<(), FileError> {
        if self.held != self.wanted.size || self.hasher.finalize() != self.wanted.hash {
            return Err(self.damaged());
        }
        let mode = Permissions::from_mode(self.wanted.mode & PERMISSIONS);
        self.file.set_permissions(mode).map_err(at(&self.part))?;
        self.file.sync_all().map_err(at(&self.part))?;
        fs::rename(&self.part, &self.place).map_err(at(&self.place))?;
        let folder = folder_of(&self.place);
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
    }

    /// What is there cannot be the beginning of what comes.
    fn restarted(mut self) -> Result<Self, FileError> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(at(&self.part))?;
        self.hasher.reset();
        Ok(Self { held: 0, ..self })
    }

    fn damaged(&self) -> FileError {
        // Kept, it would be taken for a good beginning again.
        let _ = fs::remove_file(&self.part);
        FileError::Damaged(self.place.clone())
    }
}

/// Private until it has its own mode, and for one copy at a time.
fn create(part: &Path) -> Result<File, FileError> {
    match open_part(part, OpenOptions::new().create_new(true)) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        made => return locked(made.map_err(at(part))?, part),
    }
    let left = open_part(part, &mut OpenOptions::new()).map_err(|_| FileError::Foreign(part.to_owned()))?;
    let found = left.metadata().map_err(at(part))?;
    if !is_own(&found) {
        return Err(FileError::Foreign(part.to_owned()));
    }
    let left = locked(left, part)?;
    if found.mode() & OTHERS_WRITE == 0 {
        return Ok(left);
    }
    // Whoever has it open could still write to it after the check: not gone on with.
    fs::remove_file(part).map_err(at(part))?;
    locked(open_part(part, OpenOptions::new().create_new(true)).map_err(at(part))?, part)
}

/// A link is not followed, and a pipe not waited for.
fn open_part(part: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    options.read(true).write(true).mode(PRIVATE).custom_flags(flags).open(part)
}

/// Whether an earlier copy of this user may have left it. One with a second name may be anything.
fn is_own(found: &Metadata) -> bool {
    found.is_file() && found.uid() == rustix::process::geteuid().as_raw() && found.nlink() == 1
}

fn locked(file: File, part: &Path) -> Result<File, FileError> {
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| FileError::Busy(part.to_owned()))?;
    Ok(file)
}

/// Whether a file may come to stand there, as far as can be told before its bytes travel: its name is not too long, and
/// nothing else is in its place.
fn check(place: &Path) -> Result<(), FileError> {
    match fs::metadata(place) {
        Ok(found) if !found.is_file() => Err(FileError::NotAFile(place.to_owned())),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at(place)(e)),
        _ => Ok(()),
    }
}

fn folder_of(place: &Path) -> &Path {
    place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Nobody knows the part by its name: what cannot be made is a file in that folder.
fn of_folder(error: FileError, place: &Path) -> FileError {
    match error {
        FileError::Io { source, .. } => FileError::Folder { folder: folder_of(place).to_owned(), source },
        error => error,
    }
}

/// Removes what copies have left in a folder that nobody went on with.
fn tidy(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for part in entries.filter(|entry| is_part(&entry.file_name().to_string_lossy())) {
        let is_old = |modified: SystemTime| modified.elapsed().is_ok_and(|age| age > PART_LIFE);
        if part.metadata().and_then(|found| found.modified()).is_ok_and(is_old) {
            // One that cannot be removed is somebody else's.
            let _ = fs::remove_file(part.path());
        }
    }
}

fn is_part(name: &str) -> bool {
    name.strip_prefix(".hive-")
        .is_some_and(|rest| rest.len() == "0123456789abcdef.part".len() && rest.ends_with(".part"))
}

/// Beside the place, so that a rename stays on one file system; named by the content, so that only the same goes on.
fn part_of(place: &Path, wanted: &FileInfo) -> PathBuf {
    let hash: String = wanted.hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    place.with_file_name(format!(".hive-{hash}.part"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(content: &[u8]) -> FileInfo {
        FileInfo { size: content.len() as u64, mode: 0o640, hash: *blake3::hash(content).as_bytes() }
    }

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_broken_copy_goes_on_where_it_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("model");
        fs::write(&place, "old").unwrap();
        let content = b"a new model";
        let mut first = Incoming::begin(&place, "x", info(content)).unwrap();
        first.write(&content[..5]).unwrap();
        assert!(matches!(Incoming::begin(&place, "x", info(content)), Err(FileError::Busy(_))));
        drop(first);
        assert_eq!(fs::read(&place).unwrap(), b"old");
        let mut second = Incoming::begin(&place, "x", info(content)).unwrap();
        assert_eq!(second.offset(), 5);
        second.write(&content[5..]).unwrap();
        second.finish().unwrap();
        assert_eq!(fs::read(&place).unwrap(), content);
        assert_eq!(fs::metadata(&place).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(names(folder.path()), ["model"]);
        assert_eq!(stat(&place).unwrap(), info(content));
    }

    #[test]
    fn what_is_damaged_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("notes");
        fs::write(&place, "old").unwrap();
        for wrong in [&b"12345"[..], b"1234"] {
            let mut copy = Incoming::begin(&place, "x", info(b"54321")).unwrap();
            copy.write(wrong).unwrap();
            assert!(matches!(copy.finish(), Err(FileError::Damaged(_))));
        }
        let mut copy = Incoming::begin(&place, "x", info(b"12")).unwrap();
        assert!(matches!(copy.write(b"123"), Err(FileError::Damaged(_))));
        assert_eq!((fs::read(&place).unwrap(), names(folder.path())), (b"old".to_vec(), vec!["notes".to_owned()]));
    }

    #[test]
    fn a_place_that_cannot_be_is_refused_before_anything_arrives() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = |place: PathBuf| Incoming::begin(&place, "x", info(b"x")).err().map(|e| e.to_string()).unwrap();
        let missing = folder.path().join("missing");
        let told = refusal(missing.join("file"));
        assert!(told.contains(&format!("in {}: No such", missing.display())) && !told.contains(".part"), "{told}");
        assert!(refusal(folder.path().join("x".repeat(300))).contains("too long"));
        assert_eq!(names(folder.path()), [""; 0]);
    }

    #[test]
    fn what_nobody_went_on_with_for_a_week_is_removed_by_the_next_copy() {
        let folder = tempfile::tempdir().unwrap();
        for (name, days) in [(".hive-0123456789abcdef.part", 8), (".hive-0123456789abcdee.part", 6), ("old", 8)] {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(days * 24 * 3600)).unwrap();
        }
        drop(Incoming::begin(&folder.path().join("new"), "x", info(b"")).unwrap().finish());
        let mut left = names(folder.path());
        left.sort();
        assert_eq!(left, [".hive-0123456789abcdee.part", "new", "old"]);
    }

    #[test]
    fn a_folder_gets_the_file_under_its_own_name_and_never_outside() {
        let folder = tempfile::tempdir().unwrap();
        let copy = Incoming::begin(folder.path(), "../../etc/name", info(b"")).unwrap();
        copy.finish().unwrap();
        assert_eq!(names(folder.path()), ["name"]);
        assert!(matches!(stat(folder.path()), Err(FileError::NotAFile(_))));
    }

    #[test]
    fn a_part_that_was_not_left_by_an_earlier_copy_is_not_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("model");
        let part = part_of(&place, &info(b"content"));
        let refused = |what: &str| {
            let begun = Incoming::begin(&place, "x", info(b"content"));
            assert!(matches!(begun, Err(FileError::Foreign(_))), "{what}");
            fs::remove_file(&part).unwrap();
        };
        let private = Permissions::from_mode(0o600);
        let other = folder.path().join("other");
        fs::write(&other, "con").unwrap();
        fs::set_permissions(&other, private.clone()).unwrap();
        fs::hard_link(&other, &part).unwrap();
        refused("it has a second name");
        std::os::unix::fs::symlink(&other, &part).unwrap();
        refused("it is a link");
        rustix::fs::mknodat(rustix::fs::CWD, &part, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        refused("it is a pipe");
        if rustix::process::geteuid().is_root() {
            fs::write(&part, "con").unwrap();
            fs::set_permissions(&part, private).unwrap();
            std::os::unix::fs::chown(&part, Some(4711), None).unwrap();
            refused("it is somebody else's");
        } else {
            eprintln!("LEFT OUT: a part that is somebody else's needs root to be made");
        }
        assert_eq!(fs::read(&other).unwrap(), b"con");
        fs::write(&part, "con").unwrap();
        fs::set_permissions(&part, Permissions::from_mode(0o666)).unwrap();
        assert_eq!(Incoming::begin(&place, "x", info(b"content")).unwrap().offset(), 0, "others may write to it");
    }
}
