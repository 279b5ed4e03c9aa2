//! `sessions`: who is logged in at a node.

use std::time::SystemTime;

use argh::{ArgsInfo, FromArgs};
use hive_protocol::{SessionInfo, Timestamp, message::Request};
use serde_json::json;

use crate::{
    app::App,
    args::node_verb,
    error::Result,
    format::{ago, until},
    table::{Cell, Table},
};

node_verb! {
    /// List the login sessions of a node, or end one.
    #[argh(
        subcommand,
        name = "sessions",
        help_triggers("-h", "--help", "help"),
        example = "{command_name}\n{command_name} rm 1a2b3c4d --node shed"
    )]
    pub struct Sessions {
        /// list them if no verb is given
        #[argh(subcommand)]
        pub verb: Option<SessionsVerb>,
    }
}

/// What to do with sessions.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum SessionsVerb {
    /// List.
    Ls(Ls),
    /// End one.
    Rm(Rm),
}

node_verb! {
    /// List the login sessions of a node.
    #[argh(subcommand, name = "ls", help_triggers("-h", "--help", "help"), example = "{command_name} --node shed")]
    pub struct Ls {}
}

node_verb! {
    /// End a login session of a node.
    #[argh(subcommand, name = "rm", help_triggers("-h", "--help", "help"), example = "{command_name} 1a2b3c4d")]
    pub struct Rm {
        /// the session, as `sessions` lists it
        #[argh(positional)]
        pub id: String,
    }
}

/// Lists sessions or ends one.
pub async fn run(app: &App, args: &Sessions) -> Result<()> {
    match &args.verb {
        None => list(app, &args.target()).await,
        Some(SessionsVerb::Ls(ls)) => list(app, &ls.target().or(args.target())).await,
        Some(SessionsVerb::Rm(rm)) => {
            let mut client = app.connect(&rm.target().or(args.target())).await?;
            client.done(Request::SessionRevoke { id: rm.id.clone() }).await?;
            app.out.done(&json!({ "id": rm.id }), || format!("session {} ended at {}", rm.id, client.name))
        }
    }
}

async fn list(app: &App, target: &crate::args::Target) -> Result<()> {
    let sessions = app.connect(target).await?.sessions().await?;
    app.out.show(&sessions, || app.out.table(&table(&sessions, Timestamp::from(SystemTime::now()))))
}

fn table(sessions: &[SessionInfo], now: Timestamp) -> Table {
    let mut table = Table::new(&["id", "user", "created", "last_used", "expires"]);
    for s in sessions {
        let times = [ago(s.created, now), ago(s.last_used, now), until(s.expires, now)];
        table.row([Cell::from(&s.id), Cell::from(&s.user)].into_iter().chain(times.into_iter().map(Cell::from)));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_who_and_since_when() {
        let now = Timestamp(10_000_000);
        let session = SessionInfo {
            id: "1a2b3c4d".into(),
            user: "admin".into(),
            created: Timestamp(now.0 - 7_200_000),
            expires: Timestamp(now.0 + 86_400_000),
            last_used: Timestamp(now.0 - 500),
        };
        let expected = "id        user   created  last_used  expires\n\
                        1a2b3c4d  admin  2 h ago  now        in 1 d\n";
        assert_eq!(table(&[session], now).render(false), expected);
    }
}
