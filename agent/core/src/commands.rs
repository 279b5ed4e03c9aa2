//! What people ask of this node: networks, registrations, bans, its name, proxies, logins. Effects come as outputs.

use std::time::Duration;

use hive_protocol::{
    DEFAULT_BIND, DEFAULT_HOST, Direction, Identity, NetworkName, NodeId, NodeName, ProxyId, ProxyKind, ProxySpec,
    Remote, SessionInfo,
    message::{Failure, FailureCode, ProxyRequest},
    password::{Cost, PasswordHashed, Secret},
};

use crate::{Admin, Change, Core, Now, Purpose, Source, guard::Guard, membership};

/// Longest host of an ingress' target: the longest DNS name.
const MAX_HOST: usize = 253;
/// Longest user name of an SSH server.
const MAX_USER: usize = 64;
/// Most keys of an SSH server, and the longest line of one, in bytes: together they fit into a control message.
const MAX_KEYS: usize = 16;
const MAX_KEY: usize = 2048;

#[cfg(test)]
mod tests;

fn usage(what: impl Into<String>) -> Failure {
    Failure::new(FailureCode::Usage, what)
}

/// Networks.
impl Core {
    /// Joins or creates a network.
    ///
    /// # Errors
    ///
    /// The node is in it already with another password, or in too many networks.
    pub fn join_network(&mut self, name: &NetworkName, secret: Secret, now: Now) -> Result<(), Failure> {
        self.advance(now);
        if self.networks.join(name, secret, &mut self.out)? {
            self.open_table(name, now);
            self.issue(name, 0, now);
        }
        self.settle(now);
        Ok(())
    }

    /// Leaves a network: tells its members, then forgets it, its table and its proxies.
    ///
    /// # Errors
    ///
    /// The node is not in it.
    pub fn leave_network(&mut self, name: &NetworkName, now: Now) -> Result<(), Failure> {
        self.advance(now);
        self.networks.leave(name, &mut self.out)?;
        if let Some(table) = self.tables.get(name) {
            let tombstone = Self::tombstone(&self.own, table, name, now);
            self.push(name, vec![tombstone], None);
        }
        self.tables.remove(name);
        self.gossip_at.remove(name);
        self.guards.forget(name);
        self.path.forget(name);
        self.proxies.forget(name, &mut self.out);
        self.fail_registrations(name);
        // Connections live on for 10 s at most: the farewell is still on its way.
        self.connections.forget(name, now.mono);
        self.routes_changed = true;
        self.path.review_at(now.mono);
        self.settle(now);
        Ok(())
    }

    fn fail_registrations(&mut self, network: &NetworkName) {
        for peer in self.registrations.peers(network) {
            let failed = self.registrations.fail(network, &peer, membership::not_a_member(network));
            failed.into_iter().for_each(|output| self.out.push(output));
        }
    }

    /// Changes a network's password here. Until `grace` is over, members may still use the old one.
    ///
    /// # Errors
    ///
    /// The node is not in the network, or this is its password already.
    pub fn rotate(&mut self, name: &NetworkName, secret: Secret, grace: Duration, now: Now) -> Result<(), Failure> {
        self.advance(now);
        self.networks.rotate(name, secret, grace, now, &mut self.out)?;
        self.routes_changed = true;
        self.connections.outdate(name);
        for conn in self.connections.joined(name) {
            self.plan_join(conn, name, now);
        }
        if grace.is_zero() {
            self.expel(name, "joined by a password that has ended", now, |_, _| true);
        }
        self.path.review_at(now.mono);
        self.settle(now);
        Ok(())
    }

    /// Keeps a node out of a network, or of all of them, or lets it in again.
    ///
    /// # Errors
    ///
    /// The node is this one, or this node is not in the network.
    pub fn ban(&mut self, network: Option<&NetworkName>, node: NodeId, banned: bool, now: Now) -> Result<(), Failure> {
        self.advance(now);
        if node == self.own.id {
            return Err(usage("a node cannot keep itself out").hint("`hivectl networks leave` makes it leave"));
        }
        let networks = network.map_or_else(|| self.networks.names(), |name| vec![name.clone()]);
        let outcome = networks.iter().try_for_each(|name| self.ban_in(name, node, banned, now));
        self.settle(now);
        outcome
    }

    fn ban_in(&mut self, network: &NetworkName, node: NodeId, banned: bool, now: Now) -> Result<(), Failure> {
        if self.networks.ban(network, node, banned, &mut self.out)? {
            self.apply_ban(network, node, banned, now);
        }
        Ok(())
    }

    fn apply_ban(&mut self, network: &NetworkName, node: NodeId, banned: bool, now: Now) {
        self.path.review_at(now.mono);
        self.routes_changed = true;
        if !banned {
            // Its record is with the other members: ask one of them now.
            self.gossip_at.insert(network.clone(), now.mono);
            return;
        }
        self.drop_record(network, node);
        self.expel(network, "banned", now, |connection, _| connection.peer == node);
        let failure = usage(format!("this node is kept out of network {network}"));
        let failed = self.registrations.fail(network, &node, failure);
        failed.into_iter().for_each(|output| self.out.push(output));
    }

    /// Adds a node by its identity: dials it, joins it, learns its name. [`crate::Output::Registered`] follows within
    /// 20 seconds.
    ///
    /// # Errors
    ///
    /// This node is not in the network, keeps the other out, or is the other.
    pub fn register(&mut self, identity: &Identity, network: &NetworkName, now: Now) -> Result<(), Failure> {
        self.advance(now);
        let node = identity.node;
        self.check_peer(&node, network)?;
        self.registrations.begin(identity.clone(), network.clone(), now.mono)?;
        let conns: Vec<_> = self.connections.of(&node).map(|(conn, _)| conn).collect();
        if conns.iter().any(|conn| self.connections.is_joined(*conn, network)) {
            self.registrations.joined(network, &node, now.mono);
            self.complete_registration(network, &node);
        } else if conns.is_empty() {
            self.path.wish(node, now.mono);
        }
        for conn in conns {
            if !self.connections.is_joined(conn, network) {
                self.connections.ask(conn, network, now.mono);
            }
        }
        self.settle(now);
        Ok(())
    }

    /// Gives this node another name.
    pub fn rename(&mut self, name: NodeName, now: Now) {
        self.advance(now);
        if self.own.name != name {
            self.out.persist(Change::Name(name.clone()));
            self.own.name = name;
            self.own.changed(now.mono);
        }
        self.settle(now);
    }

    /// Whether a peer may be dealt with in a network.
    fn check_peer(&mut self, node: &NodeId, network: &NetworkName) -> Result<(), Failure> {
        let banned = self.networks.require(network)?.banned.contains(node);
        if *node == self.own.id {
            return Err(usage("that is this node itself").hint("name the other node"));
        }
        if banned {
            let hint = format!("let it in again with `hivectl networks unban --node {node}`");
            return Err(usage(format!("this node keeps {node} out of network {network}")).hint(hint));
        }
        Ok(())
    }
}

/// Proxies.
impl Core {
    /// Adds one side of a tunnel.
    ///
    /// # Errors
    ///
    /// The peer or network cannot be told, the peer is this node or kept out, a port is 0, the host is no host, another
    /// proxy does the same, or there are too many. Where SSH is spoken: the login makes no sense.
    pub fn add_proxy(&mut self, request: &ProxyRequest, now: Now) -> Result<ProxyId, Failure> {
        self.advance(now);
        let remote = match request.kind {
            ProxyKind::Tcp => Some(self.remote(request)?),
            ProxyKind::Ssh => {
                check_ssh(request)?;
                None
            }
        };
        let id = self.proxies.add(proxy_spec(request, remote)?, &mut self.out)?;
        self.proxies_changed(now);
        Ok(id)
    }

    /// The other end of a tunnel.
    fn remote(&mut self, request: &ProxyRequest) -> Result<Remote, Failure> {
        check_ports(request)?;
        let node = self.resolve(&request.peer, request.network.as_ref())?;
        let network = match &request.network {
            Some(network) => network.clone(),
            None => self.only_network(&node)?,
        };
        self.check_peer(&node, &network)?;
        Ok(Remote { network, node, port: request.peer_port })
    }

    /// The one network that could be meant for a peer.
    fn only_network(&self, node: &NodeId) -> Result<NetworkName, Failure> {
        let all = self.networks.names();
        let shared: Vec<_> = all.iter().filter(|network| self.is_member(network, node)).collect();
        match (shared.as_slice(), all.as_slice()) {
            ([one], _) => Ok((*one).clone()),
            ([], [one]) => Ok(one.clone()),
            ([], []) => Err(usage("this node is in no network").hint("`hivectl networks join --name NAME`")),
            ([], several) => Err(name_the_network(several.iter())),
            (several, _) => Err(name_the_network(several.iter().copied())),
        }
    }

    /// Removes a proxy; its streams end with the next routes.
    ///
    /// # Errors
    ///
    /// There is none with this number.
    pub fn remove_proxy(&mut self, id: ProxyId, now: Now) -> Result<(), Failure> {
        self.advance(now);
        self.proxies.remove(id, &mut self.out)?;
        self.proxies_changed(now);
        Ok(())
    }

    /// Starts or stops a proxy.
    ///
    /// # Errors
    ///
    /// There is none with this number.
    pub fn enable_proxy(&mut self, id: ProxyId, enabled: bool, now: Now) -> Result<(), Failure> {
        self.advance(now);
        if self.proxies.enable(id, enabled, &mut self.out)? {
            self.proxies_changed(now);
        }
        Ok(())
    }

    fn proxies_changed(&mut self, now: Now) {
        self.routes_changed = true;
        self.path.review_at(now.mono);
        self.settle(now);
    }
}

/// Attempts, the admin account and its sessions.
impl Core {
    /// Counts an attempt to prove a password, as failed until [`Core::succeeded`].
    ///
    /// # Errors
    ///
    /// How long this source has to wait before it may try.
    pub fn attempt(&mut self, purpose: &Purpose, source: Source, now: Now) -> Result<(), Duration> {
        self.guard(purpose).attempt(source, now.mono)
    }

    /// The attempt proved the password: it is given back.
    pub fn succeeded(&mut self, purpose: &Purpose, source: Source, now: Now) {
        self.guard(purpose).succeeded(source, now.mono);
    }

    fn guard(&mut self, purpose: &Purpose) -> &mut Guard {
        self.guards.of(purpose, |network| self.networks.get(network).is_some())
    }

    /// Sets the admin account. Sessions opened with another user or password end.
    pub fn set_admin(&mut self, admin: Admin) {
        self.sessions.set_admin(admin, &mut self.out);
    }

    /// Salt, cost and secret for a login as `user`; made up, but always the same, where there is no such user.
    #[must_use]
    pub fn login_secret(&self, user: &str) -> (Vec<u8>, Cost, Secret) {
        self.sessions.login_secret(user)
    }

    /// Opens a session for the client with this key; returns how long it lives.
    pub fn enrol(&mut self, key: [u8; 32], user: &str, now: Now) -> Duration {
        self.sessions.enrol(key, user, now.wall, &mut self.out)
    }

    /// The user of the session with this key, if it lives. Counts as use.
    pub fn session(&mut self, key: &[u8; 32], now: Now) -> Option<String> {
        self.sessions.used(key, now.wall, &mut self.out)
    }

    /// The sessions, by key.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.sessions.list()
    }

    /// Ends the session with this key, if there is one.
    pub fn end_session(&mut self, key: &[u8; 32]) {
        self.sessions.end(key, &mut self.out);
    }

    /// Ends the session with this [`SessionInfo::id`].
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn revoke(&mut self, id: &str) -> Result<(), Failure> {
        self.sessions.revoke(id, &mut self.out)
    }
}

fn check_ports(request: &ProxyRequest) -> Result<(), Failure> {
    let zero = |which: &str| usage(format!("the {which} port cannot be 0")).hint("give a port from 1 to 65535");
    match (request.port, request.peer_port) {
        (0, _) => Err(zero("local")),
        (_, 0) => Err(zero("peer's")),
        _ => Ok(()),
    }
}

fn name_the_network<'a>(networks: impl Iterator<Item = &'a NetworkName>) -> Failure {
    let names: Vec<_> = networks.map(NetworkName::as_str).collect();
    usage(format!("several networks could be meant: {}", names.join(", "))).hint("name one with --network")
}

fn proxy_spec(request: &ProxyRequest, remote: Option<Remote>) -> Result<ProxySpec, Failure> {
    if request.direction == Direction::Ingress && request.sni.is_some() {
        return Err(usage("a host name to route by belongs to an egress, not to an ingress"));
    }
    let host = match (request.direction, &request.host, &request.bind) {
        (Direction::Egress, Some(_), _) => return Err(usage("a host belongs to an ingress, not to an egress")),
        (Direction::Ingress, _, Some(_)) => {
            return Err(usage("a bind address belongs to an egress, not to an ingress"));
        }
        (_, host, _) => host.as_deref().unwrap_or(DEFAULT_HOST),
    };
    if request.direction == Direction::Ingress && request.resume.is_some() {
        return Err(usage("how long connections outlive their path is said at the egress, not at the ingress"));
    }
    let odd = |c: char| c.is_control() || c.is_whitespace() || c == '/';
    if host.is_empty() || host.len() > MAX_HOST || host.contains(odd) {
        return Err(usage(format!("not a host: {host:?}")).hint("give a name or an IP address"));
    }
    Ok(ProxySpec {
        id: 0,
        direction: request.direction,
        kind: request.kind,
        port: request.port,
        bind: request.bind.map_or(DEFAULT_BIND, |bind| bind.0),
        host: host.to_owned(),
        remote,
        enabled: true,
        temporary: request.temporary,
        resume: request.resume,
        key_prefix: request.key_prefix.clone(),
        sni: request.sni.clone(),
        ssh: request.ssh.clone(),
        path_rule: request.path_rule,
    })
}

/// What an SSH server is asked to be. Whether the keys are keys, the server itself checks.
fn check_ssh(request: &ProxyRequest) -> Result<(), Failure> {
    let Some(login) = &request.ssh else { return Err(usage("an SSH server needs a user")) };
    if request.direction != Direction::Egress || request.key_prefix.is_some() || request.sni.is_some() {
        return Err(usage("an SSH server is an egress, without TLS and without a host name"));
    }
    if request.path_rule.is_some() {
        return Err(usage("an SSH server leads to no other node, so it takes no path"));
    }
    if request.port == 0 {
        return Err(usage("the local port cannot be 0"));
    }
    let odd = |c: char| c.is_control() || c.is_whitespace() || c == ':';
    if login.user.is_empty() || login.user.len() > MAX_USER || login.user.contains(odd) {
        return Err(usage("not a user name").hint("give up to 64 characters without spaces and colons"));
    }
    if login.password.is_none() && login.keys.is_empty() {
        return Err(usage("nobody could log in there").hint("give a password, or keys with --authorized-keys FILE"));
    }
    if login.keys.len() > MAX_KEYS || login.keys.iter().any(|key| key.len() > MAX_KEY) {
        return Err(usage(format!("at most {MAX_KEYS} keys of {MAX_KEY} bytes may log in")));
    }
    let hashed = login.password.as_ref().map(|phc| phc.parse::<PasswordHashed>());
    hashed.transpose().map(drop).map_err(|e| usage(e.to_string()))
}
