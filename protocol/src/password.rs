//! From passwords to secrets: Argon2id (RFC 9106), computed where a person gives a password and never for somebody
//! else's attempt.

use std::{fmt, str::FromStr};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{Ident, Output, ParamsString, PasswordHash, SaltString},
};
use minicbor::{Decode, Encode};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::NetworkName;

/// A stretched password, equal on both sides of a key exchange. Never shown, wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Wraps stretched bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes; for the key exchange and the store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Cost of one Argon2id run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Cost {
    /// Memory, in KiB.
    #[n(0)]
    pub memory_kib: u32,
    /// Passes.
    #[n(1)]
    pub passes: u32,
    /// Lanes.
    #[n(2)]
    pub lanes: u32,
}

impl Cost {
    /// What a 64 MB board can afford (OWASP's second recommendation): 19 MiB, two passes, one lane.
    pub const DEFAULT: Self = Self { memory_kib: 19 * 1024, passes: 2, lanes: 1 };

    /// Whether a caller should compute this for a node that names it: not so cheap that a stolen exchange helps
    /// guessing, not so dear that the node can stall its caller.
    #[must_use]
    pub fn is_reasonable(&self) -> bool {
        let Self { memory_kib, passes, lanes } = *self;
        let cheapest = Self::DEFAULT.memory_kib.saturating_mul(Self::DEFAULT.passes);
        let work = memory_kib.saturating_mul(passes);
        (8 * 1024..=256 * 1024).contains(&memory_kib)
            && (1..=4).contains(&lanes)
            && (cheapest..=1024 * 1024).contains(&work)
    }
}

/// Why a password or its hash cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Empty, or longer than [`MAX_BYTES`].
    #[error("a password has 1 to {MAX_BYTES} bytes")]
    Length,
    /// Not a PHC string of Argon2id version 19 with a 32-byte hash.
    #[error("not an Argon2id hash: make one with `hive-agent hash-password`")]
    NotAHash,
    /// Outside [`Cost::is_reasonable`].
    #[error("the hash's cost (memory {} KiB, {} passes, {} lanes) is too weak or too heavy", .0.memory_kib, .0.passes, .0.lanes)]
    Cost(Cost),
}

/// Longest password, in bytes.
pub const MAX_BYTES: usize = 1024;
const MAX_SALT: usize = 48;

/// Stretches a network's password. The salt comes from the network's name, so every member arrives at the same secret;
/// the cost is fixed, being part of the network's identity.
pub fn network_secret(network: &NetworkName, password: &str) -> Result<Secret, PasswordError> {
    let salt = blake3::derive_key("hive network salt v1", network.as_str().as_bytes());
    stretch(password, &salt, Cost::DEFAULT)
}

/// Argon2id of `password`, 32 bytes.
pub fn stretch(password: &str, salt: &[u8], cost: Cost) -> Result<Secret, PasswordError> {
    if password.is_empty() || password.len() > MAX_BYTES {
        return Err(PasswordError::Length);
    }
    if !cost.is_reasonable() {
        return Err(PasswordError::Cost(cost));
    }
    let mut secret = Secret([0; 32]);
    let hashed = argon2(cost)?.hash_password_into(password.as_bytes(), salt, &mut secret.0);
    hashed.map_err(|_| PasswordError::NotAHash)?;
    Ok(secret)
}

fn argon2(cost: Cost) -> Result<Argon2<'static>, PasswordError> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32));
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params.map_err(|_| PasswordError::Cost(cost))?))
}

/// The stored form of a login password: salt, cost and Argon2id hash, as a PHC string in text.
///
/// In the key exchange the hash serves as the shared secret, so whoever holds it can log in: it is kept as carefully
/// as the password itself.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHashed {
    /// Argon2 salt.
    pub salt: Vec<u8>,
    /// Argon2 cost.
    pub cost: Cost,
    /// The hash.
    pub secret: Secret,
}

impl PasswordHashed {
    /// Hashes a password with the default cost and the given fresh random salt.
    pub fn new(password: &str, salt: [u8; 16]) -> Result<Self, PasswordError> {
        let secret = stretch(password, &salt, Cost::DEFAULT)?;
        Ok(Self { salt: salt.to_vec(), cost: Cost::DEFAULT, secret })
    }

    /// Whether `password` has this hash. Costs one Argon2id run: for the owner's own configuration only.
    #[must_use]
    pub fn matches(&self, password: &str) -> bool {
        use subtle::ConstantTimeEq;
        stretch(password, &self.salt, self.cost).is_ok_and(|s| s.0.ct_eq(&self.secret.0).into())
    }

    /// The PHC string, `$argon2id$v=19$m=…,t=…,p=…$salt$hash`.
    #[must_use]
    pub fn to_phc(&self) -> String {
        let impossible = |_| unreachable!("salt and cost were checked");
        let salt = SaltString::encode_b64(&self.salt).unwrap_or_else(impossible);
        let params = argon2(self.cost).unwrap_or_else(|_| unreachable!("cost was checked"));
        PasswordHash {
            algorithm: Ident::new_unwrap("argon2id"),
            version: Some(19),
            params: ParamsString::try_from(params.params()).unwrap_or_else(|_| unreachable!("cost was checked")),
            salt: Some(salt.as_salt()),
            hash: Some(Output::new(&self.secret.0).unwrap_or_else(|_| unreachable!("32 bytes are an output"))),
        }
        .to_string()
    }
}

impl fmt::Debug for PasswordHashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordHashed").field("cost", &self.cost).finish_non_exhaustive()
    }
}

impl FromStr for PasswordHashed {
    type Err = PasswordError;

    fn from_str(phc: &str) -> Result<Self, PasswordError> {
        let parsed = PasswordHash::new(phc).map_err(|_| PasswordError::NotAHash)?;
        if parsed.algorithm.as_str() != "argon2id" || parsed.version != Some(19) {
            return Err(PasswordError::NotAHash);
        }
        let params = Params::try_from(&parsed).map_err(|_| PasswordError::NotAHash)?;
        let cost = Cost { memory_kib: params.m_cost(), passes: params.t_cost(), lanes: params.p_cost() };
        if !cost.is_reasonable() {
            return Err(PasswordError::Cost(cost));
        }
        let mut salt = [0; MAX_SALT];
        let salt =
            parsed.salt.ok_or(PasswordError::NotAHash)?.decode_b64(&mut salt).map_err(|_| PasswordError::NotAHash)?;
        let hash = parsed.hash.ok_or(PasswordError::NotAHash)?;
        let secret = hash.as_bytes().try_into().map_err(|_| PasswordError::NotAHash)?;
        Ok(Self { salt: salt.to_vec(), cost, secret: Secret(secret) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_secret_depends_on_name_and_password_alone() {
        let [a, b]: [NetworkName; 2] = ["lab", "home"].map(|n| n.parse().unwrap());
        let secret = network_secret(&a, "pass:word").unwrap();
        assert_eq!(secret, network_secret(&a, "pass:word").unwrap());
        assert_ne!(secret, network_secret(&b, "pass:word").unwrap());
        assert_ne!(secret, network_secret(&a, "pass:worse").unwrap());
        assert_eq!(network_secret(&a, ""), Err(PasswordError::Length));
    }

    #[test]
    fn a_hash_survives_its_text_form() {
        let hashed = PasswordHashed::new("swordfish", [9; 16]).unwrap();
        let text = hashed.to_phc();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        let read: PasswordHashed = text.parse().unwrap();
        assert_eq!(read, hashed);
        assert!(read.matches("swordfish") && !read.matches("Swordfish"));
    }

    #[test]
    fn other_hashes_are_refused() {
        for bad in [
            "",
            "plain",
            "$argon2i$v=19$m=19456,t=2,p=1$CQkJCQkJCQkJCQkJCQkJCQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "$argon2id$v=19$m=19456,t=2,p=1$CQkJCQkJCQkJCQkJCQkJCQ$AAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert_eq!(bad.parse::<PasswordHashed>(), Err(PasswordError::NotAHash), "{bad}");
        }
        let weak = "$argon2id$v=19$m=8,t=1,p=1$CQkJCQkJCQkJCQkJCQkJCQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        assert!(matches!(weak.parse::<PasswordHashed>(), Err(PasswordError::Cost(_))));
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", Secret::from_bytes([1; 32])), "Secret(…)");
        let hashed = PasswordHashed { salt: vec![1; 16], cost: Cost::DEFAULT, secret: Secret([2; 32]) };
        assert!(!format!("{hashed:?}").contains('2') || !format!("{hashed:?}").contains("secret"));
    }
}
