//! Replacing the agent's binary: what to do at each start and after each event, so that a kill at any step ends on a
//! working agent. Decides; never touches a file or a process.
//!
//! A new binary waits beside the executable and is tried from there, as a child of the process that it would replace. It
//! takes the executable's place only after it has proven itself, by one rename. So whatever starts the executable's path
//! (a service manager, the kernel's power coming back) starts the old binary, or one that has proven itself: there is no
//! moment to roll back from. The record says how far an update is, and of which binary; every step can be done twice.

use std::fmt::{self, Write};

use hive_protocol::message::{UpdateRecord, UpdateStage};

/// A process of this or an earlier boot. An exec keeps it; a process id alone may be another's by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The kernel's random name for this boot.
    pub boot: String,
    /// Process id.
    pub pid: u32,
    /// When it started, in clock ticks since the boot.
    pub started: u64,
}

/// What is known of an update, kept beside the executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What others are told.
    pub told: UpdateRecord,
    /// The process that may try the new binary, and that it replaces.
    pub by: Process,
    /// Whether the old agent had a member to rejoin.
    pub rejoin: bool,
    /// Seconds that the new agent has to prove itself.
    pub patience_s: u32,
    /// BLAKE3 hash of the new binary; none in the record of an agent from before there was one.
    pub hash: Option<[u8; 32]>,
}

/// What waits beside the executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// No binary.
    Nothing,
    /// The one that the record is about.
    Recorded,
    /// Another one: whatever it is, nobody has checked it for this update.
    Other,
}

/// One thing to do. Each is whole or not at all, and on disk when it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// End what still runs of the new binary.
    EndTrial,
    /// Replace the record.
    Write(Record),
    /// Give the executable a second name, to go back by hand.
    KeepOld,
    /// Rename the new binary to the executable.
    PutInPlace,
    /// Remove the new binary.
    Discard,
}

/// What a process does with itself once its steps are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Be the agent.
    Run,
    /// Start the new binary as a child and see how it does.
    Try(Record),
    /// Become what the executable is now.
    Exec,
}

/// How a trial ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The new binary has proven itself.
    Proven,
    /// It has not.
    Failed(String),
}

/// What an agent finds when it starts.
#[derive(Debug, Clone)]
pub struct Found {
    /// The record, if there is one that can be read.
    pub record: Option<Record>,
    /// Whether a new binary waits.
    pub waiting: Waiting,
    /// Whether the process of the record is this one.
    pub own: bool,
    /// Whether it is another one that lives: an agent that shares this executable.
    pub others: bool,
}

/// What to do when an agent starts, by whatever it was started.
#[must_use]
pub fn start(found: Found) -> (Vec<Step>, Next) {
    let Found { record: Some(record), waiting, own, others } = found else {
        return (discard(found.waiting), Next::Run);
    };
    let other = || OTHER.to_owned();
    match (record.told.stage, waiting) {
        _ if others => (Vec::new(), Next::Run),
        (UpdateStage::Trial, Waiting::Recorded) if own => (Vec::new(), Next::Try(record)),
        (UpdateStage::Trial | UpdateStage::Confirmed, Waiting::Other) => (roll_back(record, other()), Next::Run),
        (UpdateStage::Trial, _) => (roll_back(record, "it was interrupted".to_owned()), Next::Run),
        (UpdateStage::Confirmed, Waiting::Recorded) => (put_in_place(record), Next::Exec),
        (UpdateStage::Confirmed, Waiting::Nothing) => (vec![Step::Write(at(record, UpdateStage::Kept))], Next::Run),
        (UpdateStage::Kept | UpdateStage::RolledBack, _) => (discard(waiting), Next::Run),
    }
}

/// What to do when a trial has ended.
#[must_use]
pub fn tried(record: Record, outcome: Outcome) -> Vec<Step> {
    match outcome {
        Outcome::Proven => {
            let confirmed = at(record, UpdateStage::Confirmed);
            [vec![Step::Write(confirmed.clone())], put_in_place(confirmed)].concat()
        }
        Outcome::Failed(why) => roll_back(record, why),
    }
}

fn discard(waiting: Waiting) -> Vec<Step> {
    if waiting == Waiting::Nothing { Vec::new() } else { vec![Step::Discard] }
}

/// The trial ends first: it holds the state, and its end leaves nothing that a later step could lose.
fn put_in_place(record: Record) -> Vec<Step> {
    let kept = at(record, UpdateStage::Kept);
    vec![Step::EndTrial, Step::KeepOld, Step::PutInPlace, Step::Write(kept)]
}

fn roll_back(mut record: Record, why: String) -> Vec<Step> {
    record.told.why = Some(why);
    vec![Step::EndTrial, Step::Write(at(record, UpdateStage::RolledBack)), Step::Discard]
}

fn at(mut record: Record, stage: UpdateStage) -> Record {
    record.told.stage = stage;
    record
}

const OTHER: &str = "another binary stood in its place";

const STAGES: [(UpdateStage, &str); 4] = [
    (UpdateStage::Trial, "trial"),
    (UpdateStage::Confirmed, "confirmed"),
    (UpdateStage::Kept, "kept"),
    (UpdateStage::RolledBack, "rolled-back"),
];

impl fmt::Display for Record {
    /// The record as its file has it: a line for each field, for people to read, too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { told, by, .. } = self;
        let stage = STAGES.iter().find(|(stage, _)| *stage == told.stage).map_or("", |(_, text)| text);
        writeln!(f, "number {}\nstage {stage}\nfrom {}\nto {}", told.number, told.from, told.to)?;
        writeln!(f, "boot {}\npid {}\nstarted {}", by.boot, by.pid, by.started)?;
        writeln!(f, "rejoin {}\npatience {}", self.rejoin, self.patience_s)?;
        if let Some(hash) = &self.hash {
            f.write_str("hash ")?;
            hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            f.write_char('\n')?;
        }
        if let Some(why) = &told.why {
            // A line is a field, whatever the reason has in it.
            f.write_str("why ")?;
            why.chars().try_for_each(|c| f.write_char(if c.is_control() { ' ' } else { c }))?;
            f.write_char('\n')?;
        }
        Ok(())
    }
}

impl Record {
    /// Reads what [`fmt::Display`] writes; none if anything is missing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.split_once(' ').filter(|(key, _)| *key == name));
        let value = |name: &str| field(name).map(|(_, value)| value.to_owned());
        let stage = value("stage")?;
        let told = UpdateRecord {
            number: value("number")?.parse().ok()?,
            stage: STAGES.iter().find(|(_, text)| *text == stage)?.0,
            from: value("from")?,
            to: value("to")?,
            why: value("why"),
        };
        let by = Process {
            boot: value("boot")?,
            pid: value("pid")?.parse().ok()?,
            started: value("started")?.parse().ok()?,
        };
        let (rejoin, patience_s) = (value("rejoin")?.parse().ok()?, value("patience")?.parse().ok()?);
        let hash = match field("hash") {
            Some((_, text)) => Some(hash_of(text)?),
            None => None,
        };
        Some(Self { told, by, rejoin, patience_s, hash })
    }
}

/// A hash from its hexadecimal form.
fn hash_of(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests;
