//! What is stored about a certificate that renews itself: what was asked for, an order under way, and how it went.

use std::sync::Arc;

use blocking::unblock;
use hive_core::acme::Course;
use hive_protocol::{
    KeyEntry, KeyPrefix, Timestamp,
    keys::{Challenge, TlsRequest},
};
use minicbor::{Decode, Encode};

use crate::{
    keys::{Keys, KeysError, Seen},
    store::KeyChange,
};

/// A certificate that renews itself.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map)]
pub struct Record {
    /// What was asked for, defaults filled in. The binding to an external account is not kept: it is used once.
    #[n(0)]
    pub wish: TlsRequest,
    /// The order under way.
    #[n(1)]
    pub order: Option<Pending>,
    /// When the present certificate begins and ends.
    #[n(2)]
    pub validity: Option<(Timestamp, Timestamp)>,
    /// The window that the CA suggests for its renewal.
    #[n(3)]
    pub window: Option<(Timestamp, Timestamp)>,
    /// When to ask for the window again.
    #[n(4)]
    pub ask_at: Option<Timestamp>,
    /// Attempts that failed since the last success.
    #[n(5)]
    pub failures: u32,
    /// When the last one did.
    #[n(6)]
    pub failed_at: Timestamp,
    /// Why, and what to do about it.
    #[n(7)]
    pub trouble: Option<Trouble>,
    /// Before when the CA wants no other attempt.
    #[n(8)]
    pub not_before: Timestamp,
    /// See [`Course::place`].
    #[n(9)]
    pub place: u16,
}

/// An order that the CA knows.
#[derive(Clone, Encode, Decode)]
#[cbor(map)]
pub struct Pending {
    /// Its address.
    #[n(0)]
    pub url: String,
    /// The private key that will be certified, PKCS#8 PEM.
    #[n(1)]
    pub key: String,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Trouble {
    /// What went wrong.
    #[n(0)]
    pub what: String,
    /// What to do about it.
    #[n(1)]
    pub hint: String,
}

impl Trouble {
    /// The key store's.
    pub fn of(error: &KeysError) -> Self {
        Self { what: error.to_string(), hint: error.hint().unwrap_or("see the agent's log").into() }
    }
}

impl Record {
    /// A new one.
    pub fn new(wish: TlsRequest, place: u16) -> Self {
        Self {
            wish,
            order: None,
            validity: None,
            window: None,
            ask_at: None,
            failures: 0,
            failed_at: Timestamp(0),
            trouble: None,
            not_before: Timestamp(0),
            place,
        }
    }

    /// What the core decides by.
    pub fn course(&self) -> Course {
        Course {
            validity: self.validity,
            window: self.window,
            ask_at: self.ask_at,
            failures: self.failures,
            failed_at: self.failed_at,
            not_before: self.not_before,
            place: self.place,
        }
    }

    /// The port on which it needs http-01 answered.
    pub fn http_port(&self) -> Option<u16> {
        (self.wish.challenge == Challenge::Http01).then_some(self.wish.http_port)
    }

    /// Stores it, unless what it is about was changed by hand since it was seen.
    pub async fn keep(&self, keys: &Arc<Keys>, seen: &Seen) -> Result<Seen, KeysError> {
        self.keep_with(Vec::new(), keys, seen).await
    }

    /// Stores it in one transaction with a new certificate and its key.
    pub async fn keep_with(&self, set: Vec<KeyEntry>, keys: &Arc<Keys>, seen: &Seen) -> Result<Seen, KeysError> {
        let (keys, seen, change) = (keys.clone(), seen.clone(), self.change());
        unblock(move || keys.renew(&seen, set, vec![change])).await
    }

    fn change(&self) -> KeyChange {
        let encoded = minicbor::to_vec(self).unwrap_or_else(|_| unreachable!("encoding to memory"));
        KeyChange::Acme(key(&self.wish.key_prefix), Some(encoded))
    }
}

/// Where a certificate's record is stored.
pub fn key(prefix: &KeyPrefix) -> String {
    format!("cert/{prefix}")
}

/// Where the account at a CA is stored.
pub fn account_key(directory: &str) -> String {
    format!("account/{directory}")
}

/// Where the e-mail address that a CA was told is stored.
pub fn contact_key(directory: &str) -> String {
    format!("contact/{directory}")
}
