//! `rename` and `listen`: what a node is called and where it listens.

use hive_protocol::{NodeName, message::Request};
use multiaddr::Multiaddr;
use serde_json::json;

use crate::{
    app::App,
    args::node_verb,
    error::{Error, Result},
};

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
    let mut client = app.connect(&args.target()).await?;
    client.done(Request::Listen { addresses }).await?;
    app.out.done(&json!({ "peer_id": client.node, "listening": args.addresses }), || {
        let shown: Vec<String> = args.addresses.iter().map(ToString::to_string).collect();
        format!("{} now listens on {}", client.name, shown.join(", "))
    })
}
