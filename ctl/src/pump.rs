//! Standard input and output over a connected control stream, as tunnel frames ([`hive_protocol::tunnel`]).
//!
//! Each direction ends by itself: the end of our input becomes an EOF frame while output goes on, and the far end's
//! EOF closes our output while input goes on. A stream that ends without EOF was cut off, which is an error.

use std::{io, pin::pin, time::Duration};

use futures::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt,
    future::{self, Either},
    io::BufReader,
};
use hive_protocol::tunnel::{DATA_MAX, HEADER_LEN, Header, Kind, encode_eof};
use smol::Timer;

use crate::error::{Error, Result};

/// How long the far end may take to close a stream on which both directions have ended.
const CLOSING: Duration = Duration::from_secs(5);

/// Carries both directions until both have ended, and the node has taken our last frame: by closing the stream.
pub async fn pump<S, I, O>(stream: S, input: I, output: O) -> Result<()>
where
    S: AsyncRead + AsyncWrite,
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
{
    let (from_node, to_node) = stream.split();
    let up = pin!(send(input, to_node));
    let down = pin!(receive(BufReader::with_capacity(2 * DATA_MAX, from_node), output));
    match future::select(up, down).await {
        // The node's own words about a broken stream say more than our failed write.
        Either::Left((up, down)) => settle(after_eof(down.await?), up).await,
        Either::Right((down, up)) => match future::select(up, pin!(after_eof(down?))).await {
            Either::Left((up, after_eof)) => settle(after_eof, up).await,
            Either::Right((end, _)) => Err(end.unwrap_or_else(broken_off)),
        },
    }
}

/// Our last frame may still be on its way: waits until the node has closed the stream, for a while.
async fn settle(after_eof: impl Future<Output = Option<Error>>, up: Result<()>) -> Result<()> {
    up?;
    match future::select(pin!(after_eof), Timer::after(CLOSING)).await {
        Either::Left((Some(error), _)) => Err(error),
        _ => Ok(()),
    }
}

/// Our input as DATA frames, then EOF; RESET if it cannot be read to its end.
pub async fn send(mut input: impl AsyncRead + Unpin, mut to_node: impl AsyncWrite + Unpin) -> Result<()> {
    let mut frame = vec![0; HEADER_LEN + DATA_MAX];
    let mut sent = 0;
    loop {
        match input.read(&mut frame[HEADER_LEN..]).await {
            Ok(0) => return write(&mut to_node, &encode_eof(sent)).await,
            Ok(len) => {
                frame[..HEADER_LEN].copy_from_slice(&Header { kind: Kind::Data, len }.to_bytes());
                write(&mut to_node, &frame[..HEADER_LEN + len]).await?;
                sent += len as u64;
            }
            Err(e) => {
                write(&mut to_node, &Header { kind: Kind::Reset, len: 0 }.to_bytes()).await?;
                return Err(Error::failed(format!("cannot read standard input: {e}")));
            }
        }
    }
}

async fn write(to_node: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<()> {
    let written = async {
        to_node.write_all(bytes).await?;
        to_node.flush().await
    };
    written.await.map_err(|e| cut_off(&e))
}

/// DATA frames to our output, until EOF; gives the rest of the frames back.
async fn receive<R: AsyncRead + Unpin>(mut frames: R, mut output: impl AsyncWrite + Unpin) -> Result<R> {
    let mut data = vec![0; DATA_MAX];
    let mut received = 0;
    loop {
        let header = header(&mut frames).await?;
        match header.kind {
            Kind::Data => {
                let data = &mut data[..header.len];
                frames.read_exact(data).await.map_err(|e| cut_off(&e))?;
                output.write_all(data).await.map_err(|e| Error::stdout(&e))?;
                received += data.len() as u64;
            }
            Kind::Eof => {
                complete(&mut frames, received).await?;
                output.close().await.map_err(|e| Error::stdout(&e))?;
                return Ok(frames);
            }
            Kind::Reset => return Err(reset()),
            _ => return Err(malformed("a frame that has no place here")),
        }
    }
}

/// Whether as many bytes came as the far end says it sent.
async fn complete(frames: &mut (impl AsyncRead + Unpin), received: u64) -> Result<()> {
    let mut sent = [0; 8];
    frames.read_exact(&mut sent).await.map_err(|e| cut_off(&e))?;
    match u64::from_be_bytes(sent) {
        sent if sent == received => Ok(()),
        sent => Err(Error::failed(format!("{received} bytes arrived of {sent} that were sent"))),
    }
}

/// What follows an EOF: RESET, or the end of the stream, which says nothing.
async fn after_eof(mut frames: impl AsyncRead + Unpin) -> Option<Error> {
    let mut header = [0; HEADER_LEN];
    frames.read_exact(&mut header).await.ok()?;
    match Header::parse(header) {
        Ok(Header { kind: Kind::Reset, .. }) => Some(reset()),
        _ => Some(malformed("a frame after the last one")),
    }
}

/// Reads the next frame's header.
pub async fn header(frames: &mut (impl AsyncRead + Unpin)) -> Result<Header> {
    let mut bytes = [0; HEADER_LEN];
    frames.read_exact(&mut bytes).await.map_err(|e| cut_off(&e))?;
    Header::parse(bytes).map_err(|e| malformed(&e.to_string()))
}

fn reset() -> Error {
    Error::failed("the far end aborted the connection")
}

fn cut_off(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => broken_off(),
        _ => Error::failed(format!("the connection to the node broke off: {error}")),
    }
}

/// The stream ended where it must not.
pub fn broken_off() -> Error {
    Error::failed("the connection to the node broke off")
}

fn malformed(what: &str) -> Error {
    Error::failed(format!("the node sent something that is no tunnel frame: {what}"))
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;
    use smol::net::unix::UnixStream;

    use super::*;

    /// Runs the pump against a far end; returns the pump's result and what arrived on our output.
    fn run<F: Future<Output = ()>>(input: Vec<u8>, far: impl FnOnce(UnixStream) -> F) -> (Result<()>, Vec<u8>) {
        let (near, other) = UnixStream::pair().unwrap();
        let mut output = Cursor::new(Vec::new());
        let ours = pump(near, Cursor::new(input), &mut output);
        let (result, ()) = smol::block_on(future::join(ours, far(other)));
        (result, output.into_inner())
    }

    fn data(bytes: &[u8]) -> Vec<u8> {
        [&Header { kind: Kind::Data, len: bytes.len() }.to_bytes()[..], bytes].concat()
    }

    async fn read_all(stream: &mut UnixStream) -> Vec<u8> {
        let mut received = 0;
        let mut all = Vec::new();
        loop {
            let header = header(stream).await.unwrap();
            let mut payload = vec![0; header.len];
            stream.read_exact(&mut payload).await.unwrap();
            match header.kind {
                Kind::Data => {
                    received += payload.len() as u64;
                    all.extend(payload);
                }
                Kind::Eof => {
                    assert_eq!(payload, received.to_be_bytes());
                    return all;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_answer_comes_after_the_end_of_the_question() {
        let question: Vec<u8> = (0..300_000_u32).map(|i| i as u8).collect();
        let sent = question.clone();
        let (result, answer) = run(question, |mut far| async move {
            let got = read_all(&mut far).await;
            assert!(got == sent);
            far.write_all(&[data(b"an"), data(b"swer"), encode_eof(6).to_vec()].concat()).await.unwrap();
        });
        assert_eq!((result, answer), (Ok(()), b"answer".to_vec()));
    }

    #[test]
    fn our_input_goes_on_after_the_far_end_has_finished() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let (input, mut keyboard) = UnixStream::pair().unwrap();
        let (mut screen, output) = UnixStream::pair().unwrap();
        let script = async move {
            far.write_all(&encode_eof(0)).await.unwrap();
            let mut rest = Vec::new();
            screen.read_to_end(&mut rest).await.unwrap();
            keyboard.write_all(b"late").await.unwrap();
            drop(keyboard);
            assert_eq!(read_all(&mut far).await, b"late");
        };
        let (result, ()) = smol::block_on(future::join(pump(near, input, output), script));
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn a_stream_that_ends_while_we_have_input_was_cut_off() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let (input, _keyboard) = UnixStream::pair().unwrap();
        let script = async move { far.write_all(&encode_eof(0)).await.unwrap() };
        let (result, ()) = smol::block_on(future::join(pump(near, input, Cursor::new(Vec::new())), script));
        assert_eq!(result, Err(broken_off()));
    }

    #[test]
    fn an_abort_is_an_error_even_after_the_end() {
        let abort = Header { kind: Kind::Reset, len: 0 }.to_bytes().to_vec();
        for frames in [abort.clone(), [encode_eof(0).to_vec(), abort].concat()] {
            let (near, mut far) = UnixStream::pair().unwrap();
            let (input, _keyboard) = UnixStream::pair().unwrap();
            let script = async { far.write_all(&frames).await.unwrap() };
            let (result, ()) = smol::block_on(future::join(pump(near, input, Cursor::new(Vec::new())), script));
            assert_eq!(result, Err(reset()));
        }
    }

    #[test]
    fn a_stream_that_just_ends_or_loses_bytes_was_cut_off() {
        let cut = |frames: Vec<u8>| {
            run(Vec::new(), |mut far| async move {
                far.write_all(&frames).await.unwrap();
                drop(read_all(&mut far).await);
            })
        };
        assert_eq!(cut(data(b"half")), (Err(broken_off()), b"half".to_vec()));
        let (result, _) = cut([data(b"half"), encode_eof(9).to_vec()].concat());
        assert_eq!(result, Err(Error::failed("4 bytes arrived of 9 that were sent")));
        assert!(cut(vec![9, 0, 0, 0]).0.unwrap_err().what.contains("no tunnel frame"));
    }
}
