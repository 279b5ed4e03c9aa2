//! One conversation with a node over a control stream, whatever carries it: greeting, login, requests and answers.
//!
//! Owns the stream and the order of messages on it; never decides where passwords come from or what is printed.

use std::{io, time::Duration};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, FutureExt};
use hive_protocol::{
    CONTROL_PROTOCOL, Identity, KeyEntry, KeyInfo, KeyName, LogLine, Metrics, NetworkInfo, NodeId, NodeInfo, NodeName,
    ProxyId, ProxyInfo, SessionInfo, StatusInfo, VERSION_CURRENT, VERSION_MIN,
    frame::{self, CONTROL_MAX, DecodeError, PREFIX},
    keys::TlsRequest,
    message::{ClientMessage, ProxyRequest, Request, Response, ServerMessage, UpdateStatus, session_challenge},
    pake::{self, Context, Initiator},
    password,
};
use libp2p_identity::ed25519::Keypair;

pub mod direct;
pub mod socket;

use crate::{
    args::Target,
    error::{Error, Result, Status},
    place::Place,
};

/// A carrier of control messages: the local socket or a libp2p stream.
pub trait Carrier: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Carrier for T {}

/// How long a node may take to greet; a relayed path to it is opened within this time.
const GREETING_TIMEOUT: Duration = Duration::from_secs(60);
/// Most rows taken from a node; networks are far smaller.
const ROWS_MAX: usize = 100_000;

/// A node that has greeted back.
pub struct Client {
    stream: Box<dyn Carrier>,
    /// The node that answers.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Whether it does as it is asked without a login.
    pub authorised: bool,
    /// How it was named: its hints are completed with that.
    pub place: Place,
    challenge: [u8; 32],
}

impl Client {
    /// Greets the node that `target` names, and checks that it is the one that answers.
    pub async fn greet(mut stream: Box<dyn Carrier>, target: &Target) -> Result<Self> {
        let (node, network) = (target.node.clone(), target.network.clone());
        send(&mut stream, &ClientMessage::Hello { min: VERSION_MIN, max: VERSION_CURRENT, node, network }).await?;
        let ServerMessage::Welcome { version, node, name, authorised, challenge } = greeting(&mut stream).await? else {
            return Err(unexpected());
        };
        if !(VERSION_MIN..=VERSION_CURRENT).contains(&version) {
            return Err(newer());
        }
        expect_node(target, &node)?;
        let place = target.node.clone().map_or(Place::Here, Place::Node);
        Ok(Self { stream, node, name, authorised, place, challenge })
    }

    /// Proves a session key. False: the node does not know it, or not any more.
    pub async fn prove(&mut self, key: &Keypair) -> Result<bool> {
        let public = key.public().to_bytes();
        let message = session_challenge(&self.node, &self.challenge, &public);
        let Ok(signature) = key.sign(&message).try_into() else { unreachable!("Ed25519 signatures have 64 bytes") };
        match self.exchange(&ClientMessage::Prove { key: public, signature }).await {
            Ok(ServerMessage::Proven) => Ok(true),
            Ok(_) => Err(unexpected()),
            Err(error) if error.status == Status::NotAuthorised => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Logs in and enrols `key`; answers how long the session lives. The node learns nothing about a password that it
    /// does not already hold the hash of, and has to prove that it does.
    pub async fn login(&mut self, user: &str, password: &str, key: &Keypair) -> Result<Duration> {
        let public = key.public().to_bytes();
        let login = ClientMessage::Login { user: user.to_owned(), key: public };
        let ServerMessage::LoginSalt { salt, cost } = self.exchange(&login).await? else { return Err(unexpected()) };
        let secret = password::stretch(password, &salt, cost).map_err(|e| Error::not_authorised(e.to_string()))?;
        let context =
            Context { protocol: CONTROL_PROTOCOL, subject: user, initiator: &public, responder: self.node.as_bytes() };
        self.confirm(Initiator::open(&context, &secret)).await
    }

    async fn confirm(&mut self, (initiator, opening): (Initiator, Vec<u8>)) -> Result<Duration> {
        let Ok(opening) = opening.try_into() else { unreachable!("a SPAKE2 message has a fixed length") };
        let answer = self.exchange(&ClientMessage::LoginOpen { opening }).await?;
        let ServerMessage::LoginAnswer { answer } = answer else { return Err(unexpected()) };
        let proofs = initiator.finish(&answer).map_err(|_| unproven())?;
        let done = self.exchange(&ClientMessage::LoginConfirm { code: *proofs.send.as_bytes() }).await?;
        let ServerMessage::LoginDone { code, expires_in_s } = done else { return Err(unexpected()) };
        proofs.expect.check(&code).map_err(|pake::NotProven| unproven())?;
        Ok(Duration::from_secs(expires_in_s))
    }

    /// Asks for something whose answer is [`Response::Done`].
    pub async fn done(&mut self, request: Request) -> Result<()> {
        let Response::Done = self.request(request).await? else { return Err(unexpected()) };
        Ok(())
    }

    /// The node's identity.
    pub async fn identity(&mut self) -> Result<Identity> {
        let Response::Identity(identity) = self.request(Request::Identity).await? else { return Err(unexpected()) };
        Ok(identity)
    }

    /// The node's networks.
    pub async fn networks(&mut self) -> Result<Vec<NetworkInfo>> {
        let Response::Networks(networks) = self.request(Request::Networks).await? else { return Err(unexpected()) };
        Ok(networks)
    }

    /// The node at a glance.
    pub async fn status(&mut self) -> Result<StatusInfo> {
        let Response::Status(mut status) = self.request(Request::Status).await? else { return Err(unexpected()) };
        status.problems.iter_mut().for_each(|problem| problem.hint = self.place.complete(&problem.hint));
        Ok(status)
    }

    /// Which agent runs, and how its last update went.
    pub async fn update_status(&mut self) -> Result<UpdateStatus> {
        let response = self.request(Request::UpdateStatus).await?;
        let Response::UpdateStatus(status) = response else { return Err(unexpected()) };
        Ok(status)
    }

    /// The machine's figures.
    pub async fn metrics(&mut self) -> Result<Box<Metrics>> {
        let Response::Metrics(metrics) = self.request(Request::Metrics).await? else { return Err(unexpected()) };
        Ok(metrics)
    }

    /// The agent's log lines, handed to `show` with the number of lines lost before them.
    pub async fn logs(
        &mut self,
        lines: u32,
        follow: bool,
        mut show: impl FnMut(Vec<LogLine>, u64) -> Result<()>,
    ) -> Result<()> {
        let mut answer = self.request(Request::Logs { lines, follow }).await?;
        loop {
            let Response::Logs { lines, missed, more } = answer else { return Err(unexpected()) };
            show(lines, missed)?;
            if !more {
                return Ok(());
            }
            let ServerMessage::Response(next) = receive(&mut self.stream).await? else { return Err(unexpected()) };
            answer = self.judged(next)?;
        }
    }

    /// The node's login sessions.
    pub async fn sessions(&mut self) -> Result<Vec<SessionInfo>> {
        let Response::Sessions(sessions) = self.request(Request::Sessions).await? else { return Err(unexpected()) };
        Ok(sessions)
    }

    /// The peer table.
    pub async fn nodes(&mut self) -> Result<Vec<NodeInfo>> {
        self.pages(Request::Nodes, |response| match response {
            Response::Nodes { rows, more } => Some((rows, more)),
            _ => None,
        })
        .await
    }

    /// The proxies with their state.
    pub async fn proxies(&mut self) -> Result<Vec<ProxyInfo>> {
        self.pages(Request::Proxies, |response| match response {
            Response::Proxies { rows, more } => Some((rows, more)),
            _ => None,
        })
        .await
    }

    /// The key store, without the texts.
    pub async fn keys(&mut self) -> Result<Vec<KeyInfo>> {
        self.pages(Request::Keys, |response| match response {
            Response::Keys { rows, more } => Some((rows, more)),
            _ => None,
        })
        .await
    }

    /// An entry of the key store with its text; a private key only if it shall be revealed.
    pub async fn key(&mut self, name: KeyName, reveal: bool) -> Result<KeyEntry> {
        let response = self.request(Request::KeyShow { name, reveal }).await?;
        let Response::KeyEntry(entry) = response else { return Err(unexpected()) };
        Ok(entry)
    }

    /// Stores entries, all or none.
    pub async fn put_keys(&mut self, entries: Vec<KeyEntry>) -> Result<Vec<KeyInfo>> {
        let response = self.request(Request::KeysPut { entries }).await?;
        let Response::KeysStored(stored) = response else { return Err(unexpected()) };
        Ok(stored)
    }

    /// Obtains a certificate; `tell` hears of each step.
    pub async fn obtain(&mut self, wish: TlsRequest, tell: impl Fn(&str) -> Result<()>) -> Result<Vec<KeyInfo>> {
        let mut answer = self.request(Request::TlsObtain(wish)).await?;
        loop {
            match answer {
                Response::TlsStep { text } => tell(&text)?,
                Response::KeysStored(stored) => return Ok(stored),
                _ => return Err(unexpected()),
            }
            let ServerMessage::Response(next) = receive(&mut self.stream).await? else { return Err(unexpected()) };
            answer = self.judged(next)?;
        }
    }

    /// Adds one side of a tunnel; answers its number.
    pub async fn add_proxy(&mut self, request: ProxyRequest) -> Result<ProxyId> {
        let response = self.request(Request::ProxyAdd(request)).await?;
        let Response::ProxyAdded { id } = response else { return Err(unexpected()) };
        Ok(id)
    }

    /// One request, one answer.
    pub async fn request(&mut self, request: Request) -> Result<Response> {
        match self.exchange(&ClientMessage::Request(request)).await? {
            ServerMessage::Response(response) => Ok(response),
            _ => Err(unexpected()),
        }
    }

    /// Waits until the node ends the conversation.
    pub async fn closed(&mut self) -> Error {
        match receive(&mut self.stream).await {
            Ok(_) => unexpected(),
            Err(error) => error,
        }
    }

    /// The stream itself, after [`Response::Connected`].
    pub fn into_stream(self) -> Box<dyn Carrier> {
        self.stream
    }

    async fn pages<T>(&mut self, request: Request, take: fn(Response) -> Option<(Vec<T>, bool)>) -> Result<Vec<T>> {
        let (mut rows, mut more) = take(self.request(request).await?).ok_or_else(unexpected)?;
        while more {
            let ServerMessage::Response(next) = receive(&mut self.stream).await? else { return Err(unexpected()) };
            let (page, another) = take(self.judged(next)?).ok_or_else(unexpected)?;
            if rows.len() + page.len() > ROWS_MAX {
                return Err(Error::failed(format!("the list is longer than {ROWS_MAX} rows")));
            }
            rows.extend(page);
            more = another;
        }
        Ok(rows)
    }

    fn judged(&self, response: Response) -> Result<Response> {
        refusal(response).map_err(|error| self.place.complete_error(error))
    }

    async fn exchange(&mut self, message: &ClientMessage) -> Result<ServerMessage> {
        send(&mut self.stream, message).await?;
        accepted(receive(&mut self.stream).await?).map_err(|error| self.place.complete_error(error))
    }
}

/// A peer id says which node is meant; a name is for the agent that resolves it.
fn expect_node(target: &Target, node: &NodeId) -> Result<()> {
    match target.node.as_deref().and_then(|wanted| wanted.parse::<NodeId>().ok()) {
        Some(wanted) if wanted != *node => {
            Err(Error::unreachable(format!("another node answered: {node} instead of {wanted}")))
        }
        _ => Ok(()),
    }
}

async fn greeting(stream: &mut Box<dyn Carrier>) -> Result<ServerMessage> {
    let late = || Error::unreachable("the node did not answer within a minute");
    let mut timer = FutureExt::fuse(smol::Timer::after(GREETING_TIMEOUT));
    let answer = receive(stream).fuse();
    futures::pin_mut!(answer);
    futures::select! {
        answer = answer => accepted(answer?),
        _ = timer => Err(late()),
    }
}

async fn send(stream: &mut Box<dyn Carrier>, message: &ClientMessage) -> Result<()> {
    let bytes = frame::encode(message, CONTROL_MAX).map_err(|e| Error::usage(e.to_string()))?;
    stream.write_all(&bytes).await.map_err(|e| broken(&e))?;
    stream.flush().await.map_err(|e| broken(&e))
}

/// The node's next answer on a stream taken by [`Client::into_stream`], a refusal like others: an error is one of the
/// stream.
pub async fn any_answer(stream: &mut (impl AsyncRead + Unpin)) -> Result<Response> {
    match receive(stream).await? {
        ServerMessage::Response(response) => Ok(response),
        _ => Err(unexpected()),
    }
}

async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Result<ServerMessage> {
    let mut prefix = [0; PREFIX];
    stream.read_exact(&mut prefix).await.map_err(|e| broken(&e))?;
    let len = frame::body_len(prefix, CONTROL_MAX).map_err(|e| undecodable(&e))?;
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await.map_err(|e| broken(&e))?;
    frame::decode(&body).map_err(|e| undecodable(&e))
}

fn accepted(message: ServerMessage) -> Result<ServerMessage> {
    match message {
        ServerMessage::Response(response) => refusal(response).map(ServerMessage::Response),
        message => Ok(message),
    }
}

fn refusal(response: Response) -> Result<Response> {
    match response {
        Response::Error(failure) => Err(failure.into()),
        response => Ok(response),
    }
}

fn broken(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            Error::failed("the agent ended the conversation").hint("see the agent's log for why")
        }
        io::ErrorKind::ConnectionRefused => Error::unreachable("the node refused the control stream")
            .hint("it is busy with others, or no hive agent: try again"),
        _ => Error::failed(format!("the conversation with the agent broke off: {error}")),
    }
}

fn undecodable(error: &DecodeError) -> Error {
    match error {
        DecodeError::Newer(_) => newer(),
        error => Error::failed(format!("the agent sent something that is no message: {error}"))
            .hint("check that the socket or address is that of a hive agent"),
    }
}

fn newer() -> Error {
    Error::failed("the node speaks another version of the control protocol").hint("use the hivectl of its release")
}

fn unexpected() -> Error {
    Error::failed("the node answered something else than what it was asked").hint("use the hivectl of its release")
}

fn unproven() -> Error {
    Error::not_authorised("this node did not prove that it knows the password hash")
        .hint("it may not be the node you mean: nothing was told to it")
}

#[cfg(test)]
mod tests;
