//! The key store on the wire: named PEM entries, and what may be told about them. A private key's text travels only in
//! [`KeyEntry`], never in a listing, and shows in no debug output.

use std::fmt;

use minicbor::{Decode, Encode};
use zeroize::Zeroize;

use crate::{HostPattern, KeyName, KeyPrefix, Timestamp};

/// Longest PEM text of one entry, in bytes: a chain of a dozen certificates.
pub const PEM_MAX: usize = 64 * 1024;
/// Most entries stored in one step; two certificates with key and issuer.
pub const ENTRIES_MAX: usize = 6;

/// What an entry of the key store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[cbor(index_only)]
pub enum KeyType {
    /// A certificate, and those that lead from it to its root.
    #[n(0)]
    Cert,
    /// A private key.
    #[n(1)]
    Key,
    /// The certificates that lead from a certificate to its root.
    #[n(2)]
    Issuer,
}

impl KeyPrefix {
    /// The name of the entry that holds this part of the set: `PREFIX_cert.pem`, `PREFIX_key.pem`, `PREFIX_issuer.pem`.
    #[must_use]
    pub fn entry(&self, part: KeyType) -> KeyName {
        let name = format!("{self}{}", suffix(part));
        name.parse().unwrap_or_else(|_| unreachable!("a prefix leaves room for the suffix"))
    }
}

impl KeyName {
    /// The set that an entry belongs to and its part there, where the name says so.
    #[must_use]
    pub fn split(&self) -> Option<(KeyPrefix, KeyType)> {
        let parts = [KeyType::Cert, KeyType::Key, KeyType::Issuer].into_iter();
        parts.filter_map(|part| Some((self.as_str().strip_suffix(suffix(part))?.parse().ok()?, part))).next()
    }
}

fn suffix(part: KeyType) -> &'static str {
    match part {
        KeyType::Cert => "_cert.pem",
        KeyType::Key => "_key.pem",
        KeyType::Issuer => "_issuer.pem",
    }
}

/// What may be told about an entry of the key store.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct KeyInfo {
    /// Its name.
    #[n(0)]
    pub key_name: KeyName,
    /// What it is.
    #[n(1)]
    pub key_type: KeyType,
    /// When its first certificate ends; none for a private key.
    #[n(2)]
    pub not_after: Option<Timestamp>,
    /// Host names and addresses its first certificate is for; none for a private key or an issuer.
    #[n(3)]
    pub hostnames: Vec<String>,
    /// When it will be renewed, if it renews itself.
    #[n(4)]
    pub renews_at: Option<Timestamp>,
    /// Why the last attempt to renew it failed.
    #[n(5)]
    pub last_error: Option<String>,
}

/// An entry of the key store with its text. Wiped when dropped.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct KeyEntry {
    /// Its name.
    #[n(0)]
    pub key_name: KeyName,
    /// What it is.
    #[n(1)]
    pub key_type: KeyType,
    /// Its PEM text (RFC 7468), at most [`PEM_MAX`] bytes.
    #[n(2)]
    pub pem: String,
}

impl Drop for KeyEntry {
    fn drop(&mut self) {
        self.pem.zeroize();
    }
}

impl fmt::Debug for KeyEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyEntry")
            .field("key_name", &self.key_name)
            .field("key_type", &self.key_type)
            .finish_non_exhaustive()
    }
}

/// A certificate to obtain and to renew from then on (ACME, RFC 8555).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TlsRequest {
    /// Host names, no wildcards.
    #[n(0)]
    pub hostnames: Vec<HostPattern>,
    /// What its entries' names begin with.
    #[n(1)]
    pub key_prefix: KeyPrefix,
    /// How the names are proven.
    #[n(2)]
    pub challenge: Challenge,
    /// Address of the CA's directory.
    #[n(3)]
    pub directory: String,
    /// Roots that the CA's own certificate is checked against, PEM; none for those of the public web.
    #[n(4)]
    pub roots: Option<String>,
    /// Address to which the CA may write.
    #[n(5)]
    pub email: Option<String>,
    /// An account made elsewhere, to which the one here is bound (RFC 8555, section 7.3.4).
    #[n(6)]
    pub external: Option<ExternalAccount>,
    /// Port on which http-01 is answered; port 80 of the names must lead there.
    #[n(7)]
    pub http_port: u16,
}

impl TlsRequest {
    /// Whether an order for one serves the other.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let order = |wish: &Self| (wish.hostnames.clone(), wish.challenge, wish.directory.clone());
        order(self) == order(other)
    }
}

/// How a CA is shown that a host name is this node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Challenge {
    /// A file on port 80 (RFC 8555, section 8.3).
    #[n(0)]
    Http01,
    /// A certificate on port 443 (RFC 8737).
    #[n(1)]
    TlsAlpn01,
}

/// An account made elsewhere.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ExternalAccount {
    /// Its name.
    #[n(0)]
    pub kid: String,
    /// Its key.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub hmac_key: Vec<u8>,
}

impl fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalAccount").field("kid", &self.kid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_prefixes_belong_together() {
        let prefix: KeyPrefix = "web".parse().unwrap();
        assert_eq!(prefix.entry(KeyType::Issuer).as_str(), "web_issuer.pem");
        assert_eq!(prefix.entry(KeyType::Key).split(), Some((prefix, KeyType::Key)));
        for other in ["_key.pem", "web.pem", "web_key.pem.old"] {
            assert_eq!(other.parse::<KeyName>().unwrap().split(), None, "{other}");
        }
        let longest: KeyPrefix = "p".repeat(KeyPrefix::MAX_BYTES).parse().unwrap();
        assert_eq!(longest.entry(KeyType::Issuer).split(), Some((longest, KeyType::Issuer)));
    }

    #[test]
    fn debug_output_keeps_the_secret() {
        let entry = KeyEntry { key_name: "k".parse().unwrap(), key_type: KeyType::Key, pem: "hunter2".into() };
        assert!(!format!("{entry:?}").contains("hunter2"));
    }
}
