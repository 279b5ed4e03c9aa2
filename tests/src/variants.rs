//! Other builds of the agent, made from the one under test by changing bytes of a copy: its version, its processor, or
//! the first instructions that it executes.

use crate::process;
use std::fs;

/// What every agent's mark begins with; see `hive_protocol::build`.
const MARK: &[u8] = b"<hive-agent build>\n";
/// Version of the agent under test, and of variants with another one. All have the same length.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// A version after [`VERSION`].
pub const NEWER: &str = "0.2.0";
/// A version before [`VERSION`].
pub const OLDER: &str = "0.0.9";
/// Two bytes into the ELF header's field for the processor (`elf(5)`).
const MACHINE: usize = 18;
/// An instruction that jumps to itself, where it is known for the processor of this test.
const FOREVER: Option<&[u8]> = if cfg!(target_arch = "x86_64") {
    Some(&[0xeb, 0xfe])
} else if cfg!(target_arch = "aarch64") {
    Some(&[0, 0, 0, 0x14])
} else {
    None
};

/// The agent under test.
pub fn agent() -> Vec<u8> {
    fs::read(process::binary("hive-agent")).expect("the agent's binary")
}

/// Another version of it, which says so.
///
/// # Panics
/// When the version is of another length, or the mark is not found once.
pub fn version(text: &str) -> Vec<u8> {
    let mut image = agent();
    let found = find(&image, MARK);
    assert_eq!((found.len(), text.len()), (1, VERSION.len()));
    let at = found[0] + MARK.len();
    image[at..at + text.len()].copy_from_slice(text.as_bytes());
    image
}

/// A newer one that crashes before it has done anything.
pub fn crashing() -> Vec<u8> {
    // Neither x86-64 nor ARM has an instruction of eight bytes of 0xff.
    starting_with(&[0xff; 8])
}

/// A newer one that runs for ever and does nothing; none where its code is not known for this processor.
pub fn hanging() -> Option<Vec<u8>> {
    FOREVER.map(starting_with)
}

/// A newer one for a processor that this is not.
pub fn other_machine() -> Vec<u8> {
    let mut image = version(NEWER);
    image[MACHINE] ^= 0x7f;
    image
}

fn starting_with(code: &[u8]) -> Vec<u8> {
    let mut image = version(NEWER);
    let at = entry(&image);
    image[at..at + code.len()].copy_from_slice(code);
    image
}

/// Where in the file of a 64-bit program its first instruction is.
fn entry(image: &[u8]) -> usize {
    let word = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().expect("eight bytes"));
    let half = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
    let start = word(24);
    let table = usize::try_from(word(32)).expect("an offset");
    for index in 0..usize::from(half(56)) {
        let header = table + index * usize::from(half(54));
        let (offset, address, len) = (word(header + 8), word(header + 16), word(header + 32));
        let loaded = image[header..header + 4] == [1, 0, 0, 0];
        if loaded && (address..address + len).contains(&start) {
            return usize::try_from(start - address + offset).expect("an offset");
        }
    }
    panic!("the program begins nowhere");
}

fn find(image: &[u8], pattern: &[u8]) -> Vec<usize> {
    let windows = image.windows(pattern.len()).enumerate();
    windows.filter(|(_, window)| *window == pattern).map(|(at, _)| at).collect()
}
