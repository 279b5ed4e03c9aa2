//! Host names as TLS clients ask for them, and the patterns by which one port serves several.

use std::{fmt, str::FromStr};

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

/// A host name, or `*.` before one, which stands for exactly one label (RFC 9525, section 6.3). Lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern(String);

/// The text is no host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a host name: {0:?}; write for example shed.example.org")]
pub struct NotAHost(String);

impl HostPattern {
    /// Longest DNS name (RFC 1035, section 2.3.4).
    pub const MAX_BYTES: usize = 253;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for several names.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// Whether a client that asks for `host` means this.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        let Some(domain) = self.0.strip_prefix("*.") else { return self.0.eq_ignore_ascii_case(host) };
        host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain))
    }
}

impl FromStr for HostPattern {
    type Err = NotAHost;

    fn from_str(text: &str) -> Result<Self, NotAHost> {
        let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let name = lower.strip_prefix("*.").unwrap_or(&lower);
        if lower.len() <= Self::MAX_BYTES && is_host(name) {
            return Ok(Self(lower));
        }
        Err(NotAHost(text.chars().take(80).collect()))
    }
}

/// Labels of letters, digits, dashes and underscores, the last one not a number: that would be an address.
fn is_host(name: &str) -> bool {
    let fits = |label: &str| {
        let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        (1..=63).contains(&label.len()) && plain && !label.starts_with('-') && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or(name);
    name.split('.').all(fits) && !last.bytes().all(|b| b.is_ascii_digit())
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<C> Encode<C> for HostPattern {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for HostPattern {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        d.str()?.parse().map_err(decode::Error::message)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for HostPattern {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_matches_itself_and_a_wildcard_one_label() {
        assert!(pattern("Shed.Example").matches("shed.EXAMPLE") && pattern("shed.example").matches("shed.example."));
        assert!(!pattern("shed.example").matches("www.shed.example"));
        let wild = pattern("*.shed.example");
        assert!(wild.is_wildcard() && wild.matches("a.shed.example"));
        for other in ["shed.example", "a.b.shed.example", ".shed.example", "ashed.example", "*"] {
            assert!(!wild.matches(other), "{other}");
        }
    }

    #[test]
    fn what_no_client_asks_for_is_refused() {
        let long = format!("{}.example", "a".repeat(64));
        for bad in
            ["", ".", "*", "*.", "a..b", "a b", "192.0.2.1", "-a.b", "*.*.b", "a.*.b", "küche.example", "a:80", &long]
        {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
        assert_eq!(pattern("localhost").as_str(), "localhost");
    }
}
