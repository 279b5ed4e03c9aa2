//! Replacing this agent's binary: files beside the executable, the check of what arrived, the trial, the exec.
//!
//! What to do and when is [`hive_core::update`]'s; this carries it out. Beside an executable `hive-agent` lies the folder
//! `hive-agent.update`, with the new binary while there is one, the binary before, and the record of the last update.
//!
//! A trial is a contract between versions, so it must not change: the new binary is started from that folder under its
//! own name, with the arguments and environment of the old one and a socket as standard input. Once it has opened the
//! state and rejoined a member it writes `proven` and a line feed there; when the socket ends it stops. Until it is kept,
//! what it does to the state must leave the old one able to open it.

mod again;
mod check;
mod place;
mod process;
mod signature;
mod trial;

use std::{
    io::ErrorKind,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use hive_core::update::{Found, Next, Record, Step, start, tried};
use hive_protocol::message::{UpdateRecord, UpdateStage};
use smol::channel::{self, Receiver, Sender};

pub use again::exec;
pub use check::{binary as check_binary, offer as check_offer};
pub use place::{Lock, Place, PlaceError};
pub use signature::{KeyError, ReleaseKey};
pub use trial::leash;

/// How often, and after which pauses, one looks whether the folder is free: five seconds.
const LOOKS: u32 = 100;
const LOOK: Duration = Duration::from_millis(50);
/// What a new binary writes once it works.
const PROVEN: &[u8] = b"proven\n";

/// Who this process is, once what an earlier one left is settled.
pub enum Role {
    /// The agent.
    Agent,
    /// Nobody any more: it was told to stop during a trial.
    Stopped,
}

/// Settles what was begun before this start; does not return where that ends in an exec. What cannot be settled does not
/// keep an agent from running.
pub fn settle(place: Option<&Place>) -> Role {
    let Some(place) = place.filter(|place| !place.on_trial()) else { return Role::Agent };
    // Held until the exec: a trial is nobody else's business.
    let Some(_lock) = settling(place) else { return Role::Agent };
    let (steps, next) = start(found(place));
    if let Err(error) = place.carry_out(&steps) {
        log::error!("an update that was begun cannot be settled: {error}");
        return Role::Agent;
    }
    match next {
        Next::Run => Role::Agent,
        Next::Exec => exec_or_run(place),
        Next::Try(record) => match trial::run(place, &record) {
            trial::End::Outcome(outcome) => {
                conclude(place, record, outcome);
                exec_or_run(place)
            }
            trial::End::Stopped => Role::Stopped,
        },
    }
}

/// The right to settle. An agent that shares the executable may have it: where it receives a binary, what is there is its
/// own; where it starts or asks, too, that is over in a moment, for which one waits whose own update this is.
fn settling(place: &Place) -> Option<Lock> {
    for _ in 0..LOOKS {
        match place.lock() {
            Ok(Some(lock)) => return Some(lock),
            Ok(None) if owned(place.record().as_ref()) => thread::sleep(LOOK),
            Ok(None) => return None,
            // There has never been an update.
            Err(PlaceError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                log::warn!("whether an update was begun cannot be seen: {error}");
                return None;
            }
        }
    }
    log::error!("an update cannot be settled: another agent that shares the executable does not let go of its folder");
    None
}

fn exec_or_run(place: &Place) -> Role {
    let error = exec(place);
    log::error!("{} cannot be started: {error}", place.executable().display());
    Role::Agent
}

/// Keeps the new binary, or goes back to the old one where that was not proven or cannot be put in place.
fn conclude(place: &Place, record: Record, outcome: hive_core::update::Outcome) {
    let steps = tried(record.clone(), outcome);
    let Err(error) = place.carry_out(&steps) else { return };
    log::error!("the new agent cannot be put in its place: {error}");
    let back = tried(record, hive_core::update::Outcome::Failed(error.to_string()));
    if let Err(error) = place.carry_out(&back) {
        log::error!("what is left of it cannot be removed: {error}");
    }
}

fn found(place: &Place) -> Found {
    let record = place.record();
    let (own, waiting) = (owned(record.as_ref()), place.waiting(record.as_ref()));
    Found { waiting, own, others: foreign(record.as_ref()), record }
}

/// Whether this process began the update of a record.
fn owned(record: Option<&Record>) -> bool {
    record.is_some_and(|record| Some(&record.by) == process::own().as_ref())
}

/// Whether another process did that still lives.
fn foreign(record: Option<&Record>) -> bool {
    !owned(record) && record.is_some_and(|record| process::lives(&record.by))
}

/// This agent's own updates: whether one may begin, and the bell that says it has.
pub struct Updates {
    /// Where its executable is; none where that was removed or replaced since it started.
    pub place: Option<Place>,
    /// Binaries must be signed with this.
    pub key: Option<ReleaseKey>,
    busy: AtomicBool,
    begun: Sender<()>,
}

/// The right to receive a binary; one at a time.
pub struct Turn<'u>(&'u AtomicBool);

impl Turn<'_> {
    /// Nobody gets another one: this agent makes room for the binary that it took.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Updates {
    /// Also gives what hears that an update has begun and the agent shall make room.
    pub fn new(place: Option<Place>, key: Option<ReleaseKey>) -> (Self, Receiver<()>) {
        let (begun, wanted) = channel::bounded(1);
        (Self { place, key, busy: AtomicBool::new(false), begun }, wanted)
    }

    /// The right to receive a binary, unless somebody has it.
    pub fn turn(&self) -> Option<Turn<'_>> {
        (!self.busy.swap(true, Ordering::AcqRel)).then_some(Turn(&self.busy))
    }

    /// Writes that the binary which waits may be tried by this process.
    pub fn enter(
        &self,
        place: &Place,
        wish: &hive_protocol::message::UpdateRequest,
        rejoin: bool,
    ) -> Result<(), PlaceError> {
        let before = place.record().map_or(0, |record| record.told.number);
        let told = UpdateRecord {
            number: before + 1,
            stage: UpdateStage::Trial,
            from: crate::BUILD.version.to_owned(),
            to: wish.version.clone(),
            why: None,
        };
        let by = process::own().ok_or(PlaceError::NoProc)?;
        let (patience_s, hash) = (wish.patience_s, Some(wish.file.hash));
        place.carry_out(&[Step::Write(Record { told, by, rejoin, patience_s, hash })])
    }

    /// Has the agent make room for the trial.
    pub fn begin(&self) {
        // Full means that it was rung already.
        let _ = self.begun.try_send(());
    }

    /// Whether another agent that shares the executable is being updated.
    pub fn taken(place: &Place) -> bool {
        let record = place.record();
        let unsettled = |r: &Record| matches!(r.told.stage, UpdateStage::Trial | UpdateStage::Confirmed);
        foreign(record.as_ref()) && record.as_ref().is_some_and(unsettled)
    }
}
