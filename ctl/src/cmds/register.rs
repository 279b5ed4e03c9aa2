//! `register`: makes a node known to another by its identity, once and for both.

use std::io::Read;

use argh::{ArgsInfo, FromArgs};
use hive_protocol::{
    Identity, NetworkName,
    identity::MAX_TEXT,
    message::{Request, Response},
};
use serde_json::json;

use crate::{
    app::App,
    args::Target,
    error::{Error, Result},
    format::counted,
};

/// Add a node by its identity, dial it and join it in a network.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "register",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} --b64 \"$(ssh shed hivectl id --base64)\" --network home\n\
               hivectl id --base64 --node a | {command_name} --b64 - --network home --node b"
)]
pub struct Register {
    /// identity of the other node, as `hivectl id --base64` prints it; `-` reads it from standard input
    #[argh(option, arg_name = "identity")]
    pub b64: String,
    /// network of both nodes
    #[argh(option, arg_name = "name")]
    pub network: NetworkName,
    /// node that shall learn of the other, by peer id or name (default: the local agent)
    #[argh(option, arg_name = "id|name")]
    pub node: Option<String>,
    /// user to log in as (environment: HIVE_USER; default: admin)
    #[argh(option, arg_name = "name")]
    pub user: Option<String>,
    /// read the password from standard input (environment: HIVE_PASSWORD)
    #[argh(switch)]
    pub password_stdin: bool,
}

/// Registers, and says what came of it.
pub async fn run(app: &App, args: &Register) -> Result<()> {
    let identity = identity(args)?;
    let target =
        Target { node: args.node.clone(), network: None, user: args.user.clone(), password_stdin: args.password_stdin };
    let mut client = app.connect(&target).await?;
    let request = Request::Register { identity, network: args.network.clone() };
    let Response::Registered { node, name, members } = client.request(request).await? else {
        return Err(Error::failed("the node answered something else than what it was asked"));
    };
    let value = json!({ "peer_id": node, "node_name": name, "network": args.network, "members": members });
    app.out
        .done(&value, || format!("{name} ({node}) accepted: {} of {} known", counted(members, "member"), args.network))
}

fn identity(args: &Register) -> Result<Identity> {
    match args.b64.as_str() {
        "-" if args.password_stdin => Err(Error::usage("--b64 - and --password-stdin both read standard input")),
        "-" => decode(&from_stdin()?),
        text => decode(text),
    }
}

fn decode(text: &str) -> Result<Identity> {
    let malformed = |e| Error::usage(format!("this is not the identity of a node: {e}"));
    text.parse().map_err(|e| malformed(e).hint("copy the whole line that `hivectl id --base64` prints on that node"))
}

fn from_stdin() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MAX_TEXT as u64 + 1).read_to_string(&mut text);
    read.map_err(|e| Error::failed(format!("cannot read the identity from standard input: {e}")))?;
    if text.trim().is_empty() {
        return Err(Error::usage("there is no identity on standard input")
            .hint("it is the line that `hivectl id --base64` prints on the other node"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use hive_protocol::NodeId;

    use super::*;
    use crate::error::Status;

    #[test]
    fn a_damaged_identity_is_told_before_an_agent_is_asked() {
        let node = NodeId::from_bytes([7; 32]);
        let text = Identity { node, name: "shed".parse().unwrap(), addresses: Vec::new() }.to_string();
        assert_eq!(decode(&format!("{text}\n")).unwrap().node, node);
        let cut = decode(&text[..text.len() - 4]).unwrap_err();
        assert_eq!(cut.status, Status::Usage);
        assert!(cut.what.contains("cut off or altered") && cut.hint.is_some(), "{}", cut.what);
        assert!(decode("not base64!").unwrap_err().what.contains("characters that no identity has"));
        assert!(decode("xx").unwrap_err().what.ends_with("cut off or altered: its checksum does not match"));
    }
}
