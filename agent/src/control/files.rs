//! `hivectl cp`: files to and from this node, as tunnel frames on the control stream.

use std::{fs::File, io::Read, path::PathBuf};

use futures::{
    AsyncReadExt,
    io::{AsyncRead, AsyncWrite},
};
use hive_protocol::{
    message::{Failure, FailureCode, FileInfo, Response},
    tunnel::{DATA_MAX, HEADER_LEN, Kind},
};
use hive_transport::files::{self, FileError, Incoming};
use smol::{future::or, unblock};

use super::server::{Bytes, Control, End};
use crate::{
    process,
    tunnel::{
        copy::frames::{self, CarrierError, Writer},
        memory,
    },
};

/// What a file is.
pub(super) async fn stat(path: String) -> Result<Response, Failure> {
    let path = resolved(&path);
    unblock(move || files::stat(&path)).await.map(Response::File).map_err(failure)
}

/// Relative paths begin at the home of the agent's user, as with `scp`.
fn resolved(path: &str) -> PathBuf {
    process::home().join(path)
}

pub(super) fn failure(error: FileError) -> Failure {
    let failure = Failure::new(FailureCode::Failed, error.to_string());
    match error {
        FileError::NotAFile(_) => failure.hint(
            "a folder is packed by tar on one side and unpacked on the other: tar under hivectl exec reads and writes pipes",
        ),
        _ => failure,
    }
}

/// How a copy ends before its time.
pub(super) enum Halt {
    /// This node refuses: the client is told, and the stream is of no further use.
    File(FileError),
    /// The stream broke.
    Carrier(CarrierError),
    /// The session ended.
    Revoked,
}

impl From<FileError> for Halt {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl<E: Into<CarrierError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Carrier(error.into())
    }
}

/// Takes a file.
pub(super) async fn put<S: Bytes>(
    control: &mut Control<S>,
    path: String,
    name: String,
    file: FileInfo,
) -> Result<(), End> {
    let path = resolved(&path);
    let incoming = match unblock(move || Incoming::begin(&path, &name, file)).await {
        Ok(incoming) => incoming,
        Err(error) => return control.respond(Response::Error(failure(error))).await,
    };
    control.respond(Response::FileReady { offset: incoming.offset() }).await?;
    let outcome = or(revoked(control.authority.ended()), receive(&mut control.stream, incoming)).await;
    match outcome {
        Ok(()) => control.respond(Response::Done).await,
        Err(Halt::File(error)) => {
            control.respond(Response::Error(failure(error))).await?;
            Err(control.drained().await)
        }
        Err(Halt::Carrier(error)) => {
            log::debug!("a copy broke off: {error}");
            Err(End::Done)
        }
        Err(Halt::Revoked) => Err(End::SessionEnded),
    }
}

pub(super) async fn revoked(ended: impl Future<Output = ()>) -> Result<(), Halt> {
    ended.await;
    Err(Halt::Revoked)
}

/// DATA frames to the file, until EOF.
pub(super) async fn receive(stream: &mut (impl AsyncRead + Unpin), mut incoming: Incoming) -> Result<(), Halt> {
    loop {
        let header = frames::read_header(stream).await?;
        match header.kind {
            Kind::Data => {
                let mut buffer = memory::frame_buffer();
                stream.read_exact(&mut buffer[..header.len]).await?;
                incoming = unblock(move || incoming.write(&buffer[..header.len]).map(|()| incoming)).await?;
            }
            Kind::Eof => {
                frames::read_count(stream).await?;
                return Ok(unblock(move || incoming.finish()).await?);
            }
            other => return Err(Halt::Carrier(CarrierError::Unexpected(other))),
        }
    }
}

/// Gives a file.
pub(super) async fn get<S: Bytes>(control: &mut Control<S>, path: String, offset: u64) -> Result<(), End> {
    let path = resolved(&path);
    let file = match unblock(move || files::read_from(&path, offset)).await {
        Ok(file) => file,
        Err(error) => return control.respond(Response::Error(failure(error))).await,
    };
    control.respond(Response::FileReady { offset }).await?;
    let (mut unread, mut writer) = (&mut control.stream).split();
    let gone = async {
        // The client is silent while it reads; its stream's end is the end of the copy.
        let _ = unread.read(&mut [0; 1]).await;
        Err(End::Done)
    };
    let ended = async {
        control.authority.ended().await;
        Err(End::SessionEnded)
    };
    let outcome = or(or(ended, gone), send(file, Writer::new(&mut writer))).await;
    drop((unread, writer));
    outcome?;
    Err(control.drained().await)
}

/// The file as DATA frames and EOF; RESET if it cannot be read to its end.
async fn send(mut file: File, mut writer: Writer<impl AsyncWrite + Unpin>) -> Result<(), End> {
    let mut sent = 0;
    loop {
        let (again, buffer, read) = unblock(move || {
            let mut buffer = memory::frame_buffer();
            let read = file.read(&mut buffer[HEADER_LEN..][..DATA_MAX]);
            (file, buffer, read)
        })
        .await;
        file = again;
        match read {
            Ok(0) => return Ok(writer.eof(sent).await?),
            Ok(len) => {
                writer.data(buffer, len).await?;
                sent += len as u64;
            }
            Err(e) => {
                log::warn!("a file cannot be read to its end: {e}");
                return Ok(writer.reset().await?);
            }
        }
    }
}
