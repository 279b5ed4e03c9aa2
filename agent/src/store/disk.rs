//! On-disk forms of what the core keeps: CBOR maps with integer keys, so fields can be added.
//!
//! Secrets stand here in the clear: the folder's mode keeps others out, and a key beside them would not.

use hive_core::{Admin as CoreAdmin, StoredNetwork, StoredSession};
use hive_protocol::{
    NetworkName, NodeId, SignedRecord, Timestamp,
    password::{PasswordError, Secret},
};
use minicbor::{Decode, Encode};

#[derive(Encode, Decode)]
#[cbor(map)]
pub struct Network {
    #[n(0)]
    name: NetworkName,
    #[cbor(n(1), with = "minicbor::bytes")]
    secret: [u8; 32],
    #[n(2)]
    previous: Option<Previous>,
    #[n(3)]
    banned: Vec<NodeId>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Previous {
    #[cbor(n(0), with = "minicbor::bytes")]
    secret: [u8; 32],
    #[n(1)]
    until: Timestamp,
}

impl Network {
    pub fn from_core(network: &StoredNetwork) -> Self {
        let previous = |(secret, until): &(Secret, Timestamp)| Previous { secret: *secret.as_bytes(), until: *until };
        Self {
            name: network.name.clone(),
            secret: *network.secret.as_bytes(),
            previous: network.previous.as_ref().map(previous),
            banned: network.banned.clone(),
        }
    }

    pub fn into_core(self) -> StoredNetwork {
        StoredNetwork {
            name: self.name,
            secret: Secret::from_bytes(self.secret),
            previous: self.previous.map(|p| (Secret::from_bytes(p.secret), p.until)),
            banned: self.banned,
        }
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
pub struct Record {
    #[n(0)]
    pub signed: SignedRecord,
    #[n(1)]
    pub contact: Timestamp,
}

impl Record {
    pub fn into_core(self) -> (SignedRecord, Timestamp) {
        (self.signed, self.contact)
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
pub struct Session {
    #[cbor(n(0), with = "minicbor::bytes")]
    key: [u8; 32],
    #[n(1)]
    user: String,
    #[n(2)]
    created: Timestamp,
    #[n(3)]
    expires: Timestamp,
    #[n(4)]
    last_used: Timestamp,
}

impl Session {
    pub fn from_core(session: &StoredSession) -> Self {
        let StoredSession { key, user, created, expires, last_used } = session.clone();
        Self { key, user, created, expires, last_used }
    }

    pub fn into_core(self) -> StoredSession {
        let Self { key, user, created, expires, last_used } = self;
        StoredSession { key, user, created, expires, last_used }
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
pub struct Admin {
    #[n(0)]
    user: String,
    #[n(1)]
    phc: String,
}

impl Admin {
    pub fn from_core(admin: &CoreAdmin) -> Self {
        Self { user: admin.user.clone(), phc: admin.password.to_phc() }
    }

    pub fn into_core(self) -> Result<CoreAdmin, PasswordError> {
        Ok(CoreAdmin { user: self.user, password: self.phc.parse()? })
    }
}
