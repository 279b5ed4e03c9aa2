//! Packets and their fields (draft-ietf-secsh-filexfer-02, sections 3 to 7). Every length is checked against what is
//! there before anything is allocated.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path};

pub const INIT: u8 = 1;
pub const OPEN: u8 = 3;
pub const CLOSE: u8 = 4;
pub const READ: u8 = 5;
pub const WRITE: u8 = 6;
pub const LSTAT: u8 = 7;
pub const FSTAT: u8 = 8;
pub const SETSTAT: u8 = 9;
pub const FSETSTAT: u8 = 10;
pub const OPENDIR: u8 = 11;
pub const READDIR: u8 = 12;
pub const REMOVE: u8 = 13;
pub const MKDIR: u8 = 14;
pub const RMDIR: u8 = 15;
pub const REALPATH: u8 = 16;
pub const STAT: u8 = 17;
pub const RENAME: u8 = 18;
pub const READLINK: u8 = 19;
pub const SYMLINK: u8 = 20;
pub const EXTENDED: u8 = 200;

const VERSION: u8 = 2;
const STATUS: u8 = 101;
pub const HANDLE: u8 = 102;
pub const DATA: u8 = 103;
pub const NAME: u8 = 104;
pub const ATTRS: u8 = 105;
pub const EXTENDED_REPLY: u8 = 201;

/// Extensions of OpenSSH (its file PROTOCOL, section 4) that are served, each in its version 1.
const EXTENSIONS: [&str; 6] = [
    "posix-rename@openssh.com",
    "hardlink@openssh.com",
    "fsync@openssh.com",
    "lsetstat@openssh.com",
    "limits@openssh.com",
    "expand-path@openssh.com",
];

/// Why a request is not done.
#[derive(Debug)]
pub enum Bad {
    /// There is no more to read.
    End,
    /// It is no request.
    Malformed,
    /// Nothing that is served.
    Unsupported,
    /// The handle is no one's, or too many are open.
    Handle(&'static str),
    /// The file system says no.
    Io(io::Error),
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustix::io::Errno> for Bad {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// The fields of a request, one after the other.
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// All fields in these bytes.
    pub fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Bad> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Bad::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A 32-bit number.
    pub fn number(&mut self) -> Result<u32, Bad> {
        self.take(4)?.try_into().map(u32::from_be_bytes).map_err(|_| Bad::Malformed)
    }

    /// A 64-bit number.
    pub fn long(&mut self) -> Result<u64, Bad> {
        self.take(8)?.try_into().map(u64::from_be_bytes).map_err(|_| Bad::Malformed)
    }

    /// A string of bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], Bad> {
        let length = self.number()?;
        self.take(length as usize)
    }

    /// A path; the empty one is where the server started.
    pub fn path(&mut self) -> Result<&'a Path, Bad> {
        match self.bytes()? {
            b"" => Ok(Path::new(".")),
            bytes => Ok(Path::new(OsStr::from_bytes(bytes))),
        }
    }
}

/// An answer that is being written.
pub struct Packet(Vec<u8>);

impl Packet {
    /// An answer of this kind to the request of this number.
    pub fn new(kind: u8, id: u32) -> Self {
        Self(vec![0, 0, 0, 0, kind]).number(id)
    }

    /// With a 32-bit number.
    pub fn number(mut self, number: u32) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    /// With a 64-bit number.
    pub fn long(mut self, number: u64) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    /// With a string of bytes.
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let mut packet = self.number(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        packet.0.extend(bytes);
        packet
    }

    /// With its length before it.
    pub fn into_bytes(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len() - 4).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}

/// The answer to the greeting.
pub fn version(version: u32) -> Packet {
    // It has the version where others have the request's number.
    EXTENSIONS.iter().fold(Packet::new(VERSION, version), |packet, name| packet.bytes(name.as_bytes()).bytes(b"1"))
}

/// Done.
pub fn done(id: u32) -> Packet {
    Packet::new(STATUS, id).number(0).bytes(b"Success").bytes(b"")
}

/// Not done.
pub fn status(id: u32, bad: &Bad) -> Packet {
    let (code, text) = match bad {
        Bad::End => (1, "End of file".to_owned()),
        Bad::Io(e) if e.kind() == io::ErrorKind::NotFound => (2, "No such file".to_owned()),
        Bad::Io(e) if e.kind() == io::ErrorKind::PermissionDenied => (3, "Permission denied".to_owned()),
        Bad::Io(e) => (4, e.to_string()),
        Bad::Handle(why) => (4, (*why).to_owned()),
        Bad::Malformed => (5, "Bad message".to_owned()),
        Bad::Unsupported => (8, "Operation unsupported".to_owned()),
    };
    Packet::new(STATUS, id).number(code).bytes(text.as_bytes()).bytes(b"")
}
