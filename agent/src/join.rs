//! Proving a network's password on a connection: the I/O around [`hive_protocol::pake`].
//!
//! The initiator is whoever the core asks; the responder answers on a stream that a peer opened. A connection is
//! admitted before the last message leaves, so whatever the other side does next finds the door open.

use std::time::Duration;

use hive_core::{Event, Purpose};
use hive_protocol::{
    JOIN_PROTOCOL, NetworkName,
    frame::JOIN_MAX,
    pake::{self, Context, Initiator},
    password::Secret,
    peer::{JoinMessage, JoinRefusal},
};
use hive_transport::streams::Stream;
use libp2p::StreamProtocol;

use crate::{
    frames::{self, ReadError},
    net::registry::Connection,
    node::Handle,
    time::within,
};

/// A whole exchange takes four one-way trips; this is generous even over a slow relay.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why an exchange did not end in a joined connection.
enum Failed {
    /// The responder said no.
    Refused(JoinRefusal),
    /// The responder did not prove the password, or the stream broke.
    Broken,
}

impl From<ReadError> for Failed {
    fn from(_: ReadError) -> Self {
        Self::Broken
    }
}

impl From<std::io::Error> for Failed {
    fn from(_: std::io::Error) -> Self {
        Self::Broken
    }
}

impl From<pake::NotProven> for Failed {
    fn from(_: pake::NotProven) -> Self {
        Self::Broken
    }
}

/// Joins `network` on a connection, as initiator, and tells the core how it went.
pub async fn initiate(node: Handle, connection: Connection, network: NetworkName) {
    let outcome = attempts(&node, &connection, &network).await;
    let conn = connection.conn;
    let event = match outcome {
        Ok(secret) => Event::Joined { conn, network, secret },
        Err(Failed::Refused(refusal)) => Event::JoinFailed { conn, network, refusal: Some(refusal) },
        Err(Failed::Broken) => Event::JoinFailed { conn, network, refusal: None },
    };
    node.event(event).await;
}

/// The secret that proved good. While a rotation is under way the two sides may be one password apart: ours may be their
/// previous one, or theirs our previous one.
async fn attempts(node: &Handle, connection: &Connection, network: &NetworkName) -> Result<Secret, Failed> {
    let secrets = node.join_secrets(network, connection.peer).await;
    let current = secrets.first().ok_or(Failed::Broken)?;
    let mut tries = vec![(current, 0), (current, 1)];
    tries.extend(secrets.get(1).map(|previous| (previous, 0)));
    let mut last = Failed::Broken;
    for (secret, slot) in tries {
        match within(TIMEOUT, attempt(node, connection, network, secret, slot)).await.unwrap_or(Err(Failed::Broken)) {
            Ok(()) => return Ok(secret.clone()),
            Err(refused @ Failed::Refused(JoinRefusal::NotAccepted)) => last = refused,
            Err(other) => return Err(other),
        }
    }
    Err(last)
}

async fn attempt(
    node: &Handle,
    connection: &Connection,
    network: &NetworkName,
    secret: &Secret,
    slot: u8,
) -> Result<(), Failed> {
    let protocol = StreamProtocol::new(JOIN_PROTOCOL);
    let mut stream = node.streams.open_on(connection.id, protocol).await.map_err(|_| Failed::Broken)?;
    let context = context(network, node.id.as_bytes(), connection.peer.as_bytes());
    let (initiator, opening) = Initiator::open(&context, secret);
    let opening = opening.try_into().map_err(|_| Failed::Broken)?;
    send(&mut stream, &JoinMessage::Open { network: network.clone(), slot, opening }).await?;
    let JoinMessage::Answer { answer } = receive(&mut stream).await? else { return Err(Failed::Broken) };
    let proofs = initiator.finish(&answer)?;
    send(&mut stream, &JoinMessage::Confirm { code: *proofs.send.as_bytes() }).await?;
    let JoinMessage::Confirm { code } = receive(&mut stream).await? else { return Err(Failed::Broken) };
    proofs.expect.check(&code)?;
    // The responder may use the connection as soon as it has read Done.
    node.streams.admit(connection.id);
    Ok(send(&mut stream, &JoinMessage::Done).await?)
}

/// Answers a peer's attempt to join, and tells the core.
pub async fn respond(node: Handle, connection: Connection, mut stream: Stream) {
    let exchange = within(TIMEOUT, answer(&node, &connection, &mut stream)).await;
    if let Some(Err(Failed::Refused(reason))) = exchange {
        // A stranger that does not read the refusal loses nothing but the reason.
        let _ = within(TIMEOUT, send(&mut stream, &JoinMessage::Refused { reason })).await;
        linger(&mut stream).await;
    }
}

async fn answer(node: &Handle, connection: &Connection, stream: &mut Stream) -> Result<(), Failed> {
    let JoinMessage::Open { network, slot, opening } = receive(stream).await? else { return Err(Failed::Broken) };
    let secrets = node.join_secrets(&network, connection.peer).await;
    let known = secrets.get(usize::from(slot)).cloned();
    if slot > 0 && known.is_none() {
        // Nothing is guessed where there is no password, so it counts against nobody.
        return Err(Failed::Refused(JoinRefusal::NotAccepted));
    }
    let (purpose, source) = (Purpose::Join(network.clone()), connection.source());
    if node.attempt(purpose.clone(), source).await.is_err() {
        return Err(Failed::Refused(JoinRefusal::TryLater));
    }
    // An unknown network, a banned peer and a wrong password all take the same steps.
    let secret = known.unwrap_or_else(|| Secret::from_bytes(crate::random::bytes()));
    let context = context(&network, connection.peer.as_bytes(), node.id.as_bytes());
    let (answer, proofs) = pake::answer(&context, &secret, &opening)?;
    let answer = answer.try_into().map_err(|_| Failed::Broken)?;
    send(stream, &JoinMessage::Answer { answer }).await?;
    let JoinMessage::Confirm { code } = receive(stream).await? else { return Err(Failed::Broken) };
    if proofs.expect.check(&code).is_err() {
        node.event(Event::JoinRefused { network, peer: connection.peer }).await;
        return Err(Failed::Refused(JoinRefusal::NotAccepted));
    }
    node.succeeded(purpose, source).await;
    node.streams.admit(connection.id);
    send(stream, &JoinMessage::Confirm { code: *proofs.send.as_bytes() }).await?;
    let JoinMessage::Done = receive(stream).await? else { return Err(Failed::Broken) };
    node.event(Event::Joined { conn: connection.conn, network, secret }).await;
    Ok(())
}

fn context<'a>(network: &'a NetworkName, initiator: &'a [u8; 32], responder: &'a [u8; 32]) -> Context<'a> {
    Context { protocol: JOIN_PROTOCOL, subject: network.as_str(), initiator, responder }
}

async fn send(stream: &mut Stream, message: &JoinMessage) -> Result<(), std::io::Error> {
    frames::write(stream, message, JOIN_MAX).await
}

/// The next message; a refusal ends the exchange.
async fn receive(stream: &mut Stream) -> Result<JoinMessage, Failed> {
    match frames::read(stream, JOIN_MAX).await? {
        JoinMessage::Refused { reason } => Err(Failed::Refused(reason)),
        message => Ok(message),
    }
}

/// Waits for the other side to close: yamux resets a stream that is dropped, and a reset may overtake the refusal.
async fn linger(stream: &mut Stream) {
    let _ = within(Duration::from_secs(2), frames::read::<JoinMessage>(stream, JOIN_MAX)).await;
}
