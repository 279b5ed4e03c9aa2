//! One node's update as seen from here: send, resume where the link broke, and wait for what the node makes of it.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures::{
    AsyncReadExt,
    future::{Either, select},
};
use hive_protocol::message::{Request, Response, UpdateRecord, UpdateRequest, UpdateStage};
use smol::Timer;

use super::{Outcome, Report, UpdateNode, source::Source};
use crate::{
    app::App,
    args::Target,
    client::{self, Client},
    cmds::cp::Watched,
    error::{Error, Result, Status},
    progress::Progress,
    pump,
};

/// Between two looks at a node that restarts.
const LOOK: Duration = Duration::from_secs(1);
/// How often a transfer is resumed that breaks off without having got any further. The node may take a while to notice
/// that the link is dead, and takes one binary at a time.
const RESUMES: u32 = 30;
/// Two restarts, and finding a way to the node again, beside the trial itself.
const RESTARTS: Duration = Duration::from_secs(90);

/// Why a binary did not arrive.
enum Halt {
    /// The node does not want it, or it cannot be read here.
    Refused(Error),
    /// The way to the node broke; it had this much before.
    Broken(Error, u64),
}

/// Updates one node and waits until it is certain how that ended.
pub async fn update(app: &App, args: &UpdateNode, target: &Target, source: &Source) -> Result<Report> {
    let mut client = app.connect(target).await?;
    let before = client.update_status().await?;
    let (peer_id, node_name) = (client.node, client.name.clone());
    let report = |outcome, to: &str| {
        let (node_name, from, to) = (node_name.clone(), before.version.clone(), to.to_owned());
        Report { peer_id, node_name, outcome, from, to, why: None }
    };
    if before.hash == Some(source.file.hash) {
        return Ok(report(Outcome::Unchanged, &before.version));
    }
    let number = before.last.as_ref().map_or(0, |last| last.number);
    deliver(app, args, target, source, client, number).await?;
    app.out.step(&format!("{node_name}: {} has arrived and is being tried", source.version))?;
    let last = settled(app, args, target, number).await?;
    match last.stage {
        UpdateStage::Kept => Ok(report(Outcome::Updated, &last.to)),
        _ => Err(rolled_back(&last)),
    }
}

fn rolled_back(last: &UpdateRecord) -> Error {
    let why = last.why.as_deref().unwrap_or("nobody knows why");
    Error::failed(format!("version {} was rolled back to {}: {why}", last.to, last.from))
        .hint("what it said itself is in the node's own log: `journalctl -u hive-agent`, or `logread`")
}

/// Sends the binary, again and again from where the node has it, until the node has begun the update.
async fn deliver(
    app: &App,
    args: &UpdateNode,
    target: &Target,
    source: &Source,
    client: Client,
    number: u64,
) -> Result<()> {
    let (mut client, mut had, mut tries) = (Some(client), 0, 0);
    loop {
        let sent = match client.take() {
            Some(client) => send(app, args, source, client, Halt::Refused).await,
            None => match app.connect(target).await {
                Ok(mut client) => match begun(&mut client, number).await {
                    Ok(true) => return Ok(()),
                    _ => send(app, args, source, client, |error| Halt::Broken(error, had)).await,
                },
                Err(error) if error.status == Status::NotAuthorised => return Err(error),
                Err(error) => Err(Halt::Broken(error, had)),
            },
        };
        match sent {
            Ok(()) => return Ok(()),
            Err(Halt::Refused(error)) => return Err(error),
            Err(Halt::Broken(error, offset)) => {
                tries = if offset > had { 0 } else { tries + 1 };
                had = offset.max(had);
                if tries > RESUMES {
                    return Err(error.hint("give the same command again: it goes on where it stopped"));
                }
                Timer::after(LOOK).await;
            }
        }
    }
}

/// Whether the update that the link's end hid from us has begun all the same.
async fn begun(client: &mut Client, number: u64) -> Result<bool> {
    Ok(client.update_status().await?.last.is_some_and(|last| last.number > number))
}

/// Sends it once; `not_begun` says what it means when the node does not even begin.
async fn send(
    app: &App,
    args: &UpdateNode,
    source: &Source,
    mut client: Client,
    not_begun: impl Fn(Error) -> Halt,
) -> Result<(), Halt> {
    let request = UpdateRequest {
        file: source.file,
        version: source.version.clone(),
        target: source.target.clone(),
        downgrade: args.allow_downgrade,
        signature: source.signature,
        patience_s: args.patience,
    };
    let offset = match client.request(Request::Update(request)).await.map_err(not_begun)? {
        Response::FileReady { offset } => offset,
        _ => return Err(Halt::Refused(Error::failed("the node answered something else than what it was asked"))),
    };
    let bytes = source.open(app, offset).await.map_err(Halt::Refused)?;
    let progress = Progress::new(client.name.as_str(), offset, source.file.size, app.out.quiet);
    let (mut from_node, to_node) = client.into_stream().split();
    let sending = pump::send(Watched { file: bytes, progress, done: offset }, to_node);
    // The node may refuse in the middle; then nobody reads what we still send.
    let answer = match select(pin!(client::any_answer(&mut from_node)), pin!(sending)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((sent, answer)) => match sent {
            Ok(()) => answer.await,
            Err(error) => answer.await.map_err(|_| error),
        },
    };
    match answer {
        Ok(Response::Done) => Ok(()),
        Ok(Response::Error(failure)) => Err(Halt::Refused(failure.into())),
        Ok(_) => Err(Halt::Refused(Error::failed("the node answered something else than what it was asked"))),
        Err(error) => Err(Halt::Broken(error, offset)),
    }
}

/// Asks until the update is kept or rolled back; the node restarts meanwhile.
async fn settled(app: &App, args: &UpdateNode, target: &Target, number: u64) -> Result<UpdateRecord> {
    let started = Instant::now();
    let most = Duration::from_secs(args.patience.into()) + RESTARTS;
    loop {
        Timer::after(LOOK).await;
        let unknown = match look(app, target).await {
            Ok(Some(last)) if last.number > number && is_settled(last.stage) => return Ok(last),
            Ok(_) => Error::failed("the node has not said how the update ended"),
            Err(error) if error.status == Status::NotAuthorised => return Err(error),
            Err(error) => Error::unreachable(format!("the node has not come back: {}", error.what)),
        };
        if started.elapsed() > most {
            return Err(unknown.hint("it goes back to the old agent by itself; look again with `hivectl nodes`"));
        }
    }
}

async fn look(app: &App, target: &Target) -> Result<Option<UpdateRecord>> {
    Ok(app.connect(target).await?.update_status().await?.last)
}

fn is_settled(stage: UpdateStage) -> bool {
    matches!(stage, UpdateStage::Kept | UpdateStage::RolledBack)
}
