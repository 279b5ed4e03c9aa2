//! The mapper against gateways of each kind: seeds, losses, restarts, and what nobody should believe.

use std::collections::BTreeMap;

use super::*;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 20);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const PORTS: [(Transport, u16); 2] = [(Transport::Tcp, 4180), (Transport::Udp, 4180)];
const MINUTE: Duration = Duration::from_secs(60);
const START: Duration = Duration::from_secs(1000);
/// From a request to its answer.
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// What a gateway makes of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pcp,
    /// NAT-PMP alone, which answers other versions as its RFC says.
    NatPmp,
    /// NAT-PMP alone, which passes over what it does not know.
    Mute,
    Silent,
}

struct Gateway {
    kind: Kind,
    public: Ipv4Addr,
    booted: Duration,
    /// The public port of each mapping and until when it holds.
    table: BTreeMap<(u8, u16), (u16, Duration)>,
}

impl Gateway {
    fn new(kind: Kind) -> Self {
        Self { kind, public: PUBLIC, booted: Duration::ZERO, table: BTreeMap::new() }
    }

    fn restart(&mut self, now: Duration) {
        self.booted = now;
        self.table.clear();
    }

    fn epoch(&self, now: Duration) -> [u8; 4] {
        u32::try_from((now - self.booted).as_secs()).unwrap().to_be_bytes()
    }

    /// Whether it passes on what comes to this port.
    fn maps(&self, protocol: u8, now: Duration) -> bool {
        self.table.get(&(protocol, 4180)).is_some_and(|(_, until)| *until > now)
    }

    fn map(&mut self, protocol: u8, internal: [u8; 2], lifetime: [u8; 4], now: Duration) -> [u8; 2] {
        let key = (protocol, u16::from_be_bytes(internal));
        let lifetime = u64::from(u32::from_be_bytes(lifetime));
        // Another port than the one asked for, to see that the answer counts.
        let external = key.1 + 1000;
        self.table.insert(key, (external, now + Duration::from_secs(lifetime)));
        if lifetime == 0 {
            self.table.remove(&key);
        }
        external.to_be_bytes()
    }

    fn answer(&mut self, request: &[u8], now: Duration) -> Option<Vec<u8>> {
        let epoch = self.epoch(now);
        match (self.kind, request[0]) {
            (Kind::Silent, _) | (Kind::Mute, 2) => None,
            (Kind::Pcp, 2) => {
                assert_eq!(request[8..24], LOCAL.to_ipv6_mapped().octets());
                let (internal, lifetime) = (request[40..42].try_into().unwrap(), request[4..8].try_into().unwrap());
                let external = self.map(request[36], internal, lifetime, now);
                let mut answer = vec![2, 0x81, 0, 0];
                answer.extend([&lifetime[..], &epoch, &[0; 12], &request[24..42], &external].concat());
                answer.extend(self.public.to_ipv6_mapped().octets());
                Some(answer)
            }
            (Kind::Pcp, _) => Some([&[2, 0x80, 0, 1, 0, 0, 0, 0][..], &epoch, &[0; 12]].concat()),
            (_, 2) => Some([&[0, 0x80, 0, 1][..], &epoch].concat()),
            (_, _) if request[1] == 0 => Some([&[0, 0x80, 0, 0][..], &epoch, &self.public.octets()].concat()),
            (_, _) => {
                let (internal, lifetime) = (request[4..6].try_into().unwrap(), request[8..12].try_into().unwrap());
                let protocol = if request[1] == 1 { 17 } else { 6 };
                let external = self.map(protocol, internal, lifetime, now);
                let head = [0, 0x80 + request[1], 0, 0];
                Some([&head[..], &epoch, &internal, &external, &lifetime].concat())
            }
        }
    }
}

/// A mapper and its gateway, with what is on the way between them.
struct World {
    mapper: PortMapper,
    gateway: Gateway,
    now: Duration,
    answers: Vec<(Duration, Vec<u8>)>,
    dice: Dice,
    /// How many of a hundred datagrams get lost.
    lost: usize,
    sent: usize,
}

impl World {
    fn new(kind: Kind, seed: u8, lost: usize) -> Self {
        Self::of(Gateway::new(kind), seed, lost)
    }

    fn of(gateway: Gateway, seed: u8, lost: usize) -> Self {
        let mut world = Self {
            mapper: PortMapper::new([seed; 32]),
            gateway,
            now: START,
            answers: Vec::new(),
            dice: Dice::new([seed ^ 0xff; 32]),
            lost,
            sent: 0,
        };
        let target = Target { gateway: GATEWAY, local: LOCAL, ports: PORTS.to_vec() };
        world.mapper.retarget(Some(target), world.now);
        world.carry();
        world
    }

    fn arrives(&mut self) -> bool {
        let luck: Vec<usize> = (0..100).collect();
        self.dice.pick(&luck).unwrap() >= self.lost
    }

    fn carry(&mut self) {
        while let Some(request) = self.mapper.poll_send() {
            self.sent += 1;
            if self.arrives()
                && let Some(answer) = self.gateway.answer(&request, self.now)
                && self.arrives()
            {
                self.answers.push((self.now + ROUND_TRIP, answer));
            }
        }
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let arrival = self.answers.iter().map(|(at, _)| *at).min();
            let Some(next) = arrival.into_iter().chain(self.mapper.poll_timeout()).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            let (here, later) = self.answers.drain(..).partition(|(at, _)| *at <= self.now);
            self.answers = later;
            let here: Vec<(Duration, Vec<u8>)> = here;
            here.iter().for_each(|(_, answer)| self.mapper.received(GATEWAY, answer, self.now));
            self.mapper.timeout(self.now);
            self.carry();
            assert!(self.sent < 100_000, "it never stops to send");
        }
        self.now = end;
    }

    fn is_mapped(&self) -> bool {
        [6, 17].iter().all(|protocol| self.gateway.maps(*protocol, self.now))
    }

    /// Whether the mapper says what is so.
    fn is_told(&self) -> bool {
        let expected = PORTS.map(|(transport, port)| (transport, SocketAddrV4::new(PUBLIC, port + 1000)));
        self.mapper.report().is_some_and(|report| report.mapped == expected && report.problem.is_none())
    }
}

#[test]
fn every_gateway_maps_soon_and_for_ever() {
    for seed in 0..60 {
        for kind in [Kind::Pcp, Kind::NatPmp, Kind::Mute] {
            let mut world = World::new(kind, seed, 10);
            world.pass(2 * MINUTE);
            assert!(world.is_mapped() && world.is_told(), "{kind:?}, seed {seed}: {:?}", world.mapper.report());
            for minute in 0..300 {
                world.pass(MINUTE);
                assert!(world.is_mapped() && world.is_told(), "{kind:?}, seed {seed}, minute {minute}");
            }
            assert!(world.sent < 300, "{kind:?}, seed {seed}: {} datagrams in five hours", world.sent);
        }
    }
}

#[test]
fn a_gateway_that_starts_anew_is_noticed_by_its_clock() {
    for seed in 0..60 {
        for kind in [Kind::Pcp, Kind::NatPmp] {
            let mut world = World::new(kind, seed, 0);
            world.pass(MINUTE * u32::from(seed));
            world.gateway.restart(world.now);
            world.pass(14 * MINUTE);
            assert!(world.is_mapped() && world.is_told(), "{kind:?}, seed {seed}");
        }
    }
}

#[test]
fn a_gateway_that_starts_anew_soon_after_its_start_is_noticed() {
    for uptime in 0..5 {
        let booted = START - Duration::from_secs(uptime);
        let mut world = World::of(Gateway { booted, ..Gateway::new(Kind::Pcp) }, 1, 0);
        world.pass(Duration::from_secs(5));
        world.gateway.restart(world.now);
        let announcement = [&[2, 0x80, 0, 0, 0, 0, 0, 0][..], &world.gateway.epoch(world.now), &[0; 12]].concat();
        world.mapper.received(GATEWAY, &announcement, world.now);
        world.pass(Duration::from_secs(6));
        assert!(world.is_mapped(), "asked first after {uptime} s");
    }
}

#[test]
fn a_gateway_that_announces_its_start_is_asked_within_seconds() {
    let announcements = [
        (Kind::Pcp, [&[2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 12]].concat()),
        (Kind::NatPmp, [&[0, 0x80, 0, 0, 0, 0, 0, 1][..], &PUBLIC.octets()].concat()),
    ];
    for (kind, announcement) in announcements {
        let mut world = World::new(kind, 1, 0);
        world.pass(5 * MINUTE);
        world.gateway.restart(world.now);
        world.mapper.received(Ipv4Addr::new(192, 168, 1, 66), &announcement, world.now);
        world.pass(Duration::from_secs(6));
        assert!(!world.is_mapped(), "a neighbour is not believed");
        world.mapper.received(GATEWAY, &announcement, world.now);
        world.pass(Duration::from_secs(6));
        assert!(world.is_mapped(), "{kind:?}");
    }
}

#[test]
fn a_silent_gateway_is_left_alone_and_asked_again() {
    let mut world = World::new(Kind::Silent, 3, 0);
    world.pass(60 * MINUTE);
    assert!((20..100).contains(&world.sent), "{} datagrams in an hour", world.sent);
    let report = world.mapper.report().unwrap();
    assert_eq!((report.version, report.mapped.len()), (None, 0));
    world.gateway.kind = Kind::Pcp;
    world.pass(20 * MINUTE);
    assert!(world.is_mapped() && world.is_told());
}

#[test]
fn a_router_behind_another_one_is_no_way_in() {
    for private in [[10, 0, 0, 7], [100, 64, 0, 7], [127, 0, 0, 1]] {
        let mut world = World::new(Kind::Pcp, 4, 0);
        world.gateway.public = Ipv4Addr::from(private);
        world.pass(20 * MINUTE);
        let report = world.mapper.report().unwrap();
        assert!(report.mapped.is_empty(), "{report:?}");
        assert!(report.problem.unwrap().contains("another router"));
    }
}

#[test]
fn an_answer_to_another_nonce_maps_nothing() {
    let mut world = World::new(Kind::Silent, 5, 0);
    let mut other = Gateway::new(Kind::Pcp);
    let ask = codec::Ask { transport: Transport::Tcp, internal: 4180, external: 0, lifetime: 60 };
    let request = codec::pcp_map(LOCAL, [9; 12], &ask, Ipv4Addr::UNSPECIFIED);
    let answer = other.answer(&request, world.now).unwrap();
    world.mapper.received(GATEWAY, &answer, world.now);
    assert!(world.mapper.report().unwrap().mapped.is_empty());
}

#[test]
fn ports_that_are_no_longer_listened_on_are_taken_back() {
    for kind in [Kind::Pcp, Kind::NatPmp] {
        let mut world = World::new(kind, 6, 0);
        world.pass(MINUTE);
        let fewer = Target { gateway: GATEWAY, local: LOCAL, ports: vec![PORTS[0]] };
        world.mapper.retarget(Some(fewer), world.now);
        world.carry();
        assert!(world.gateway.maps(6, world.now) && !world.gateway.maps(17, world.now), "{kind:?}");
        world.mapper.shut_down();
        world.carry();
        assert!(!world.gateway.maps(6, world.now), "{kind:?}");
        assert_eq!((world.mapper.report(), world.mapper.poll_timeout()), (None, None));
    }
}

#[test]
fn a_refusal_is_told_and_taken_at_its_word() {
    let mut world = World::new(Kind::Silent, 7, 0);
    let mut refusal = vec![2, 0x81, 0, 2, 0, 0, 0x0e, 0x10, 0, 0, 0, 1];
    refusal.extend([0; 12]);
    for (transport, nonce) in
        world.mapper.site.as_ref().unwrap().leases.iter().map(|l| (l.transport, l.nonce)).collect::<Vec<_>>()
    {
        let ask = codec::Ask { transport, internal: 4180, external: 0, lifetime: 60 };
        let request = codec::pcp_map(LOCAL, nonce, &ask, Ipv4Addr::UNSPECIFIED);
        let answer = [&refusal[..], &request[24..]].concat();
        world.mapper.received(GATEWAY, &answer, world.now);
    }
    world.sent = 0;
    world.pass(59 * MINUTE);
    assert_eq!(world.sent, 0, "an hour, it said");
    let report = world.mapper.report().unwrap();
    assert!(report.problem.unwrap().contains("switched off"));
}
