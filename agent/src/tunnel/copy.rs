//! Moving bytes between a local socket and a carrier, both ways at once, with TCP's endings kept apart.
//!
//! The local side's FIN becomes EOF and the peer's EOF becomes a FIN, each direction on its own. A local RST becomes
//! RESET, and RESET, a broken carrier or a lost right become a local RST: an application never takes a cut for an end.
//!
//! This is the tunnel format without resumption, over any byte stream: what `hivectl connect` speaks. Tunnels between
//! nodes use [`super::pump`].

pub mod frames;

use std::{future::Future, future::poll_fn, io, net::TcpStream, task::ready, time::Duration};

use async_io::Timer;
use futures::{
    AsyncReadExt, AsyncWriteExt,
    io::{AsyncRead, AsyncWrite},
};
use hive_protocol::tunnel::{DATA_MAX, HEADER_LEN, Kind};
use hive_transport::{
    buffers::Buffer,
    source::{Side, Source},
};
use smol::future::{or, try_zip};

use super::{Counters, abort, memory};
use crate::time::within;
use frames::{CarrierError, Writer};

/// How long the last frame may take to leave before the carrier is dropped with it.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often the local socket is asked for an error while its bytes wait for the peer.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// How a stream ended before both sides were done.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The application here aborted its connection.
    #[error("the local application aborted the connection")]
    Local(#[source] io::Error),
    /// The application there aborted its connection.
    #[error("the application at the peer aborted the connection")]
    Remote,
    /// The carrier failed under it.
    #[error(transparent)]
    Carrier(#[from] CarrierError),
    /// The right to it was taken away.
    #[error("no longer allowed")]
    Ended,
}

/// Carries one connection to its end, or until `ended` resolves.
///
/// Local bytes are sent at once, whether or not the peer has answered yet.
pub async fn run<R, W>(
    local: Source<TcpStream>,
    (mut reader, writer): (R, W),
    counters: &Counters,
    ended: impl Future<Output = ()>,
) -> Result<(), Broken>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut writer = Writer::new(writer);
    let inbound = to_local(&mut reader, &local, counters);
    let both = async { try_zip(to_peer(&local, &mut writer, counters), inbound).await.map(drop) };
    let lost = async {
        ended.await;
        Err(Broken::Ended)
    };
    let outcome = or(lost, both).await;
    finish(local, &mut writer, &outcome).await;
    outcome
}

/// Closes both sides in the way the outcome asks for.
async fn finish(local: Source<TcpStream>, writer: &mut Writer<impl AsyncWrite + Unpin>, outcome: &Result<(), Broken>) {
    let last_words = async {
        match outcome {
            Ok(()) => writer.close().await,
            Err(Broken::Local(_) | Broken::Ended) => writer.reset().await,
            Err(Broken::Remote | Broken::Carrier(_)) => Ok(()),
        }
    };
    if outcome.is_err() {
        abort(&local);
    }
    drop(local);
    // The peer may be gone; there is nobody left to tell.
    let _ = within(LAST_WORDS, last_words).await;
}

/// Local bytes to DATA frames, the local FIN to EOF.
async fn to_peer(
    local: &Source<TcpStream>,
    writer: &mut Writer<impl AsyncWrite + Unpin>,
    counters: &Counters,
) -> Result<(), Broken> {
    let mut sent = 0;
    loop {
        let (buffer, len) = read_some(local).await.map_err(Broken::Local)?;
        if len == 0 {
            return while_local_lives(local, writer.eof(sent)).await;
        }
        while_local_lives(local, writer.data(buffer, len)).await?;
        sent += len as u64;
        counters.sent(len);
    }
}

/// Writes to a peer that may take its time, unless the application aborts meanwhile.
///
/// Its RST is asked for now and then: to wait until the socket is readable would return at once, again and again, as
/// long as bytes that cannot be passed on lie in it, and no other event tells of an error alone.
async fn while_local_lives(
    local: &Source<TcpStream>,
    write: impl Future<Output = io::Result<()>>,
) -> Result<(), Broken> {
    let aborted = async {
        loop {
            Timer::after(LOOK_AFTER).await;
            if let Some(error) = local.get_ref().take_error().unwrap_or_else(Some) {
                return Err(Broken::Local(error));
            }
        }
    };
    or(async { Ok(write.await.map_err(CarrierError::from)?) }, aborted).await
}

/// What the local socket has, behind room for a header. While there is nothing, no buffer is held.
async fn read_some(local: &Source<TcpStream>) -> io::Result<(Buffer, usize)> {
    poll_fn(|cx| {
        ready!(local.poll_ready(Side::Read, cx))?;
        let mut buffer = memory::frame_buffer();
        local.poll_read(cx, &mut buffer[HEADER_LEN..]).map_ok(|len| (buffer, len))
    })
    .await
}

/// Frames to local bytes, EOF to a FIN.
async fn to_local(
    reader: &mut (impl AsyncRead + Unpin),
    local: &Source<TcpStream>,
    counters: &Counters,
) -> Result<(), Broken> {
    let mut received = 0;
    loop {
        let header = frames::read_header(reader).await?;
        match header.kind {
            Kind::Data => {
                pass_on(reader, local, header.len).await?;
                received += header.len as u64;
                counters.received(header.len);
            }
            Kind::Eof => {
                let announced = frames::read_count(reader).await?;
                if announced != received {
                    return Err(CarrierError::Count { announced, received }.into());
                }
                return local.end().map_err(Broken::Local);
            }
            Kind::Reset => return Err(Broken::Remote),
            other => return Err(CarrierError::Unexpected(other).into()),
        }
    }
}

/// Writes one DATA frame's payload as it comes in, without waiting for all of it.
async fn pass_on(reader: &mut (impl AsyncRead + Unpin), local: &Source<TcpStream>, len: usize) -> Result<(), Broken> {
    let mut buffer = memory::frame_buffer();
    let mut socket = local;
    let mut left = len.min(DATA_MAX);
    while left > 0 {
        let got = reader.read(&mut buffer[..left]).await.map_err(CarrierError::from)?;
        if got == 0 {
            return Err(CarrierError::from(io::Error::from(io::ErrorKind::UnexpectedEof)).into());
        }
        socket.write_all(&buffer[..got]).await.map_err(Broken::Local)?;
        left -= got;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::TcpListener,
        pin::Pin,
        task::{Context, Poll},
    };

    use hive_protocol::tunnel::Header;
    use smol::channel::Sender;

    use super::*;

    /// Takes `room` bytes, then none until it has said so, then everything.
    struct Stalling {
        taken: Vec<u8>,
        room: usize,
        stalled: Sender<()>,
    }

    impl AsyncWrite for &mut Stalling {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let n = bytes.len().min(self.room);
            self.taken.extend(&bytes[..n]);
            self.room -= n;
            if n > 0 {
                return Poll::Ready(Ok(n));
            }
            self.room = usize::MAX;
            self.stalled.try_send(()).unwrap();
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// A carrier that takes nothing, and says so.
    struct Full {
        asked: Sender<()>,
    }

    impl AsyncWrite for Full {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            let _ = self.asked.try_send(());
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[test]
    fn a_local_abort_is_noticed_while_the_peer_takes_nothing() {
        let (mut application, local) = connected();
        application.write_all(&[b'x'; 100]).unwrap();
        let (asked, stalls) = smol::channel::bounded(1);
        let abort = async {
            let _ = stalls.recv().await;
            // The RST comes behind bytes that nobody can take.
            application.write_all(&[b'y'; 100]).unwrap();
            rustix::net::sockopt::set_socket_linger(&application, Some(Duration::ZERO)).unwrap();
            drop(application);
        };
        let (mut writer, counters) = (Writer::new(Full { asked }), Counters::default());
        let sending = to_peer(&local, &mut writer, &counters);
        let (outcome, ()) = smol::block_on(smol::future::zip(sending, abort));
        assert!(matches!(outcome, Err(Broken::Local(_))), "{outcome:?}");
    }

    /// A peer that says nothing.
    struct Silence;

    impl AsyncRead for Silence {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    fn connected() -> (TcpStream, Source<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let application = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let local = listener.accept().unwrap().0;
        local.set_nonblocking(true).unwrap();
        (application, Source::new(local).unwrap())
    }

    #[test]
    fn a_reset_never_stands_inside_a_data_frame() {
        let (mut application, local) = connected();
        application.write_all(&[b'x'; 100]).unwrap();
        let (stalled, stalls) = smol::channel::bounded(1);
        let mut carrier = Stalling { taken: Vec::new(), room: 50, stalled };
        let lost = async {
            let _ = stalls.recv().await;
        };
        let counters = Counters::default();
        let outcome = smol::block_on(run(local, (Silence, &mut carrier), &counters, lost));
        assert!(matches!(outcome, Err(Broken::Ended)));
        let data = Header { kind: Kind::Data, len: 100 }.to_bytes();
        let reset = Header { kind: Kind::Reset, len: 0 }.to_bytes();
        assert_eq!(carrier.taken, [&data[..], &[b'x'; 100], &reset].concat());
    }
}
