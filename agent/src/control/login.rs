//! Who a caller is: an enrolled key that signs a fresh challenge, or a password proven by key exchange.

use hive_core::Purpose;
use hive_protocol::{
    CONTROL_PROTOCOL, NodeId,
    message::{ClientMessage, Failure, FailureCode, Response, ServerMessage, session_challenge},
    pake::{self, Context},
    password::Secret,
};

use super::server::{Bytes, Control, End, described};

/// The state of a login on one stream.
pub(super) struct Login {
    challenge: [u8; 32],
    begun: Option<Begun>,
    answered: Option<Answered>,
}

/// The client named its user.
struct Begun {
    user: String,
    key: [u8; 32],
    secret: Secret,
}

/// The client opened the exchange.
struct Answered {
    user: String,
    key: [u8; 32],
    proofs: pake::Proofs,
}

/// Longest user name that is looked at, in bytes.
const MAX_USER: usize = 64;

impl Login {
    pub(super) fn new(challenge: [u8; 32]) -> Self {
        Self { challenge, begun: None, answered: None }
    }

    /// Takes one step of a login or a proof.
    pub(super) async fn step<S: Bytes>(&mut self, control: &mut Control<S>, step: ClientMessage) -> Result<(), End> {
        match step {
            ClientMessage::Prove { key, signature } => self.prove(control, key, signature).await,
            ClientMessage::Login { user, key } => self.begin(control, user, key).await,
            ClientMessage::LoginOpen { opening } => self.answer(control, opening).await,
            ClientMessage::LoginConfirm { code } => self.confirm(control, code).await,
            ClientMessage::Hello { .. } | ClientMessage::Request(_) => control.refuse(out_of_turn()).await,
        }
    }

    async fn prove<S: Bytes>(&self, control: &mut Control<S>, key: [u8; 32], signature: [u8; 64]) -> Result<(), End> {
        let signed = session_challenge(&control.node.id, &self.challenge, &key);
        let known = control.node.ask(move |core, now| core.session(&key, now).is_some()).await;
        if known.unwrap_or(false) && NodeId::from_bytes(key).verify(&signed, &signature) {
            control.authorise(key).await;
            return control.say(&ServerMessage::Proven).await;
        }
        // Not counted as a guess: nobody guesses a key, and every expired session would look like an attack.
        control.respond(Response::Error(no_session())).await
    }

    async fn begin<S: Bytes>(&mut self, control: &mut Control<S>, user: String, key: [u8; 32]) -> Result<(), End> {
        let asked = if user.len() <= MAX_USER { user.clone() } else { String::new() };
        let parameters = control.node.ask(move |core, _| core.login_secret(&asked)).await;
        let (salt, cost, secret) = parameters.map_err(|_| End::SessionEnded)?;
        self.begun = Some(Begun { user, key, secret });
        control.say(&ServerMessage::LoginSalt { salt, cost }).await
    }

    /// The attempt is counted here, before anything is computed for it.
    async fn answer<S: Bytes>(
        &mut self,
        control: &mut Control<S>,
        opening: [u8; pake::MESSAGE_LEN],
    ) -> Result<(), End> {
        let Some(Begun { user, key, secret }) = self.begun.take() else { return control.refuse(out_of_turn()).await };
        if let Err(wait) = control.node.attempt(Purpose::Login, control.caller.source()).await {
            return control.refuse(too_many(wait.as_secs() + 1)).await;
        }
        let context = Context {
            protocol: CONTROL_PROTOCOL,
            subject: &user,
            initiator: &key,
            responder: control.node.id.as_bytes(),
        };
        let Ok((answer, proofs)) = pake::answer(&context, &secret, &opening) else {
            return control.refuse(wrong()).await;
        };
        let answer = answer.try_into().map_err(|_| End::Refused)?;
        self.answered = Some(Answered { user, key, proofs });
        control.say(&ServerMessage::LoginAnswer { answer }).await
    }

    async fn confirm<S: Bytes>(
        &mut self,
        control: &mut Control<S>,
        code: [u8; pake::CONFIRMATION_LEN],
    ) -> Result<(), End> {
        let Some(Answered { user, key, proofs }) = self.answered.take() else {
            return control.refuse(out_of_turn()).await;
        };
        if proofs.expect.check(&code).is_err() {
            let who = described(&control.node, control.caller).await;
            log::warn!("login refused for user {user:?}, from {who}");
            return control.refuse(wrong()).await;
        }
        control.node.succeeded(Purpose::Login, control.caller.source()).await;
        let enrolled = control.node.command(move |core, now| Ok(core.enrol(key, &user, now))).await;
        let lifetime = match enrolled {
            Ok(lifetime) => lifetime,
            Err(failure) => return control.refuse(failure).await,
        };
        control.authorise(key).await;
        let code = *proofs.send.as_bytes();
        control.say(&ServerMessage::LoginDone { code, expires_in_s: lifetime.as_secs() }).await
    }
}

fn out_of_turn() -> Failure {
    Failure::new(FailureCode::Usage, "a message out of turn")
}

fn no_session() -> Failure {
    Failure::new(FailureCode::NotAuthorised, "the session has ended or is not known here")
        .hint("log in again: hivectl login")
}

/// The same for a wrong user and a wrong password.
fn wrong() -> Failure {
    Failure::new(FailureCode::NotAuthorised, "wrong user or password")
}

fn too_many(seconds: u64) -> Failure {
    Failure::new(FailureCode::NotAuthorised, "too many failed attempts").hint(format!("try again in {seconds} s"))
}
