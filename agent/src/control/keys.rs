//! Requests about the key store. What they change is on disk, in one transaction, before they are answered.

use hive_protocol::{
    keys::TlsRequest,
    message::{Failure, FailureCode, Request, Response},
};

use super::server::{Bytes, Control, End};
use crate::{
    acme::{self, News},
    keys::{self, KeysError},
    node::Handle,
};

/// Carries out a request about the key store. The work is done on a thread of its own: it waits for the disk.
pub(super) async fn answer(node: Handle, request: Request) -> Result<Response, Failure> {
    let by_hand: Vec<_> = match &request {
        Request::KeysPut { entries } => entries.iter().filter_map(|entry| keys::managed(&entry.key_name)).collect(),
        Request::KeysRemove { names } => names.iter().filter_map(keys::managed).collect(),
        _ => Vec::new(),
    };
    let keys = node.keys.clone();
    let answer = smol::unblock(move || match request {
        Request::KeysPut { entries } => keys.put(entries).map(Response::KeysStored),
        Request::KeysRemove { names } => keys.remove(&names).map(|()| Response::Done),
        Request::KeyShow { name, reveal } => keys.show(&name, reveal).map(Response::KeyEntry),
        _ => Err(KeysError::Other),
    });
    let answer = answer.await.map_err(|error| failure(&error))?;
    node.acme.forget(&by_hand);
    Ok(answer)
}

impl<S: Bytes> Control<S> {
    /// Obtains a certificate, telling each step as it happens.
    pub(super) async fn obtain(&mut self, wish: TlsRequest) -> Result<(), End> {
        let news = match acme::obtain(&self.node, wish) {
            Ok(news) => news,
            Err(failure) => return self.respond(Response::Error(failure)).await,
        };
        loop {
            match news.recv().await {
                Ok(News::Step(text)) => self.respond(Response::TlsStep { text }).await?,
                Ok(News::End(outcome)) => {
                    return self.respond(outcome.map_or_else(Response::Error, Response::KeysStored)).await;
                }
                // The agent is stopping; the order is stored and goes on when it is back.
                Err(_) => return Err(End::Done),
            }
        }
    }
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
