//! Programs that an admin runs on this node: `hivectl exec` and `hivectl shell`, in the format of
//! [`hive_protocol::process`].
//!
//! [`spawn`] starts a program, on a terminal or on pipes; this module carries its streams. Input is credited only when the
//! program has taken it, output is read only as far as the client has credit, so nothing grows. When the link dies or the
//! session ends, the program's whole process group is ended, too.

mod account;
mod spawn;

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures::{
    AsyncReadExt, AsyncWriteExt,
    io::{AsyncRead, AsyncWrite},
};
use hive_protocol::{
    message::RunRequest,
    process::{self, DATA_MAX, Exit, Frame, HEADER_LEN, Stream, WINDOW},
};
use hive_transport::window::{Inbox, Overrun, Window};
use smol::{
    future::{or, try_zip},
    lock::Mutex,
};

#[cfg(feature = "ssh")]
pub use account::Account;
pub use account::home;
pub use spawn::{Child, Control, Input, Output, spawn};

/// Programs of all clients at once.
const MAX_RUNNING: usize = 64;
/// As a shell reports a program that is not there, and one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Why a program's stream ended before the program.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The stream broke or ended.
    #[error("the path broke: {0}")]
    Io(#[from] io::Error),
    /// The client does not keep to the format.
    #[error(transparent)]
    Malformed(#[from] process::Malformed),
    /// Nor to its credit.
    #[error(transparent)]
    Overrun(#[from] Overrun),
    /// The session ended.
    #[error("the session ended")]
    SessionEnded,
}

/// A place among the programs of this node.
pub struct Place(());

impl Place {
    /// A place, unless all are taken.
    pub fn take() -> Option<Self> {
        let taken = |count: usize| (count < MAX_RUNNING).then_some(count + 1);
        RUNNING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok().then_some(Self(()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a program to its end, or until the stream breaks or `ended` resolves.
pub async fn run<R, W>(
    wish: &RunRequest,
    (reader, writer): (R, W),
    ended: impl Future<Output = ()>,
) -> Result<(), Broken>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let link = Link {
        writer: Mutex::new(writer),
        input: Inbox::new(WINDOW),
        credit: [Window::new(WINDOW), Window::new(WINDOW)],
    };
    let mut child = match spawn(wish, &[]) {
        Ok(child) => child,
        Err(e) => return link.not_run(wish, &e).await,
    };
    let revoked = async {
        ended.await;
        Err(Broken::SessionEnded)
    };
    let received = link.receive(reader, child.control());
    // Dropped with the error: that ends the program.
    let exit = or(or(revoked, received), link.carry(&mut child)).await?;
    link.send(Frame::Exit(exit)).await
}

/// A program's streams on the way to and from the client.
struct Link<W> {
    writer: Mutex<W>,
    input: Inbox,
    /// What the client has room for: output, errors.
    credit: [Window; 2],
}

impl<W: AsyncWrite + Unpin> Link<W> {
    async fn send(&self, frame: Frame<'_>) -> Result<(), Broken> {
        self.write(&frame.to_bytes()).await
    }

    async fn write(&self, bytes: &[u8]) -> Result<(), Broken> {
        let mut writer = self.writer.lock().await;
        writer.write_all(bytes).await?;
        Ok(writer.flush().await?)
    }

    /// A program that cannot be run ends as in a shell: with a word on standard error.
    async fn not_run(&self, wish: &RunRequest, error: &io::Error) -> Result<(), Broken> {
        let program = wish.command.first().map_or("the login shell", String::as_str);
        let text = format!("error: cannot run {program}: {error}\n");
        self.send(Frame::Data(Stream::Err, text.as_bytes())).await?;
        let status = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUNNABLE };
        self.send(Frame::Exit(Exit::Status(status))).await
    }

    /// What the client sends; ends only when the stream does.
    async fn receive(&self, mut reader: impl AsyncRead + Unpin, control: Control) -> Result<Exit, Broken> {
        let mut body = vec![0; DATA_MAX + 1];
        loop {
            let mut header = [0; HEADER_LEN];
            reader.read_exact(&mut header).await?;
            let body = &mut body[..process::body_len(header)?];
            reader.read_exact(body).await?;
            match Frame::parse(header, body)? {
                Frame::Data(Stream::In, bytes) => self.input.put(bytes)?,
                Frame::End(Stream::In) => self.input.end(),
                Frame::Credit(Stream::Out, bytes) => self.credit[0].granted(bytes as usize),
                Frame::Credit(Stream::Err, bytes) => self.credit[1].granted(bytes as usize),
                Frame::Resize { columns, rows } => control.resize(columns, rows),
                Frame::Signal(number) => control.signal(number),
                _ => return Err(process::Malformed.into()),
            }
        }
    }

    /// Carries all streams until the program has ended and its outputs are sent.
    async fn carry(&self, child: &mut Child) -> Result<Exit, Broken> {
        let input = child.take_input();
        let (output, errors) = child.take_outputs();
        let outputs = try_zip(
            self.send_output(output, Stream::Out, &self.credit[0]),
            self.send_output(errors, Stream::Err, &self.credit[1]),
        );
        let exited = async { Ok(child.exited().await?) };
        let ended = async { try_zip(exited, outputs).await.map(|(exit, _)| exit) };
        let fed = async {
            self.feed(input).await?;
            std::future::pending().await
        };
        or(ended, fed).await
    }

    /// Hands the program its input and gives the credit back. A program that reads no more has its input thrown away.
    async fn feed(&self, mut input: Input) -> Result<(), Broken> {
        while let Some(bytes) = self.input.take(DATA_MAX).await {
            let taken = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            input.write(&bytes).await;
            self.send(Frame::Credit(Stream::In, taken)).await?;
        }
        input.close().await;
        Ok(())
    }

    /// Sends one of the program's outputs to its end.
    async fn send_output(&self, output: Option<Output>, stream: Stream, credit: &Window) -> Result<(), Broken> {
        let Some(mut output) = output else { return Ok(()) };
        let mut frame = vec![0; HEADER_LEN + 1 + DATA_MAX];
        loop {
            let room = credit.open().await.min(DATA_MAX);
            let len = output.read(&mut frame[HEADER_LEN + 1..][..room]).await;
            if len == 0 {
                return self.send(Frame::End(stream)).await;
            }
            credit.sent(len);
            frame[..=HEADER_LEN].copy_from_slice(&process::data_head(stream, len));
            self.write(&frame[..=HEADER_LEN + len]).await?;
        }
    }
}
