//! Conversations with a node that plays its part in the same process.

use futures::future;
use hive_protocol::{
    message::{Failure, FailureCode},
    password::{Cost, PasswordHashed, Secret},
};
use smol::net::unix::UnixStream;

use super::*;

const USER: &str = "admin";
const CHALLENGE: [u8; 32] = [9; 32];

const NODE: NodeId = NodeId::from_bytes([4; 32]);

/// A node that knows `hash`, or believes it does, and names `cost`.
struct FakeNode {
    stream: UnixStream,
    secret: Secret,
    salt: Vec<u8>,
    cost: Cost,
}

impl FakeNode {
    async fn say(&mut self, message: ServerMessage) {
        let bytes = frame::encode(&message, CONTROL_MAX).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// The client's next message; none when it has gone.
    async fn hear(&mut self) -> Option<ClientMessage> {
        let mut prefix = [0; PREFIX];
        self.stream.read_exact(&mut prefix).await.ok()?;
        let mut body = vec![0; frame::body_len(prefix, CONTROL_MAX).unwrap()];
        self.stream.read_exact(&mut body).await.unwrap();
        Some(frame::decode(&body).unwrap())
    }

    async fn welcome(&mut self) {
        assert!(matches!(self.hear().await, Some(ClientMessage::Hello { min: 1, max: 1, .. })));
        let name = "shed".parse().unwrap();
        let welcome = ServerMessage::Welcome { version: 1, node: NODE, name, authorised: false, challenge: CHALLENGE };
        self.say(welcome).await;
    }

    /// Runs a login as a node does. `honest` is whether it sends its own proof only for a right password.
    async fn serve_login(mut self, honest: bool) {
        self.welcome().await;
        let Some(ClientMessage::Login { user, key }) = self.hear().await else { panic!("no login") };
        self.say(ServerMessage::LoginSalt { salt: self.salt.clone(), cost: self.cost }).await;
        let Some(ClientMessage::LoginOpen { opening }) = self.hear().await else { return };
        let context =
            Context { protocol: CONTROL_PROTOCOL, subject: &user, initiator: &key, responder: NODE.as_bytes() };
        let (answer, proofs) = pake::answer(&context, &self.secret, &opening).unwrap();
        self.say(ServerMessage::LoginAnswer { answer: answer.try_into().unwrap() }).await;
        let Some(ClientMessage::LoginConfirm { code }) = self.hear().await else { return };
        if honest && proofs.expect.check(&code).is_err() {
            let failure = Failure::new(FailureCode::NotAuthorised, "wrong user or password");
            return self.say(ServerMessage::Response(Response::Error(failure))).await;
        }
        self.say(ServerMessage::LoginDone { code: *proofs.send.as_bytes(), expires_in_s: 3600 }).await;
    }
}

fn pair(password: &str) -> (Box<dyn Carrier>, FakeNode) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let hashed = PasswordHashed::new(password, [3; 16]).unwrap();
    (Box::new(ours), FakeNode { stream: theirs, secret: hashed.secret, salt: hashed.salt, cost: hashed.cost })
}

fn login(password: &str, (ours, node): (Box<dyn Carrier>, FakeNode), honest: bool) -> Result<Duration> {
    let client = async {
        let mut client = Client::greet(ours, &Target::default()).await?;
        client.login(USER, password, &Keypair::generate()).await
    };
    smol::block_on(future::join(client, node.serve_login(honest))).0
}

#[test]
fn the_right_password_opens_a_session() {
    assert_eq!(login("swordfish", pair("swordfish"), true), Ok(Duration::from_secs(3600)));
}

#[test]
fn a_wrong_password_is_refused_by_the_node() {
    let error = login("catfish", pair("swordfish"), true).unwrap_err();
    assert_eq!((error.status, error.what.as_str()), (Status::NotAuthorised, "wrong user or password"));
}

#[test]
fn a_node_without_the_hash_is_refused_by_the_client() {
    let error = login("swordfish", pair("a guess"), false).unwrap_err();
    assert_eq!(error, unproven());
}

#[test]
fn an_unreasonable_cost_is_refused_before_it_is_paid() {
    for cost in [
        Cost { memory_kib: 8, passes: 1, lanes: 1 },
        Cost { memory_kib: 4 * 1024 * 1024, passes: 1, lanes: 1 },
        Cost { memory_kib: 19 * 1024, passes: 10_000, lanes: 1 },
    ] {
        let (ours, node) = pair("swordfish");
        let error = login("swordfish", (ours, FakeNode { cost, ..node }), true).unwrap_err();
        assert!(error.status == Status::NotAuthorised && error.what.contains("too weak or too heavy"), "{error:?}");
    }
}

#[test]
fn a_session_key_is_proven_by_signing_the_challenge() {
    let (ours, mut fake) = pair("x");
    let key = Keypair::generate();
    let client = async {
        let mut client = Client::greet(ours, &Target::default()).await?;
        Ok::<_, Error>((client.prove(&key).await?, client.prove(&key).await?))
    };
    let served = async {
        fake.welcome().await;
        let Some(ClientMessage::Prove { key, signature }) = fake.hear().await else { panic!("no proof") };
        let message = session_challenge(&NODE, &CHALLENGE, &key);
        assert!(NodeId::from_bytes(key).verify(&message, &signature));
        fake.say(ServerMessage::Proven).await;
        fake.hear().await;
        let failure = Failure::new(FailureCode::NotAuthorised, "no such session");
        fake.say(ServerMessage::Response(Response::Error(failure))).await;
    };
    assert_eq!(smol::block_on(future::join(client, served)).0, Ok((true, false)));
}

#[test]
fn another_node_than_the_one_meant_is_refused() {
    let (ours, mut fake) = pair("x");
    let meant = NodeId::from_bytes([5; 32]).to_string();
    let target = Target { node: Some(meant.clone()), ..Target::default() };
    let greeting = Client::greet(ours, &target);
    let (client, ()) = smol::block_on(future::join(greeting, fake.welcome()));
    let Err(error) = client else { panic!("accepted") };
    assert!(error.status == Status::Unreachable && error.what.ends_with(&meant), "{error:?}");
}

#[test]
fn lists_are_put_together_from_pages() {
    let (ours, mut fake) = pair("x");
    let client = async { Client::greet(ours, &Target::default()).await?.proxies().await };
    let served = async {
        fake.welcome().await;
        assert_eq!(fake.hear().await, Some(ClientMessage::Request(Request::Proxies)));
        for more in [true, true, false] {
            fake.say(ServerMessage::Response(Response::Proxies { rows: Vec::new(), more })).await;
        }
    };
    assert_eq!(smol::block_on(future::join(client, served)).0, Ok(Vec::new()));
}

#[test]
fn what_is_no_message_is_told_as_that() {
    for (bytes, expected) in [
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], "no message"),
        (&[0, 0, 0, 1, 0xff], "no message"),
        (&[0, 0, 0, 4, 0x82, 0x18, 0x63, 0x80], "another version"),
        (&[], "ended the conversation"),
    ] {
        let (ours, mut fake) = pair("x");
        let served = async move {
            fake.hear().await;
            fake.stream.write_all(bytes).await.unwrap();
        };
        let (client, ()) = smol::block_on(future::join(Client::greet(ours, &Target::default()), served));
        let Err(error) = client else { panic!("accepted") };
        assert!(error.what.contains(expected), "{}", error.what);
    }
}
