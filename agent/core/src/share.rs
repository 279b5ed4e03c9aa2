//! Fair shares of something bounded, without knowing who else will come.
//!
//! Whoever holds some may hold as much as is still free, and no more. So nobody ever gets everything: one alone leaves
//! half for the next, and all that want much at a time are held to the same. (Dynamic thresholds, as in the shared
//! memory of switches: Choudhury and Hahne, 1998.)

/// What a single holder may have while so much of all is taken.
#[must_use]
pub fn share(taken: usize, all: usize) -> usize {
    all.saturating_sub(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What holders get who take one after another, in the order of `wants`.
    fn held(wants: impl IntoIterator<Item = usize>) -> [usize; 8] {
        let mut held = [0; 8];
        for who in wants {
            let may = held[who] < share(held.iter().sum(), 4096);
            held[who] += usize::from(may);
        }
        held
    }

    #[test]
    fn who_comes_first_leaves_a_part_for_the_next() {
        let first_takes_all = (0..8).flat_map(|who| std::iter::repeat_n(who, 5000));
        assert_eq!(held(first_takes_all), [2048, 1024, 512, 256, 128, 64, 32, 16]);
    }

    #[test]
    fn who_wants_much_at_a_time_gets_the_same() {
        let in_turn = (0..5000).flat_map(|_| 0..8);
        // A ninth of all stays free, and the first is one ahead when it comes to that.
        assert_eq!(held(in_turn), [456, 455, 455, 455, 455, 455, 455, 455]);
    }
}
