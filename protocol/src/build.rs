//! What an agent's executable says of itself: the mark that every build carries, and the head of its ELF image.
//!
//! Both are looked at before anything of them is run, piece by piece where the image lies: it may be larger than the memory
//! of a board. They tell a binary for another machine, or half of one, from one that may be tried; they prove nothing about
//! who made it (a signature does).

use std::io::{self, Write};

/// What a mark begins with, each byte inverted, so that code which looks for marks is none.
const MAGIC_INVERTED: [u8; 18] = invert(*b"<hive-agent build>");
/// Largest binary that an agent takes, in bytes: several times an agent with debug information.
pub const BINARY_MAX: u64 = 512 << 20;
/// Longest text of a mark's field, in bytes.
const FIELD_MAX: usize = 64;
/// Longest mark: the magic and its line feed, three fields and theirs.
const MARK_MAX: usize = MAGIC_INVERTED.len() + 1 + 3 * (FIELD_MAX + 1);

/// The text of a build's mark, for a `static` of the agent: magic, version, target and commit, each on a line.
#[macro_export]
macro_rules! build_mark {
    ($version:expr, $target:expr, $commit:expr) => {
        concat!("<hive-agent build>\n", $version, "\n", $target, "\n", $commit, "\n")
    };
}

const fn invert<const N: usize>(mut bytes: [u8; N]) -> [u8; N] {
    let mut at = 0;
    while at < N {
        bytes[at] = !bytes[at];
        at += 1;
    }
    bytes
}

/// One build of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Build<'b> {
    /// Its version, `MAJOR.MINOR.PATCH`.
    pub version: &'b str,
    /// Its target triple.
    pub target: &'b str,
    /// The commit it was built from, or `unknown`.
    pub commit: &'b str,
}

/// Why bytes are no agent that this machine could run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotABuild {
    /// Not an ELF image.
    #[error("it is no executable")]
    Executable,
    /// The image names parts that lie beyond its end.
    #[error("it is cut off")]
    Truncated,
    /// Another processor, word size or byte order.
    #[error("it is for another kind of processor")]
    Machine,
    /// No mark, or several.
    #[error("it is no hive-agent, or one from before updates")]
    Mark,
    /// The system does not let us look.
    #[error("it cannot be read: {0}")]
    Unreadable(io::ErrorKind),
}

impl<'b> Build<'b> {
    /// Parses a mark.
    pub fn of_mark(mark: &'b str) -> Result<Self, NotABuild> {
        let after_magic = mark.as_bytes().strip_prefix(&invert(MAGIC_INVERTED));
        after_magic.and_then(Self::parse).ok_or(NotABuild::Mark)
    }

    fn parse(after_magic: &'b [u8]) -> Option<Self> {
        let mut lines = after_magic.split(|byte| *byte == b'\n').skip(1);
        let mut field = || {
            let line = lines.next().filter(|line| (1..=FIELD_MAX).contains(&line.len()))?;
            std::str::from_utf8(line).ok().filter(|text| text.chars().all(|c| c.is_ascii_graphic()))
        };
        Some(Self { version: field()?, target: field()?, commit: field()? })
    }

    /// Whether this version comes before `other` (numbers compared as numbers; a pre-release before its release).
    /// A version that is none counts as the oldest.
    #[must_use]
    pub fn is_older_than(&self, other: &str) -> bool {
        order(self.version) < order(other)
    }
}

/// A build that was found in an executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundBuild {
    /// See [`Build::version`].
    pub version: String,
    /// See [`Build::target`].
    pub target: String,
    /// See [`Build::commit`].
    pub commit: String,
}

impl FoundBuild {
    /// The build.
    #[must_use]
    pub fn build(&self) -> Build<'_> {
        Build { version: &self.version, target: &self.target, commit: &self.commit }
    }
}

impl From<Build<'_>> for FoundBuild {
    fn from(Build { version, target, commit }: Build<'_>) -> Self {
        Self { version: version.to_owned(), target: target.to_owned(), commit: commit.to_owned() }
    }
}

/// Finds the mark in an executable that is written to it piece by piece.
#[derive(Debug, Default)]
pub struct MarkFinder {
    /// The end of what came, in which a mark may have begun.
    held: Vec<u8>,
    marks: usize,
    found: Option<FoundBuild>,
}

impl MarkFinder {
    /// What the mark said; the image must have exactly one.
    pub fn finish(mut self) -> Result<FoundBuild, NotABuild> {
        self.look(self.held.len());
        self.found.filter(|_| self.marks == 1).ok_or(NotABuild::Mark)
    }

    /// Takes the marks that begin before `end`.
    fn look(&mut self, end: usize) {
        let magic = invert(MAGIC_INVERTED);
        let mut from = 0;
        while let Some(at) = find(&self.held[from..], &magic).map(|at| from + at).filter(|at| *at < end) {
            from = at + magic.len();
            self.marks += 1;
            self.found = Build::parse(&self.held[from..]).map(FoundBuild::from);
        }
    }
}

impl Write for MarkFinder {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(piece);
        // What begins before here is whole.
        let end = self.held.len().saturating_sub(MARK_MAX);
        self.look(end);
        self.held.drain(..end);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where a pattern begins. Looks at one byte of many (Horspool's way): images are large.
fn find(image: &[u8], pattern: &[u8; 18]) -> Option<usize> {
    let last = pattern.len() - 1;
    let mut skip = [pattern.len(); 256];
    for (at, byte) in pattern[..last].iter().enumerate() {
        skip[usize::from(*byte)] = last - at;
    }
    let mut at = 0;
    loop {
        let window = image.get(at..=at + last)?;
        if window == pattern {
            return Some(at);
        }
        at += skip[usize::from(window[last])];
    }
}

/// What versions are compared by.
fn order(version: &str) -> Option<([u64; 3], bool, &str)> {
    let version = version.split('+').next()?;
    let (numbers, pre) = version.split_once('-').unwrap_or((version, ""));
    let mut parts = numbers.split('.').map(|part| part.parse().ok());
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    Some((numbers, pre.is_empty(), pre))
}

/// Word size, byte order and processor of an ELF image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    class: u8,
    data: u8,
    machine: u16,
}

const ELF: &[u8] = b"\x7fELF";
const CLASS_64: u8 = 2;
const BIG_ENDIAN: u8 = 2;
/// Bytes of an image that tell which machine it is for.
const HEAD: usize = 64;

impl Machine {
    /// That of an image, of which the head suffices.
    pub fn of(image: &[u8]) -> Result<Self, NotABuild> {
        if !image.starts_with(ELF) {
            return Err(NotABuild::Executable);
        }
        let &[class, data] = image.get(4..6).and_then(|two| two.first_chunk()).ok_or(NotABuild::Truncated)?;
        let &machine = image.get(18..20).and_then(|two| two.first_chunk()).ok_or(NotABuild::Truncated)?;
        let machine = if data == BIG_ENDIAN { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
        Ok(Self { class, data, machine })
    }

    /// Whether an image of `len` bytes is for this machine, and whole as far as its headers tell. `read` fills a buffer with
    /// what stands at an offset.
    pub fn check(self, len: u64, read: impl FnMut(u64, &mut [u8]) -> io::Result<()>) -> Result<(), NotABuild> {
        let mut image = Image { len, big: self.data == BIG_ENDIAN, wide: self.class == CLASS_64, read };
        if Self::of(&image.head()?)? != self {
            return Err(NotABuild::Machine);
        }
        image.check_extent()
    }
}

/// An image where it lies.
struct Image<R> {
    len: u64,
    big: bool,
    wide: bool,
    read: R,
}

impl<R: FnMut(u64, &mut [u8]) -> io::Result<()>> Image<R> {
    fn head(&mut self) -> Result<Vec<u8>, NotABuild> {
        let mut head = vec![0; usize::try_from(self.len).unwrap_or(HEAD).min(HEAD)];
        self.fill(0, &mut head)?;
        Ok(head)
    }

    /// Every part that is loaded, and the table of sections, which stands last, lie within the file (`elf(5)`).
    fn check_extent(&mut self) -> Result<(), NotABuild> {
        let (programs, sections) = if self.wide { ((32, 54), (40, 58)) } else { ((28, 42), (32, 46)) };
        let (table, entry_len, count) = self.table(sections)?;
        self.check_end(table, entry_len * count)?;
        let (table, entry_len, count) = self.table(programs)?;
        if count == 0 {
            return Err(NotABuild::Truncated);
        }
        let (offset, len) = if self.wide { (8, 32) } else { (4, 16) };
        for index in 0..count {
            let entry = table.checked_add(index * entry_len).ok_or(NotABuild::Truncated)?;
            let (start, len) = (self.word(entry, offset)?, self.word(entry, len)?);
            self.check_end(start, len)?;
        }
        Ok(())
    }

    fn check_end(&self, start: u64, len: u64) -> Result<(), NotABuild> {
        let within = start.checked_add(len).is_some_and(|end| end <= self.len);
        if within { Ok(()) } else { Err(NotABuild::Truncated) }
    }

    /// Where a table begins, how long an entry is, and how many there are; `at` says where the header tells.
    fn table(&mut self, at: (u64, u64)) -> Result<(u64, u64, u64), NotABuild> {
        let (start, entries) = at;
        let (len, count) = (self.half(entries)?, self.half(entries + 2)?);
        Ok((self.word(0, start)?, len.into(), count.into()))
    }

    fn half(&mut self, at: u64) -> Result<u16, NotABuild> {
        let mut bytes = [0; 2];
        self.fill(at, &mut bytes)?;
        Ok(if self.big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    /// A word of the image's class.
    fn word(&mut self, base: u64, offset: u64) -> Result<u64, NotABuild> {
        let at = base.checked_add(offset).ok_or(NotABuild::Truncated)?;
        if self.wide {
            let mut bytes = [0; 8];
            self.fill(at, &mut bytes)?;
            return Ok(if self.big { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) });
        }
        let mut bytes = [0; 4];
        self.fill(at, &mut bytes)?;
        Ok(u64::from(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }))
    }

    fn fill(&mut self, at: u64, bytes: &mut [u8]) -> Result<(), NotABuild> {
        self.check_end(at, bytes.len() as u64)?;
        (self.read)(at, bytes).map_err(|e| NotABuild::Unreadable(e.kind()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = build_mark!("0.2.0", "x86_64-unknown-linux-musl", "0123456789ab");

    /// The image in pieces of this length.
    fn found(image: &[u8], piece: usize) -> Result<FoundBuild, NotABuild> {
        let mut finder = MarkFinder::default();
        image.chunks(piece).for_each(|piece| finder.write_all(piece).unwrap());
        finder.finish()
    }

    #[test]
    fn a_mark_is_found_once_or_not_at_all() {
        let image = [b"\0code\xff", MARK.as_bytes(), b"more\0"].concat();
        let build = Build { version: "0.2.0", target: "x86_64-unknown-linux-musl", commit: "0123456789ab" };
        assert_eq!(Build::of_mark(MARK), Ok(build));
        for piece in [1, 7, 64, 4096] {
            assert_eq!(found(&image, piece).unwrap().build(), build, "{piece}");
            assert_eq!(found(&[&image[..], &image].concat(), piece), Err(NotABuild::Mark));
            let far = [&image[..], &vec![0; 5000], &image].concat();
            assert_eq!(found(&far, piece), Err(NotABuild::Mark));
            assert_eq!(found(b"nothing", piece), Err(NotABuild::Mark));
            let long = format!("<hive-agent build>\n{}\nx\ny\n", "9".repeat(65));
            assert_eq!(found(long.as_bytes(), piece), Err(NotABuild::Mark));
            assert_eq!(found(&MARK.as_bytes()[..30], piece), Err(NotABuild::Mark));
            let longest = format!("<hive-agent build>\n{0}\n{0}\n{0}\n", "9".repeat(64));
            assert!(found(&[longest.as_bytes(), &[b'x'; 5000]].concat(), piece).is_ok());
        }
        for before in 0..300 {
            assert!(found(&[vec![b'<'; before], image.clone()].concat(), 256).is_ok(), "{before}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let older = |a: &str, b: &str| Build { version: a, target: "x", commit: "y" }.is_older_than(b);
        for (a, b) in [("0.9.0", "0.10.0"), ("0.1.0", "1.0.0"), ("1.0.0-rc1", "1.0.0"), ("x", "0.0.1")] {
            assert!(older(a, b) && !older(b, a), "{a} {b}");
        }
        assert!(!older("0.1.0", "0.1.0") && !older("0.1.0+b", "0.1.0"));
    }

    #[test]
    fn an_image_is_told_by_its_head_and_its_extent() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let machine = Machine::of(&own[..64]).unwrap();
        let check = |image: &[u8]| {
            machine.check(image.len() as u64, |at, bytes| {
                let at = usize::try_from(at).unwrap();
                bytes.copy_from_slice(&image[at..at + bytes.len()]);
                Ok(())
            })
        };
        assert_eq!(check(&own), Ok(()));
        assert_eq!(check(&own[..own.len() - 1]), Err(NotABuild::Truncated));
        assert_eq!(check(&own[..19]), Err(NotABuild::Truncated));
        assert_eq!(check(b"#!/bin/sh"), Err(NotABuild::Executable));
        let mut other = own;
        other[18] ^= 0xff;
        assert_eq!(check(&other), Err(NotABuild::Machine));
        let gone = machine.check(64, |_, _| Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(gone, Err(NotABuild::Unreadable(io::ErrorKind::PermissionDenied)));
    }
}
