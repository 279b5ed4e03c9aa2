//! `login` and `logout`: sessions with a node, which later commands use instead of a password.

use std::time::SystemTime;

use hive_protocol::{Timestamp, message::Request};
use serde_json::json;

use crate::{
    app::App,
    args::node_verb,
    error::{Error, Result},
    format::until,
};

node_verb! {
    /// Open a session with a node, which later commands use instead of a password.
    #[argh(
        subcommand,
        name = "login",
        help_triggers("-h", "--help", "help"),
        example = "{command_name} --node shed --user admin"
    )]
    pub struct Login {}
}

node_verb! {
    /// End the session with a node, there and here.
    #[argh(
        subcommand,
        name = "logout",
        help_triggers("-h", "--help", "help"),
        example = "{command_name} --node shed"
    )]
    pub struct Logout {}
}

/// Logs in anew, whatever is saved.
pub async fn login(app: &App, args: &Login) -> Result<()> {
    let target = args.target();
    let mut client = app.greet(&target).await?;
    let session = app.login(&mut client, &target).await?;
    app.save(&session).map_err(|why| {
        let node = client.name.as_str();
        Error::failed(format!("the login at {node} is right, but it cannot be saved for later commands: {why}")).hint(
            "name a folder that can be written in XDG_STATE_HOME, or give each command the password in HIVE_PASSWORD",
        )
    })?;
    let now = Timestamp::from(SystemTime::now());
    let value = json!({
        "peer_id": session.node, "node_name": client.name, "user": session.user, "expires": session.expires,
    });
    app.out.done(&value, || {
        format!("logged in at {} as {}, session ends {}", client.name, session.user, until(session.expires, now))
    })
}

/// Ends the saved session; without one there is nothing to end.
pub async fn logout(app: &App, args: &Logout) -> Result<()> {
    let target = args.target();
    let mut client = app.greet(&target).await?;
    let session = app.saved(&client.node, &target);
    if let Some(session) = &session {
        if client.prove(&session.key).await? {
            client.done(Request::Logout).await?;
        }
        app.forget(&client.node);
    }
    let value = json!({ "peer_id": client.node, "node_name": client.name, "ended": session.is_some() });
    app.out.done(&value, || match session {
        Some(session) => format!("logged out at {} as {}", client.name, session.user),
        None => format!("no session with {} is saved", client.name),
    })
}
