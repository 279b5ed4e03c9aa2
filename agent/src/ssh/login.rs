//! Who may log in at one proxy.

use std::sync::Arc;

use hive_protocol::{SshLogin, password::PasswordHashed};
use russh::{
    MethodKind, MethodSet,
    keys::{Algorithm, PublicKey},
};
use smol::lock::Semaphore;

/// Argon2id takes 19 MiB and a tenth of a second: one attempt is looked at after the other, of all proxies.
static HASHING: Semaphore = Semaphore::new(1);

/// The login of one proxy.
#[derive(Clone)]
pub struct Login {
    user: String,
    password: Option<Arc<PasswordHashed>>,
    keys: Vec<PublicKey>,
}

impl Login {
    /// Reads what is stored, or says what is wrong with it.
    pub fn of(login: &SshLogin) -> Result<Self, String> {
        let password = login.password.as_ref().map(|phc| phc.parse().map(Arc::new)).transpose();
        Ok(Self {
            user: login.user.clone(),
            password: password.map_err(|e| format!("the password: {e}"))?,
            keys: login.keys.iter().map(|line| key(line)).collect::<Result<_, _>>()?,
        })
    }

    /// How one can log in here.
    pub fn methods(&self) -> MethodSet {
        let keys = (!self.keys.is_empty()).then_some(MethodKind::PublicKey);
        let password = self.password.as_ref().map(|_| MethodKind::Password);
        MethodSet::from(&keys.into_iter().chain(password).collect::<Vec<_>>()[..])
    }

    /// Whether this user has this password. A wrong user costs as much as a wrong password.
    pub async fn has_password(&self, user: &str, password: &str) -> bool {
        let Some(hashed) = self.password.clone() else { return false };
        let known = user == self.user;
        let _turn = HASHING.acquire().await;
        let password = password.to_owned();
        blocking::unblock(move || hashed.matches(&password)).await && known
    }

    /// Whether this user may log in with this key.
    pub fn has_key(&self, user: &str, key: &PublicKey) -> bool {
        user == self.user && self.keys.iter().any(|known| known.key_data() == key.key_data())
    }
}

fn key(line: &str) -> Result<PublicKey, String> {
    let key = PublicKey::from_openssh(line.trim()).map_err(|e| format!("not a public key: {e}"))?;
    match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::Ecdsa { .. } => Ok(key),
        Algorithm::Rsa { .. } => Err("RSA keys cannot log in: this agent's SSH server does not verify them".to_owned()),
        other => Err(format!("keys of kind {other} cannot log in")),
    }
}

#[cfg(test)]
mod tests {
    use hive_protocol::password::{Cost, Secret};

    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMkNdMlZVVm42GSUPqwNXP1nNKX2mCGKLqQ3YhD1kFYS someone@somewhere";

    fn login() -> SshLogin {
        let hashed = PasswordHashed { salt: vec![7; 16], cost: Cost::DEFAULT, secret: Secret::from_bytes([1; 32]) };
        SshLogin { user: "operator".into(), password: Some(hashed.to_phc()), keys: vec![KEY.into()] }
    }

    #[test]
    fn a_key_logs_in_whatever_its_comment_and_only_its_user() {
        let login = Login::of(&login()).unwrap();
        let other_comment = PublicKey::from_openssh(&KEY.replace("someone", "nobody")).unwrap();
        assert!(login.has_key("operator", &other_comment) && !login.has_key("root", &other_comment));
        assert_eq!(login.methods().len(), 2);
    }

    #[test]
    fn what_is_no_key_is_refused_before_it_is_stored() {
        for bad in ["", "ssh-ed25519", "ssh-ed25519 AAAA", "command=\"x\" ssh-ed25519 AAAA"] {
            assert!(Login::of(&SshLogin { keys: vec![bad.into()], ..login() }).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_rsa_key_is_refused_by_its_name() {
        // `ssh-keygen -t rsa -b 1024`: the kind is told, whatever the length.
        let line = concat!(
            "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC9uj0o7mrDvc9BPvJyAnWyPNzOzQypo1awzEd7mYoGgeSc6CqTVWW9z+pEVbOx",
            "0uxtFLhAPZYsyd7y8r72hmQrYl5aY+VPRqp42UGwgjdJIpsGw+9327EbNo9Amn0M5CgH+4wHIZ8SY15Pm0Esc1rZzmz1WPpHqel3",
            "ugaZWazYuw==",
        );
        let refused = Login::of(&SshLogin { keys: vec![line.into()], ..login() }).err().unwrap();
        assert!(refused.contains("RSA keys cannot log in"), "{refused}");
    }

    #[test]
    fn without_a_password_none_is_right() {
        let login = Login::of(&SshLogin { password: None, ..login() }).unwrap();
        assert!(!smol::block_on(login.has_password("operator", "")));
        assert_eq!(login.methods().len(), 1);
    }
}
