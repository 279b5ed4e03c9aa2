//! `proxy`: one side of a tunnel on a node, and the list of those it has.

mod list;
pub mod ssh;

use std::{net::IpAddr, path::PathBuf, pin::pin};

use argh::{ArgsInfo, FromArgs};
use async_signal::{Signal, Signals};
use futures::{
    StreamExt,
    future::{self, Either},
};
use hive_protocol::{
    Direction, HostPattern, KeyPrefix, PathRule, ProxyId, ProxyKind, SshHost,
    message::{BindAddr, ProxyRequest, Request},
};
use serde_json::json;

use crate::{
    app::App,
    args::{Target, node_verb},
    client::Client,
    cmds::{Endpoint, parse_port, required},
    error::{Error, Result},
};

node_verb! {
    /// Add one side of a tunnel on a node; or list, remove, pause those it has.
    #[argh(
        subcommand,
        name = "proxy",
        help_triggers("-h", "--help", "help"),
        example = "{command_name} --node gpu --direction ingress --origin laptop:8080 --port 11434\n\
                   {command_name} --direction egress --target gpu:11434 --port 8080\n\
                   {command_name} --direction egress --target shed:443 --port 443 --bind 0.0.0.0 --sni shed.example.org\n\
                   {command_name} --direction ingress --origin gate:443 --port 8080 --tls true --key-prefix web\n\
                   {command_name} --direction egress --target operator:PASSWORD --port 2222 --kind ssh
\
                   {command_name} ls",
        note = "A tunnel has two sides: an egress listens on its node and sends to the target port of a peer; there an \
                ingress lets exactly that peer and port in and connects to its own port. `hivectl forward` adds both."
    )]
    pub struct Proxy {
        /// which side: egress or ingress
        #[argh(option, arg_name = "side", from_str_fn(parse_direction))]
        pub direction: Option<Direction>,
        /// egress: the peer and its port that connections go to; ssh: user and password, or the user alone to be asked
        #[argh(option, arg_name = "peer:port")]
        pub target: Option<String>,
        /// ingress: the peer and its listening port that is let in
        #[argh(option, arg_name = "peer:port")]
        pub origin: Option<String>,
        /// port on the node acted on: an egress listens there, an ingress connects there
        #[argh(option, from_str_fn(parse_port))]
        pub port: Option<u16>,
        /// egress: address to listen on (default: 127.0.0.1)
        #[argh(option, arg_name = "ip")]
        pub bind: Option<IpAddr>,
        /// ingress: host to connect to, as its node sees it (default: 127.0.0.1)
        #[argh(option)]
        pub host: Option<String>,
        /// egress: seconds for which connections outlive the path under them, 0 for not at all (default: 60)
        #[argh(option, arg_name = "seconds")]
        pub resume: Option<u32>,
        /// paths that it may take: any (default), direct for never over a relay, or relay for nothing else
        #[argh(option, arg_name = "rule")]
        pub path: Option<PathRule>,
        /// stay here and remove it when this command ends
        #[argh(switch)]
        pub temporary: bool,
        /// what it carries: tcp (default), or ssh for an SSH server in the agent
        #[argh(option)]
        pub kind: Option<String>,
        /// ssh: file with the public keys that may log in, beside the password or instead of it
        #[argh(option, arg_name = "file")]
        pub authorized_keys: Option<PathBuf>,
        /// whether TLS is terminated here: bytes go on decrypted (default: false)
        #[argh(option, arg_name = "bool")]
        pub tls: Option<bool>,
        /// with --tls true: the certificate, by what its names in the key store begin with
        #[argh(option, arg_name = "prefix")]
        pub key_prefix: Option<KeyPrefix>,
        /// egress: take only TLS connections to this host (*. for one label), so that several share a port
        #[argh(option, arg_name = "host")]
        pub sni: Option<HostPattern>,
        /// add one if no verb is given
        #[argh(subcommand)]
        pub verb: Option<ProxyVerb>,
    }
}

/// What to do with the proxies there are.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum ProxyVerb {
    /// List.
    Ls(Ls),
    /// Remove.
    Rm(Rm),
    /// Start again.
    Enable(Enable),
    /// Pause.
    Disable(Disable),
}

node_verb! {
    /// List the proxies of a node with their live state.
    #[argh(
        subcommand,
        name = "ls",
        help_triggers("-h", "--help", "help"),
        example = "{command_name}\n{command_name} --node shed"
    )]
    pub struct Ls {}
}

node_verb! {
    /// Remove a proxy and end its streams.
    #[argh(subcommand, name = "rm", help_triggers("-h", "--help", "help"), example = "{command_name} 3 --node shed")]
    pub struct Rm {
        /// number of the proxy, as `proxy ls` lists it
        #[argh(positional)]
        pub id: ProxyId,
    }
}

node_verb! {
    /// Start a paused proxy.
    #[argh(subcommand, name = "enable", help_triggers("-h", "--help", "help"), example = "{command_name} 3")]
    pub struct Enable {
        /// number of the proxy, as `proxy ls` lists it
        #[argh(positional)]
        pub id: ProxyId,
    }
}

node_verb! {
    /// Pause a proxy and end its streams.
    #[argh(subcommand, name = "disable", help_triggers("-h", "--help", "help"), example = "{command_name} 3")]
    pub struct Disable {
        /// number of the proxy, as `proxy ls` lists it
        #[argh(positional)]
        pub id: ProxyId,
    }
}

/// Adds a proxy, or does what the nested verb says.
pub async fn run(app: &App, args: &Proxy) -> Result<()> {
    let outer = args.target();
    match &args.verb {
        None => add(app, args).await,
        Some(_) if args.direction.is_some() => Err(Error::usage("a proxy is added without a verb after its options")),
        Some(ProxyVerb::Ls(ls)) => {
            let proxies = app.connect(&ls.target().or(outer)).await?.proxies().await?;
            app.out.show(&proxies, || app.out.table(&list::table(&proxies)))
        }
        Some(ProxyVerb::Rm(rm)) => {
            change(app, &rm.target().or(outer), rm.id, Request::ProxyRemove { id: rm.id }, "removed").await
        }
        Some(ProxyVerb::Enable(enable)) => {
            let request = Request::ProxyEnable { id: enable.id, enabled: true };
            change(app, &enable.target().or(outer), enable.id, request, "enabled").await
        }
        Some(ProxyVerb::Disable(disable)) => {
            let request = Request::ProxyEnable { id: disable.id, enabled: false };
            change(app, &disable.target().or(outer), disable.id, request, "disabled").await
        }
    }
}

async fn change(app: &App, target: &Target, id: ProxyId, request: Request, what: &str) -> Result<()> {
    let mut client = app.connect(target).await?;
    client.done(request).await?;
    app.out.done(&json!({ "id": id }), || format!("proxy {id} at {} {what}", client.name))
}

async fn add(app: &App, args: &Proxy) -> Result<()> {
    let request = match args.kind.as_deref() {
        Some("ssh") => ssh::request(app.out, args).await?,
        _ => request(args)?,
    };
    let mut client = app.connect(&args.target()).await?;
    // Before anything is said: whoever reads the sentence may end the command at once.
    let signals = args.temporary.then(|| Signals::new([Signal::Int, Signal::Term, Signal::Hup])).transpose();
    let signals = signals.map_err(|e| Error::failed(format!("cannot wait for signals: {e}")))?;
    let id = client.add_proxy(request.clone()).await?;
    let host = match request.kind {
        ProxyKind::Ssh => client.proxies().await?.into_iter().find(|proxy| proxy.id == id).and_then(|proxy| proxy.ssh),
        ProxyKind::Tcp => None,
    };
    let value = host.as_ref().map_or_else(|| json!({ "id": id }), |host| json!({ "id": id, "ssh": host }));
    app.out.done(&value, || sentence(id, &client, &request, host.as_ref()))?;
    match signals {
        Some(signals) => stay(&mut client, signals).await,
        None => Ok(()),
    }
}

/// The proxy lives as long as the conversation.
async fn stay(client: &mut Client, mut signals: Signals) -> Result<()> {
    match future::select(pin!(client.closed()), signals.next()).await {
        Either::Left((error, _)) => Err(error),
        Either::Right(_) => Ok(()),
    }
}

fn sentence(id: ProxyId, client: &Client, request: &ProxyRequest, host: Option<&SshHost>) -> String {
    let ProxyRequest { port, peer, peer_port, .. } = request;
    let what = match request.direction {
        Direction::Egress if request.kind == ProxyKind::Ssh => format!("SSH is served on port {port}"),
        Direction::Egress => format!("port {port} leads to {peer}:{peer_port}"),
        Direction::Ingress => format!("{peer}:{peer_port} is let in to port {port}"),
    };
    let end = if request.temporary { " until this command ends (Ctrl-C)" } else { "" };
    let host = host.map(|host| format!("\nhost key {} {}", host.fingerprint, host.key)).unwrap_or_default();
    format!("proxy {id} at {}: {what}{end}{host}", client.name)
}

/// The request that the flags make, if they make one.
fn request(args: &Proxy) -> Result<ProxyRequest> {
    refuse_misplaced_options(args)?;
    let direction = required(args.direction, "--direction egress or --direction ingress")?;
    let Endpoint { node: peer, port: peer_port } = peer(args, direction)?;
    Ok(ProxyRequest {
        direction,
        kind: ProxyKind::Tcp,
        port: required(args.port, "--port PORT")?,
        peer,
        peer_port,
        network: args.network.clone(),
        bind: args.bind.map(BindAddr),
        host: args.host.clone(),
        temporary: args.temporary,
        resume: args.resume,
        key_prefix: key_prefix(args)?,
        sni: sni(args, direction)?,
        ssh: None,
        path_rule: args.path,
    })
}

/// The other end. Each side has an option of its own for it, and one more that the other side has not.
fn peer(args: &Proxy, direction: Direction) -> Result<Endpoint> {
    let (peer, option, misplaced, rule) = match direction {
        Direction::Egress => {
            let misplaced = args.origin.is_some() || args.host.is_some();
            (&args.target, "--target", misplaced, "an egress has --target and --bind, not --origin or --host")
        }
        Direction::Ingress => {
            let misplaced = args.target.is_some() || args.bind.is_some() || args.resume.is_some();
            (
                &args.origin,
                "--origin",
                misplaced,
                "an ingress has --origin and --host, not --target, --bind or --resume",
            )
        }
    };
    if misplaced {
        return Err(Error::usage(rule));
    }
    let peer = required(peer.as_deref(), &format!("{option} PEER:PORT"))?;
    peer.parse().map_err(|e| Error::usage(format!("{option} {peer}: {e}")))
}

fn refuse_misplaced_options(args: &Proxy) -> Result<()> {
    match &args.kind {
        Some(kind) if kind != "tcp" => Err(Error::usage(format!("--kind {kind}: expected tcp or ssh"))),
        _ if args.authorized_keys.is_some() => Err(Error::usage("--authorized-keys needs --kind ssh")),
        _ => Ok(()),
    }
}

/// The certificate with which TLS is terminated, if it is.
fn key_prefix(args: &Proxy) -> Result<Option<KeyPrefix>> {
    match (args.tls, &args.key_prefix) {
        (Some(true), Some(prefix)) => Ok(Some(prefix.clone())),
        (Some(true), None) => {
            Err(Error::usage("--tls true needs --key-prefix PREFIX").hint("`hivectl keys` lists the certificates"))
        }
        (_, Some(_)) => Err(Error::usage("--key-prefix needs --tls true")),
        (_, None) => Ok(None),
    }
}

fn sni(args: &Proxy, direction: Direction) -> Result<Option<HostPattern>> {
    match (&args.sni, direction) {
        (Some(_), Direction::Ingress) => Err(Error::usage("--sni belongs to an egress, not to an ingress")),
        (sni, _) => Ok(sni.clone()),
    }
}

fn parse_direction(text: &str) -> Result<Direction, String> {
    match text {
        "egress" => Ok(Direction::Egress),
        "ingress" => Ok(Direction::Ingress),
        _ => Err("expected egress or ingress".to_owned()),
    }
}

#[cfg(test)]
mod tests;
