//! A program on a node: our standard input to it, its outputs to ours, signals and the terminal's size, in the format of
//! [`hive_protocol::process`]. Never decides what runs or what a terminal looks like.

use std::pin::pin;

use futures::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Stream as Events, StreamExt,
    future::{self, Either, try_join},
};
use hive_protocol::process::{self, DATA_MAX, Exit, Frame, HEADER_LEN, Stream, WINDOW};
use hive_transport::window::{Inbox, Window};
use smol::lock::Mutex;

use crate::{
    error::{Error, Result},
    escape::{Escape, Typed},
};

/// Our ends of a program's standard streams.
pub struct Ends<I, O, E> {
    /// What it reads.
    pub input: I,
    /// Where its output goes.
    pub output: O,
    /// Where its errors go.
    pub errors: E,
    /// Watches for `~.` in what is typed; none where the input is no terminal.
    pub escape: Option<Escape>,
}

/// What happens beside the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// The terminal has another size.
    Resized {
        /// Characters in a line.
        columns: u16,
        /// Lines.
        rows: u16,
    },
    /// A signal for the program.
    Signal(u8),
    /// We are told to end: the node ends the program when the stream closes.
    Ended,
}

/// Carries everything until the program has ended.
pub async fn attach<S, I, O, E>(
    stream: S,
    ends: Ends<I, O, E>,
    happenings: impl Events<Item = Happening>,
) -> Result<Exit>
where
    S: AsyncRead + AsyncWrite + Unpin,
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let (reader, writer) = stream.split();
    let inboxes = [Inbox::new(WINDOW), Inbox::new(WINDOW)];
    let link = Link { writer: Mutex::new(writer), credit: Window::new(WINDOW), inboxes };
    let shown = try_join(
        link.show(ends.output, Stream::Out, &link.inboxes[0]),
        link.show(ends.errors, Stream::Err, &link.inboxes[1]),
    );
    let program = try_join(link.receive(reader), shown);
    let happenings = pin!(happenings);
    let ours = try_join(link.feed(ends.input, ends.escape), link.tell(happenings));
    match future::select(pin!(program), pin!(ours)).await {
        Either::Left((ended, _)) => ended.map(|(exit, _)| exit),
        Either::Right((Err(error), _)) => Err(error),
        // Our side is done when its error says so, and not before.
        Either::Right((Ok(_), program)) => program.await.map(|(exit, _)| exit),
    }
}

struct Link<W> {
    writer: Mutex<W>,
    /// What the program has room for.
    credit: Window,
    /// Output and errors that wait for our readers.
    inboxes: [Inbox; 2],
}

impl<W: AsyncWrite + Unpin> Link<W> {
    /// A stream that cannot be written any more has ended, which its reader tells better: the program's last words and
    /// its status may still be on their way.
    async fn send(&self, bytes: &[u8]) {
        let mut writer = self.writer.lock().await;
        if writer.write_all(bytes).await.is_ok() {
            let _ = writer.flush().await;
        }
    }

    /// What the node sends, until the program's end.
    async fn receive(&self, mut reader: impl AsyncRead + Unpin) -> Result<Exit> {
        let outcome = self.receive_frames(&mut reader).await;
        self.inboxes.iter().for_each(Inbox::end);
        outcome
    }

    async fn receive_frames(&self, reader: &mut (impl AsyncRead + Unpin)) -> Result<Exit> {
        let mut body = vec![0; DATA_MAX + 1];
        loop {
            let mut header = [0; HEADER_LEN];
            reader.read_exact(&mut header).await.map_err(broken)?;
            let body = &mut body[..process::body_len(header).map_err(malformed)?];
            reader.read_exact(body).await.map_err(broken)?;
            match Frame::parse(header, body).map_err(malformed)? {
                Frame::Data(Stream::Out, bytes) => self.inboxes[0].put(bytes).map_err(malformed)?,
                Frame::Data(Stream::Err, bytes) => self.inboxes[1].put(bytes).map_err(malformed)?,
                Frame::End(Stream::Out) => self.inboxes[0].end(),
                Frame::End(Stream::Err) => self.inboxes[1].end(),
                Frame::Credit(Stream::In, bytes) => self.credit.granted(bytes as usize),
                Frame::Exit(exit) => return Ok(exit),
                _ => return Err(malformed(process::Malformed)),
            }
        }
    }

    /// One of the program's outputs to its reader here.
    async fn show(&self, mut output: impl AsyncWrite + Unpin, stream: Stream, inbox: &Inbox) -> Result<()> {
        while let Some(bytes) = inbox.take(DATA_MAX).await {
            output.write_all(&bytes).await.map_err(|e| Error::stdout(&e))?;
            output.flush().await.map_err(|e| Error::stdout(&e))?;
            let taken = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            self.send(&Frame::Credit(stream, taken).to_bytes()).await;
        }
        output.close().await.map_err(|e| Error::stdout(&e))
    }

    /// Our input, as the program takes it.
    async fn feed(&self, mut input: impl AsyncRead + Unpin, mut escape: Option<Escape>) -> Result<()> {
        let mut buffer = vec![0; DATA_MAX];
        loop {
            let room = self.credit.open().await.min(DATA_MAX);
            let read = input.read(&mut buffer[..room]).await;
            let len = read.map_err(|e| Error::failed(format!("cannot read standard input: {e}")))?;
            if len == 0 {
                self.send(&Frame::End(Stream::In).to_bytes()).await;
                return Ok(());
            }
            match escape.as_mut().map(|escape| escape.filter(&buffer[..len])) {
                Some(Typed::Leave) => return Err(Error::failed("left by ~.")),
                Some(Typed::Bytes(bytes)) => self.feed_some(&bytes).await,
                None => self.feed_some(&buffer[..len]).await,
            }
        }
    }

    async fn feed_some(&self, bytes: &[u8]) {
        // A character that was held back may make this one more than was asked for.
        for bytes in bytes.chunks(DATA_MAX) {
            self.credit.sent(bytes.len());
            self.send(&Frame::Data(Stream::In, bytes).to_bytes()).await;
        }
    }

    async fn tell(&self, mut happenings: std::pin::Pin<&mut impl Events<Item = Happening>>) -> Result<()> {
        while let Some(happening) = happenings.next().await {
            let frame = match happening {
                Happening::Resized { columns, rows } => Frame::Resize { columns, rows },
                Happening::Signal(number) => Frame::Signal(number),
                Happening::Ended => return Err(Error::interrupted()),
            };
            self.send(&frame.to_bytes()).await;
        }
        Ok(())
    }
}

fn broken(_: std::io::Error) -> Error {
    Error::failed("the connection to the node broke off, and the program there was ended")
}

fn malformed(what: impl std::fmt::Display) -> Error {
    Error::failed(format!("the node sent something that makes no sense: {what}"))
}
