//! What colours mean. Whether they are used at all is decided once, in [`crate::out`].

use std::borrow::Cow;

/// The meaning of a piece of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Nothing special.
    Plain,
    /// Headers and labels.
    Dim,
    /// As it should be.
    Good,
    /// Works, but not as well as it could.
    Fair,
    /// Does not work.
    Bad,
}

/// `text` in the colour of its meaning (ECMA-48 SGR), or as it is.
pub fn paint(text: &str, style: Style, colour: bool) -> Cow<'_, str> {
    let code = match style {
        Style::Plain => return Cow::Borrowed(text),
        Style::Dim => "2",
        Style::Good => "32",
        Style::Fair => "33",
        Style::Bad => "31",
    };
    if colour { Cow::Owned(format!("\u{1b}[{code}m{text}\u{1b}[0m")) } else { Cow::Borrowed(text) }
}
