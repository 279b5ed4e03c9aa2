//! Which paths a proxy's bytes may take.

use std::{fmt, str::FromStr};

use minicbor::{Decode, Encode};

/// Which paths a proxy's bytes may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[cbor(index_only)]
pub enum PathRule {
    /// The best there is.
    #[default]
    #[n(0)]
    Any,
    /// Never over a relay.
    #[n(1)]
    Direct,
    /// Only over a relay.
    #[n(2)]
    Relay,
}

impl PathRule {
    /// Whether a path that a relay carries, or does not, is one of these.
    #[must_use]
    pub fn allows(self, relayed: bool) -> bool {
        match self {
            Self::Any => true,
            Self::Direct => !relayed,
            Self::Relay => relayed,
        }
    }

    /// As people write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Direct => "direct",
            Self::Relay => "relay",
        }
    }
}

impl fmt::Display for PathRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word is none of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected any, direct or relay")]
pub struct NotARule;

impl FromStr for PathRule {
    type Err = NotARule;

    fn from_str(text: &str) -> Result<Self, NotARule> {
        [Self::Any, Self::Direct, Self::Relay].into_iter().find(|rule| rule.as_str() == text).ok_or(NotARule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_back_what_it_writes() {
        for rule in [PathRule::Any, PathRule::Direct, PathRule::Relay] {
            assert_eq!(rule.to_string().parse(), Ok(rule));
        }
        assert_eq!("relayed".parse::<PathRule>(), Err(NotARule));
    }

    #[test]
    fn a_rule_tells_relayed_paths_from_direct_ones() {
        let allowed = |rule: PathRule| [false, true].map(|relayed| rule.allows(relayed));
        assert_eq!(
            [PathRule::Any, PathRule::Direct, PathRule::Relay].map(allowed),
            [[true, true], [true, false], [false, true]]
        );
    }
}
