//! What one client asks for, call by call of `russh`.
//!
//! Every answer is given at once: a handler that waited would hold up the whole connection. Programs run in tasks of
//! their own.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_io::Timer;
use hive_protocol::{
    ProxyId,
    message::{RunRequest, TerminalInfo},
};
use russh::{
    Channel, ChannelId, ChannelOpenFailure, MethodSet, Pty, Sig,
    server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session as Russh, VerifiedPublicKey},
};

use super::{
    link::Link,
    login::Login,
    program::{Program, signal_number},
};
use crate::process::{Account, Place};

/// Channels of one connection at once, as OpenSSH's server has it.
const MAX_CHANNELS: usize = 10;
/// Variables that a client may set for one program, and their longest value.
const MAX_VARIABLES: usize = 32;
const MAX_VALUE: usize = 1024;
/// How long the refusal of a password takes, whatever the reason; that of a key tells nothing that is secret.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// The longest command, in bytes; `russh` takes packets of up to 256 KiB.
const MAX_COMMAND: usize = 128 * 1024;

/// A connection's state.
pub struct Session {
    proxy: ProxyId,
    login: Login,
    link: Arc<Link>,
    channels: HashMap<ChannelId, Use>,
}

/// What a channel is used for.
enum Use {
    /// Nothing yet.
    Open { terminal: Option<TerminalInfo>, variables: Vec<(String, String)> },
    /// A program.
    Running(Program),
}

impl Session {
    /// A connection on which nobody has logged in.
    pub fn new(proxy: ProxyId, login: Login, link: Arc<Link>) -> Self {
        Self { proxy, login, link, channels: HashMap::new() }
    }

    /// How one can log in.
    pub fn methods(&self) -> MethodSet {
        self.login.methods()
    }

    fn judge(&self, right: bool) -> Auth {
        if right {
            log::info!("proxy {}: a client logged in over SSH", self.proxy);
            return Auth::Accept;
        }
        log::info!("proxy {}: a login over SSH was refused", self.proxy);
        self.refusal()
    }

    /// One may try again, by any method; `russh` counts.
    fn refusal(&self) -> Auth {
        Auth::Reject { proceed_with_methods: Some(self.methods()), partial_success: false }
    }

    /// Forgets what has ended: `russh` does not tell of a channel that was closed from here.
    fn prune(&mut self) {
        self.channels.retain(|_, purpose| !matches!(purpose, Use::Running(program) if program.is_over()));
    }

    fn program(&self, channel: ChannelId) -> Option<&Program> {
        match self.channels.get(&channel) {
            Some(Use::Running(program)) => Some(program),
            _ => None,
        }
    }

    /// Starts a program on a channel that has none, and tells the client whether it did.
    fn run(&mut self, channel: ChannelId, command: Vec<String>, session: &mut Russh) -> Result<(), russh::Error> {
        let Some(Use::Open { terminal, variables }) = self.channels.get_mut(&channel) else {
            return session.channel_failure(channel);
        };
        let (wish, variables) = (RunRequest { command, terminal: terminal.take() }, std::mem::take(variables));
        let client = (session.handle(), channel);
        let started = Place::take().map(|place| Program::start(&wish, &variables, &self.link, place, client));
        match started {
            Some(Ok(program)) => {
                self.channels.insert(channel, Use::Running(program));
                session.channel_success(channel)
            }
            Some(Err(e)) => {
                log::warn!("proxy {}: cannot start a program: {e}", self.proxy);
                session.channel_failure(channel)
            }
            None => {
                log::warn!("proxy {}: too many programs run on this node for its clients", self.proxy);
                session.channel_failure(channel)
            }
        }
    }
}

/// Locale and time zone change how a program speaks, and nothing about what it runs.
fn is_harmless(name: &str) -> bool {
    name == "LANG" || name == "TZ" || name.starts_with("LC_") || name == "COLORTERM"
}

fn characters(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

impl Handler for Session {
    type Error = russh::Error;

    /// Called once the client has agreed on keys; there is no banner.
    async fn authentication_banner(&mut self) -> Result<Option<String>, russh::Error> {
        self.link.keyed();
        Ok(None)
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, russh::Error> {
        let refusal = Timer::after(REFUSAL_TIME);
        let right = self.login.has_password(user, password).await;
        if !right {
            refusal.await;
        }
        Ok(self.judge(right))
    }

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, russh::Error> {
        Ok(if self.login.has_key(user, offer.public_key) { Auth::Accept } else { self.refusal() })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        Ok(self.judge(self.login.has_key(user, key.public_key)))
    }

    async fn auth_succeeded(&mut self, _: &mut Russh) -> Result<(), russh::Error> {
        self.link.logged_in();
        Ok(())
    }

    /// `Channel` is dropped: `russh` would wait for it to be read, and stop the connection meanwhile.
    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Russh,
    ) -> Result<(), russh::Error> {
        self.prune();
        if self.channels.len() >= MAX_CHANNELS {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        self.channels.insert(channel.id(), Use::Open { terminal: None, variables: Vec::new() });
        reply.accept().await;
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        kind: &str,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Russh,
    ) -> Result<(), russh::Error> {
        match self.channels.get_mut(&channel) {
            Some(Use::Open { terminal, .. }) if kind.len() <= MAX_VALUE && !kind.contains('\0') => {
                let (columns, rows) = (characters(columns), characters(rows));
                *terminal = Some(TerminalInfo { kind: kind.to_owned(), columns, rows });
                session.channel_success(channel)
            }
            _ => session.channel_failure(channel),
        }
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut Russh,
    ) -> Result<(), russh::Error> {
        let sane =
            is_harmless(name) && [name, value].iter().all(|text| text.len() <= MAX_VALUE && !text.contains('\0'));
        match self.channels.get_mut(&channel) {
            Some(Use::Open { variables, .. }) if sane && variables.len() < MAX_VARIABLES => {
                variables.push((name.to_owned(), value.to_owned()));
                session.channel_success(channel)
            }
            _ => session.channel_failure(channel),
        }
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Russh) -> Result<(), russh::Error> {
        self.run(channel, Vec::new(), session)
    }

    /// The login shell reads the command, as with OpenSSH's server.
    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Russh,
    ) -> Result<(), russh::Error> {
        match std::str::from_utf8(command) {
            Ok(command) if command.len() <= MAX_COMMAND && !command.contains('\0') => {
                let shell = Account::own().shell.to_string_lossy().into_owned();
                self.run(channel, vec![shell, "-c".to_owned(), command.to_owned()], session)
            }
            _ => session.channel_failure(channel),
        }
    }

    /// `sftp` is this very program in another role: see [`crate::sftp`].
    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Russh,
    ) -> Result<(), russh::Error> {
        match name {
            "sftp" => self.run(channel, vec!["/proc/self/exe".to_owned(), "sftp-server".to_owned()], session),
            _ => session.channel_failure(channel),
        }
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &mut Russh,
    ) -> Result<(), russh::Error> {
        if let Some(program) = self.program(channel) {
            program.control().resize(characters(columns), characters(rows));
        }
        Ok(())
    }

    async fn signal(&mut self, channel: ChannelId, signal: Sig, _: &mut Russh) -> Result<(), russh::Error> {
        if let (Some(program), Some(number)) = (self.program(channel), signal_number(&signal)) {
            program.control().signal(number);
        }
        Ok(())
    }

    async fn data(&mut self, channel: ChannelId, bytes: &[u8], _: &mut Russh) -> Result<(), russh::Error> {
        // Before a program was asked for, and after it has ended, there is nobody to take it.
        let Some(program) = self.program(channel).filter(|program| !program.is_over()) else { return Ok(()) };
        program.put(bytes).map_err(|_| russh::Error::Inconsistent)
    }

    fn adjust_window(&mut self, _: ChannelId, _: u32) -> u32 {
        self.prune();
        self.link.window()
    }

    async fn channel_eof(&mut self, channel: ChannelId, _: &mut Russh) -> Result<(), russh::Error> {
        if let Some(program) = self.program(channel) {
            program.end_input();
        }
        Ok(())
    }

    /// Ends a program that still runs.
    async fn channel_close(&mut self, channel: ChannelId, _: &mut Russh) -> Result<(), russh::Error> {
        self.channels.remove(&channel);
        Ok(())
    }
}
