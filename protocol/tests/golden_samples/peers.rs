//! What nodes say to each other.

use hive_protocol::{
    SignedRecord,
    peer::{Entry, JoinMessage, JoinRefusal, PunchMessage, Range, RangeContent, SyncMessage},
    tunnel::{Open, Refusal, RefuseReason, Resume},
};

use super::{addresses, key, network, node, record};

pub fn open() -> Open {
    Open { stream: [0xa5; 16], network: network(), origin_port: 18_080, target_port: 8080, grace: None, attempt: None }
}

pub fn lasting_open() -> Open {
    Open { grace: Some(60), ..open() }
}

pub fn resume() -> Resume {
    Resume { stream: [0xa5; 16], delivered: 70_000, attempt: None }
}

/// The third time that an egress looks for its stream, by either frame.
pub fn third_attempt() -> (Open, Resume) {
    (Open { attempt: Some(3), ..lasting_open() }, Resume { attempt: Some(3), ..resume() })
}

pub fn refusal() -> Refusal {
    Refusal { reason: RefuseReason::Target, text: "connection refused".into() }
}

pub fn punch_messages() -> Vec<PunchMessage> {
    vec![PunchMessage::Connect { addresses: addresses() }, PunchMessage::Sync { listen: true }]
}

pub fn join_messages() -> Vec<JoinMessage> {
    vec![
        JoinMessage::Open { network: network(), slot: 1, opening: [0x41; 33] },
        JoinMessage::Answer { answer: [0x42; 33] },
        JoinMessage::Confirm { code: [0x43; 32] },
        JoinMessage::Refused { reason: JoinRefusal::TryLater },
        JoinMessage::Done,
    ]
}

pub fn sync_messages() -> Vec<SyncMessage> {
    let [digest, list] = range_contents().try_into().unwrap();
    let digest = Range { prefix: 0xd700_0000_0000_0000, depth: 2, content: digest };
    let list = Range { prefix: 0, depth: 0, content: list };
    vec![
        SyncMessage::Compare { ranges: vec![digest, list] },
        SyncMessage::Want { nodes: vec![node().short(), 1] },
        SyncMessage::Records { records: vec![SignedRecord::sign(&record(), &key())] },
    ]
}

pub fn range_contents() -> Vec<RangeContent> {
    vec![
        RangeContent::Digest { fingerprint: [0xf1; 16], count: 33 },
        RangeContent::List { entries: vec![Entry { node: node().short(), seq: 1_760_000_000_001 }] },
    ]
}
