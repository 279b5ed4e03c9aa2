//! `get-metrics`: what a machine and its agent are doing, of one node or of all, for people, programs and Prometheus.

mod prometheus;
mod text;

use std::{collections::BTreeMap, pin::pin, time::Duration};

use futures::future::{Either, join_all, select};
use hive_protocol::{Metrics, NodeId, NodeInfo, NodeName};
use serde::Serialize;

use crate::{
    app::App,
    args::{Target, node_verb},
    client::Client,
    error::{Error, Result},
    watch::{Screen, watch},
};

/// How long a member may take to be reached and to answer.
const PATIENCE: Duration = Duration::from_secs(20);

node_verb! {
    /// Show what a node's machine is doing: processors, memory, disks, temperatures, graphics cards, network.
    #[argh(
        subcommand,
        name = "get-metrics",
        help_triggers("-h", "--help", "help"),
        example = "{command_name} --node shed\n{command_name} --all --watch\n\
                   {command_name} --all --prometheus > /var/lib/node_exporter/hive.prom",
        note = "Prints JSON unless standard output is a terminal. --all needs a saved session with every node, or one \
                password for all in HIVE_PASSWORD."
    )]
    pub struct GetMetrics {
        /// show them again every second
        #[argh(switch)]
        pub watch: bool,
        /// ask every node of the peer table at once, and show which do not answer
        #[argh(switch)]
        pub all: bool,
        /// print them in Prometheus' text format
        #[argh(switch)]
        pub prometheus: bool,
    }
}

/// A node and its figures, or why there are none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// The node.
    pub peer_id: NodeId,
    /// Its name.
    pub node_name: NodeName,
    /// Its figures.
    pub metrics: Option<Box<Metrics>>,
    /// Why it did not answer.
    pub error: Option<String>,
}

/// Shows the figures once or again and again.
pub async fn run(app: &App, args: &GetMetrics) -> Result<()> {
    if args.prometheus && (args.watch || app.out.json) {
        return Err(Error::usage("--prometheus goes with neither --watch nor --json"));
    }
    let mut client = app.connect(&args.target()).await?;
    watch(app.out.json_unless_terminal(), args.watch, async |screen| {
        if args.all { all(app, args, &mut client, screen).await } else { one(args, &mut client, screen).await }
    })
    .await
}

async fn one(args: &GetMetrics, client: &mut Client, screen: &mut Screen) -> Result<()> {
    let metrics = client.metrics().await?;
    if args.prometheus {
        let answer =
            Answer { peer_id: client.node, node_name: client.name.clone(), metrics: Some(metrics), error: None };
        return screen.raw(&prometheus::text(&[answer]));
    }
    screen.show(&metrics, || text::one(&client.name, &metrics))
}

async fn all(app: &App, args: &GetMetrics, client: &mut Client, screen: &mut Screen) -> Result<()> {
    app.never_ask();
    let members: BTreeMap<NodeId, NodeInfo> = client.nodes().await?.into_iter().map(|row| (row.peer_id, row)).collect();
    let own = client.node;
    let questions = members.into_values().map(|member| answer(app, args, member, own));
    let mut answers = join_all(questions).await;
    answers.sort_by_key(|answer| (answer.node_name.to_string(), answer.peer_id));
    if args.prometheus {
        return screen.raw(&prometheus::text(&answers));
    }
    screen.show(&answers, || screen_table(app, &answers))
}

fn screen_table(app: &App, answers: &[Answer]) -> String {
    app.out.table(&text::all(answers))
}

/// One member's answer, within [`PATIENCE`].
async fn answer(app: &App, args: &GetMetrics, member: NodeInfo, own: NodeId) -> Answer {
    let outcome = match select(pin!(ask(app, args, &member, own)), smol::Timer::after(PATIENCE)).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right(_) => Err(Error::unreachable(format!("no answer within {} s", PATIENCE.as_secs()))),
    };
    let (metrics, error) = match outcome {
        Ok(metrics) => (Some(metrics), None),
        Err(error) => (None, Some(error.what)),
    };
    Answer { peer_id: member.peer_id, node_name: member.node_name, metrics, error }
}

/// Every member is asked by way of the local agent; the node whose table it is as the user named it.
async fn ask(app: &App, args: &GetMetrics, member: &NodeInfo, own: NodeId) -> Result<Box<Metrics>> {
    let named = args.target();
    let target = if member.peer_id == own {
        named
    } else {
        Target { node: Some(member.peer_id.to_string()), network: Some(member.network.clone()), ..named }
    };
    app.connect(&target).await?.metrics().await
}
