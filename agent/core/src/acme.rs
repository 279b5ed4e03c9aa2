//! When a certificate is ordered, renewed, or asked about: pure arithmetic on the wall clock.
//!
//! A certificate is renewed when two thirds of its life are over, or within the window that its CA suggests (ACME
//! renewal information, RFC 9773), but never so late that less than a quarter of its life is left for further attempts.
//! Where in that time is fixed by one random number for each certificate, so a CA that restarts does not meet everybody
//! at once. Failures are repeated ever more slowly, and never sooner than the CA allows.

use std::time::Duration;

use hive_protocol::Timestamp;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// After the first failure; doubled by each further one.
const FIRST_RETRY: u64 = MINUTE;
/// Slowest repetition.
const LAST_RETRY: u64 = DAY;
/// A new certificate is left alone for this long, whatever the CA suggests: one whose windows are always past would be
/// asked for certificates without end.
const SOONEST: u64 = 6 * HOUR;
/// Between questions about the suggested window, unless the CA names another time.
pub const ASK_AGAIN: Duration = Duration::from_millis(6 * HOUR);

/// Longest time before a certificate's end at which somebody is told who has to renew it by hand.
const NOTICE: u64 = 14 * DAY;

/// Whether a certificate, of which begin and end are given, should have been renewed by now: less than a quarter of its life
/// is left, and less than 14 days.
#[must_use]
pub fn is_late((from, to): (Timestamp, Timestamp), now: Timestamp) -> bool {
    let life = to.0.saturating_sub(from.0);
    now.0 >= to.0.saturating_sub((life / 4).min(NOTICE))
}

/// What is known of one certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Course {
    /// When the present certificate begins and ends; none while there is none.
    pub validity: Option<(Timestamp, Timestamp)>,
    /// The CA's window for renewing it: begin and end.
    pub window: Option<(Timestamp, Timestamp)>,
    /// When to ask for the window again; none where the CA has no such answer.
    pub ask_at: Option<Timestamp>,
    /// Attempts that failed one after the other.
    pub failures: u32,
    /// When the last one did.
    pub failed_at: Timestamp,
    /// Before when the CA wants no other attempt.
    pub not_before: Timestamp,
    /// This certificate's place in any span of time: 0 is its begin, `u16::MAX` its end.
    pub place: u16,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Order a certificate, the first or a new one.
    Order,
    /// Ask the CA when it should be renewed.
    Ask,
}

impl Course {
    /// What to do next, and when; a moment that is past means now.
    #[must_use]
    pub fn next(&self) -> (Timestamp, Act) {
        let order = self.order_at();
        match self.ask_at {
            Some(ask) if ask < order && self.failures == 0 => (ask, Act::Ask),
            _ => (order, Act::Order),
        }
    }

    /// When the next order is due.
    #[must_use]
    pub fn order_at(&self) -> Timestamp {
        let due = match (self.validity, self.window) {
            (None, _) => 0,
            (Some((from, to)), None) => self.by_age(from.0, to.0),
            (Some((from, to)), Some((begin, end))) => {
                let life = to.0.saturating_sub(from.0);
                self.in_span(begin.0, end.0).max(from.0 + (life / 3).min(SOONEST)).min(to.0 - life / 4)
            }
        };
        Timestamp(due.max(self.allowed_at()))
    }

    /// At two thirds of the life, or up to a twenty-fourth of it sooner.
    fn by_age(&self, from: u64, to: u64) -> u64 {
        let life = to.saturating_sub(from);
        let two_thirds = from + life / 3 * 2;
        self.in_span(two_thirds - life / 24, two_thirds)
    }

    fn in_span(&self, begin: u64, end: u64) -> u64 {
        let span = u128::from(end.saturating_sub(begin));
        begin + u64::try_from(span * u128::from(self.place) / u128::from(u16::MAX)).unwrap_or(0)
    }

    /// Before when no attempt is made, because the last ones failed.
    fn allowed_at(&self) -> u64 {
        if self.failures == 0 {
            return 0;
        }
        let doublings = (self.failures - 1).min(20);
        let pause = (FIRST_RETRY << doublings).min(LAST_RETRY);
        self.failed_at.0.saturating_add(pause).max(self.not_before.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: u64 = 1_760_000_000_000;

    fn ninety_days(place: u16) -> Course {
        let validity = Some((Timestamp(FROM), Timestamp(FROM + 90 * DAY)));
        Course { validity, place, ..Course::default() }
    }

    #[test]
    fn without_a_certificate_one_is_due_at_once() {
        assert_eq!(Course::default().next(), (Timestamp(0), Act::Order));
    }

    #[test]
    fn a_certificate_is_renewed_before_two_thirds_of_its_life_are_over() {
        for place in [0, 1, u16::MAX / 2, u16::MAX] {
            let (at, act) = ninety_days(place).next();
            let age = at.0 - FROM;
            assert!(act == Act::Order && (56 * DAY..=60 * DAY).contains(&age), "{place}: {age}");
        }
        assert_ne!(ninety_days(7).next(), ninety_days(70).next(), "not everybody at once");
        let six_days = Course { validity: Some((Timestamp(FROM), Timestamp(FROM + 6 * DAY))), ..ninety_days(0) };
        assert!(six_days.order_at().0 <= FROM + 4 * DAY);
    }

    #[test]
    fn the_window_of_the_ca_goes_before_age() {
        let window = Some((Timestamp(FROM + DAY), Timestamp(FROM + 2 * DAY)));
        let early = Course { window, ..ninety_days(u16::MAX / 2) };
        assert!((FROM + DAY..FROM + 2 * DAY).contains(&early.order_at().0), "a revoked certificate goes early");
        let late = Some((Timestamp(FROM + 200 * DAY), Timestamp(FROM + 201 * DAY)));
        let beyond = Course { window: late, ..ninety_days(0) };
        let latest = FROM + 90 * DAY - 90 * DAY / 4;
        assert_eq!(beyond.order_at(), Timestamp(latest), "never too late to try again");
        let past = Course { window: Some((Timestamp(1), Timestamp(2))), ..ninety_days(0) };
        assert_eq!(past.order_at(), Timestamp(FROM + 6 * HOUR), "not over and over");
        let reversed = Course { window: Some((Timestamp(FROM + 2 * DAY), Timestamp(FROM + DAY))), ..ninety_days(9) };
        assert_eq!(reversed.order_at(), Timestamp(FROM + 2 * DAY), "nonsense does no harm");
    }

    #[test]
    fn what_nobody_renews_is_late_before_it_ends() {
        let late = |life, after| is_late((Timestamp(FROM), Timestamp(FROM + life)), Timestamp(FROM + after));
        assert!(!late(90 * DAY, 75 * DAY) && late(90 * DAY, 76 * DAY) && late(90 * DAY, 100 * DAY));
        assert!(!late(6 * DAY, 4 * DAY) && late(6 * DAY, 5 * DAY), "a short life, a short notice");
    }

    #[test]
    fn the_ca_is_asked_between() {
        let course = Course { ask_at: Some(Timestamp(FROM + 6 * HOUR)), ..ninety_days(0) };
        assert_eq!(course.next(), (Timestamp(FROM + 6 * HOUR), Act::Ask));
        let due = Course { ask_at: Some(Timestamp(FROM + 80 * DAY)), ..ninety_days(0) };
        assert_eq!(due.next().1, Act::Order);
    }

    #[test]
    fn failures_are_repeated_ever_more_slowly_and_as_the_ca_allows() {
        let failed = |failures| {
            let failed_at = Timestamp(FROM + 70 * DAY);
            Course { failures, failed_at, ..ninety_days(0) }.order_at().0 - failed_at.0
        };
        assert_eq!([1, 2, 3, 12, 40, u32::MAX].map(failed), [MINUTE, 2 * MINUTE, 4 * MINUTE, DAY, DAY, DAY]);
        let held = Course { failures: 1, not_before: Timestamp(FROM + 99 * DAY), ..ninety_days(0) };
        assert_eq!(held.order_at(), Timestamp(FROM + 99 * DAY));
        let asked = Course { ask_at: Some(Timestamp(0)), failures: 1, ..ninety_days(0) };
        assert_eq!(asked.next().1, Act::Order, "a failed order is not put off by questions");
    }
}
