//! Range-based table sync: what to answer to another member's holdings, and how to cut answers into messages.
//!
//! Pure functions over a table. Ranges that differ are split by nibbles of the node id until lists are short; the side
//! that sees a list sends what the other lacks and asks for what it lacks itself. Equal ranges are not answered, so a
//! comparison of equal tables costs one small message.

use std::collections::BTreeMap;

use hive_protocol::{
    SignedRecord,
    peer::{Entry, MAX_ENTRIES, MAX_RANGES, MAX_RECORDS, Range, RangeContent, SyncMessage},
};

use crate::peers::Table;

#[cfg(test)]
mod tests;

/// A range with at most this many records is listed instead of split.
const LIST: usize = 32;
/// Most records sent, or asked for, in answer to one message.
const RECORDS: usize = 256;
/// Most ranges answered to one message.
const RANGES: usize = 4 * MAX_RANGES;
/// Deepest range: all nibbles of a short node id.
const DEEPEST: u8 = 16;
/// Bytes of ranges, about, that go into one message: well under the largest frame between members.
const MESSAGE: usize = 40 * 1024;

/// The answer to a message.
#[derive(Default)]
pub(crate) struct Answer {
    pub messages: Vec<SyncMessage>,
    /// More is to be said than one answer may hold: compare again soon.
    pub more: bool,
}

/// A message that no correct member sends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Improper;

/// Opens a comparison: the whole table as one range.
pub(crate) fn root(table: &Table) -> SyncMessage {
    SyncMessage::Compare { ranges: vec![digest(table, 0, 0)] }
}

/// Answers another member's holdings.
pub(crate) fn compare(table: &Table, ranges: &[Range]) -> Result<Answer, Improper> {
    if ranges.len() > MAX_RANGES || !ranges.iter().all(is_proper) || !are_apart(ranges) {
        return Err(Improper);
    }
    let mut found = Differences::default();
    for range in ranges {
        match &range.content {
            RangeContent::Digest { .. } => found.compare_digest(table, range),
            RangeContent::List { entries } => found.compare_list(table, range, entries),
        }
    }
    Ok(found.into_answer())
}

/// Answers a request for records.
pub(crate) fn serve(table: &Table, wanted: &[u64]) -> Result<Answer, Improper> {
    if wanted.len() > MAX_ENTRIES {
        return Err(Improper);
    }
    let held = wanted.iter().flat_map(|short| table.range(*short, DEEPEST)).map(|(_, e)| e.signed.clone());
    let records: Vec<_> = held.take(RECORDS).collect();
    Ok(Answer { messages: pack_records(records), more: false })
}

/// Records as messages.
pub(crate) fn pack_records(records: Vec<SignedRecord>) -> Vec<SyncMessage> {
    let chunks = records.chunks(MAX_RECORDS);
    chunks.map(|chunk| SyncMessage::Records { records: chunk.to_vec() }).collect()
}

fn is_proper(range: &Range) -> bool {
    let short_enough = match &range.content {
        RangeContent::Digest { .. } => true,
        RangeContent::List { entries } => entries.len() <= MAX_ENTRIES,
    };
    range.depth <= DEEPEST && range.prefix & rest(range.depth) == 0 && short_enough
}

/// Whether the ranges ascend without overlap, as those of every correct member do. It keeps an answer's cost at a few
/// passes over the table, where one range sent 256 times would cost 256.
fn are_apart(ranges: &[Range]) -> bool {
    ranges.windows(2).all(|pair| pair[0].prefix | rest(pair[0].depth) < pair[1].prefix)
}

/// The bits of a short id below the first `depth` nibbles.
fn rest(depth: u8) -> u64 {
    u64::MAX.checked_shr(u32::from(depth) * 4).unwrap_or(0)
}

fn digest(table: &Table, prefix: u64, depth: u8) -> Range {
    let (sum, count) = table
        .range(prefix, depth)
        .fold((0u128, 0u32), |(sum, n), (_, e)| (sum.wrapping_add(e.head().fingerprint), n + 1));
    Range { prefix, depth, content: RangeContent::Digest { fingerprint: sum.to_be_bytes(), count } }
}

/// What we hold in a range: a list if it is short or cannot be split, else a digest.
fn holdings(table: &Table, prefix: u64, depth: u8) -> Range {
    if depth < DEEPEST && table.range(prefix, depth).nth(LIST).is_some() {
        return digest(table, prefix, depth);
    }
    let entry = |e: &crate::peers::Entry| Entry { node: e.head().node.short(), seq: e.head().seq };
    let entries = table.range(prefix, depth).take(MAX_ENTRIES).map(|(_, e)| entry(e)).collect();
    Range { prefix, depth, content: RangeContent::List { entries } }
}

/// What came out of a comparison.
#[derive(Default)]
struct Differences {
    ranges: Vec<Range>,
    send: Vec<SignedRecord>,
    want: Vec<u64>,
    more: bool,
}

impl Differences {
    fn compare_digest(&mut self, table: &Table, theirs: &Range) {
        let (prefix, depth) = (theirs.prefix, theirs.depth);
        if digest(table, prefix, depth).content == theirs.content {
            return;
        }
        let ours = holdings(table, prefix, depth);
        if self.ranges.len() + 16 > RANGES {
            self.more = true;
        } else if matches!(ours.content, RangeContent::List { .. }) {
            self.ranges.push(ours);
        } else {
            let step = rest(depth + 1).wrapping_add(1);
            self.ranges.extend((0..16).map(|nibble| holdings(table, prefix | (nibble * step), depth + 1)));
        }
    }

    fn compare_list(&mut self, table: &Table, range: &Range, entries: &[Entry]) {
        let outside = |e: &Entry| e.node & !rest(range.depth) != range.prefix;
        let theirs = newest(entries.iter().filter(|e| !outside(e)).copied());
        let ours = table.range(range.prefix, range.depth).map(|(node, e)| (node.short(), e));
        let mut held = BTreeMap::new();
        for (short, entry) in ours {
            held.insert(short, entry.head().seq);
            if theirs.get(&short).is_none_or(|seq| *seq < entry.head().seq) {
                self.send(entry.signed.clone());
            }
        }
        let newer = theirs.iter().filter(|(short, seq)| held.get(*short).is_none_or(|ours| ours < *seq));
        newer.for_each(|(short, _)| self.want(*short));
    }

    fn send(&mut self, record: SignedRecord) {
        if self.send.len() < RECORDS { self.send.push(record) } else { self.more = true }
    }

    fn want(&mut self, short: u64) {
        if self.want.len() < RECORDS { self.want.push(short) } else { self.more = true }
    }

    fn into_answer(self) -> Answer {
        let mut messages = pack_ranges(self.ranges);
        messages.extend(pack_records(self.send));
        if !self.want.is_empty() {
            messages.push(SyncMessage::Want { nodes: self.want });
        }
        Answer { messages, more: self.more }
    }
}

fn newest(entries: impl Iterator<Item = Entry>) -> BTreeMap<u64, u64> {
    let mut newest = BTreeMap::new();
    for Entry { node, seq } in entries {
        let held = newest.entry(node).or_insert(seq);
        *held = seq.max(*held);
    }
    newest
}

fn pack_ranges(ranges: Vec<Range>) -> Vec<SyncMessage> {
    let mut messages = Vec::new();
    let (mut open, mut bytes) = (Vec::new(), 0);
    for range in ranges {
        let size = weight(&range);
        if !open.is_empty() && (open.len() == MAX_RANGES || bytes + size > MESSAGE) {
            messages.push(SyncMessage::Compare { ranges: std::mem::take(&mut open) });
            bytes = 0;
        }
        bytes += size;
        open.push(range);
    }
    if !open.is_empty() {
        messages.push(SyncMessage::Compare { ranges: open });
    }
    messages
}

/// Bytes of a range on the wire, at most.
fn weight(range: &Range) -> usize {
    match &range.content {
        RangeContent::Digest { .. } => 48,
        RangeContent::List { entries } => 32 + 20 * entries.len(),
    }
}
