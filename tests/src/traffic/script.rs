//! What one connection does, and its form on the wire.

use crate::payload;
use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The client closes its half; the server sends half of its bytes only after it has seen that.
    ClientFirst,
    /// The server closes its half; the client sends half of its bytes only after it has seen that.
    ServerFirst,
    /// Both close their halves when they have sent all.
    Together,
    /// The client resets the connection; the server must see a reset and no end of stream.
    ClientReset,
    /// The server resets the connection; the client must see a reset and no end of stream.
    ServerReset,
}

impl Ending {
    /// All of them.
    pub const ALL: [Ending; 5] =
        [Ending::ClientFirst, Ending::ServerFirst, Ending::Together, Ending::ClientReset, Ending::ServerReset];

    /// Those without a reset.
    pub const CLEAN: [Ending; 3] = [Ending::ClientFirst, Ending::ServerFirst, Ending::Together];

    /// Whether it is by a reset.
    pub fn is_reset(self) -> bool {
        matches!(self, Ending::ClientReset | Ending::ServerReset)
    }
}

/// What one connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script {
    /// The seed of its bytes.
    pub seed: u64,
    /// Bytes from the client to the server.
    pub up: u64,
    /// Bytes from the server to the client.
    pub down: u64,
    /// How it ends.
    pub ending: Ending,
}

/// What one side of a connection does.
#[derive(Clone, Copy)]
pub struct Part {
    pub send: Stream,
    pub receive: Stream,
    pub close: Close,
}

/// The bytes of one direction.
#[derive(Clone, Copy)]
pub struct Stream {
    pub seed: u64,
    pub length: u64,
}

/// How one side ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// Closes its half when all is sent.
    WhenSent,
    /// Sends its second half, and closes, only after the other has closed.
    AfterOther,
    /// Resets the connection after it has sent all and received something.
    Reset,
    /// Goes on until it sees a reset.
    UntilReset,
}

/// Seed, up, down (little endian), ending.
const WIRE: usize = 25;

impl Script {
    /// Stands for a script that did not arrive.
    pub const NONE: Script = Script { seed: 0, up: 0, down: 0, ending: Ending::Together };

    /// A script that follows from its arguments. Small and large amounts are as likely: the logarithm is uniform.
    pub fn random(seed: u64, index: u64, most_bytes: u64, endings: &[Ending]) -> Script {
        let mut bytes = [0; 32];
        payload::fill(seed, index * 32, &mut bytes);
        let (words, _) = bytes.as_chunks::<8>();
        let [ending, up, down, seed] = [0, 1, 2, 3].map(|place| u64::from_le_bytes(words[place]));
        let ending = endings[(ending % endings.len() as u64) as usize];
        // A reset is sent only once something has arrived, or the script might be lost with it.
        let least = u64::from(ending.is_reset());
        let amount = |word| log_uniform(word, most_bytes).max(least);
        Script { seed, up: amount(up), down: amount(down), ending }
    }

    pub(super) fn client(self) -> Part {
        let (send, receive) = self.streams();
        Part { send, receive, close: self.closes().0 }
    }

    pub(super) fn server(self) -> Part {
        let (receive, send) = self.streams();
        Part { send, receive, close: self.closes().1 }
    }

    /// Up and down.
    fn streams(self) -> (Stream, Stream) {
        let up = Stream { seed: self.seed, length: self.up };
        (up, Stream { seed: !self.seed, length: self.down })
    }

    /// The client's and the server's.
    fn closes(self) -> (Close, Close) {
        match self.ending {
            Ending::ClientFirst => (Close::WhenSent, Close::AfterOther),
            Ending::ServerFirst => (Close::AfterOther, Close::WhenSent),
            Ending::Together => (Close::WhenSent, Close::WhenSent),
            Ending::ClientReset => (Close::Reset, Close::UntilReset),
            Ending::ServerReset => (Close::UntilReset, Close::Reset),
        }
    }

    pub(super) fn send(self, mut to: &TcpStream) -> io::Result<()> {
        let ending = Ending::ALL.iter().position(|ending| *ending == self.ending);
        let mut wire = Vec::with_capacity(WIRE);
        wire.extend(self.seed.to_le_bytes());
        wire.extend(self.up.to_le_bytes());
        wire.extend(self.down.to_le_bytes());
        wire.extend(ending.and_then(|place| u8::try_from(place).ok()));
        to.write_all(&wire)
    }

    pub(super) fn receive(mut from: &TcpStream) -> io::Result<Script> {
        let mut number = || {
            let mut bytes = [0; 8];
            from.read_exact(&mut bytes).map(|()| u64::from_le_bytes(bytes))
        };
        let (seed, up, down) = (number()?, number()?, number()?);
        let mut ending = [0];
        from.read_exact(&mut ending)?;
        let ending = Ending::ALL.get(usize::from(ending[0])).copied();
        let ending = ending.ok_or_else(|| io::Error::other("no such ending: damaged on its way"))?;
        Ok(Script { seed, up, down, ending })
    }
}

/// A number from 0 to `most` that follows from a random word.
fn log_uniform(word: u64, most: u64) -> u64 {
    let fraction = word as f64 / u64::MAX as f64;
    let amount = (most as f64 + 1.0).powf(fraction) as u64 - 1;
    amount.min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_stay_in_bounds() {
        for index in 0..1000 {
            let script = Script::random(9, index, 100, &Ending::ALL);
            assert!(script.up <= 100 && script.down <= 100, "{script:?}");
            assert!(!script.ending.is_reset() || script.up.min(script.down) > 0, "{script:?}");
        }
    }

    #[test]
    fn every_ending_is_played() {
        let seen = |ending| (0..100).any(|index| Script::random(9, index, 9, &Ending::ALL).ending == ending);
        assert!(Ending::ALL.into_iter().all(seen));
    }
}
