//! What an agent's executable says of itself: the mark that every build carries, and the head of its ELF image.
//!
//! Both are read from bytes before anything of them is run. They tell a binary for another machine, or half of one, from
//! one that may be tried; they prove nothing about who made it (a signature does).

/// What a mark begins with, each byte inverted, so that code which looks for marks is none.
const MAGIC_INVERTED: [u8; 18] = invert(*b"<hive-agent build>");
/// Largest binary that an agent takes, in bytes: several times an agent with debug information.
pub const BINARY_MAX: u64 = 512 << 20;
/// Longest text of a mark's field, in bytes.
const FIELD_MAX: usize = 64;

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
}

impl<'b> Build<'b> {
    /// Finds the mark in an executable, or parses one.
    pub fn find(image: &'b [u8]) -> Result<Self, NotABuild> {
        let magic = invert(MAGIC_INVERTED);
        let Some(at) = find(image, &magic) else { return Err(NotABuild::Mark) };
        let after = &image[at + magic.len()..];
        if find(after, &magic).is_some() {
            return Err(NotABuild::Mark);
        }
        Self::parse(after).ok_or(NotABuild::Mark)
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

    /// Whether an image is for this machine, and whole as far as its program headers tell.
    pub fn check(self, image: &[u8]) -> Result<(), NotABuild> {
        if Self::of(image)? != self {
            return Err(NotABuild::Machine);
        }
        self.check_extent(image).ok_or(NotABuild::Truncated)
    }

    /// Every part that is loaded, and the table of sections, which stands last, lie within the file (`elf(5)`).
    fn check_extent(self, image: &[u8]) -> Option<()> {
        let wide = self.class == CLASS_64;
        let (programs, sections) = if wide { ((32, 54), (40, 58)) } else { ((28, 42), (32, 46)) };
        let within = |end: u64| (end <= image.len() as u64).then_some(());
        let (table, entry_len, count) = self.table(image, sections)?;
        within(table.checked_add(entry_len * count)?)?;
        let (table, entry_len, count) = self.table(image, programs)?;
        for index in 0..count {
            let entry = usize::try_from(table.checked_add(index * entry_len)?).ok()?;
            let (offset, len) = if wide { (8, 32) } else { (4, 16) };
            let start = self.word(image, entry.checked_add(offset)?)?;
            within(start.checked_add(self.word(image, entry.checked_add(len)?)?)?)?;
        }
        (count > 0).then_some(())
    }

    /// Where a table begins, how long an entry is, and how many there are; `at` says where the header tells.
    fn table(self, image: &[u8], at: (usize, usize)) -> Option<(u64, u64, u64)> {
        let (start, entries) = at;
        let (len, count) = (self.half(image, entries)?, self.half(image, entries + 2)?);
        Some((self.word(image, start)?, len.into(), count.into()))
    }

    fn half(self, image: &[u8], at: usize) -> Option<u16> {
        let &bytes = image.get(at..)?.first_chunk()?;
        Some(if self.data == BIG_ENDIAN { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    /// A word of the image's class.
    fn word(self, image: &[u8], at: usize) -> Option<u64> {
        let rest = image.get(at..)?;
        let big = self.data == BIG_ENDIAN;
        if self.class == CLASS_64 {
            let &bytes = rest.first_chunk()?;
            return Some(if big { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) });
        }
        let &bytes = rest.first_chunk()?;
        Some(u64::from(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = build_mark!("0.2.0", "x86_64-unknown-linux-musl", "0123456789ab");

    #[test]
    fn a_mark_is_found_once_or_not_at_all() {
        let image = [b"\0code\xff", MARK.as_bytes(), b"more\0"].concat();
        let found = Build::find(&image).unwrap();
        assert_eq!(found, Build { version: "0.2.0", target: "x86_64-unknown-linux-musl", commit: "0123456789ab" });
        assert_eq!(Build::find(&[&image[..], &image].concat()), Err(NotABuild::Mark));
        assert_eq!(Build::find(b"nothing"), Err(NotABuild::Mark));
        for before in 0..40 {
            assert!(Build::find(&[vec![b'<'; before], image.clone()].concat()).is_ok(), "{before}");
        }
        let long = format!("<hive-agent build>\n{}\nx\ny\n", "9".repeat(65));
        assert_eq!(Build::find(long.as_bytes()), Err(NotABuild::Mark));
        assert_eq!(Build::find(&MARK.as_bytes()[..30]), Err(NotABuild::Mark));
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
        assert_eq!(machine.check(&own), Ok(()));
        assert_eq!(machine.check(&own[..own.len() - 1]), Err(NotABuild::Truncated));
        assert_eq!(machine.check(&own[..19]), Err(NotABuild::Truncated));
        assert_eq!(machine.check(b"#!/bin/sh"), Err(NotABuild::Executable));
        let mut other = own;
        other[18] ^= 0xff;
        assert_eq!(machine.check(&other), Err(NotABuild::Machine));
    }
}
