//! A line of `ls -l` for a file: OpenSSH's `sftp` prints what the server wrote.

use std::{fs::Metadata, os::unix::fs::MetadataExt, time::SystemTime};

const HALF_A_YEAR: i64 = 365 * 24 * 3600 / 2;
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The line, with owner and group as numbers and the time in UTC.
pub fn line(name: &str, file: &Metadata, now: SystemTime) -> String {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let date = date(file.mtime(), i64::try_from(now).unwrap_or(i64::MAX));
    let (mode, links, owner, group) = (mode(file.mode()), file.nlink(), file.uid(), file.gid());
    format!("{mode} {links:>4} {owner:<8} {group:<8} {:>10} {date} {name}", file.len())
}

fn mode(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let special = [(0o4000, 's'), (0o2000, 's'), (0o1000, 't')];
    let mut text = String::from(kind);
    for (place, (bit, letter)) in special.into_iter().enumerate() {
        let rights = mode >> (6 - 3 * place);
        text.push(if rights & 4 != 0 { 'r' } else { '-' });
        text.push(if rights & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & bit != 0, rights & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

/// As `ls` has it: the time of day of what is recent, else the year.
fn date(time: i64, now: i64) -> String {
    let (year, month, day) = civil(time.div_euclid(86_400));
    let month = MONTHS[month - 1];
    let minutes = time.rem_euclid(86_400) / 60;
    if (0..HALF_A_YEAR).contains(&(now - time)) {
        return format!("{month} {day:>2} {:02}:{:02}", minutes / 60, minutes % 60);
    }
    format!("{month} {day:>2} {year:>5}")
}

/// Year, month from 1 and day of so many days after 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms": years begin in March, so the leap day is their last).
fn civil(days: i64) -> (i64, usize, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + i64::from(month <= 2), usize::try_from(month).unwrap_or(1), day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(-1), (1969, 12, 31));
        assert_eq!(date(1_000_000_000, 1_000_000_100), "Sep  9 01:46");
        assert_eq!(date(1_000_000_000, 1_700_000_000), "Sep  9  2001");
        assert_eq!(date(1_700_000_000, 1_000_000_000), "Nov 14  2023");
    }

    #[test]
    fn rights_are_written_as_ls_does() {
        assert_eq!(mode(0o100_644), "-rw-r--r--");
        assert_eq!(mode(0o041_777), "drwxrwxrwt");
        assert_eq!(mode(0o104_654), "-rwSr-xr--");
        assert_eq!(mode(0o120_777), "lrwxrwxrwx");
    }
}
