//! What every command works with: the way to a node, the login there, and the output.

use std::{
    cell::{Cell, OnceCell},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use hive_protocol::{NodeId, Timestamp};
use libp2p_identity::ed25519::Keypair;
use multiaddr::Multiaddr;

use crate::{
    args::{Args, Target},
    client::{Client, direct, socket},
    cmds::is_local,
    error::{Error, Result, Status},
    out::Out,
    place::Place,
    prompt::{self, Password},
    session::{Session, Store},
};

const DEFAULT_USER: &str = "admin";
const PASSWORD_VARIABLE: &str = "HIVE_PASSWORD";

/// Global options and what was learned from them.
pub struct App {
    /// Where results go.
    pub out: Out,
    socket: Option<PathBuf>,
    direct: Option<Multiaddr>,
    sessions: Option<Store>,
    /// Standard input can be read once only, and `forward` logs in twice.
    stdin_password: OnceCell<Password>,
    asks: Cell<bool>,
    status: Cell<u8>,
}

impl App {
    /// Takes the global options.
    pub fn new(args: &Args) -> Self {
        let from_env = || std::env::var_os("HIVE_SOCKET").filter(|v| !v.is_empty()).map(PathBuf::from);
        Self {
            out: Out::new(args.json, args.quiet),
            socket: args.socket.clone().or_else(from_env),
            direct: args.direct.clone(),
            sessions: Store::of_user(),
            stdin_password: OnceCell::new(),
            asks: Cell::new(true),
            status: Cell::new(0),
        }
    }

    /// A conversation with the node that `target` names, authorised: by the node itself, by a saved session, or by a
    /// new login.
    pub async fn connect(&self, target: &Target) -> Result<Client> {
        let mut client = self.greet(target).await?;
        if client.authorised {
            return Ok(client);
        }
        if let Some(session) = self.saved(&client.node, target) {
            if client.prove(&session.key).await? {
                return Ok(client);
            }
            self.forget(&client.node);
            // A node may end the stream on which a proof failed.
            client = self.greet(target).await?;
        }
        let session = self.login(&mut client, target).await?;
        if let Err(why) = self.save(&session) {
            self.out.warn(&format!("the session is not saved and ends with this command: {why}"));
        }
        Ok(client)
    }

    /// From now on a password that is not given is an error instead of a question: for acting on many nodes at once.
    pub fn never_ask(&self) {
        self.asks.set(false);
    }

    /// Whether there is no local agent: a node is dialled from here.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Ends this process with the status that a program on a node ended with.
    pub fn pass_on(&self, status: u8) {
        self.status.set(status);
    }

    /// The status to end with when nothing went wrong here.
    pub fn status(&self) -> u8 {
        self.status.get()
    }

    /// A conversation before any login.
    pub async fn greet(&self, target: &Target) -> Result<Client> {
        // `self` is as good as no name, which means the local node, too.
        let node = target.node.clone().filter(|node| !is_local(node));
        let target = Target { node, ..target.clone() };
        match &self.direct {
            Some(address) => greet_direct(address, &target).await,
            None => Client::greet(Box::new(socket::connect(self.socket.as_deref()).await?), &target).await,
        }
    }

    /// Logs in. The session is still to be saved.
    pub async fn login(&self, client: &mut Client, target: &Target) -> Result<Session> {
        let user = wanted_user(target).unwrap_or_else(|| DEFAULT_USER.to_owned());
        let password = match self.given_password(target)? {
            Some(password) => password,
            None if !self.asks.get() => return Err(login_needed(client, target)),
            None => {
                let password = asked_password(client, target, &user).await?;
                // A node does not keep a stranger's connection for as long as a person may take to type.
                *client = self.greet(target).await?;
                password
            }
        };
        let key = self.sessions.as_ref().and_then(|s| s.load(&client.node)).map_or_else(Keypair::generate, |s| s.key);
        let lives = client.login(&user, &password, &key).await.map_err(|error| explained(error, target))?;
        Ok(Session { node: client.node, user, expires: after(lives), key })
    }

    /// The saved session with `node`, if it is one of the user that is asked for.
    pub fn saved(&self, node: &NodeId, target: &Target) -> Option<Session> {
        let session = self.sessions.as_ref()?.load(node)?;
        wanted_user(target).is_none_or(|user| user == session.user).then_some(session)
    }

    /// Deletes the saved session with `node`.
    pub fn forget(&self, node: &NodeId) {
        if let Some(store) = &self.sessions {
            store.remove(node);
        }
    }

    /// Saves a session for later commands, or says why not.
    pub fn save(&self, session: &Session) -> Result<(), String> {
        match &self.sessions {
            Some(store) => store.save(session).map_err(|e| e.to_string()),
            None => Err("neither XDG_STATE_HOME nor HOME is set".to_owned()),
        }
    }

    fn given_password(&self, target: &Target) -> Result<Option<Password>> {
        if target.password_stdin {
            return self.password_from_stdin().map(Some);
        }
        prompt::from_env(PASSWORD_VARIABLE)
    }

    fn password_from_stdin(&self) -> Result<Password> {
        if let Some(password) = self.stdin_password.get() {
            return Ok(password.clone());
        }
        let password = prompt::from_stdin()?;
        Ok(self.stdin_password.get_or_init(|| password).clone())
    }
}

async fn asked_password(client: &Client, target: &Target, user: &str) -> Result<Password> {
    let asked = prompt::ask(&format!("Password of {user} at {}: ", client.name)).await?;
    asked.ok_or_else(|| login_needed(client, target))
}

fn login_needed(client: &Client, target: &Target) -> Error {
    let node = target.node.as_ref().map(|node| format!(" --node {node}")).unwrap_or_default();
    Error::not_authorised(format!("a login at {} is needed", client.name))
        .hint(format!("run `hivectl login{node}` at a terminal, set {PASSWORD_VARIABLE}, or use --password-stdin"))
}

/// A password that nobody typed is easily forgotten.
fn explained(error: Error, target: &Target) -> Error {
    let from_env = !target.password_stdin && matches!(prompt::from_env(PASSWORD_VARIABLE), Ok(Some(_)));
    match error {
        Error { status: Status::NotAuthorised, hint: None, .. } if from_env => {
            error.hint(format!("the password was taken from {PASSWORD_VARIABLE}"))
        }
        error => error,
    }
}

fn after(lives: Duration) -> Timestamp {
    let now = Timestamp::from(SystemTime::now());
    Timestamp(now.0.saturating_add(u64::try_from(lives.as_millis()).unwrap_or(u64::MAX)))
}

/// The user that was asked for, if any was.
fn wanted_user(target: &Target) -> Option<String> {
    target.user.clone().or_else(|| std::env::var("HIVE_USER").ok().filter(|v| !v.is_empty()))
}

/// The node that was dialled is the one acted on, and passes nothing on to others.
async fn greet_direct(address: &Multiaddr, target: &Target) -> Result<Client> {
    let (stream, dialled) = direct::dial(address).await?;
    let mut client = Client::greet(stream, &Target { node: Some(dialled.to_string()), ..Target::default() }).await?;
    client.place = Place::Direct(address.clone());
    match &target.node {
        Some(node) if *node != client.node.to_string() && node != client.name.as_str() => {
            Err(Error::usage(format!("--direct acts on {}, which it dials, not on {node}", client.name)))
        }
        _ => Ok(client),
    }
}
