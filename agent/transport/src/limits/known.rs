//! Where members were lately.

use std::collections::VecDeque;

use super::Prefix;

/// As many as connections that a node has at most: with each of them a member was here.
const MOST: usize = 1024;

/// Prefixes from which a connection was admitted to a network, the latest last.
#[derive(Debug, Default)]
pub(super) struct Known(VecDeque<Prefix>);

impl Known {
    pub fn contains(&self, prefix: Prefix) -> bool {
        self.0.contains(&prefix)
    }

    pub fn note(&mut self, prefix: Prefix) {
        self.0.retain(|known| *known != prefix);
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(prefix);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_latest_are_remembered() {
        let prefix = |number: usize| Prefix::V4(Ipv4Addr::from(number as u32));
        let mut known = Known::default();
        (0..MOST).for_each(|number| known.note(prefix(number)));
        known.note(prefix(0));
        known.note(prefix(MOST));
        assert!(known.contains(prefix(0)) && known.contains(prefix(MOST)) && !known.contains(prefix(1)));
        assert_eq!(known.0.len(), MOST);
    }
}
