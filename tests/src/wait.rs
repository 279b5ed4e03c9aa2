//! Waiting for something that sends no event: a condition is asked for again and again until a
//! deadline. The deadline only ends a test that is broken, so it is generous; no test measures by it.

use std::{
    thread,
    time::{Duration, Instant},
};

const POLL: Duration = Duration::from_millis(20);

/// Returns what `ask` found, as soon as it finds something.
///
/// # Panics
/// Once `within` has passed, saying `what` did not happen.
pub fn wait_for<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        thread::sleep(POLL);
    }
}

/// Returns as soon as `holds` does.
///
/// # Panics
/// Once `within` has passed, saying `what` did not happen.
pub fn wait_until(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    wait_for(what, within, || holds().then_some(()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_was_found() {
        let mut asked = 0;
        let found = wait_for("the third answer", Duration::from_secs(60), || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(found, 3);
    }

    #[test]
    #[should_panic(expected = "rain in the desert")]
    fn panics_at_the_deadline() {
        wait_until("rain in the desert", Duration::ZERO, || false);
    }
}
