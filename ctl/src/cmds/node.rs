//! `rename` and `listen`: what a node is called and where it listens.

use std::time::{Duration, Instant};

use hive_protocol::{NodeName, message::Request};
use multiaddr::{Multiaddr, Protocol};
use serde_json::json;
use smol::Timer;

use crate::{
    app::App,
    args::node_verb,
    client::Client,
    error::{Error, Result},
};

/// How long listeners may take to tell their ports, and how often they are asked; the kernel answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

node_verb! {
    /// Give a node another name.
    #[argh(
        subcommand,
        name = "rename",
        help_triggers("-h", "--help", "help"),
        example = "{command_name} gpu-box --node shed"
    )]
    pub struct Rename {
        /// the new name
        #[argh(positional)]
        pub name: NodeName,
    }
}

node_verb! {
    /// Make a node listen on these addresses instead of its present ones.
    #[argh(
        subcommand,
        name = "listen",
        help_triggers("-h", "--help", "help"),
        example = "{command_name} /ip4/0.0.0.0/tcp/4181 /ip6/::/tcp/4181"
    )]
    pub struct Listen {
        /// addresses like /ip4/0.0.0.0/tcp/4180
        #[argh(positional)]
        pub addresses: Vec<Multiaddr>,
    }
}

/// Renames the node.
pub async fn rename(app: &App, args: &Rename) -> Result<()> {
    let mut client = app.connect(&args.target()).await?;
    client.done(Request::Rename { name: args.name.clone() }).await?;
    app.out.done(&json!({ "peer_id": client.node, "node_name": args.name }), || {
        format!("{} is now called {}", client.name, args.name)
    })
}

/// Moves the node to other addresses.
pub async fn listen(app: &App, args: &Listen) -> Result<()> {
    let addresses = args.addresses.clone();
    if addresses.is_empty() {
        return Err(Error::usage("at least one address is needed"));
    }
    if let Some((index, twice)) = addresses.iter().enumerate().find(|(index, a)| addresses[..*index].contains(a)) {
        return Err(Error::usage(format!("{twice} is given twice, as address {} too", index + 1)));
    }
    let mut client = app.connect(&args.target()).await?;
    client.done(Request::Listen { addresses }).await?;
    let listening =
        if args.addresses.iter().any(any_port) { chosen(&mut client, args).await? } else { args.addresses.clone() };
    app.out.done(&json!({ "peer_id": client.node, "listening": listening }), || {
        let shown: Vec<String> = listening.iter().map(ToString::to_string).collect();
        format!("{} now listens on {}", client.name, shown.join(", "))
    })
}

fn any_port(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::Tcp(0) | Protocol::Udp(0)))
}

/// What the node listens on once it knows the ports that it was given: as many addresses as it was asked for, or more.
async fn chosen(client: &mut Client, args: &Listen) -> Result<Vec<Multiaddr>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let listening = client.status().await?.listening;
        if listening.len() >= args.addresses.len() {
            return Ok(listening);
        }
        if Instant::now() > deadline {
            return Ok(args.addresses.clone());
        }
        Timer::after(PAUSE).await;
    }
}
