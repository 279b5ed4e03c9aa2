//! `hivectl exec` and `hivectl shell`: a control stream that becomes a program's standard streams.

use futures::AsyncReadExt;
use hive_protocol::message::{Failure, FailureCode, Response, RunRequest};

use super::server::{Bytes, Control, End, described};
use crate::process;

/// Runs the program to its end, or until the stream breaks or the session ends.
pub(super) async fn run<S: Bytes>(control: &mut Control<S>, wish: &RunRequest) -> Result<(), End> {
    let Some(_place) = process::Place::take() else {
        let failure = Failure::new(FailureCode::Busy, "too many programs run on this node for its clients");
        return control.respond(Response::Error(failure)).await;
    };
    let who = described(&control.node, control.caller).await;
    log::info!("{who} runs {}", wish.command.first().map_or("a shell", String::as_str));
    control.respond(Response::Started).await?;
    let halves = (&mut control.stream).split();
    if let Err(broken) = process::run(wish, halves, control.authority.ended()).await {
        log::debug!("a program was ended: {broken}");
        return Err(End::Done);
    }
    Err(control.drained().await)
}
