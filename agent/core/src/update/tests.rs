//! The update on a modelled disk, with a kill before every step, and before every step of what cleans up after it.

use super::*;

/// More steps than any run has: a kill that never comes.
const NEVER: usize = 100;

/// What a binary does when it is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Binary {
    Old,
    Good,
    Bad,
}

#[derive(Debug, Clone)]
struct World {
    executable: Binary,
    waiting: Option<Binary>,
    kept: Option<Binary>,
    record: Option<Record>,
    /// A child that runs the new binary.
    trial: bool,
    trials: usize,
    pid: u32,
    /// Steps until the process is killed.
    left: usize,
    seen: Vec<&'static str>,
}

/// The process was killed.
struct Killed;

fn process(pid: u32) -> Process {
    Process { boot: "a-boot".into(), pid, started: 7 }
}

fn record(pid: u32, stage: UpdateStage) -> Record {
    let told = UpdateRecord { number: 1, stage, from: "0.1.0".into(), to: "0.2.0".into(), why: None };
    Record { told, by: process(pid), rejoin: true, patience_s: 120, hash: Some([0xa5; 32]) }
}

impl World {
    fn new(new: Binary, left: usize) -> Self {
        let (waiting, pid, trials) = (Some(new), 1, 0);
        Self {
            executable: Binary::Old,
            waiting,
            kept: None,
            record: None,
            trial: false,
            trials,
            pid,
            left,
            seen: Vec::new(),
        }
    }

    /// One step, or the kill before it.
    fn step(&mut self, step: &Step) -> Result<(), Killed> {
        self.left = self.left.checked_sub(1).ok_or(Killed)?;
        match step {
            Step::EndTrial => self.trial = false,
            Step::Write(record) => self.record = Some(record.clone()),
            Step::KeepOld => self.kept = Some(self.executable),
            Step::PutInPlace => {
                assert!(!self.trial, "two agents at a time");
                self.executable = self.waiting.take().expect("something waits");
            }
            Step::Discard => {
                assert!(!self.trial, "what runs is not thrown away");
                self.waiting = None;
            }
        }
        self.seen.push(match step {
            Step::EndTrial => "end",
            Step::Write(_) => "write",
            Step::KeepOld => "keep",
            Step::PutInPlace => "put",
            Step::Discard => "discard",
        });
        assert_ne!(self.executable, Binary::Bad, "a binary that was never proven would be started");
        Ok(())
    }

    fn steps(&mut self, steps: &[Step]) -> Result<(), Killed> {
        steps.iter().try_for_each(|step| self.step(step))
    }

    /// A process of the executable from its start until it is the agent.
    fn run(&mut self) -> Result<(), Killed> {
        let mut image = self.executable;
        loop {
            let own = self.record.as_ref().is_some_and(|record| record.by == process(self.pid));
            let waiting = self.waiting.map_or(Waiting::Nothing, |_| Waiting::Recorded);
            let found = Found { record: self.record.clone(), waiting, own, others: false };
            let (steps, next) = start(found);
            self.steps(&steps)?;
            match next {
                Next::Run => {
                    assert_eq!(image, self.executable, "the agent that runs is not the one that would be started");
                    return Ok(());
                }
                Next::Exec => image = self.executable,
                Next::Try(record) => {
                    self.left = self.left.checked_sub(1).ok_or(Killed)?;
                    (self.trial, self.trials) = (true, self.trials + 1);
                    assert_eq!(self.trials, 1, "what took the machine down once must not do so again");
                    let proven = self.waiting == Some(Binary::Good);
                    let outcome = if proven { Outcome::Proven } else { Outcome::Failed("it crashed".into()) };
                    let steps = tried(record, outcome);
                    self.steps(&steps)?;
                    image = self.executable;
                }
            }
        }
    }

    /// The agent has taken a binary and begins the update.
    fn begin(&mut self) -> Result<(), Killed> {
        self.step(&Step::Write(record(self.pid, UpdateStage::Trial)))?;
        self.run()
    }

    /// What a service manager does; the trial of a process that was killed may live on.
    fn restart(&mut self, left: usize) -> Result<(), Killed> {
        (self.pid, self.left) = (self.pid + 1, left);
        self.run()
    }

    fn check_settled(&self, new: Binary, proven: bool) {
        assert!(self.waiting.is_none() && !self.trial, "{self:?}");
        let stage = self.record.as_ref().map(|record| record.told.stage);
        match self.executable {
            Binary::Old => assert!(!proven && matches!(stage, None | Some(UpdateStage::RolledBack)), "{self:?}"),
            executable => {
                assert_eq!((executable, new, stage), (Binary::Good, Binary::Good, Some(UpdateStage::Kept)), "{self:?}");
                assert_eq!(self.kept, Some(Binary::Old), "the way back is lost");
            }
        }
    }
}

#[test]
fn a_good_binary_is_kept_and_a_bad_one_is_not() {
    for (binary, steps) in [
        (Binary::Good, &["write", "write", "end", "keep", "put", "write"][..]),
        (Binary::Bad, &["write", "end", "write", "discard"]),
    ] {
        let mut world = World::new(binary, NEVER);
        assert!(world.begin().is_ok());
        assert_eq!(world.seen, steps);
        world.check_settled(binary, binary == Binary::Good);
    }
}

#[test]
fn a_kill_at_every_step_and_at_every_step_after_it_ends_well() {
    let mut kills = 0;
    for binary in [Binary::Good, Binary::Bad] {
        for first in 0..NEVER {
            let mut world = World::new(binary, first);
            if world.begin().is_ok() {
                break;
            }
            for second in 0..NEVER {
                let mut world = world.clone();
                let again = world.restart(second).is_err();
                for third in 0..NEVER {
                    let mut world = world.clone();
                    let yet_again = world.restart(third).is_err();
                    assert!(world.restart(NEVER).is_ok());
                    let settled = world.record.as_ref().map(|record| record.told.stage);
                    world.check_settled(binary, settled == Some(UpdateStage::Kept));
                    kills += 1 + usize::from(again) + usize::from(yet_again);
                    if !yet_again {
                        break;
                    }
                }
                if !again {
                    break;
                }
            }
        }
    }
    assert!(kills > 100, "{kills}");
}

#[test]
fn an_agent_that_shares_the_executable_keeps_out_of_it() {
    for stage in [UpdateStage::Trial, UpdateStage::Confirmed] {
        let found = Found { record: Some(record(1, stage)), waiting: Waiting::Recorded, own: false, others: true };
        assert_eq!(start(found), (Vec::new(), Next::Run));
    }
}

#[test]
fn a_binary_that_the_record_is_not_about_is_never_run() {
    for stage in [UpdateStage::Trial, UpdateStage::Confirmed] {
        for own in [true, false] {
            let found = Found { record: Some(record(1, stage)), waiting: Waiting::Other, own, others: false };
            let (steps, next) = start(found);
            assert_eq!(next, Next::Run);
            let [Step::EndTrial, Step::Write(written), Step::Discard] = &steps[..] else { panic!("{steps:?}") };
            assert_eq!(written.told.stage, UpdateStage::RolledBack);
            assert!(written.told.why.as_ref().is_some_and(|why| why.contains("another binary")));
        }
    }
}

#[test]
fn a_record_survives_its_file() {
    let mut long = record(42, UpdateStage::RolledBack);
    long.told.why = Some("it ended:\nstatus 1".into());
    let read = Record::parse(&long.to_string()).unwrap();
    assert_eq!(read.told.why.as_deref(), Some("it ended: status 1"));
    for (stage, _) in STAGES {
        let written = record(42, stage);
        assert_eq!(Record::parse(&written.to_string()), Some(written));
    }
    let text = record(42, UpdateStage::Trial).to_string();
    let (before, _) = text.split_once("hash ").unwrap();
    assert_eq!(Record::parse(before).unwrap().hash, None, "as agents before 0.2 write it");
    assert_eq!(Record::parse(&text[..text.len() - 2]), None, "half a hash");
    for cut in 1..before.lines().count() {
        assert_eq!(Record::parse(&text.lines().take(cut).collect::<Vec<_>>().join("\n")), None);
    }
}
