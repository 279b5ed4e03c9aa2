//! `connect`: standard input and output to a port of a node.

use std::{
    fs::{File, OpenOptions},
    io,
};

use argh::{ArgsInfo, FromArgs};
use hive_protocol::{
    DEFAULT_HOST, NetworkName,
    message::{Request, Response},
};
use smol::Unblock;

use crate::{
    app::App,
    args::Target,
    cmds::{Endpoint, is_local, parse_port, required},
    error::{Error, Result},
    pump::pump,
};

/// Bytes read ahead from standard input, and as many held back for a slow reader of standard output.
const AHEAD: usize = 256 * 1024;

/// Connect standard input and output to a port of a node.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "connect",
    help_triggers("-h", "--help", "help"),
    example = "ssh -o ProxyCommand='{command_name} shed:22' me@shed\n{command_name} shed --port 6379 --host cache.lan"
)]
pub struct Connect {
    /// the node and its port, as NODE:PORT, or the node alone with --port
    #[argh(positional)]
    pub node: String,
    /// the port
    #[argh(option, from_str_fn(parse_port))]
    pub port: Option<u16>,
    /// host to connect to, as the node sees it (default: 127.0.0.1)
    #[argh(option)]
    pub host: Option<String>,
    /// network of the node, needed where it is reachable in several
    #[argh(option, arg_name = "name")]
    pub network: Option<NetworkName>,
    /// user to log in as (environment: HIVE_USER; default: admin)
    #[argh(option, arg_name = "name")]
    pub user: Option<String>,
}

/// Connects, then carries both directions until both have ended.
pub async fn run(app: &App, args: &Connect) -> Result<()> {
    let (node, port) = endpoint(args)?;
    let target = Target { node, network: args.network.clone(), user: args.user.clone(), password_stdin: false };
    let mut client = app.connect(&target).await?;
    let host = args.host.clone().unwrap_or_else(|| DEFAULT_HOST.to_owned());
    let Response::Connected = client.request(Request::Connect { host, port }).await? else {
        return Err(Error::failed("the node answered something else than what it was asked"));
    };
    let (input, output) = standard_streams().map_err(|e| Error::failed(format!("no standard input or output: {e}")))?;
    pump(client.into_stream(), Unblock::with_capacity(AHEAD, input), Unblock::with_capacity(AHEAD, output)).await
}

fn endpoint(args: &Connect) -> Result<(Option<String>, u16)> {
    if !args.node.contains(':') {
        let port = required(args.port, "NODE:PORT or --port PORT")?;
        return Ok(((!is_local(&args.node)).then(|| args.node.clone()), port));
    }
    if args.port.is_some() {
        return Err(Error::usage("the port is given twice"));
    }
    let endpoint: Endpoint = args.node.parse().map_err(|e| Error::usage(format!("{}: {e}", args.node)))?;
    Ok((endpoint.target_node(), endpoint.port))
}

/// Both, without the standard library's buffers. Closing the output must be seen by its reader, so no other descriptor
/// of it is kept.
pub fn standard_streams() -> io::Result<(File, File)> {
    let input = rustix::io::dup(rustix::stdio::stdin())?;
    let output = rustix::io::dup(rustix::stdio::stdout())?;
    rustix::stdio::dup2_stdout(OpenOptions::new().write(true).open("/dev/null")?)?;
    Ok((input.into(), output.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(node: &str, port: Option<u16>) -> Connect {
        Connect { node: node.into(), port, host: None, network: None, user: None }
    }

    #[test]
    fn the_port_stands_behind_the_node_or_in_its_option() {
        assert_eq!(endpoint(&connect("shed:22", None)), Ok((Some("shed".into()), 22)));
        assert_eq!(endpoint(&connect("shed", Some(22))), Ok((Some("shed".into()), 22)));
        assert_eq!(endpoint(&connect("self:22", None)), Ok((None, 22)));
        assert_eq!(endpoint(&connect("local", Some(22))), Ok((None, 22)));
        assert!(endpoint(&connect("shed", None)).is_err());
        assert!(endpoint(&connect("shed:22", Some(22))).is_err());
        assert!(endpoint(&connect("shed:ssh", None)).is_err());
    }
}
