//! Requests about the key store. What they change is on disk, in one transaction, before they are answered.

use hive_protocol::message::{Failure, FailureCode, Request, Response};

use crate::{keys::KeysError, node::Handle};

/// Carries out a request about the key store. The work is done on a thread of its own: it waits for the disk.
pub(super) async fn answer(node: Handle, request: Request) -> Result<Response, Failure> {
    let keys = node.keys.clone();
    let answer = smol::unblock(move || match request {
        Request::KeysPut { entries } => keys.put(entries).map(Response::KeysStored),
        Request::KeysRemove { names } => keys.remove(&names).map(|()| Response::Done),
        Request::KeyShow { name, reveal } => keys.show(&name, reveal).map(Response::KeyEntry),
        _ => Err(KeysError::Other),
    });
    answer.await.map_err(|error| failure(&error))
}

fn failure(error: &KeysError) -> Failure {
    let code = match error {
        KeysError::Store(_) => FailureCode::Failed,
        KeysError::Full => FailureCode::Busy,
        _ => FailureCode::Usage,
    };
    let failure = Failure::new(code, error.to_string());
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
