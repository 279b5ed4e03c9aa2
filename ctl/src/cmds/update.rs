//! `update-node`: another agent for a node, sent, tried there, and kept or rolled back by the node itself.

mod deliver;
mod source;

use std::{collections::BTreeMap, path::PathBuf};

use hive_protocol::{NodeId, NodeInfo, NodeName};
use serde::Serialize;

use crate::{
    app::App,
    args::{Target, node_verb},
    error::{Error, Result},
    format::counted,
};
use source::Source;

/// What a new agent gets to prove itself unless told otherwise, in seconds.
const PATIENCE: u32 = 120;

node_verb! {
    /// Replace a node's agent by another version, which is tried first and rolled back by itself if it does not come up.
    #[argh(
        subcommand,
        name = "update-node",
        help_triggers("-h", "--help", "help"),
        example = "{command_name} --node shed\n{command_name} --node board --binary hive-agent-aarch64\n\
                   {command_name} --all",
        note = "Without --binary the local agent sends its own executable, for nodes of the same target. The new agent is \
                kept once it has opened the node's state and, where the old one was connected to a member, has rejoined \
                one. --all goes from node to node and stops at the first failure; it needs a saved session with every \
                node, or one password for all in HIVE_PASSWORD."
    )]
    pub struct UpdateNode {
        /// hive-agent to install, for the node's target (default: the local agent's executable)
        #[argh(option, arg_name = "file")]
        pub binary: Option<PathBuf>,
        /// its Ed25519 signature, for nodes with a release key (default: the binary's name with .sig)
        #[argh(option, arg_name = "file")]
        pub signature: Option<PathBuf>,
        /// install it also where it is older than what runs
        #[argh(switch)]
        pub allow_downgrade: bool,
        /// seconds that the new agent has to prove itself (default: 120)
        #[argh(option, arg_name = "seconds", default = "PATIENCE")]
        pub patience: u32,
        /// every node of the peer table, one after the other
        #[argh(switch)]
        pub all: bool,
    }
}

/// How it went with one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The node.
    pub peer_id: NodeId,
    /// Its name.
    pub node_name: NodeName,
    /// What was done.
    pub outcome: Outcome,
    /// Version before.
    pub from: String,
    /// Version that runs now.
    pub to: String,
    /// Why it was left out.
    pub why: Option<String>,
}

/// What was done with a node that is no failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The new agent runs.
    Updated,
    /// It ran already.
    Unchanged,
    /// Not tried, with `--all`.
    Skipped,
}

/// Updates a node, or all of them.
pub async fn run(app: &App, args: &UpdateNode) -> Result<()> {
    if args.all {
        if args.node.is_some() {
            return Err(Error::usage("--all and --node exclude each other"));
        }
        app.never_ask();
    }
    let source = match &args.binary {
        Some(path) => Source::file(path, args.signature.as_deref()).await?,
        None if app.is_direct() => {
            return Err(Error::usage("--direct needs --binary: there is no local agent to send"));
        }
        None => Source::own(app, args.signature.as_deref()).await?,
    };
    if args.all { all(app, args, &source).await } else { one(app, args, &source).await }
}

async fn one(app: &App, args: &UpdateNode, source: &Source) -> Result<()> {
    let report = deliver::update(app, args, &args.target(), source).await?;
    app.out.done(&report, || sentence(&report))
}

/// In the order of their names, the node that is asked last: while it restarts nobody could be reached through it.
async fn all(app: &App, args: &UpdateNode, source: &Source) -> Result<()> {
    let mut client = app.connect(&args.target()).await?;
    let own = client.node;
    let rows: BTreeMap<NodeId, NodeInfo> = client.nodes().await?.into_iter().map(|row| (row.peer_id, row)).collect();
    drop(client);
    let mut members: Vec<NodeInfo> = rows.into_values().collect();
    members.sort_by_key(|row| (row.peer_id == own, row.node_name.to_string(), row.peer_id));
    let mut reports = Vec::new();
    for (at, member) in members.iter().enumerate() {
        let report = match left_out(member, own, source) {
            Some(why) => skipped(member, why),
            None => {
                let updated = deliver::update(app, args, &target(args, member, own), source).await;
                updated.map_err(|error| stopped(error, member, at, members.len()))?
            }
        };
        app.out.step(&sentence(&report))?;
        reports.push(report);
    }
    conclude(app, &reports)
}

fn target(args: &UpdateNode, member: &NodeInfo, own: NodeId) -> Target {
    if member.peer_id == own {
        return args.target();
    }
    Target { node: Some(member.peer_id.to_string()), network: Some(member.network.clone()), ..args.target() }
}

fn left_out(member: &NodeInfo, own: NodeId, source: &Source) -> Option<String> {
    if member.target != source.target {
        return Some(format!("it needs a binary for {}", member.target));
    }
    (!member.online && member.peer_id != own).then(|| "it is offline".to_owned())
}

fn skipped(member: &NodeInfo, why: String) -> Report {
    let (from, to) = (member.version.clone(), member.version.clone());
    let (peer_id, node_name) = (member.peer_id, member.node_name.clone());
    Report { peer_id, node_name, outcome: Outcome::Skipped, from, to, why: Some(why) }
}

fn stopped(error: Error, member: &NodeInfo, before: usize, of: usize) -> Error {
    let rest = counted((of - before - 1) as u64, "node");
    Error { what: format!("{}: {}; {rest} after it not tried", member.node_name, error.what), ..error }
}

/// Nodes that were left out are no failure of theirs, and yet not everything was done.
fn conclude(app: &App, reports: &[Report]) -> Result<()> {
    let count = |outcome| reports.iter().filter(|report| report.outcome == outcome).count();
    let left = count(Outcome::Skipped);
    app.out.done(reports, || {
        let (updated, unchanged) = (count(Outcome::Updated), count(Outcome::Unchanged));
        format!("{} updated, {unchanged} ran it already, {left} left out", counted(updated as u64, "node"))
    })?;
    if left > 0 { Err(Error::failed(format!("{} left out", counted(left as u64, "node")))) } else { Ok(()) }
}

fn sentence(report: &Report) -> String {
    let Report { node_name, from, to, .. } = report;
    match (report.outcome, &report.why) {
        (Outcome::Updated, _) => format!("{node_name}: updated from {from} to {to}"),
        (Outcome::Unchanged, _) => format!("{node_name}: runs this binary already ({to})"),
        (Outcome::Skipped, why) => format!("{node_name}: left out, {}", why.as_deref().unwrap_or("not tried")),
    }
}
