//! `hivectl connect`: a control stream that becomes a connection to a port of this node.

use futures::AsyncReadExt;
use hive_protocol::message::{Failure, FailureCode, Response};

use super::server::{Bytes, Control, End};
use crate::tunnel::{Counters, copy, ingress};

/// Connects to the target and carries bytes until both sides are done, or the session ends.
pub(super) async fn run<S: Bytes>(control: &mut Control<S>, host: String, port: u16) -> Result<(), End> {
    let local = match ingress::connect(&host, port).await {
        Ok(local) => local,
        Err(what) => return control.respond(Response::Error(Failure::new(FailureCode::Failed, what))).await,
    };
    control.respond(Response::Connected).await?;
    let counters = Counters::default();
    let halves = (&mut control.stream).split();
    match copy::run(local, halves, &counters, control.authority.ended()).await {
        Ok(()) => Err(End::Done),
        Err(broken) => {
            log::debug!("connect to {host}:{port}: {broken}");
            Err(End::Done)
        }
    }
}
