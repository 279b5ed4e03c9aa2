//! `--watch`: the same picture again every second, in place on a terminal, one after the other elsewhere.

use std::time::Duration;

use crate::{error::Result, out::Out};

const PERIOD: Duration = Duration::from_secs(1);
/// Cursor home, and erase to the end of the line or of the screen (ECMA-48).
const HOME: &str = "\u{1b}[H";
const ERASE_LINE: &str = "\u{1b}[K";
const ERASE_REST: &str = "\u{1b}[J";
const ERASE_ALL: &str = "\u{1b}[2J";

/// Calls `snapshot` for a first picture and, if `repeat`, for another every second, until it fails or the process is
/// interrupted. `snapshot` prints by [`Screen::show`].
pub async fn watch(out: Out, repeat: bool, mut snapshot: impl AsyncFnMut(&mut Screen) -> Result<()>) -> Result<()> {
    let mut screen = Screen { out, in_place: repeat && out.terminal && !out.json, shown: 0 };
    let mut ticks = smol::Timer::interval(PERIOD);
    loop {
        snapshot(&mut screen).await?;
        if !repeat {
            return Ok(());
        }
        futures::StreamExt::next(&mut ticks).await;
    }
}

/// Where the pictures of one command go.
pub struct Screen {
    out: Out,
    in_place: bool,
    shown: u64,
}

impl Screen {
    /// Prints text that is for programs only.
    pub fn raw(&mut self, text: &str) -> Result<()> {
        self.out.raw(text)
    }

    /// Prints one picture. Programs get one JSON document a line, people the text.
    pub fn show<T: serde::Serialize + ?Sized>(&mut self, value: &T, text: impl FnOnce() -> String) -> Result<()> {
        let separated = self.shown > 0 && !self.out.json && !self.in_place;
        self.shown += 1;
        if self.in_place {
            return self.out.raw(&redrawn(&text(), self.shown == 1));
        }
        self.out.show(value, || if separated { format!("\n{}", text()) } else { text() })
    }
}

/// Overwrites line by line instead of clearing first, which would flicker.
fn redrawn(text: &str, first: bool) -> String {
    let clear = if first { ERASE_ALL } else { "" };
    let lines = text.replace('\n', &format!("{ERASE_LINE}\n"));
    format!("{clear}{HOME}{lines}{ERASE_REST}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_covers_the_one_before() {
        assert_eq!(redrawn("a\nb\n", true), "\u{1b}[2J\u{1b}[Ha\u{1b}[K\nb\u{1b}[K\n\u{1b}[J");
        assert_eq!(redrawn("a\n", false), "\u{1b}[Ha\u{1b}[K\n\u{1b}[J");
    }
}
