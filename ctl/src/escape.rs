//! The escape from a shell that hangs: `~.` at the beginning of a line, as with `ssh`. Pure.

/// Looks for the escape in what is typed; it may come in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escape(State);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    LineStart,
    Tilde,
    Within,
}

/// What a piece of typing comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    /// Bytes for the program; a tilde that may begin an escape is held back.
    Bytes(Vec<u8>),
    /// `~.`: the user wants to leave.
    Leave,
}

impl Escape {
    /// At the beginning of a line.
    pub fn new() -> Self {
        Self(State::LineStart)
    }

    /// Takes what was typed.
    pub fn filter(&mut self, typed: &[u8]) -> Typed {
        let mut bytes = Vec::with_capacity(typed.len() + 1);
        for byte in typed.iter().copied() {
            match (self.0, byte) {
                (State::Tilde, b'.') => return Typed::Leave,
                (State::LineStart, b'~') => {
                    self.0 = State::Tilde;
                    continue;
                }
                // A second tilde stands for one.
                (State::Tilde, b'~') => bytes.push(b'~'),
                (State::Tilde, other) => bytes.extend([b'~', other]),
                (_, other) => bytes.push(other),
            }
            self.0 = if matches!(byte, b'\r' | b'\n') { State::LineStart } else { State::Within };
        }
        Typed::Bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(pieces: &[&str]) -> Vec<Typed> {
        let mut escape = Escape::new();
        pieces.iter().map(|piece| escape.filter(piece.as_bytes())).collect()
    }

    fn bytes(text: &str) -> Typed {
        Typed::Bytes(text.into())
    }

    #[test]
    fn only_at_the_beginning_of_a_line_it_leaves() {
        assert_eq!(typed(&["~."]), [Typed::Leave]);
        assert_eq!(typed(&["ls\r", "~", "."]), [bytes("ls\r"), bytes(""), Typed::Leave]);
        assert_eq!(typed(&["cd ~.", "x~."]), [bytes("cd ~."), bytes("x~.")]);
    }

    #[test]
    fn a_tilde_is_not_lost() {
        assert_eq!(typed(&["~/bin\r~~.\r"]), [bytes("~/bin\r~.\r")]);
        assert_eq!(typed(&["~", "x"]), [bytes(""), bytes("~x")]);
    }
}
