//! Bytes that look random but follow from a seed and a position, so that a receiver can check any
//! piece of a stream on its own, however it was cut on its way.

const WORD: u64 = 8;

/// Fills `into` with the bytes of stream `seed` from `offset` on.
pub fn fill(seed: u64, offset: u64, into: &mut [u8]) {
    let mut position = offset;
    let mut rest = into;
    while !rest.is_empty() {
        let skip = (position % WORD) as usize;
        let word = &word(seed, position / WORD).to_le_bytes()[skip..];
        let length = word.len().min(rest.len());
        let (head, tail) = rest.split_at_mut(length);
        head.copy_from_slice(&word[..length]);
        position += length as u64;
        rest = tail;
    }
}

/// The first `length` bytes of stream `seed`.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut whole = vec![0; length];
    fill(seed, 0, &mut whole);
    whole
}

/// The position in the stream of the first byte of `found` that is wrong, where `found` was received at `offset`.
pub fn first_difference(seed: u64, offset: u64, found: &[u8]) -> Option<u64> {
    let mut expected = vec![0; found.len()];
    fill(seed, offset, &mut expected);
    if expected == found {
        return None;
    }
    let wrong = expected.iter().zip(found).position(|(a, b)| a != b)?;
    Some(offset + wrong as u64)
}

/// SplitMix64 (Steele, Lea, Flood 2014), used as a function of its counter.
fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_equals_the_same_part_of_the_whole() {
        let whole = bytes(7, 100);
        for offset in 0..90 {
            let mut piece = [0; 10];
            fill(7, offset as u64, &mut piece);
            assert_eq!(piece, whole[offset..offset + 10]);
        }
    }

    #[test]
    fn another_seed_gives_other_bytes() {
        assert_ne!(bytes(1, 32), bytes(2, 32));
    }

    #[test]
    fn finds_the_first_wrong_byte() {
        let mut found = bytes(3, 64)[20..].to_vec();
        assert_eq!(first_difference(3, 20, &found), None);
        found[5] ^= 1;
        found[9] ^= 1;
        assert_eq!(first_difference(3, 20, &found), Some(25));
    }
}
