//! A program on a channel: its streams carried between the client and the program, and its end told.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hive_protocol::{message::RunRequest, process::Exit};
use hive_transport::window::{Inbox, Overrun};
use russh::{ChannelId, Sig, server::Handle};
use smol::{Task, future::or};

use super::{WINDOW, link::Link};
use crate::{
    exec,
    process::{Child, Control, Input, Output, Place, spawn},
};

/// Most output in one message, in bytes: what clients take in one packet.
pub const PIECE: usize = 32 * 1024;
/// Input that is held for a program: two windows beyond the mark where credit ends; nobody who keeps to it gets there.
const MOST_HELD: usize = 3 * WINDOW as usize;
/// Extended data of kind 1 is standard error (RFC 4254, section 5.2).
const STDERR: u32 = 1;

/// A running program. Dropping it ends the program.
pub struct Program {
    input: Arc<Held>,
    control: Control,
    task: Task<()>,
}

/// Input that the program has not taken yet.
struct Held {
    inbox: Inbox,
    link: Arc<Link>,
    left: AtomicUsize,
}

impl Program {
    /// Starts a program on a channel.
    pub fn start(
        wish: &RunRequest,
        variables: &[(String, String)],
        link: &Arc<Link>,
        place: Place,
        (client, id): (Handle, ChannelId),
    ) -> io::Result<Self> {
        let mut child = spawn(wish, variables)?;
        let control = child.control();
        let input = Arc::new(Held { inbox: Inbox::new(MOST_HELD), link: link.clone(), left: 0.into() });
        let held = input.clone();
        let task = exec::spawn(async move {
            let client = Client { handle: client, id };
            let exit = client.carry(&mut child, &held).await;
            client.end(exit).await;
            drop(place);
        });
        Ok(Self { input, control, task })
    }

    /// Input from the client.
    pub fn put(&self, bytes: &[u8]) -> Result<(), Overrun> {
        self.input.inbox.put(bytes)?;
        self.input.left.fetch_add(bytes.len(), Ordering::Relaxed);
        self.input.link.received(bytes.len());
        Ok(())
    }

    /// The end of the input.
    pub fn end_input(&self) {
        self.input.inbox.end();
    }

    /// Whether it has ended and the client was told.
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// What comes beside the streams.
    pub fn control(&self) -> &Control {
        &self.control
    }
}

impl Held {
    fn took(&self, bytes: usize) {
        self.left.fetch_sub(bytes, Ordering::Relaxed);
        self.link.taken(bytes);
    }
}

/// What nobody will take any more holds up nobody else.
impl Drop for Held {
    fn drop(&mut self) {
        let left = *self.left.get_mut();
        self.link.taken(left);
    }
}

/// The client's end of the channel.
struct Client {
    handle: Handle,
    id: ChannelId,
}

impl Client {
    /// Carries all streams until the program has ended and its outputs are sent.
    async fn carry(&self, child: &mut Child, held: &Held) -> io::Result<Exit> {
        let input = child.take_input();
        let (output, errors) = child.take_outputs();
        let outputs = futures::future::join(self.send(output, None), self.send(errors, Some(STDERR)));
        let ended = async { futures::future::join(child.exited(), outputs).await.0 };
        let fed = async {
            feed(held, input).await;
            std::future::pending().await
        };
        or(ended, fed).await
    }

    /// Sends one of the program's outputs to its end. A client that is gone ends the program elsewhere.
    async fn send(&self, output: Option<Output>, kind: Option<u32>) {
        let Some(mut output) = output else { return };
        let mut piece = vec![0; PIECE];
        loop {
            let len = output.read(&mut piece).await;
            if len == 0 {
                return;
            }
            let bytes = piece[..len].to_vec();
            let sent = match kind {
                None => self.handle.data(self.id, bytes).await,
                Some(kind) => self.handle.extended_data(self.id, kind, bytes).await,
            };
            if sent.is_err() {
                return;
            }
        }
    }

    /// Tells how the program ended and closes the channel (RFC 4254, section 6.10).
    async fn end(&self, exit: io::Result<Exit>) {
        // Whoever does not hear it is gone. The status before EOF: when both sides have said that, a client may close the
        // channel, and what comes after is lost.
        let _ = match exit {
            Ok(Exit::Status(status)) => self.handle.exit_status_request(self.id, status.into()).await,
            Ok(Exit::Signal(number)) => {
                let (name, none) = (signal_name(number), String::new());
                self.handle.exit_signal_request(self.id, name, false, none.clone(), none).await
            }
            Err(_) => Ok(()),
        };
        let _ = self.handle.eof(self.id).await;
        let _ = self.handle.close(self.id).await;
    }
}

/// Hands the program its input. A program that reads no more has its input thrown away.
async fn feed(held: &Held, mut input: Input) {
    while let Some(bytes) = held.inbox.take(PIECE).await {
        input.write(&bytes).await;
        held.took(bytes.len());
    }
    input.close().await;
}

/// The number of a signal that a client names (RFC 4254, section 6.10), on Linux.
pub fn signal_number(signal: &Sig) -> Option<u8> {
    Some(match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => 9,
        Sig::USR1 => 10,
        Sig::SEGV => 11,
        Sig::Custom(name) if name == "USR2" => 12,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::Custom(_) => return None,
    })
}

fn signal_name(number: u8) -> Sig {
    use Sig::{ABRT, ALRM, Custom, FPE, HUP, ILL, INT, KILL, PIPE, QUIT, SEGV, TERM, USR1};
    let named = [ABRT, ALRM, FPE, HUP, ILL, INT, KILL, PIPE, QUIT, SEGV, TERM, USR1, Custom("USR2".to_owned())];
    let known = named.into_iter().find(|name| signal_number(name) == Some(number));
    // A name that is not in the RFC has an at-sign.
    known.unwrap_or_else(|| Custom(format!("{number}@hive")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_the_same_number_both_ways() {
        for number in [1, 2, 9, 12, 15] {
            assert_eq!(signal_number(&signal_name(number)), Some(number));
        }
        assert_eq!(signal_number(&Sig::Custom("NONSENSE".into())), None);
        assert!(matches!(signal_name(31), Sig::Custom(name) if name == "31@hive"));
    }
}
