//! Every interleaving of a small stream's life: no byte is lost, doubled or reordered, no target is connected twice, and
//! no honest peer is accused.
//!
//! Two real [`Stream`]s face each other over a model of carriers: pairs of queues, of which any may be cut at any moment
//! with all that is in it, or be given up by the egress alone and go on arriving, late or never. From the first state
//! every enabled step is taken, each state once, until no new state appears. Steps: the application writes, ends or
//! aborts; an end hands its next frame to its carrier (data in pieces of one byte or all, an acknowledgement early or
//! late); the head of a queue arrives; delivered bytes trickle into the application; a carrier is cut; the egress gives
//! one up; the egress says the first word on another, by the real [`Seeker`], and the ingress takes or refuses it, by
//! the real [`Latest`].

#![allow(clippy::expect_used, reason = "an accusation of an honest peer is what the test looks for")]

use std::collections::{BTreeMap, HashSet, VecDeque};

use hive_core::stream::{
    Stream,
    attempts::{First, Latest, Seeker},
};

const EGRESS: usize = 0;
const INGRESS: usize = 1;

/// How far the exploration goes.
#[derive(Clone, Copy)]
struct Bound {
    /// Bytes that each application writes.
    writes: [u8; 2],
    cuts: u8,
    /// Carriers that the egress alone lets go of.
    given_up: u8,
    /// Whether the target may abort, too; the egress' application always may.
    target_aborts: bool,
}

const BOUNDS: [Bound; 4] = [
    Bound { writes: [3, 0], cuts: 2, given_up: 0, target_aborts: false },
    Bound { writes: [1, 1], cuts: 2, given_up: 0, target_aborts: false },
    Bound { writes: [1, 0], cuts: 1, given_up: 1, target_aborts: true },
    Bound { writes: [0, 1], cuts: 1, given_up: 1, target_aborts: false },
];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Frame {
    Open(u32),
    Accept,
    Refuse,
    Data(Vec<u8>),
    Eof(u64),
    Ack(u64),
    Reset,
    Resume { attempt: u32, delivered: u64 },
    Resumed(u64),
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct End {
    stream: Stream<Vec<u8>>,
    /// Bytes the application has written and received.
    wrote: u8,
    got: Vec<u8>,
    /// Taken off the carrier, not yet by the application; lost with the carrier.
    pending: VecDeque<u8>,
    /// The carrier it is on, by the attempt that began it.
    on: Option<u32>,
    aborted: bool,
    told_of_abort: bool,
}

/// Frames on their way to the egress and to the ingress.
type Carrier = [VecDeque<Frame>; 2];

#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    ends: [End; 2],
    carriers: BTreeMap<u32, Carrier>,
    seeker: Seeker,
    /// The ingress was heard of.
    answered: bool,
    /// The carrier on which the egress waits for an answer to RESUME.
    asking: Option<u32>,
    /// What the ingress knows of the stream, once OPEN came.
    latest: Option<Latest>,
    /// Connections to the target.
    connected: u8,
    cuts: u8,
    given_up: u8,
}

impl End {
    fn new(on: Option<u32>) -> Self {
        Self {
            stream: Stream::new(),
            wrote: 0,
            got: Vec::new(),
            pending: VecDeque::new(),
            on,
            aborted: false,
            told_of_abort: false,
        }
    }

    fn is_over(&self) -> bool {
        self.aborted || self.told_of_abort || self.stream.is_finished()
    }

    fn leave(&mut self) {
        self.on = None;
        self.pending.clear();
    }
}

impl World {
    fn new() -> Self {
        Self {
            ends: [End::new(Some(0)), End::new(None)],
            carriers: BTreeMap::from([(0, [VecDeque::new(), VecDeque::from([Frame::Open(0)])])]),
            seeker: Seeker::default(),
            answered: false,
            asking: None,
            latest: None,
            connected: 0,
            cuts: 0,
            given_up: 0,
        }
    }

    /// All states one step away.
    fn next(&self, bound: Bound) -> Vec<Self> {
        let mut next = Vec::new();
        for me in [EGRESS, INGRESS].into_iter().filter(|me| *me == EGRESS || self.latest.is_some()) {
            self.application(me, bound, &mut next);
            self.send(me, &mut next);
        }
        for (&carrier, queues) in &self.carriers {
            self.arrive(carrier, queues, &mut next);
            if self.cuts < bound.cuts {
                next.push(self.with(|world| {
                    world.cuts += 1;
                    world.close(carrier);
                }));
            }
        }
        self.seek(bound, &mut next);
        next
    }

    fn with(&self, step: impl FnOnce(&mut Self)) -> Self {
        let mut world = self.clone();
        step(&mut world);
        world.tidy();
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
        let may_abort = if me == EGRESS { end.on.is_some() } else { bound.target_aborts };
        if may_abort && end.wrote == bound.writes[me] {
            next.push(self.with(|world| {
                world.ends[me].aborted = true;
                world.say(me, Frame::Reset);
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

    /// Hands a frame to the carrier that an end is on. What is said to an egress that has gone is lost.
    fn say(&mut self, me: usize, frame: Frame) {
        let Some(carrier) = self.ends[me].on else { return };
        if me == INGRESS && !self.is_held(carrier) {
            return;
        }
        if let Some(queues) = self.carriers.get_mut(&carrier) {
            queues[1 - me].push_back(frame);
        }
    }

    fn is_held(&self, carrier: u32) -> bool {
        self.ends[EGRESS].on == Some(carrier) || self.asking == Some(carrier)
    }

    fn send(&self, me: usize, next: &mut Vec<Self>) {
        let end = &self.ends[me];
        if end.on.is_none() || end.aborted {
            return;
        }
        let unsent = end.stream.outgoing.to_send().flatten().copied().collect::<Vec<_>>();
        for len in [1, unsent.len()].into_iter().filter(|len| (1..=unsent.len()).contains(len)) {
            next.push(self.with(|world| {
                world.ends[me].stream.outgoing.sent(len);
                world.say(me, Frame::Data(unsent[..len].to_vec()));
            }));
        }
        if let Some(total) = end.stream.outgoing.end_to_send() {
            next.push(self.with(|world| {
                world.ends[me].stream.outgoing.end_sent();
                world.say(me, Frame::Eof(total));
            }));
        }
        if let Some(count) = end.stream.incoming.ack_owed() {
            next.push(self.with(|world| {
                world.ends[me].stream.incoming.acknowledged();
                // A write that held nothing else, as the shell reports it.
                world.ends[me].stream.outgoing.sent(0);
                world.say(me, Frame::Ack(count));
            }));
        }
    }

    fn arrive(&self, carrier: u32, queues: &Carrier, next: &mut Vec<Self>) {
        for me in [EGRESS, INGRESS] {
            let Some(frame) = queues[me].front() else { continue };
            if matches!(frame, Frame::Eof(_)) && !self.ends[me].pending.is_empty() {
                continue;
            }
            next.push(self.with(|world| {
                let frame = world.carriers.get_mut(&carrier).and_then(|queues| queues[me].pop_front());
                match frame {
                    Some(Frame::Open(attempt)) => world.opened(carrier, attempt),
                    Some(Frame::Resume { attempt, delivered }) => world.asked(carrier, attempt, delivered),
                    Some(frame) => world.take(me, carrier, frame),
                    None => {}
                }
            }));
        }
        // The egress has gone, and the ingress has read all that it left.
        if self.ends[INGRESS].on == Some(carrier) && !self.is_held(carrier) && queues[INGRESS].is_empty() {
            next.push(self.with(|world| world.close(carrier)));
        }
    }

    /// OPEN has arrived.
    fn opened(&mut self, carrier: u32, attempt: u32) {
        if self.latest.is_none() {
            self.latest = Some(Latest::opened(Some(attempt)));
            self.connected += 1;
            self.ends[INGRESS].on = Some(carrier);
            self.say(INGRESS, Frame::Accept);
        } else if self.ends[INGRESS].is_over() {
            self.refuse(carrier);
        } else {
            self.close(carrier);
        }
    }

    /// RESUME has arrived.
    fn asked(&mut self, carrier: u32, attempt: u32, delivered: u64) {
        let end = &mut self.ends[INGRESS];
        let Some(latest) = self.latest.as_mut().filter(|_| !end.aborted && !end.told_of_abort) else {
            return self.refuse(carrier);
        };
        if !latest.take(Some(attempt)) {
            return self.close(carrier);
        }
        if let Some(before) = end.on {
            self.close(before);
        }
        let end = &mut self.ends[INGRESS];
        end.on = Some(carrier);
        let ours = end.stream.incoming.count();
        end.stream.resume(delivered).expect("an honest peer counts right");
        self.say(INGRESS, Frame::Resumed(ours));
    }

    /// The ingress says no and reads no more.
    fn refuse(&mut self, carrier: u32) {
        if let Some(queues) = self.carriers.get_mut(&carrier) {
            queues[INGRESS].clear();
            queues[EGRESS].push_back(Frame::Refuse);
        }
    }

    fn take(&mut self, me: usize, carrier: u32, frame: Frame) {
        let end = &mut self.ends[me];
        if end.aborted || (end.on != Some(carrier) && !matches!(frame, Frame::Resumed(_) | Frame::Refuse)) {
            return;
        }
        match frame {
            Frame::Accept => self.answered = true,
            Frame::Data(bytes) => end.pending.extend(bytes),
            Frame::Eof(total) => end.stream.incoming.end(total).expect("an honest peer counts right"),
            Frame::Ack(count) => end.stream.outgoing.acknowledged(count).expect("an honest peer counts right"),
            Frame::Reset => end.told_of_abort = true,
            Frame::Resumed(count) => {
                end.on = Some(carrier);
                end.stream.resume(count).expect("an honest peer counts right");
                (self.asking, self.answered) = (None, true);
            }
            Frame::Refuse => {
                let asked = self.asking == Some(carrier);
                end.told_of_abort = !(asked && self.seeker.unknown(self.answered));
                self.close(carrier);
            }
            Frame::Open(_) | Frame::Resume { .. } => unreachable!("only an egress says so"),
        }
    }

    /// The egress looks for its stream, or gives up waiting where it is.
    fn seek(&self, bound: Bound, next: &mut Vec<Self>) {
        let end = &self.ends[EGRESS];
        if end.is_over() {
            return;
        }
        let Some(carrier) = end.on.or(self.asking) else {
            return next.push(self.with(Self::try_again));
        };
        if self.given_up < bound.given_up {
            next.push(self.with(|world| {
                world.given_up += 1;
                world.ends[EGRESS].leave();
                world.asking = None;
                if let Some(queues) = world.carriers.get_mut(&carrier) {
                    queues[EGRESS].clear();
                }
            }));
        }
    }

    fn try_again(&mut self) {
        let end = &mut self.ends[EGRESS];
        let (attempt, frame) = match self.seeker.again() {
            First::Open { attempt } => {
                end.stream.reopen();
                end.on = Some(attempt);
                (attempt, Frame::Open(attempt))
            }
            First::Resume { attempt } => {
                self.asking = Some(attempt);
                (attempt, Frame::Resume { attempt, delivered: end.stream.incoming.count() })
            }
        };
        self.carriers.insert(attempt, [VecDeque::new(), VecDeque::from([frame])]);
    }

    /// A carrier dies with all that is under way, and with what was not delivered.
    fn close(&mut self, carrier: u32) {
        self.carriers.remove(&carrier);
        for end in self.ends.iter_mut().filter(|end| end.on == Some(carrier)) {
            end.leave();
        }
        self.asking = self.asking.filter(|asking| *asking != carrier);
    }

    /// Forgets the carriers on which nothing can happen any more.
    fn tidy(&mut self) {
        let [egress, ingress] = [self.ends[EGRESS].on, self.ends[INGRESS].on];
        let asking = self.asking;
        self.carriers.retain(|carrier, queues| {
            [egress, ingress, asking].contains(&Some(*carrier)) || !queues[INGRESS].is_empty()
        });
    }

    fn check(&self) {
        assert!(self.connected <= 1, "the target is connected twice");
        for me in [EGRESS, INGRESS] {
            let (got, wrote) = (&self.ends[me].got, self.ends[1 - me].wrote);
            let expected: Vec<u8> = (1..=wrote).collect();
            assert_eq!(got[..], expected[..got.len()], "end {me} got what was not written");
            if self.ends[me].stream.incoming.is_ended() {
                assert_eq!(got.len(), usize::from(wrote), "end {me} saw the end too early");
            }
        }
    }

    /// Where only mishaps can happen, everything must have arrived, unless somebody aborted.
    fn check_last(&self, bound: Bound) {
        if self.ends.iter().any(|end| end.aborted) {
            return;
        }
        for me in [EGRESS, INGRESS] {
            assert!(!self.ends[me].told_of_abort, "end {me} is refused though nobody aborted");
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
        if next.iter().all(|next| (next.cuts, next.given_up) != (world.cuts, world.given_up)) {
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
        let Bound { writes, cuts, given_up, .. } = bound;
        let states = explore(bound);
        assert!(states > 10_000, "only {states} states: the model does not move");
        println!("{writes:?} bytes, {cuts} cuts, {given_up} carriers given up: {states} states");
    }
}
