//! The requests, on the file system, and the handles they open.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, ReadDir},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, FileExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    MAX_PACKET,
    attributes::{self, Attributes},
    listing,
    wire::{self, Bad, Fields, Packet, done},
};
use crate::process;

/// Files and folders open at once.
const MAX_OPEN: usize = 256;
/// Most bytes read or written by one request: what fits into a packet with all that stands around it.
const MAX_BYTES: usize = MAX_PACKET - 1024;
/// Names in one answer.
const NAMES: usize = 128;

const READ: u32 = 1;
const WRITE: u32 = 2;
const APPEND: u32 = 4;
const CREATE: u32 = 8;
const TRUNCATE: u32 = 16;
const EXCLUSIVE: u32 = 32;

/// What a client has open.
#[derive(Default)]
pub struct Files {
    next: u32,
    open: BTreeMap<u32, Open>,
}

enum Open {
    File { file: File, append: bool },
    Folder { entries: ReadDir, path: PathBuf },
}

type Answer = Result<Packet, Bad>;

impl Files {
    /// Carries out one request.
    pub fn request(&mut self, kind: u8, id: u32, fields: &mut Fields<'_>) -> Answer {
        match kind {
            wire::OPEN => self.open(id, fields),
            wire::CLOSE => self.close(id, fields),
            wire::READ => self.read(id, fields),
            wire::WRITE => self.write(id, fields),
            wire::FSTAT => {
                let file = self.file(fields)?;
                Ok(attributes::write(Packet::new(wire::ATTRS, id), &file.metadata()?))
            }
            wire::FSETSTAT => {
                // By the descriptor: somebody may have put another file where this one was opened.
                let open = PathBuf::from(format!("/proc/self/fd/{}", self.file(fields)?.as_raw_fd()));
                Attributes::read(fields)?.apply(&open, true)?;
                Ok(done(id))
            }
            wire::OPENDIR => {
                let path = fields.path()?.to_owned();
                self.enter(id, Open::Folder { entries: fs::read_dir(&path)?, path })
            }
            wire::READDIR => self.read_folder(id, fields),
            wire::EXTENDED => self.extended(id, fields),
            _ => by_path(kind, id, fields),
        }
    }

    fn open(&mut self, id: u32, fields: &mut Fields<'_>) -> Answer {
        let (path, flags) = (fields.path()?.to_owned(), fields.number()?);
        let mode = Attributes::read(fields)?.mode.unwrap_or(0o666);
        let has = |flag: u32| flags & flag != 0;
        let mut options = OpenOptions::new();
        options.read(has(READ)).write(has(WRITE)).mode(mode);
        options.create(has(CREATE)).truncate(has(TRUNCATE)).create_new(has(CREATE) && has(EXCLUSIVE));
        let append = has(APPEND);
        if append {
            options.append(true).truncate(false);
        }
        let file = options.open(&path)?;
        self.enter(id, Open::File { file, append })
    }

    fn enter(&mut self, id: u32, open: Open) -> Answer {
        if self.open.len() >= MAX_OPEN {
            return Err(Bad::Handle("too many files are open"));
        }
        self.next = self.next.wrapping_add(1);
        self.open.insert(self.next, open);
        Ok(Packet::new(wire::HANDLE, id).bytes(&self.next.to_be_bytes()))
    }

    fn close(&mut self, id: u32, fields: &mut Fields<'_>) -> Answer {
        let handle = handle(fields)?;
        self.open.remove(&handle).map(|_| done(id)).ok_or(NO_HANDLE)
    }

    fn file(&self, fields: &mut Fields<'_>) -> Result<&File, Bad> {
        match self.open.get(&handle(fields)?) {
            Some(Open::File { file, .. }) => Ok(file),
            _ => Err(NO_HANDLE),
        }
    }

    fn read(&self, id: u32, fields: &mut Fields<'_>) -> Answer {
        let file = self.file(fields)?;
        let (offset, length) = (fields.long()?, fields.number()? as usize);
        let mut bytes = vec![0; length.min(MAX_BYTES)];
        match file.read_at(&mut bytes, offset)? {
            0 if length > 0 => Err(Bad::End),
            read => Ok(Packet::new(wire::DATA, id).bytes(&bytes[..read])),
        }
    }

    fn write(&mut self, id: u32, fields: &mut Fields<'_>) -> Answer {
        let Some(Open::File { file, append, .. }) = self.open.get_mut(&handle(fields)?) else { return Err(NO_HANDLE) };
        let (offset, bytes) = (fields.long()?, fields.bytes()?);
        match append {
            true => io::Write::write_all(file, bytes)?,
            false => file.write_all_at(bytes, offset)?,
        }
        Ok(done(id))
    }

    fn read_folder(&mut self, id: u32, fields: &mut Fields<'_>) -> Answer {
        let Some(Open::Folder { entries, path }) = self.open.get_mut(&handle(fields)?) else { return Err(NO_HANDLE) };
        let (now, mut names) = (SystemTime::now(), Vec::new());
        for entry in entries.take(NAMES) {
            let name = entry?.file_name();
            // It may be gone by now; then it is not there.
            if let Ok(file) = fs::symlink_metadata(path.join(&name)) {
                names.push((listing::line(&name.to_string_lossy(), &file, now), name, file));
            }
        }
        if names.is_empty() {
            return Err(Bad::End);
        }
        let head = Packet::new(wire::NAME, id).number(u32::try_from(names.len()).unwrap_or(u32::MAX));
        let named = |packet: Packet, (line, name, file): &(String, std::ffi::OsString, fs::Metadata)| {
            attributes::write(packet.bytes(name.as_bytes()).bytes(line.as_bytes()), file)
        };
        Ok(names.iter().fold(head, named))
    }

    fn extended(&self, id: u32, fields: &mut Fields<'_>) -> Answer {
        match fields.bytes()? {
            b"posix-rename@openssh.com" => fs::rename(fields.path()?, fields.path()?)?,
            b"hardlink@openssh.com" => fs::hard_link(fields.path()?, fields.path()?)?,
            b"fsync@openssh.com" => self.file(fields)?.sync_all()?,
            b"lsetstat@openssh.com" => {
                let path = fields.path()?;
                Attributes::read(fields)?.apply(path, false)?;
            }
            b"limits@openssh.com" => {
                let most = [MAX_PACKET, MAX_BYTES, MAX_BYTES, MAX_OPEN].map(|most| most as u64);
                return Ok(most.into_iter().fold(Packet::new(wire::EXTENDED_REPLY, id), Packet::long));
            }
            b"expand-path@openssh.com" => return Ok(one_name(id, &absolute(&expanded(fields.path()?))?)),
            _ => return Err(Bad::Unsupported),
        }
        Ok(done(id))
    }
}

const NO_HANDLE: Bad = Bad::Handle("no such handle");

fn handle(fields: &mut Fields<'_>) -> Result<u32, Bad> {
    fields.bytes()?.try_into().map(u32::from_be_bytes).map_err(|_| NO_HANDLE)
}

/// Requests that name files by their paths.
fn by_path(kind: u8, id: u32, fields: &mut Fields<'_>) -> Answer {
    let path = fields.path()?;
    match kind {
        wire::STAT => return Ok(attributes::write(Packet::new(wire::ATTRS, id), &fs::metadata(path)?)),
        wire::LSTAT => return Ok(attributes::write(Packet::new(wire::ATTRS, id), &fs::symlink_metadata(path)?)),
        wire::REALPATH => return Ok(one_name(id, &absolute(path)?)),
        wire::READLINK => return Ok(one_name(id, &fs::read_link(path)?)),
        wire::SETSTAT => Attributes::read(fields)?.apply(path, true)?,
        wire::REMOVE => fs::remove_file(path)?,
        wire::MKDIR => {
            let mode = Attributes::read(fields)?.mode.unwrap_or(0o777);
            fs::DirBuilder::new().mode(mode).create(path)?;
        }
        wire::RMDIR => fs::remove_dir(path)?,
        wire::RENAME => rename(path, fields.path()?)?,
        // OpenSSH has the target first, whatever the draft says; all others follow it.
        wire::SYMLINK => std::os::unix::fs::symlink(path, fields.path()?)?,
        _ => return Err(Bad::Unsupported),
    }
    Ok(done(id))
}

/// In this version a rename never replaces a file.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(to).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}

/// A path from the root, as far as it exists without links; the rest as it is.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let full = std::path::absolute(path)?;
    match (full.parent(), full.file_name()) {
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent).unwrap_or_else(|_| parent.to_owned()).join(name)),
        _ => Ok(full),
    }
}

/// `~` is the home of the agent's user; other users' homes are not looked up.
fn expanded(path: &Path) -> PathBuf {
    path.strip_prefix("~").map_or_else(|_| path.to_owned(), |rest| process::home().join(rest))
}

fn one_name(id: u32, path: &Path) -> Packet {
    let name = path.as_os_str().as_bytes();
    // Neither the line nor the attributes are looked at.
    Packet::new(wire::NAME, id).number(1).bytes(name).bytes(name).number(0)
}
