//! What people and fate do to the nodes of a world.

use std::time::Duration;

use hive_core::{Config, Core, Event, RelayMode};
use hive_protocol::{Identity, NodeName};
use rand::RngExt;

use crate::world::{DEAD, End, Happening, NetworkName, World, secret};

impl World {
    pub fn join(&mut self, node: usize, network: &NetworkName, password: &str) {
        self.command(node, |core, now| core.join_network(network, secret(password), now).unwrap());
        if password == "right" {
            self.members.entry(network.clone()).or_default().insert(node);
            self.ever.entry(network.clone()).or_default().insert(node);
        }
    }

    pub fn register(&mut self, node: usize, other: usize, network: &NetworkName) {
        let other = &self.nodes[other];
        let (name, addresses) = (other.disk.name.clone(), vec![other.address.clone()]);
        let identity = Identity { node: other.id, name, addresses };
        self.command(node, |core, now| core.register(&identity, network, now).unwrap());
    }

    pub fn rotate(&mut self, node: usize, network: &NetworkName, password: &str, grace: Duration) {
        self.command(node, |core, now| core.rotate(network, secret(password), grace, now).unwrap());
    }

    pub fn rename(&mut self, node: usize) {
        let name: NodeName = format!("node{node}-{}", self.order).parse().unwrap();
        self.command(node, |core, now| core.rename(name, now));
    }

    pub fn move_house(&mut self, node: usize) {
        if self.is_up(node) {
            let old = self.nodes[node].address.clone();
            self.places.remove(&old);
            let address = self.place(node);
            self.nodes[node].address = address.clone();
            self.tell(node, Event::Addresses(vec![address]));
        }
    }

    pub fn leave(&mut self, node: usize, network: &NetworkName) {
        // Somebody must stay; and who leaves unheard would be a member to the others until its record lapses.
        let members = &self.members[network];
        if !members.contains(&node) || members.len() < 10 || !self.is_up(node) || self.parted {
            return;
        }
        if self.joined(node, network) == 0 {
            return;
        }
        self.command(node, |core, now| core.leave_network(network, now).unwrap());
        self.members.get_mut(network).unwrap().remove(&node);
        self.bans.retain(|(by, _, of)| (*by, of) != (node, network));
    }

    pub fn ban(&mut self, by: usize, node: usize, network: &NetworkName, banned: bool) {
        if by == node || !self.is_up(by) || !self.members[network].contains(&by) {
            return;
        }
        let id = self.id(node);
        self.command(by, |core, now| core.ban(Some(network), id, banned, now).unwrap());
        let key = (by, node, network.clone());
        if banned {
            self.bans.insert(key)
        } else {
            self.bans.remove(&key)
        };
    }

    /// Keeps out a node that is connected, so that there is something to take away.
    pub fn ban_a_neighbour(&mut self, by: usize, network: &NetworkName) {
        let Some(conn) = self.is_up(by).then(|| self.conns(by).next()).flatten() else { return };
        let Some(connection) = self.core(by).connection(conn) else { return };
        self.ban(by, self.index(&connection.peer), network, true);
    }

    pub fn cut_one(&mut self) {
        let conns: Vec<_> = self.ends.keys().copied().collect();
        if !conns.is_empty() {
            let at = self.pick(0..conns.len());
            self.cut(conns[at], Duration::ZERO);
        }
    }

    /// Splits the world in two; connections across notice after a while.
    pub fn part(&mut self) {
        if self.parted {
            return;
        }
        self.parted = true;
        for node in 0..self.nodes.len() {
            self.nodes[node].side = self.rng.random_range(0..2);
        }
        let parted = |end: &End| self.ends.get(&end.other).is_some_and(|other| !self.reaches(end.node, other.node));
        let across: Vec<_> = self.ends.iter().filter(|(_, end)| parted(end)).map(|(conn, _)| *conn).collect();
        for conn in across {
            self.later(DEAD, Happening::Down { conn });
        }
    }

    pub fn unpart(&mut self) {
        self.parted = false;
    }

    pub fn crash(&mut self, node: usize) {
        let life = &mut self.nodes[node].life;
        *life += 1;
        self.nodes[node].core = None;
        for conn in self.conns(node).collect::<Vec<_>>() {
            if let Some(end) = self.ends.remove(&conn) {
                self.later(Duration::from_millis(20), Happening::Down { conn: end.other });
            }
        }
    }

    pub fn start(&mut self, node: usize) {
        if self.is_up(node) {
            return;
        }
        self.nodes[node].started = self.time - Duration::from_millis(10);
        let seed = self.rng.random::<[u8; 32]>();
        let now = self.now(node);
        let it = &mut self.nodes[node];
        let config =
            Config { key: it.key.clone(), version: "0.1.0".into(), target: "simulated".into(), relay: RelayMode::Auto };
        it.core = Some(Core::new(config, it.disk.clone(), seed, now));
        let address = it.address.clone();
        self.tell(node, Event::Addresses(vec![address]));
    }

    /// Ends all mishaps: whoever is down starts, whoever is apart meets.
    pub fn heal(&mut self) {
        self.unpart();
        (0..self.nodes.len()).for_each(|node| self.start(node));
    }
}
