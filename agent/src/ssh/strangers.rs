//! The places of those who have connected and not logged in, of all proxies together.
//!
//! A stranger costs memory and a key exchange, so there are few places. Nobody keeps others out by holding them: one
//! prefix of addresses has a share, and where there is no room, the one who has been silent for longest gives way; at
//! once, if he never said a word and the newcomer has.

use std::{
    io::ErrorKind,
    net::TcpStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_io::Timer;
use event_listener::Event;
use hive_transport::limits::Prefix;
use hive_transport::source::{Side, Source};
use smol::{
    channel::{self, Receiver, Sender},
    future::or,
};

/// Strangers at once; further ones wait.
const MOST: usize = 8;
/// Those of one prefix.
const SHARE: usize = 4;
/// How long a client's program may be silent before it has agreed on keys, when others wait.
const SILENCE: Duration = Duration::from_secs(3);
/// The same for whoever is asked for a password and types it.
const TYPING: Duration = Duration::from_secs(10);

/// All places.
#[derive(Default)]
pub struct Strangers {
    guests: Mutex<Guests>,
    changed: Event,
}

#[derive(Default)]
struct Guests {
    present: Vec<Guest>,
    latest: u64,
}

/// One who has a place.
struct Guest {
    id: u64,
    from: Prefix,
    /// When he came, or spoke last.
    heard: Instant,
    stage: Stage,
    /// Shows him out.
    out: Sender<()>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Has not said a word.
    Mute,
    /// Agrees on keys.
    Greeted,
    /// May log in.
    Keyed,
}

/// A place. It is free again when this is dropped.
pub struct Place {
    strangers: Arc<Strangers>,
    id: u64,
}

/// Hears that a place is to be left to somebody else.
pub struct Leave(Receiver<()>);

impl Leave {
    /// Resolves then, and never where the place was given back before.
    pub async fn told(&self) {
        if self.0.recv().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Strangers {
    /// A place for a client, as soon as there is one; none where it has left before.
    pub async fn enter(self: &Arc<Self>, from: Prefix, socket: &Source<TcpStream>) -> Option<(Place, Leave)> {
        loop {
            let changed = self.changed.listen();
            let speaks = match socket.get_ref().peek(&mut [0]) {
                Ok(len) if len > 0 => true,
                Err(e) if e.kind() == ErrorKind::WouldBlock => false,
                _ => return None,
            };
            let room_at = match self.lock().admit(from, speaks, Instant::now()) {
                Ok((id, leave)) => return Some((Place { strangers: self.clone(), id }, Leave(leave))),
                Err(room_at) => room_at,
            };
            let room = async {
                Timer::at(room_at).await;
            };
            let speech = async {
                if speaks || socket.io(Side::Read, |socket| socket.peek(&mut [0])).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            or(changed, or(room, speech)).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The client said something.
    pub fn heard(&self) {
        self.speak(Stage::Greeted);
    }

    /// The client has agreed on keys.
    pub fn keyed(&self) {
        self.speak(Stage::Keyed);
    }

    /// One in a house of its own.
    #[cfg(test)]
    pub fn for_test() -> Self {
        Self { strangers: Arc::default(), id: 0 }
    }

    fn speak(&self, stage: Stage) {
        if let Some(guest) = self.strangers.lock().present.iter_mut().find(|guest| guest.id == self.id) {
            guest.heard = Instant::now();
            guest.stage = guest.stage.max(stage);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.strangers.lock().present.retain(|guest| guest.id != self.id);
        self.strangers.changed.notify(usize::MAX);
    }
}

impl Guests {
    /// A place for somebody, or when to ask again at the latest.
    fn admit(&mut self, from: Prefix, speaks: bool, now: Instant) -> Result<(u64, Receiver<()>), Instant> {
        if let Some((at, room_at)) = self.in_the_way(from, speaks) {
            if room_at > now {
                return Err(room_at);
            }
            let _ = self.present.remove(at).out.try_send(());
        }
        let (out, leave) = channel::bounded(1);
        self.latest += 1;
        let stage = if speaks { Stage::Greeted } else { Stage::Mute };
        self.present.push(Guest { id: self.latest, from, heard: now, stage, out });
        Ok((self.latest, leave))
    }

    /// Who would have to give way, and from when on he must; none while there is room.
    fn in_the_way(&self, from: Prefix, speaks: bool) -> Option<(usize, Instant)> {
        let of = |prefix| self.present.iter().filter(|guest| guest.from == prefix).count();
        let own = of(from);
        if own < SHARE && self.present.len() < MOST {
            return None;
        }
        // Whoever has his share takes from himself, others from those who have most.
        let crowd = if own < SHARE { self.present.iter().map(|guest| of(guest.from)).max()? } else { own };
        let among = |guest: &Guest| if own < SHARE { of(guest.from) == crowd } else { guest.from == from };
        let crowded = self.present.iter().enumerate().filter(|(_, guest)| among(guest));
        crowded.map(|(at, guest)| (at, guest.gives_way_at(speaks))).min_by_key(|(_, at)| *at)
    }
}

impl Guest {
    fn gives_way_at(&self, to_one_who_speaks: bool) -> Instant {
        match self.stage {
            Stage::Mute if to_one_who_speaks => self.heard,
            Stage::Mute | Stage::Greeted => self.heard + SILENCE,
            Stage::Keyed => self.heard + TYPING,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn from(host: u8) -> Prefix {
        Prefix::from(IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)))
    }

    /// Guests who came one second after the other, each at its second.
    fn full(hosts: &[u8]) -> (Guests, Vec<Receiver<()>>, Instant) {
        let (mut guests, start) = (Guests::default(), Instant::now());
        let came = |(at, host): (usize, &u8)| {
            guests.admit(from(*host), false, start + Duration::from_secs(at as u64)).unwrap().1
        };
        let leaves = hosts.iter().enumerate().map(came).collect();
        (guests, leaves, start)
    }

    fn shown_out(leaves: &[Receiver<()>]) -> Vec<usize> {
        leaves.iter().enumerate().filter(|(_, leave)| leave.try_recv().is_ok()).map(|(at, _)| at).collect()
    }

    #[test]
    fn a_prefix_has_a_share_and_takes_more_from_itself() {
        let (mut guests, leaves, start) = full(&[1, 1, 1, 1]);
        let later = start + Duration::from_secs(4);
        assert!(guests.admit(from(2), false, later).is_ok(), "there is room for others");
        let now = start + SILENCE;
        assert_eq!(guests.admit(from(1), false, now - Duration::from_millis(1)).unwrap_err(), now);
        assert!(guests.admit(from(1), false, now).is_ok());
        assert_eq!(shown_out(&leaves), [0]);
    }

    #[test]
    fn where_all_is_taken_the_largest_crowd_gives_way() {
        let (mut guests, leaves, start) = full(&[2, 1, 1, 1, 3, 4, 5, 6]);
        let now = start + Duration::from_secs(60);
        assert!(guests.admit(from(9), false, now).is_ok());
        assert_eq!(shown_out(&leaves), [1], "not the one who came first, but the first of those who have most");
    }

    #[test]
    fn one_who_speaks_waits_for_no_mute() {
        let (mut guests, leaves, start) = full(&[1, 1, 1, 1, 2, 2, 2, 2]);
        let now = start + Duration::from_secs(7);
        let (first, leave) = guests.admit(from(3), true, now).unwrap();
        assert_eq!(shown_out(&leaves), [0]);
        for _ in 0..7 {
            guests.admit(from(4), true, now).ok();
        }
        assert!(leave.try_recv().is_err() && guests.present.iter().any(|guest| guest.id == first));
    }

    #[test]
    fn whoever_has_agreed_on_keys_has_time_to_type() {
        let (mut guests, _leaves, start) = full(&[1, 1, 1, 1]);
        guests.present.iter_mut().for_each(|guest| (guest.stage, guest.heard) = (Stage::Keyed, start));
        let soonest = guests.admit(from(1), true, start + SILENCE).unwrap_err();
        assert_eq!(soonest, start + TYPING);
        assert!(guests.admit(from(1), true, start + TYPING).is_ok());
    }
}
