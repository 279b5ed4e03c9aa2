//! Every interleaving of a small stream's life: no byte is lost, doubled or reordered, and no honest peer is accused.
//!
//! Two real [`Stream`]s face each other over a model of a carrier: two queues that may be cut at any moment, with all
//! that is in them. From the first state every enabled step is taken, each state once, until no new state appears.
//! Steps: the application writes, ends or aborts; an end hands its next frame to the carrier (data in pieces of one
//! byte or all, an acknowledgement early or late); the head of a queue arrives; delivered bytes trickle into the
//! application; the carrier is cut; the dialling end resumes and either message of that exchange may be cut too.

#![allow(clippy::expect_used, reason = "an accusation of an honest peer is what the test looks for")]

use std::collections::{HashSet, VecDeque};

use hive_core::stream::Stream;

/// The bound: bytes that each application writes, and cuts of the carrier.
const BOUNDS: [Bound; 3] =
    [Bound { writes: [3, 0], cuts: 3 }, Bound { writes: [2, 1], cuts: 2 }, Bound { writes: [2, 2], cuts: 1 }];

#[derive(Clone, Copy)]
struct Bound {
    writes: [u8; 2],
    cuts: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Frame {
    Data(Vec<u8>),
    Eof(u64),
    Ack(u64),
    Reset,
    Resume(u64),
    Resumed(u64),
}

/// One end. Index 0 dials and resumes, index 1 answers.
#[derive(Clone, PartialEq, Eq, Hash)]
struct End {
    stream: Stream<Vec<u8>>,
    /// Bytes the application has written and received.
    wrote: u8,
    got: Vec<u8>,
    /// Taken off the carrier, not yet by the application; lost with the carrier.
    pending: VecDeque<u8>,
    attached: bool,
    aborted: bool,
    told_of_abort: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    ends: [End; 2],
    /// Frames on their way to end 0 and to end 1.
    towards: [VecDeque<Frame>; 2],
    cuts: u8,
}

impl End {
    fn new() -> Self {
        Self {
            stream: Stream::new(),
            wrote: 0,
            got: Vec::new(),
            pending: VecDeque::new(),
            attached: true,
            aborted: false,
            told_of_abort: false,
        }
    }

    fn is_over(&self) -> bool {
        self.aborted || self.told_of_abort || self.stream.is_finished()
    }
}

impl World {
    fn new() -> Self {
        Self { ends: [End::new(), End::new()], towards: [VecDeque::new(), VecDeque::new()], cuts: 0 }
    }

    /// All states one step away.
    fn next(&self, bound: Bound) -> Vec<Self> {
        let mut next = Vec::new();
        for me in [0, 1] {
            self.application(me, bound, &mut next);
            self.send(me, &mut next);
            self.arrive(me, &mut next);
        }
        if self.cuts < bound.cuts && self.ends.iter().any(|end| end.attached) {
            next.push(self.with(|world| world.cut()));
        }
        if !self.ends[0].attached && !self.ends[0].is_over() && self.towards.iter().all(VecDeque::is_empty) {
            next.push(self.with(|world| {
                let count = world.ends[0].stream.incoming.count();
                world.towards[1].push_back(Frame::Resume(count));
            }));
        }
        next
    }

    fn with(&self, step: impl FnOnce(&mut Self)) -> Self {
        let mut world = self.clone();
        step(&mut world);
        world
    }

    fn application(&self, me: usize, bound: Bound, next: &mut Vec<Self>) {
        let end = &self.ends[me];
        if end.is_over() {
            return;
        }
        if !end.stream.outgoing.is_finished() {
            if end.wrote < bound.writes[me] {
                next.push(self.with(|world| {
                    let end = &mut world.ends[me];
                    end.wrote += 1;
                    end.stream.outgoing.push(vec![end.wrote]);
                }));
            } else {
                next.push(self.with(|world| world.ends[me].stream.outgoing.finish()));
            }
        }
        // The aborting end is the dialling one: aborts are symmetric but for who resumes, and states are many.
        if me == 0 && end.attached && end.wrote == bound.writes[0] {
            next.push(self.with(|world| {
                world.ends[me].aborted = true;
                world.towards[1].push_back(Frame::Reset);
            }));
        }
        if let Some(&byte) = end.pending.front() {
            next.push(self.with(|world| {
                let end = &mut world.ends[me];
                end.pending.pop_front();
                end.got.push(byte);
                end.stream.incoming.deliver(1).expect("an honest peer sends nothing after its end");
            }));
        }
    }

    fn send(&self, me: usize, next: &mut Vec<Self>) {
        let end = &self.ends[me];
        if !end.attached || end.aborted {
            return;
        }
        let unsent = end.stream.outgoing.to_send().flatten().copied().collect::<Vec<_>>();
        for len in [1, unsent.len()].into_iter().filter(|len| (1..=unsent.len()).contains(len)) {
            next.push(self.with(|world| {
                world.ends[me].stream.outgoing.sent(len);
                world.towards[1 - me].push_back(Frame::Data(unsent[..len].to_vec()));
            }));
        }
        if let Some(total) = end.stream.outgoing.end_to_send() {
            next.push(self.with(|world| {
                world.ends[me].stream.outgoing.end_sent();
                world.towards[1 - me].push_back(Frame::Eof(total));
            }));
        }
        if let Some(count) = end.stream.incoming.ack_owed() {
            next.push(self.with(|world| {
                world.ends[me].stream.incoming.acknowledged();
                // A write that held nothing else, as the shell reports it.
                world.ends[me].stream.outgoing.sent(0);
                world.towards[1 - me].push_back(Frame::Ack(count));
            }));
        }
    }

    fn arrive(&self, me: usize, next: &mut Vec<Self>) {
        let Some(frame) = self.towards[me].front() else { return };
        let end = &self.ends[me];
        let after_data = matches!(frame, Frame::Eof(_)) && !end.pending.is_empty();
        if after_data {
            return;
        }
        next.push(self.with(|world| {
            if let Some(frame) = world.towards[me].pop_front() {
                world.take(me, frame);
            }
        }));
    }

    fn take(&mut self, me: usize, frame: Frame) {
        let end = &mut self.ends[me];
        if end.aborted {
            return;
        }
        match frame {
            Frame::Data(bytes) => end.pending.extend(bytes),
            Frame::Eof(total) => end.stream.incoming.end(total).expect("an honest peer counts right"),
            Frame::Ack(count) => end.stream.outgoing.acknowledged(count).expect("an honest peer counts right"),
            Frame::Reset => end.told_of_abort = true,
            Frame::Resume(count) => {
                end.pending.clear();
                end.attached = true;
                let ours = end.stream.incoming.count();
                end.stream.resume(count).expect("an honest peer counts right");
                self.towards[1 - me].push_back(Frame::Resumed(ours));
            }
            Frame::Resumed(count) => {
                end.attached = true;
                end.stream.resume(count).expect("an honest peer counts right");
            }
        }
    }

    /// The carrier dies with all that is under way, and with what was not delivered.
    fn cut(&mut self) {
        self.cuts += 1;
        self.towards.iter_mut().for_each(VecDeque::clear);
        for end in &mut self.ends {
            end.attached = false;
            end.pending.clear();
        }
    }

    fn check(&self) {
        for me in [0, 1] {
            let (got, wrote) = (&self.ends[me].got, self.ends[1 - me].wrote);
            let expected: Vec<u8> = (1..=wrote).collect();
            assert_eq!(got[..], expected[..got.len()], "end {me} got what was not written");
            if self.ends[me].stream.incoming.is_ended() {
                assert_eq!(got.len(), usize::from(wrote), "end {me} saw the end too early");
            }
        }
    }

    /// Where nothing but a cut can happen, everything must have arrived, unless somebody aborted.
    fn check_last(&self, bound: Bound) {
        if self.ends.iter().any(|end| end.aborted || end.told_of_abort) {
            return;
        }
        for me in [0, 1] {
            // Of two ends one speaks last. If that word is cut off, the other end has sent and received everything and
            // misses only the proof of it: it lets go when its grace is over.
            let unproven = self.ends[1 - me].stream.is_finished() && self.ends[me].stream.incoming.is_ended();
            assert!(self.ends[me].stream.is_finished() || unproven, "end {me} waits for ever");
            assert_eq!(self.ends[me].got.len(), usize::from(bound.writes[1 - me]));
        }
    }
}

fn explore(bound: Bound) -> usize {
    let mut seen = HashSet::from([World::new()]);
    let mut open = vec![World::new()];
    while let Some(world) = open.pop() {
        world.check();
        let next = world.next(bound);
        if next.iter().all(|next| next.cuts > world.cuts) {
            world.check_last(bound);
        }
        for next in next {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    seen.len()
}

#[test]
fn no_interleaving_loses_doubles_or_reorders_a_byte() {
    for bound in BOUNDS {
        let states = explore(bound);
        assert!(states > 10_000, "only {states} states: the model does not move");
        println!("{:?} bytes, {} cuts: {states} states", bound.writes, bound.cuts);
    }
}
