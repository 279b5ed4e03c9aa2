//! One control stream from greeting to end.

use std::{os::unix::net::UnixStream, time::Duration};

use async_io::Async;
use futures::{
    AsyncWriteExt,
    io::{AsyncRead, AsyncWrite},
};
use hive_core::{ConnId, Source};
use hive_protocol::{
    NetworkName, NodeId, ProxyId, VERSION_CURRENT, VERSION_MIN,
    frame::{CONTROL_MAX, DecodeError},
    message::{ClientMessage, Failure, FailureCode, Response, ServerMessage},
    negotiate,
};
use hive_transport::streams::Stream;
use smol::future::or;

use super::{Entry, forward, login::Login};
use crate::{
    frames::{self, ReadError},
    net::registry::Connection,
    node::Handle,
    random,
    time::within,
};

/// From a stream's start to its greeting, and between the steps of a login made by a program.
const GREETING: Duration = Duration::from_secs(10);
/// For a person to type a password. A stranger's connection is closed earlier, by the core.
const LOGIN: Duration = Duration::from_secs(120);

/// Largest frame from a caller that has shown nothing, in bytes: a greeting and the steps of a login are far smaller.
const STRANGER_MAX: usize = 4 * 1024;

/// Where a stream comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Caller {
    /// The local socket; trusted when root or the agent's own user.
    Local { trusted: bool },
    /// A connection.
    Remote { conn: ConnId, source: Source },
}

impl Caller {
    pub(super) fn source(self) -> Source {
        match self {
            Self::Local { .. } => Source { peer: None, ip: None },
            Self::Remote { source, .. } => source,
        }
    }
}

/// A control stream: any bytes that flow both ways.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Bytes for T {}

/// Serves a program on this machine.
pub(super) async fn local(node: Handle, stream: Async<UnixStream>, trusted: bool) {
    serve(node, stream, Caller::Local { trusted }).await;
}

/// Serves a stream that a peer opened.
pub async fn remote(node: Handle, connection: Connection, stream: Stream) {
    let _conversation = node.conversations.begin(connection.conn);
    serve(node.clone(), stream, Caller::Remote { conn: connection.conn, source: connection.source() }).await;
}

async fn serve(node: Handle, stream: impl Bytes, caller: Caller) {
    let mut control = Control { node, stream, caller, authority: Authority::None, temporary: Vec::new() };
    let ended = control.run().await;
    control.end().await;
    match ended {
        Ok(()) => {}
        Err(End::Read(e)) if e.is_end() => {}
        Err(e) => log::debug!("control stream of {caller:?}: {e}"),
    }
}

/// What a caller has shown.
pub(super) enum Authority {
    /// Nothing.
    None,
    /// It is root or the agent's own user on this machine.
    Local,
    /// A session's key, on this stream.
    Session { key: [u8; 32], entry: Entry },
}

impl Authority {
    /// Waits until what was shown is worth nothing any more.
    pub(super) async fn ended(&self) {
        match self {
            Self::Session { entry, .. } => entry.ended().await,
            Self::None | Self::Local => std::future::pending().await,
        }
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// Reading failed, or the client is done.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Writing failed.
    #[error(transparent)]
    Write(#[from] std::io::Error),
    /// The client took too long.
    #[error("nothing was said for too long")]
    Silent,
    /// The session ended.
    #[error("the session ended")]
    SessionEnded,
    /// The stream was refused and told so.
    #[error("refused")]
    Refused,
    /// The stream was used up by what it carried.
    #[error("done")]
    Done,
}

/// A stream being served.
pub(super) struct Control<S> {
    pub node: Handle,
    pub stream: S,
    pub caller: Caller,
    pub authority: Authority,
    /// Proxies that end with this stream.
    pub temporary: Vec<ProxyId>,
}

impl<S: Bytes> Control<S> {
    async fn run(&mut self) -> Result<(), End> {
        let hello = within(GREETING, self.read()).await.ok_or(End::Silent)??;
        let ClientMessage::Hello { min, max, node, network } = hello else {
            return self.refuse(Failure::new(FailureCode::Usage, "a control stream begins with a greeting")).await;
        };
        let Some(version) = negotiate(min, max) else { return self.refuse(no_common_version(min, max)).await };
        match self.target(node, network.clone()).await {
            Ok(None) => {}
            Ok(Some(target)) => return forward::run(self, target, network, (min, max)).await,
            Err(failure) => return self.refuse(failure).await,
        }
        let challenge = self.welcome(version).await?;
        self.requests(challenge).await
    }

    /// The other node that a greeting means. To a peer nothing is looked up: the answer would tell a stranger who is
    /// known here.
    async fn target(&mut self, who: Option<String>, network: Option<NetworkName>) -> Result<Option<NodeId>, Failure> {
        match self.caller {
            Caller::Local { .. } => forward::target(self.node.clone(), who, network).await,
            Caller::Remote { .. } if who.is_none_or(|who| who == self.node.id.to_string()) => Ok(None),
            Caller::Remote { .. } => Err(second_hop()),
        }
    }

    async fn welcome(&mut self, version: u16) -> Result<[u8; 32], End> {
        if matches!(self.caller, Caller::Local { trusted: true }) {
            self.authority = Authority::Local;
        }
        let challenge = random::bytes();
        let name = self.node.ask(|core, _| core.name().clone()).await.map_err(|_| End::SessionEnded)?;
        let authorised = matches!(self.authority, Authority::Local);
        self.say(&ServerMessage::Welcome { version, node: self.node.id, name, authorised, challenge }).await?;
        Ok(challenge)
    }

    async fn requests(&mut self, challenge: [u8; 32]) -> Result<(), End> {
        let mut login = Login::new(challenge);
        loop {
            match self.next().await {
                Ok(ClientMessage::Request(request)) => self.request(request).await?,
                Ok(step) => login.step(self, step).await?,
                Err(End::Read(ReadError::Decode(DecodeError::Newer(_)))) => self.respond(unknown_message()).await?,
                Err(End::Read(ReadError::Decode(e))) => {
                    let failure = Failure::new(FailureCode::Usage, format!("not understood: {e}"));
                    return self.refuse(failure).await;
                }
                Err(end) => return Err(end),
            }
        }
    }

    /// The next message; before a login only for a while, after it until the session ends.
    async fn next(&mut self) -> Result<ClientMessage, End> {
        let most = if matches!(self.authority, Authority::None) { STRANGER_MAX } else { CONTROL_MAX };
        let read = async { Ok(frames::read(&mut self.stream, most).await?) };
        match &self.authority {
            Authority::None => within(LOGIN, read).await.unwrap_or(Err(End::Silent)),
            Authority::Local => read.await,
            Authority::Session { entry, .. } => {
                let ended = async {
                    entry.ended().await;
                    Err(End::SessionEnded)
                };
                or(ended, read).await
            }
        }
    }

    /// A message of a caller that has shown nothing.
    async fn read(&mut self) -> Result<ClientMessage, End> {
        Ok(frames::read(&mut self.stream, STRANGER_MAX).await?)
    }

    pub(super) async fn say(&mut self, message: &ServerMessage) -> Result<(), End> {
        Ok(frames::write(&mut self.stream, message, CONTROL_MAX).await?)
    }

    pub(super) async fn respond(&mut self, response: Response) -> Result<(), End> {
        self.say(&ServerMessage::Response(response)).await
    }

    /// Says why not and ends the stream.
    pub(super) async fn refuse(&mut self, failure: Failure) -> Result<(), End> {
        self.respond(Response::Error(failure)).await?;
        // Dropping the stream at once could overtake the words.
        let _ = within(GREETING, self.read()).await;
        Err(End::Refused)
    }

    /// Ends the stream once the client has heard the last word: what it still says is read and forgotten, because dropping
    /// a stream with unread bytes resets it, and the reset may overtake the word.
    pub(super) async fn drained(&mut self) -> End {
        let last = async {
            self.stream.close().await?;
            futures::io::copy(&mut self.stream, &mut futures::io::sink()).await
        };
        let _ = within(GREETING, last).await;
        End::Done
    }

    /// Notes that the caller proved a session.
    pub(super) async fn authorise(&mut self, key: [u8; 32]) {
        self.release().await;
        self.authority = Authority::Session { key, entry: self.node.sessions.enter(key) };
        if let Caller::Remote { conn, .. } = self.caller
            && self.node.sessions.hold(conn)
        {
            self.node.hold(conn, true).await;
        }
    }

    async fn release(&mut self) {
        let before = std::mem::replace(&mut self.authority, Authority::None);
        if let (Authority::Session { .. }, Caller::Remote { conn, .. }) = (before, self.caller)
            && self.node.sessions.release(conn)
        {
            self.node.hold(conn, false).await;
        }
    }

    /// Undoes what lives only as long as the stream.
    async fn end(&mut self) {
        for id in std::mem::take(&mut self.temporary) {
            // It may have been removed by hand meanwhile.
            let _ = self.node.command(move |core, now| core.remove_proxy(id, now)).await;
        }
        self.release().await;
    }
}

/// Who a caller is, in the words of the log.
pub(super) async fn described(node: &Handle, caller: Caller) -> String {
    let Caller::Remote { source, .. } = caller else { return "a program on this machine".to_owned() };
    let who = match source.peer {
        Some(peer) => called(node, peer).await,
        None => "a stranger".to_owned(),
    };
    source.ip.map(|ip| format!("{who} at {ip}")).unwrap_or(who)
}

/// A node by its name and id.
pub(super) async fn called(node: &Handle, peer: NodeId) -> String {
    let name = node.ask(move |core, _| core.node_name(&peer)).await.ok().flatten();
    name.map_or_else(|| peer.to_string(), |name| format!("{name} ({peer})"))
}

fn no_common_version(min: u16, max: u16) -> Failure {
    let what =
        format!("this node speaks control protocol {VERSION_MIN} to {VERSION_CURRENT}, the client {min} to {max}");
    Failure::new(FailureCode::Version, what).hint("update the older of the two")
}

fn second_hop() -> Failure {
    Failure::new(FailureCode::Usage, "a node passes on only what comes from its own machine")
        .hint("run hivectl where it can reach the node itself")
}

fn unknown_message() -> Response {
    let what = "this node does not know the request: it is older than the client";
    Response::Error(Failure::new(FailureCode::Version, what).hint("update the node's agent"))
}
