//! `hivectl update-node`: takes another agent's binary, checks it, and has the agent make room for it.

use std::{
    fs::{self, File},
    path::PathBuf,
};

use hive_protocol::message::{Failure, FailureCode, FileInfo, Response, UpdateRequest, UpdateStatus};
use hive_transport::files::{self, Incoming};
use smol::{future::or, unblock};

use super::{
    files::{Halt, failure, receive, revoked},
    server::{Bytes, Control, End, described},
};
use crate::{
    BUILD,
    node::Handle,
    update::{Place, check_binary, check_offer},
};

/// Readable and executable for all, writable for the agent's user.
const MODE: u32 = 0o755;

/// Which agent runs, and how its last update went.
pub(super) async fn status(node: Handle) -> UpdateStatus {
    let own = unblock(|| files::stat("/proc/self/exe".as_ref())).await;
    let last = node.updates.place.as_ref().and_then(Place::record).map(|record| record.told);
    let hash = own.ok().map(|file| file.hash);
    UpdateStatus { version: BUILD.version.to_owned(), target: BUILD.target.to_owned(), hash, last }
}

/// Takes a binary to its end, and begins the update if it may be tried.
pub(super) async fn run<S: Bytes>(control: &mut Control<S>, wish: &UpdateRequest) -> Result<(), End> {
    let node = control.node.clone();
    // Asked now: by the time that all has arrived the link may be dead, and a node alone keeps anything.
    let rejoin = node.routes.get().members() > 0;
    let Some(turn) = node.updates.turn() else {
        let failure = Failure::new(FailureCode::Busy, "another binary is being sent to this node");
        return control.respond(Response::Error(failure)).await;
    };
    let offered = match check_offer(&node.updates, wish) {
        Ok((place, lock)) => begin(place.clone(), wish.file).await.map(|incoming| (place, lock, incoming)),
        Err(refusal) => Err(refusal),
    };
    let (place, lock, incoming) = match offered {
        Ok(offered) => offered,
        Err(refusal) => return control.respond(Response::Error(refusal)).await,
    };
    control.respond(Response::FileReady { offset: incoming.offset() }).await?;
    match or(revoked(control.authority.ended()), receive(&mut control.stream, incoming)).await {
        Ok(()) => {}
        Err(Halt::File(error)) => {
            control.respond(Response::Error(failure(error))).await?;
            return Err(control.drained().await);
        }
        Err(Halt::Carrier(error)) => {
            log::debug!("an update broke off: {error}");
            return Err(End::Done);
        }
        Err(Halt::Revoked) => return Err(End::SessionEnded),
    }
    if let Err(refusal) = enter(&node, place, wish, rejoin).await {
        return control.respond(Response::Error(refusal)).await;
    }
    let who = described(&node, control.caller).await;
    // From here on the record keeps others out.
    drop(lock);
    log::info!("{who} updates this agent from {} to {}", BUILD.version, wish.version);
    turn.keep();
    // From here on it goes its way, whether the client still listens or not.
    let told = control.respond(Response::Done).await;
    let end = if told.is_ok() { control.drained().await } else { End::Done };
    node.updates.begin();
    Err(end)
}

async fn begin(place: Place, wanted: FileInfo) -> Result<Incoming, Failure> {
    let incoming = move || {
        place.tidy(&wanted.hash);
        let file = FileInfo { mode: MODE, ..wanted };
        Incoming::begin(&place.staged(), "", file)
    };
    unblock(incoming).await.map_err(failure)
}

/// Checks the binary that waits and writes that it may be tried; throws away one that is refused.
async fn enter(node: &Handle, place: &Place, wish: &UpdateRequest, rejoin: bool) -> Result<(), Failure> {
    let checked = check(place.staged(), node.clone(), wish.clone()).await.and_then(|()| {
        let entered = node.updates.enter(place, wish, rejoin);
        entered.map_err(|e| Failure::new(FailureCode::Failed, e.to_string()))
    });
    if checked.is_err() {
        let _ = fs::remove_file(place.staged());
    }
    checked
}

async fn check(staged: PathBuf, node: Handle, wish: UpdateRequest) -> Result<(), Failure> {
    let checked = move || {
        let image = File::open(&staged).map_err(|e| Failure::new(FailureCode::Failed, e.to_string()))?;
        check_binary(node.updates.key.as_ref(), &wish, &image)
    };
    unblock(checked).await
}
