//! What a node does for an authorised client, request by request.

use std::net::SocketAddr;

use hive_protocol::{
    DEFAULT_BIND, Direction, Identity, ProxyId, ProxyKind,
    message::{Failure, FailureCode, PAGE, ProxyRequest, Request, Response},
    password,
};

use super::{
    connect, files, keys, logs, run,
    server::{Authority, Bytes, Control, End},
    update, views,
};
use crate::{metrics::Machine, node::Handle};

impl<S: Bytes> Control<S> {
    /// Carries out one request and answers it.
    pub(super) async fn request(&mut self, request: Request) -> Result<(), End> {
        if let Err(failure) = self.permitted().await {
            return self.respond(Response::Error(failure)).await;
        }
        match request {
            Request::Connect { host, port } => connect::run(self, host, port).await,
            Request::Logs { lines, follow } => logs::run(self, lines, follow).await,
            Request::Run(wish) => run::run(self, &wish).await,
            Request::FilePut { path, name, file } => files::put(self, path, name, file).await,
            Request::FileGet { path, offset } => files::get(self, path, offset).await,
            Request::Update(wish) => update::run(self, &wish).await,
            Request::Nodes => self.nodes().await,
            Request::Proxies => self.proxies().await,
            Request::ProxyAdd(wish) => self.add_proxy(&wish).await,
            Request::Keys => {
                let rows = self.node.keys.list().into_iter().map(|info| self.node.acme.describe(info)).collect();
                self.pages(rows, |rows, more| Response::Keys { rows, more }).await
            }
            Request::TlsObtain(wish) => self.obtain(wish).await,
            Request::Logout => self.logout().await,
            other => {
                let answer = answer(self.node.clone(), other).await;
                self.respond(answer.unwrap_or_else(Response::Error)).await
            }
        }
    }

    /// Checked for every request: a session may have ended since the last one.
    async fn permitted(&mut self) -> Result<(), Failure> {
        match &self.authority {
            Authority::Local => Ok(()),
            Authority::Session { key, .. } => {
                let key = *key;
                let valid = self.node.ask(move |core, now| core.session(&key, now).is_some()).await?;
                if valid { Ok(()) } else { Err(not_authorised()) }
            }
            Authority::None => Err(not_authorised()),
        }
    }

    async fn nodes(&mut self) -> Result<(), End> {
        let rows = self.node.ask(|core, now| core.nodes(now)).await.unwrap_or_default();
        self.pages(rows, |rows, more| Response::Nodes { rows, more }).await
    }

    async fn proxies(&mut self) -> Result<(), End> {
        let rows = views::proxies(self.node.clone()).await.unwrap_or_default();
        self.pages(rows, |rows, more| Response::Proxies { rows, more }).await
    }

    /// A long list in several responses, an empty one in a single one.
    async fn pages<T>(&mut self, mut rows: Vec<T>, page: impl Fn(Vec<T>, bool) -> Response) -> Result<(), End> {
        loop {
            let rest = rows.split_off(rows.len().min(PAGE));
            self.respond(page(rows, !rest.is_empty())).await?;
            if rest.is_empty() {
                return Ok(());
            }
            rows = rest;
        }
    }

    async fn add_proxy(&mut self, wish: &ProxyRequest) -> Result<(), End> {
        let answer = match add_proxy(self.node.clone(), wish.clone()).await {
            Ok(id) => {
                self.temporary.extend(wish.temporary.then_some(id));
                Response::ProxyAdded { id }
            }
            Err(failure) => Response::Error(failure),
        };
        self.respond(answer).await
    }

    async fn logout(&mut self) -> Result<(), End> {
        let Authority::Session { key, .. } = self.authority else {
            let failure = Failure::new(FailureCode::Usage, "there is no session to end: this user needs none here");
            return self.respond(Response::Error(failure)).await;
        };
        self.respond(Response::Done).await?;
        // Last, because it closes this very stream.
        let ended = move |core: &mut hive_core::Core, _| {
            core.end_session(&key);
            Ok(())
        };
        let _ = self.node.command(ended).await;
        Ok(())
    }
}

/// Requests that are one command or one question.
async fn answer(node: Handle, request: Request) -> Result<Response, Failure> {
    match request {
        Request::Identity => identity(node).await.map(Response::Identity),
        Request::Register { identity, network } => {
            let peer = identity.node;
            let (name, members) = node.register(identity, network).await?;
            Ok(Response::Registered { node: peer, name, members })
        }
        Request::Networks => Ok(Response::Networks(node.ask(|core, now| core.networks(now)).await?)),
        Request::Status => Ok(Response::Status(views::status(node).await?)),
        Request::KeysPut { .. } | Request::KeysRemove { .. } | Request::KeyShow { .. } => {
            keys::answer(node, request).await
        }
        Request::UpdateStatus => Ok(Response::UpdateStatus(update::status(node).await)),
        Request::FileStat { path } => files::stat(path).await,
        Request::Metrics => {
            let metrics = Machine::this().metrics(node.started.elapsed()).await;
            Ok(Response::Metrics(Box::new(metrics)))
        }
        Request::Sessions => Ok(Response::Sessions(node.ask(|core, _| core.sessions()).await?)),
        change => carry_out(node, change).await.map(|()| Response::Done),
    }
}

/// Requests that change something and have nothing to tell.
async fn carry_out(node: Handle, request: Request) -> Result<(), Failure> {
    match request {
        Request::NetworkJoin { network, password } => {
            let secret = stretch(network.clone(), password).await?;
            node.command(move |core, now| core.join_network(&network, secret, now)).await
        }
        Request::NetworkLeave { network } => node.command(move |core, now| core.leave_network(&network, now)).await,
        Request::NetworkRotate { network, password, grace_s } => {
            let secret = stretch(network.clone(), password).await?;
            let grace = std::time::Duration::from_secs(grace_s);
            node.command(move |core, now| core.rotate(&network, secret, grace, now)).await
        }
        Request::Ban { network, node: peer, banned } => {
            node.command(move |core, now| core.ban(network.as_ref(), peer, banned, now)).await
        }
        Request::ProxyRemove { id } => node.command(move |core, now| core.remove_proxy(id, now)).await,
        Request::ProxyEnable { id, enabled } => {
            node.command(move |core, now| core.enable_proxy(id, enabled, now)).await
        }
        Request::SessionRevoke { id } => node.command(move |core, _| core.revoke(&id)).await,
        Request::Rename { name } => {
            name.check_own().map_err(|e| Failure::new(FailureCode::Usage, e.to_string()))?;
            node.command(move |core, now| {
                core.rename(name, now);
                Ok(())
            })
            .await
        }
        Request::Listen { addresses } => node.listen(addresses).await,
        _ => Err(Failure::new(FailureCode::Usage, "not a change")),
    }
}

async fn identity(node: Handle) -> Result<Identity, Failure> {
    let identity = |core: &mut hive_core::Core, _| Identity {
        node: core.id(),
        name: core.name().clone(),
        addresses: core.addresses().to_vec(),
    };
    Ok(node.ask(identity).await?)
}

/// Binds an egress' port before the proxy exists: a port that cannot be had is an answer now, not a state later.
async fn add_proxy(node: Handle, mut wish: ProxyRequest) -> Result<ProxyId, Failure> {
    if let Some(login) = wish.ssh.as_ref().filter(|_| wish.kind == ProxyKind::Ssh) {
        node.ssh.prepare(login).await?;
    }
    let address = SocketAddr::new(wish.bind.map_or(DEFAULT_BIND, |bind| bind.0), wish.port);
    // A port that is shared by host names is bound already; whether the names differ, the core says.
    let shared = wish.sni.is_some() && node.ask(move |core, _| core.shares_port(address.ip(), address.port())).await?;
    let mut egress = (wish.direction == Direction::Egress && !shared).then_some(address);
    if let Some(address) = &mut egress {
        *address = node.prepared.bind(*address).map_err(|e| cannot_bind(*address, &e))?;
        wish.port = address.port();
    }
    let added = node.command(move |core, now| core.add_proxy(&wish, now)).await;
    if let (Err(_), Some(address)) = (&added, egress) {
        drop(node.prepared.take(address));
    }
    added
}

fn cannot_bind(address: SocketAddr, error: &std::io::Error) -> Failure {
    use std::io::ErrorKind;
    let what = |why: &str| Failure::new(FailureCode::Failed, format!("cannot listen on {address}: {why}"));
    match error.kind() {
        ErrorKind::AddrInUse => what("the port is taken").hint("see `hivectl proxy ls`, or choose another port"),
        ErrorKind::PermissionDenied => {
            what("not permitted").hint("ports below 1024 need root or CAP_NET_BIND_SERVICE on that node")
        }
        ErrorKind::AddrNotAvailable => what("the node has no such address").hint("see --bind"),
        _ => what(&error.to_string()),
    }
}

/// Argon2id on a thread of its own: it takes a tenth of a second and 19 MiB.
async fn stretch(network: hive_protocol::NetworkName, password: String) -> Result<password::Secret, Failure> {
    let stretched = blocking::unblock(move || password::network_secret(&network, &password)).await;
    stretched.map_err(|e| Failure::new(FailureCode::Usage, e.to_string()))
}

fn not_authorised() -> Failure {
    Failure::new(FailureCode::NotAuthorised, "not logged in").hint("run hivectl login")
}
