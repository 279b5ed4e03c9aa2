//! Figures as people read them: IEC sizes, ages, durations, round trips; and text of other machines made safe for a
//! terminal. Pure: no clock, no terminal.

use std::{borrow::Cow, time::Duration};

use hive_protocol::Timestamp;

/// Bytes with an IEC unit and about three digits: `0 B`, `999 B`, `1.2 MiB`, `340 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // Precision beyond three digits is not shown, so the rounding of a float does no harm.
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() && (unit > 0 || count >= 1024) {
        value /= 1024.0;
        unit += 1;
    }
    if unit > 0 && value < 9.95 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// A duration as its two largest units: `12 s`, `3 min 4 s`, `5 h 6 min`, `2 d 7 h`.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs();
    let pair = |big: u64, big_unit, small: u64, small_unit| match small {
        0 => format!("{big} {big_unit}"),
        _ => format!("{big} {big_unit} {small} {small_unit}"),
    };
    match s {
        0..60 => format!("{s} s"),
        60..3600 => pair(s / 60, "min", s % 60, "s"),
        3600..86400 => pair(s / 3600, "h", s % 3600 / 60, "min"),
        _ => pair(s / 86400, "d", s % 86400 / 3600, "h"),
    }
}

/// How long ago a moment was, in its largest unit; moments of a clock that runs ahead are `now`.
pub fn ago(moment: Timestamp, now: Timestamp) -> String {
    match moment.age(now).as_secs() {
        0..2 => "now".to_owned(),
        s => format!("{} ago", rough(s)),
    }
}

/// How far away a moment is, in its largest unit, to the nearest: a session of 12 hours that began a second ago ends
/// in 12 h.
pub fn until(moment: Timestamp, now: Timestamp) -> String {
    match now.age(moment).as_secs() {
        0 => "expired".to_owned(),
        s => format!("in {}", rough(nearest(s))),
    }
}

/// Seconds that [`rough`] shows rounded, not cut off.
fn nearest(s: u64) -> u64 {
    match s {
        0..60 => s,
        60..3570 => s + 30,
        3570..84_600 => s + 1800,
        _ => s + 43_200,
    }
}

fn rough(s: u64) -> String {
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min", s / 60),
        3600..86400 => format!("{} h", s / 3600),
        _ => format!("{} d", s / 86400),
    }
}

/// A round trip given in milliseconds: `0.42 ms`, `3.1 ms`, `120 ms`.
pub fn round_trip(ms: f64) -> String {
    match ms {
        ms if ms < 1.0 => format!("{ms:.2} ms"),
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}

/// `text` without what could steer a terminal: control characters become U+FFFD, one line stays one line.
pub fn clean(text: &str) -> Cow<'_, str> {
    let bad = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if text.contains(bad) { Cow::Owned(text.replace(bad, "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// `1 member`, `2 members`.
pub fn counted(count: impl Into<u64>, noun: &str) -> String {
    match count.into() {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_change_unit_before_they_need_a_fourth_digit() {
        let shown = [0, 999, 1023, 1024, 1536, 10_239, 1_048_575, 5 << 20, 340 << 30, u64::MAX].map(bytes);
        let expected =
            ["0 B", "999 B", "1023 B", "1.0 KiB", "1.5 KiB", "10 KiB", "1.0 MiB", "5.0 MiB", "340 GiB", "16 EiB"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn durations_have_at_most_two_units() {
        let shown = [0, 59, 60, 3_599, 3_600, 11_520, 86_400, 200_000].map(|s| duration(Duration::from_secs(s)));
        let expected = ["0 s", "59 s", "1 min", "59 min 59 s", "1 h", "3 h 12 min", "1 d", "2 d 7 h"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn moments_are_relative_to_now() {
        let now = Timestamp(1_000_000_000);
        let back = |s: u64| ago(Timestamp(now.0 - s * 1000), now);
        assert_eq!(
            [0, 1, 12, 180, 7_200, 172_800].map(back),
            ["now", "now", "12 s ago", "3 min ago", "2 h ago", "2 d ago"]
        );
        assert_eq!(ago(Timestamp(now.0 + 5_000), now), "now");
        assert_eq!(until(Timestamp(now.0 + 86_400_000), now), "in 1 d");
        assert_eq!(until(now, now), "expired");
    }

    #[test]
    fn what_is_to_come_is_rounded_to_the_nearest() {
        let ahead = |s: u64| until(Timestamp(s * 1000), Timestamp(0));
        assert_eq!(
            [59, 89, 91, 3_569, 3_570, 43_199, 84_599, 84_600, 129_599, 129_600].map(ahead),
            [
                "in 59 s",
                "in 1 min",
                "in 2 min",
                "in 59 min",
                "in 1 h",
                "in 12 h",
                "in 23 h",
                "in 1 d",
                "in 1 d",
                "in 2 d"
            ]
        );
    }

    #[test]
    fn round_trips_keep_two_digits() {
        assert_eq!([0.424, 3.12, 119.6].map(round_trip), ["0.42 ms", "3.1 ms", "120 ms"]);
    }

    #[test]
    fn text_cannot_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}]0;owned\u{7}b\nc\u{202e}d"), "a\u{fffd}]0;owned\u{fffd}b\u{fffd}c\u{fffd}d");
        assert!(matches!(clean("küche"), Cow::Borrowed(_)));
    }
}
