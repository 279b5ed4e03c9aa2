//! The admin account and the sessions opened with it: which client key may act as whom, and until when.
//!
//! A session is a client's public key that proved the password once; no token is ever sent. Nothing here looks at
//! passwords: the key exchange runs in the shell with the secret given out by [`Sessions::login_secret`].

use std::{collections::BTreeMap, time::Duration};

use hive_protocol::{
    SessionInfo, Timestamp,
    message::{Failure, FailureCode},
    password::{Cost, Secret},
};

use crate::{Admin, Change, Output, StoredSession, outbox::Outbox};

/// How long a session lives after the login.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// Most sessions at once.
const MOST: usize = 32;
/// How much older than the truth the stored time of last use may be.
const SAVE_AFTER: Duration = Duration::from_secs(60);
const DEFAULT_SALT: usize = 16;

/// The admin account and its sessions.
pub(crate) struct Sessions {
    admin: Option<Admin>,
    open: BTreeMap<[u8; 32], Open>,
    /// Makes up salts for users that do not exist: the same for the same name, whatever the restart.
    fake_key: [u8; 32],
}

struct Open {
    session: StoredSession,
    saved: Timestamp,
}

impl Sessions {
    pub fn new(admin: Option<Admin>, stored: Vec<StoredSession>, fake_key: [u8; 32]) -> Self {
        let open = |session: StoredSession| (session.key, Open { saved: session.last_used, session });
        Self { admin, open: stored.into_iter().map(open).collect(), fake_key }
    }

    pub fn admin(&self) -> Option<&Admin> {
        self.admin.as_ref()
    }

    /// Replaces the account; sessions of another user or password end.
    pub fn set_admin(&mut self, admin: Admin, out: &mut Outbox) {
        if self.admin.as_ref() == Some(&admin) {
            return;
        }
        out.persist(Change::Admin(admin.clone()));
        self.admin = Some(admin);
        let keys: Vec<_> = self.open.keys().copied().collect();
        keys.iter().for_each(|key| self.end(key, out));
    }

    /// How a user's password was stretched and what came out; made up, and never right, for a user that does not exist.
    pub fn login_secret(&self, user: &str) -> (Vec<u8>, Cost, Secret) {
        match &self.admin {
            Some(admin) if admin.user == user => {
                let hashed = &admin.password;
                (hashed.salt.clone(), hashed.cost, hashed.secret.clone())
            }
            other => self.made_up(user, other.as_ref()),
        }
    }

    fn made_up(&self, user: &str, like: Option<&Admin>) -> (Vec<u8>, Cost, Secret) {
        let mut salt = vec![0; like.map_or(DEFAULT_SALT, |a| a.password.salt.len())];
        let mut stream = blake3::Hasher::new_keyed(&self.fake_key).update(user.as_bytes()).finalize_xof();
        let mut secret = [0; 32];
        stream.fill(&mut secret);
        stream.fill(&mut salt);
        (salt, like.map_or(Cost::DEFAULT, |a| a.password.cost), Secret::from_bytes(secret))
    }

    /// Opens a session for a client that proved the password, and says how long it lives.
    pub fn enrol(&mut self, key: [u8; 32], user: &str, now: Timestamp, out: &mut Outbox) -> Duration {
        if self.open.len() >= MOST && !self.open.contains_key(&key) {
            let least_used = self.open.values().min_by_key(|o| o.session.last_used).map(|o| o.session.key);
            least_used.into_iter().for_each(|old| self.end(&old, out));
        }
        let expires = Timestamp(now.0.saturating_add(LIFETIME.as_millis() as u64));
        let session = StoredSession { key, user: user.to_owned(), created: now, expires, last_used: now };
        out.persist(Change::Session(session.clone()));
        self.open.insert(key, Open { session, saved: now });
        LIFETIME
    }

    /// The user of a live session, which counts as used.
    pub fn used(&mut self, key: &[u8; 32], now: Timestamp, out: &mut Outbox) -> Option<String> {
        let open = self.open.get_mut(key)?;
        if open.session.expires <= now {
            self.end(key, out);
            return None;
        }
        open.session.last_used = now;
        if open.saved.age(now) >= SAVE_AFTER {
            open.saved = now;
            out.persist(Change::Session(open.session.clone()));
        }
        Some(open.session.user.clone())
    }

    /// All sessions, by key.
    pub fn list(&self) -> Vec<SessionInfo> {
        self.open.values().map(|open| info(&open.session)).collect()
    }

    /// Ends a session, if there is one with this key.
    pub fn end(&mut self, key: &[u8; 32], out: &mut Outbox) {
        if self.open.remove(key).is_some() {
            out.persist(Change::SessionGone(*key));
            out.push(Output::SessionEnded { key: *key });
        }
    }

    /// Ends the session with this [`SessionInfo::id`].
    pub fn revoke(&mut self, id: &str, out: &mut Outbox) -> Result<(), Failure> {
        let keys: Vec<_> = self.open.keys().filter(|key| short(key) == id).copied().collect();
        if keys.is_empty() {
            let unknown = Failure::new(FailureCode::Usage, format!("there is no session {id}"));
            return Err(unknown.hint("hivectl sessions lists them"));
        }
        keys.iter().for_each(|key| self.end(key, out));
        Ok(())
    }

    /// Ends the sessions whose time is over.
    pub fn expire(&mut self, now: Timestamp, out: &mut Outbox) {
        let over: Vec<_> = self.open.values().filter(|o| o.session.expires <= now).map(|o| o.session.key).collect();
        over.iter().for_each(|key| self.end(key, out));
    }

    /// When the next session's time is over.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.open.values().map(|o| o.session.expires).min()
    }
}

fn info(session: &StoredSession) -> SessionInfo {
    SessionInfo {
        id: short(&session.key),
        user: session.user.clone(),
        created: session.created,
        expires: session.expires,
        last_used: session.last_used,
    }
}

fn short(key: &[u8; 32]) -> String {
    key[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use hive_protocol::password::PasswordHashed;

    use super::*;

    const NOON: Timestamp = Timestamp(1_700_000_000_000);

    fn admin(secret: u8) -> Admin {
        let secret = Secret::from_bytes([secret; 32]);
        Admin { user: "admin".into(), password: PasswordHashed { salt: vec![3; 22], cost: Cost::DEFAULT, secret } }
    }

    fn sessions() -> (Sessions, Outbox) {
        (Sessions::new(Some(admin(1)), Vec::new(), [9; 32]), Outbox::default())
    }

    fn later(minutes: u64) -> Timestamp {
        Timestamp(NOON.0 + minutes * 60_000)
    }

    fn ended(out: &mut Outbox) -> Vec<[u8; 32]> {
        let key = |output| if let Output::SessionEnded { key } = output { Some(key) } else { None };
        std::iter::from_fn(|| out.pop()).filter_map(key).collect()
    }

    #[test]
    fn an_unknown_user_looks_like_a_known_one() {
        let (sessions, _) = sessions();
        let (salt, cost, secret) = sessions.login_secret("admin");
        assert_eq!((salt.len(), cost, secret), (22, Cost::DEFAULT, Secret::from_bytes([1; 32])));
        let (fake, fake_cost, fake_secret) = sessions.login_secret("root");
        assert_eq!((fake.len(), fake_cost), (22, Cost::DEFAULT));
        assert_ne!(fake_secret, Secret::from_bytes([1; 32]));
        let again = Sessions::new(Some(admin(1)), Vec::new(), [9; 32]);
        assert_eq!(again.login_secret("root").0, fake, "a restart does not tell");
        assert_ne!(again.login_secret("toor").0, fake);
    }

    #[test]
    fn a_session_lives_twelve_hours() {
        let (mut sessions, mut out) = sessions();
        assert_eq!(sessions.enrol([5; 32], "admin", NOON, &mut out), LIFETIME);
        assert_eq!(sessions.used(&[5; 32], later(719), &mut out).as_deref(), Some("admin"));
        assert_eq!(sessions.used(&[6; 32], later(719), &mut out), None);
        assert_eq!(sessions.used(&[5; 32], later(720), &mut out), None);
        assert_eq!(ended(&mut out), [[5; 32]]);
    }

    #[test]
    fn use_is_stored_once_a_minute() {
        let (mut sessions, mut out) = sessions();
        sessions.enrol([5; 32], "admin", NOON, &mut out);
        while out.pop().is_some() {}
        for second in 0..119 {
            sessions.used(&[5; 32], Timestamp(NOON.0 + second * 1000), &mut out);
        }
        let stored = std::iter::from_fn(|| out.pop()).count();
        assert_eq!(stored, 1);
    }

    #[test]
    fn another_password_ends_all_sessions_and_the_same_none() {
        let (mut sessions, mut out) = sessions();
        sessions.enrol([5; 32], "admin", NOON, &mut out);
        sessions.set_admin(admin(1), &mut out);
        assert_eq!(sessions.list().len(), 1);
        sessions.set_admin(admin(2), &mut out);
        assert!(sessions.list().is_empty());
        assert_eq!(ended(&mut out), [[5; 32]]);
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let (mut sessions, mut out) = sessions();
        for n in 0..32u8 {
            sessions.enrol([n; 32], "admin", later(n.into()), &mut out);
        }
        sessions.used(&[0; 32], later(40), &mut out);
        sessions.enrol([99; 32], "admin", later(41), &mut out);
        assert_eq!(sessions.list().len(), MOST);
        assert_eq!(ended(&mut out), [[1; 32]]);
    }

    #[test]
    fn revoking_needs_an_id_that_exists() {
        let (mut sessions, mut out) = sessions();
        sessions.enrol([0xab; 32], "admin", NOON, &mut out);
        assert_eq!(sessions.revoke("nope", &mut out).unwrap_err().code, FailureCode::Usage);
        sessions.revoke("abababab", &mut out).unwrap();
        assert!(sessions.list().is_empty());
    }
}
