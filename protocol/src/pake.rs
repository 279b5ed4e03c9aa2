//! Password-authenticated key exchange with explicit key confirmation: one mechanism for joining and for login.
//!
//! SPAKE2 (Abdalla and Pointcheval 2005) over Ed25519 as in the `spake2` crate, then a key-confirmation code from each side. No transcript
//! allows an offline guess: whoever talks to us tests one password per run. The context binds protocol, purpose and
//! both identities, so a run cannot be reflected, replayed or carried over to another pair.
//!
//! ```text
//! initiator                         responder
//!   opening            ->
//!                      <-           answer
//!   confirmation       ->             checks; only now knows the password was right
//!     checks           <-           confirmation
//! ```

use spake2::{Ed25519Group, Identity, Password, Spake2};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::password::Secret;

/// Bytes of an opening or an answer.
pub const MESSAGE_LEN: usize = 33;
/// Bytes of a confirmation.
pub const CONFIRMATION_LEN: usize = 32;

/// What both sides must agree on besides the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context<'a> {
    /// Protocol and purpose, for example the stream protocol's name.
    pub protocol: &'a str,
    /// What the password belongs to: a network's or a user's name.
    pub subject: &'a str,
    /// Public key of the side that opens.
    pub initiator: &'a [u8; 32],
    /// Public key of the side that answers.
    pub responder: &'a [u8; 32],
}

/// The other side did not prove the password, or sent something that is no group element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the password was not proven")]
pub struct NotProven;

/// Proof of the key, sent to the other side. Compared in constant time.
#[derive(Debug, Clone)]
pub struct Confirmation([u8; CONFIRMATION_LEN]);

impl Confirmation {
    /// The bytes to send.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; CONFIRMATION_LEN] {
        &self.0
    }

    /// Whether `received` is this confirmation.
    pub fn check(&self, received: &[u8]) -> Result<(), NotProven> {
        if self.0.ct_eq(received).into() { Ok(()) } else { Err(NotProven) }
    }
}

/// Both confirmations of a run: what to send and what to expect.
#[derive(Debug)]
pub struct Proofs {
    /// Ours, for the other side.
    pub send: Confirmation,
    /// Theirs, to be checked when it comes.
    pub expect: Confirmation,
}

/// The side that opens, between its opening and the answer.
pub struct Initiator {
    state: Spake2<Ed25519Group>,
    opening: Vec<u8>,
    context: [u8; 32],
}

impl Initiator {
    /// Begins a run; the bytes are the opening to send.
    #[must_use]
    pub fn open(context: &Context<'_>, secret: &Secret) -> (Self, Vec<u8>) {
        let (id_a, id_b) = context.identities();
        let (state, opening) = Spake2::start_a(&Password::new(secret.as_bytes()), &id_a, &id_b);
        let sent = opening.clone();
        (Self { state, opening, context: context.digest() }, sent)
    }

    /// Takes the answer. The initiator sends its proof first.
    pub fn finish(self, answer: &[u8]) -> Result<Proofs, NotProven> {
        let key = Zeroizing::new(self.state.finish(answer).map_err(|_| NotProven)?);
        let (initiator, responder) = confirmations(&key, &self.context, &self.opening, answer);
        Ok(Proofs { send: initiator, expect: responder })
    }
}

/// Answers an opening: the bytes to send back, and the proofs. Ours is sent only after theirs was checked.
pub fn answer(context: &Context<'_>, secret: &Secret, opening: &[u8]) -> Result<(Vec<u8>, Proofs), NotProven> {
    let (id_a, id_b) = context.identities();
    let (state, answer) = Spake2::<Ed25519Group>::start_b(&Password::new(secret.as_bytes()), &id_a, &id_b);
    let key = Zeroizing::new(state.finish(opening).map_err(|_| NotProven)?);
    let (initiator, responder) = confirmations(&key, &context.digest(), opening, &answer);
    Ok((answer, Proofs { send: responder, expect: initiator }))
}

impl Context<'_> {
    /// One digest over all fields, each with its length in front.
    fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("hive pake context v1");
        for field in [self.protocol.as_bytes(), self.subject.as_bytes(), self.initiator, self.responder] {
            hasher.update(&(field.len() as u64).to_be_bytes()).update(field);
        }
        hasher.finalize().into()
    }

    fn identities(&self) -> (Identity, Identity) {
        let digest = self.digest();
        let side = |role: &[u8], key: &[u8]| Identity::new(&[role, key, &digest].concat());
        (side(b"initiator", self.initiator), side(b"responder", self.responder))
    }
}

fn confirmations(key: &[u8], context: &[u8; 32], opening: &[u8], answer: &[u8]) -> (Confirmation, Confirmation) {
    let code = |purpose: &str| {
        let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key(purpose, key));
        hasher.update(context).update(opening).update(answer);
        Confirmation(hasher.finalize().into())
    };
    (code("hive pake v1 initiator confirms"), code("hive pake v1 responder confirms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: [u8; 32] = [1; 32];
    const BOB: [u8; 32] = [2; 32];
    const MALLORY: [u8; 32] = [3; 32];

    fn context<'a>(initiator: &'a [u8; 32], responder: &'a [u8; 32]) -> Context<'a> {
        Context { protocol: "/test/1", subject: "lab", initiator, responder }
    }

    fn secret(text: &str) -> Secret {
        Secret::from_bytes(*blake3::hash(text.as_bytes()).as_bytes())
    }

    /// Runs both sides; says whether each accepts the other.
    fn run(ours: (&Context<'_>, &Secret), theirs: (&Context<'_>, &Secret)) -> (bool, bool) {
        let (initiator, opening) = Initiator::open(ours.0, ours.1);
        let (answer, responder) = answer(theirs.0, theirs.1, &opening).unwrap();
        let initiator = initiator.finish(&answer).unwrap();
        let at_responder = responder.expect.check(initiator.send.as_bytes()).is_ok();
        (initiator.expect.check(responder.send.as_bytes()).is_ok(), at_responder)
    }

    #[test]
    fn the_same_password_convinces_both() {
        let c = context(&ALICE, &BOB);
        assert_eq!(run((&c, &secret("right")), (&c, &secret("right"))), (true, true));
    }

    #[test]
    fn a_wrong_password_convinces_neither() {
        let c = context(&ALICE, &BOB);
        assert_eq!(run((&c, &secret("right")), (&c, &secret("wrong"))), (false, false));
    }

    #[test]
    fn mixed_up_identities_convince_neither() {
        let s = secret("right");
        let c = context(&ALICE, &BOB);
        for other in [context(&ALICE, &MALLORY), context(&MALLORY, &BOB), context(&BOB, &ALICE)] {
            assert_eq!(run((&c, &s), (&other, &s)), (false, false));
        }
        assert_eq!(run((&c, &s), (&Context { subject: "other", ..c }, &s)), (false, false));
        assert_eq!(run((&c, &s), (&Context { protocol: "/test/2", ..c }, &s)), (false, false));
    }

    #[test]
    fn a_replayed_transcript_proves_nothing() {
        let (c, s) = (context(&ALICE, &BOB), secret("right"));
        let (initiator, opening) = Initiator::open(&c, &s);
        let (first_answer, _) = answer(&c, &s, &opening).unwrap();
        let recorded = initiator.finish(&first_answer).unwrap().send;
        let (_, second_run) = answer(&c, &s, &opening).unwrap();
        assert_eq!(second_run.expect.check(recorded.as_bytes()), Err(NotProven));
    }

    #[test]
    fn a_reflected_message_or_confirmation_proves_nothing() {
        let (c, s) = (context(&ALICE, &BOB), secret("right"));
        let (initiator, opening) = Initiator::open(&c, &s);
        assert!(initiator.finish(&opening).is_err(), "an opening is no answer");
        let (initiator, opening) = Initiator::open(&c, &s);
        let (answer, _) = answer(&c, &s, &opening).unwrap();
        let proofs = initiator.finish(&answer).unwrap();
        assert_eq!(proofs.expect.check(proofs.send.as_bytes()), Err(NotProven));
    }

    #[test]
    fn garbage_is_refused_without_a_panic() {
        let (c, s) = (context(&ALICE, &BOB), secret("right"));
        for bytes in [&[][..], &[0x41; 5], &[0x41; MESSAGE_LEN], &[0xff; 200]] {
            assert!(answer(&c, &s, bytes).is_err() || bytes.len() == MESSAGE_LEN);
            let (initiator, _) = Initiator::open(&c, &s);
            assert!(initiator.finish(bytes).is_err() || bytes.len() == MESSAGE_LEN);
        }
    }
}
