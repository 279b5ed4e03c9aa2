//! What a file is besides its bytes (draft-ietf-secsh-filexfer-02, section 5).

use std::{
    fs::{Metadata, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use rustix::fs::{AtFlags, CWD, Gid, Timespec, Timestamps, Uid, chownat, utimensat};

use super::wire::{Bad, Fields, Packet};

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const PERMISSIONS: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 0x8000_0000;
/// What `chmod` may set.
const MODE: u32 = 0o7777;

/// Attributes that a client gives.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    pub size: Option<u64>,
    pub owner: Option<(u32, u32)>,
    pub mode: Option<u32>,
    /// Last read and last written, in seconds since 1970.
    pub times: Option<(u32, u32)>,
}

impl Attributes {
    /// Reads them.
    pub fn read(fields: &mut Fields<'_>) -> Result<Self, Bad> {
        let flags = fields.number()?;
        let has = |flag: u32| flags & flag != 0;
        let mut given = Self::default();
        if has(SIZE) {
            given.size = Some(fields.long()?);
        }
        if has(OWNER) {
            given.owner = Some((fields.number()?, fields.number()?));
        }
        if has(PERMISSIONS) {
            given.mode = Some(fields.number()? & MODE);
        }
        if has(TIMES) {
            given.times = Some((fields.number()?, fields.number()?));
        }
        if has(EXTENDED) {
            // Nothing is known that could be in there.
            for _ in 0..fields.number()? {
                fields.bytes()?;
                fields.bytes()?;
            }
        }
        Ok(given)
    }

    /// Gives a file these attributes. Of a symbolic link only owner and times can be changed.
    pub fn apply(&self, path: &Path, follow: bool) -> io::Result<()> {
        let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        if let (Some(size), true) = (self.size, follow) {
            OpenOptions::new().write(true).open(path)?.set_len(size)?;
        }
        if let (Some(mode), true) = (self.mode, follow) {
            std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        if let Some((uid, gid)) = self.owner {
            chownat(CWD, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)?;
        }
        if let Some((read, written)) = self.times {
            let at = |seconds: u32| Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
            let times = Timestamps { last_access: at(read), last_modification: at(written) };
            // Last: all before may change them.
            utimensat(CWD, path, &times, flags)?;
        }
        Ok(())
    }
}

/// Writes what a file is.
pub fn write(packet: Packet, file: &Metadata) -> Packet {
    // Times have 32 bits in this version.
    let seconds = |time: i64| u32::try_from(time).unwrap_or(if time < 0 { 0 } else { u32::MAX });
    packet
        .number(SIZE | OWNER | PERMISSIONS | TIMES)
        .long(file.len())
        .number(file.uid())
        .number(file.gid())
        .number(file.mode())
        .number(seconds(file.atime()))
        .number(seconds(file.mtime()))
}
