//! `hivectl logs`: the lines in memory, and with `follow` those to come.

use futures::{AsyncReadExt, io::AsyncWrite};
use hive_protocol::{
    frame::CONTROL_MAX,
    message::{Response, ServerMessage},
};
use smol::future::or;

use super::server::{Bytes, Control, End};
use crate::{frames, logs};

/// Lines of one answer: as many of the longest stay below the limit of a frame.
const PAGE: usize = 64;

/// Sends the last `lines` lines and, if it shall `follow`, more until the client closes the stream or its session ends.
pub(super) async fn run<S: Bytes>(control: &mut Control<S>, lines: u32, follow: bool) -> Result<(), End> {
    let from = logs::ring().last(usize::try_from(lines).unwrap_or(usize::MAX));
    if !follow {
        return send(&mut control.stream, from, false).await;
    }
    let (mut reader, mut writer) = (&mut control.stream).split();
    let closed = async {
        // The client has nothing more to say: a byte is as good as the end.
        let _ = reader.read(&mut [0; 1]).await;
        Err(End::Done)
    };
    let revoked = async {
        control.authority.ended().await;
        Err(End::SessionEnded)
    };
    or(or(revoked, closed), send(&mut writer, from, true)).await
}

/// Sends lines from number `next` on: those there are, or all there ever will be.
async fn send(writer: &mut (impl AsyncWrite + Unpin), mut next: u64, follow: bool) -> Result<(), End> {
    loop {
        let page = logs::ring().page(next, PAGE);
        next = page.next;
        let full = page.lines.len() == PAGE;
        let answer = Response::Logs { lines: page.lines, missed: page.missed, more: full || follow };
        frames::write(writer, &ServerMessage::Response(answer), CONTROL_MAX).await?;
        match (full, follow) {
            (true, _) => {}
            (false, true) => logs::ring().grown(next).await,
            (false, false) => return Ok(()),
        }
    }
}
