//! Streams that were: what became of those whose egress may come back, having missed their end.
//!
//! Bounded, and shared fairly: when there are too many, the member that has most is the one whose oldest is forgotten.
//! What is forgotten is unknown.

use std::collections::BTreeMap;

use hive_protocol::NodeId;

use super::waiting::Name;

/// Streams that are remembered.
const MOST: usize = 4096;

/// How a stream ended here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both applications closed; this many bytes and the end were got here.
    Well(u64),
    /// It was cut short after its target was connected: it must not begin again.
    Broken,
}

/// The streams that were, by their egress.
#[derive(Default)]
pub struct Past {
    members: BTreeMap<NodeId, Ends>,
    len: usize,
    next: u64,
}

/// Those of one member.
#[derive(Default)]
struct Ends {
    /// With its place in the order.
    ends: BTreeMap<[u8; 16], (u64, End)>,
    order: BTreeMap<u64, [u8; 16]>,
}

impl Past {
    /// How a stream ended.
    pub fn get(&self, (member, stream): &Name) -> Option<End> {
        self.members.get(member)?.ends.get(stream).map(|(_, end)| *end)
    }

    /// Remembers a stream.
    pub fn insert(&mut self, (member, stream): Name, end: End) {
        self.remove(&(member, stream));
        let ends = self.members.entry(member).or_default();
        ends.ends.insert(stream, (self.next, end));
        ends.order.insert(self.next, stream);
        self.next += 1;
        self.len += 1;
        if self.len > MOST {
            self.forget_one();
        }
    }

    /// Forgets a stream.
    pub fn remove(&mut self, (member, stream): &Name) {
        let Some(ends) = self.members.get_mut(member) else { return };
        let Some((place, _)) = ends.ends.remove(stream) else { return };
        ends.order.remove(&place);
        self.len -= 1;
        if ends.ends.is_empty() {
            self.members.remove(member);
        }
    }

    fn forget_one(&mut self) {
        let most = self.members.iter().max_by_key(|(_, ends)| ends.order.len());
        let oldest = most.and_then(|(member, ends)| Some((*member, *ends.order.first_key_value()?.1)));
        oldest.iter().for_each(|name| self.remove(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(n: usize) -> [u8; 16] {
        let mut stream = [0; 16];
        stream[..8].copy_from_slice(&n.to_be_bytes());
        stream
    }

    #[test]
    fn the_member_that_has_most_forgets_first() {
        let mut past = Past::default();
        let [quiet, busy] = [1, 2].map(|n| NodeId::from_bytes([n; 32]));
        past.insert((quiet, stream(0)), End::Well(7));
        (0..2 * MOST).for_each(|n| past.insert((busy, stream(n)), End::Broken));
        assert_eq!(past.len, MOST);
        assert_eq!(past.get(&(quiet, stream(0))), Some(End::Well(7)));
        assert_eq!(past.get(&(busy, stream(MOST))), None);
        assert_eq!(past.get(&(busy, stream(2 * MOST - 1))), Some(End::Broken));
        (0..2 * MOST).for_each(|n| past.remove(&(busy, stream(n))));
        assert_eq!((past.len, past.members.len()), (1, 1));
    }
}
