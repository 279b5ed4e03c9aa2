//! Randomness from the operating system.

use rand::{TryRng, rngs::SysRng};

/// Fresh random bytes.
///
/// # Panics
/// If the kernel has no randomness to give, which on Linux cannot happen once the system is up: going on would mean
/// guessable keys.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Err(e) = SysRng.try_fill_bytes(&mut bytes) {
        panic!("the operating system gives no randomness: {e}");
    }
    bytes
}
