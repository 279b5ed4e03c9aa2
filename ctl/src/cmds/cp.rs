//! `cp`: one file to a node or from it, shown on its way, resumed where it broke off, checked at its end.

use std::{
    io,
    path::Path,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use argh::{ArgsInfo, FromArgs};
use futures::{
    AsyncRead, AsyncReadExt,
    future::{Either, select},
    io::BufReader,
};
use hive_protocol::{
    NetworkName, NodeName,
    message::{FileInfo, Request, Response},
    tunnel::{DATA_MAX, Kind},
};
use hive_transport::files::{self, FileError, Incoming};
use serde::Serialize;
use smol::{Unblock, unblock};

use crate::{
    app::App,
    args::Target,
    client::{self, Client},
    cmds::is_local,
    error::{Error, Result, Status},
    format::bytes,
    progress::Progress,
    pump,
};

/// How folders travel.
const FOLDERS: &str =
    "a folder goes as a stream: tar c FOLDER | hivectl exec --node NODE -- tar x -C PLACE, or the other way round";

/// Copy a file to a node, or from a node.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "cp",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} model.gguf shed:/srv/models/\n{command_name} shed:logs/today.txt .",
    note = "One side is NODE:PATH; relative paths there begin at the home of the user that the agent runs as. A copy that \
            broke off goes on where it stopped when the same command is given again. The file appears in its place \
            only when all of it has arrived and its BLAKE3 hash is right; its permissions are kept."
)]
pub struct Cp {
    /// the file, here or as NODE:PATH
    #[argh(positional)]
    pub source: String,
    /// where to: a file or a folder, here or as NODE:PATH
    #[argh(positional)]
    pub destination: String,
    /// network of the node, needed where it is reachable in several
    #[argh(option, arg_name = "name")]
    pub network: Option<NetworkName>,
    /// user to log in as (environment: HIVE_USER; default: admin)
    #[argh(option, arg_name = "name")]
    pub user: Option<String>,
    /// read the password from standard input (environment: HIVE_PASSWORD)
    #[argh(switch)]
    pub password_stdin: bool,
}

/// What was copied.
#[derive(Debug, Serialize)]
struct Copied {
    bytes: u64,
    resumed_at: u64,
    blake3: String,
}

/// A place on a node.
#[derive(Debug, PartialEq, Eq)]
struct Remote {
    node: Option<String>,
    path: String,
}

/// Copies in the direction that the arguments say.
pub async fn run(app: &App, args: &Cp) -> Result<()> {
    let copied = match (remote(&args.source), remote(&args.destination)) {
        (None, Some(to)) => {
            let client = app.connect(&target(args, &to)).await.map_err(|error| meant_here(error, &args.destination))?;
            put(app, client, Path::new(&args.source), &to.path).await?
        }
        (Some(from), None) => {
            let client = app.connect(&target(args, &from)).await.map_err(|error| meant_here(error, &args.source))?;
            get(app, client, &from.path, Path::new(&args.destination)).await?
        }
        _ => {
            let error = Error::usage("one side of a copy is here and the other is NODE:PATH");
            return Err(meant_here(error, &args.source));
        }
    };
    app.out.done(&copied, || {
        let resumed = match copied.resumed_at {
            0 => String::new(),
            at => format!(", resumed at {}", bytes(at)),
        };
        let place = place(&args.destination, &name_of(&args.source));
        format!("copied {} to {place}: {}{resumed}", args.source, bytes(copied.bytes))
    })
}

/// Where the file stands now, as far as the destination says: the name follows a folder that is named as one.
fn place(destination: &str, name: &str) -> String {
    let here = || remote(destination).is_none() && Path::new(destination).is_dir();
    match destination {
        text if text.ends_with('/') || text.ends_with(':') => format!("{text}{name}"),
        text if text.ends_with("/.") || text.ends_with(":.") || text == "." || here() => format!("{text}/{name}"),
        text => text.to_owned(),
    }
}

/// A file here whose name has a colon looks like a place on a node.
fn meant_here(error: Error, text: &str) -> Error {
    if Path::new(text).exists() { error.hint(format!("the file here is ./{text}")) } else { error }
}

/// A colon before any slash makes a place on a node, as with `scp`.
fn remote(text: &str) -> Option<Remote> {
    let (node, path) = text.split_once(':').filter(|(node, _)| !node.is_empty() && !node.contains('/'))?;
    // The node takes relative paths from there; `~name` is a file like others.
    let path = match path.strip_prefix('~') {
        Some("") => "",
        Some(rest) if rest.starts_with('/') => rest.trim_start_matches('/'),
        _ => path,
    };
    let path = if path.is_empty() { "." } else { path };
    Some(Remote { node: (!is_local(node)).then(|| node.to_owned()), path: path.to_owned() })
}

fn target(args: &Cp, remote: &Remote) -> Target {
    Target {
        node: remote.node.clone(),
        network: args.network.clone(),
        user: args.user.clone(),
        password_stdin: args.password_stdin,
    }
}

fn name_of(path: &str) -> String {
    Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What is wrong at this end.
fn refused(error: FileError) -> Error {
    let folder = matches!(error, FileError::NotAFile(_));
    let error = Error::failed(format!("here: {error}"));
    if folder { error.hint(FOLDERS) } else { error }
}

/// What the node refuses, and where that is.
fn at_node(name: &NodeName) -> impl Fn(Error) -> Error {
    move |error| match error.status {
        Status::Failed => Error { what: format!("at {name}: {}", error.what), ..error },
        _ => error,
    }
}

fn copied(info: &FileInfo, resumed_at: u64) -> Copied {
    Copied { bytes: info.size, resumed_at, blake3: info.hash.iter().map(|byte| format!("{byte:02x}")).collect() }
}

async fn put(app: &App, mut client: Client, source: &Path, path: &str) -> Result<Copied> {
    let owned = source.to_owned();
    let info = unblock(move || files::stat(&owned)).await.map_err(refused)?;
    let name = name_of(&source.to_string_lossy());
    let request = Request::FilePut { path: path.to_owned(), name: name.clone(), file: info };
    let node = client.name.clone();
    let answer = client.request(request).await.map_err(at_node(&node))?;
    let Response::FileReady { offset } = answer else { return Err(unexpected()) };
    let owned = source.to_owned();
    let file = unblock(move || files::read_from(&owned, offset)).await.map_err(refused)?;
    let progress = Progress::new(&name, offset, info.size, app.out.quiet);
    let (mut from_node, to_node) = client.into_stream().split();
    let sending = pump::send(Watched { file: Unblock::with_capacity(DATA_MAX, file), progress, done: offset }, to_node);
    // The node may refuse in the middle, when its disk is full: then nobody reads what we still send.
    let answer = match select(pin!(client::any_answer(&mut from_node)), pin!(sending)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((sent, answer)) => answer.await.and_then(|answer| sent.map(|()| answer)),
    };
    match answer.map_err(|_| lost(&node))? {
        Response::Done => Ok(copied(&info, offset)),
        Response::Error(failure) => Err(at_node(&node)(failure.into())),
        _ => Err(unexpected()),
    }
}

/// A file, or what else is sent, whose reading is shown.
pub(super) struct Watched<R> {
    pub file: R,
    pub progress: Progress,
    /// Bytes until now.
    pub done: u64,
}

impl<R: AsyncRead + Unpin> AsyncRead for Watched<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let read = Pin::new(&mut this.file).poll_read(cx, buffer);
        if let Poll::Ready(Ok(len)) = read {
            this.done += len as u64;
            this.progress.at(this.done);
        }
        read
    }
}

async fn get(app: &App, mut client: Client, path: &str, destination: &Path) -> Result<Copied> {
    let node = client.name.clone();
    let answer = client.request(Request::FileStat { path: path.to_owned() }).await.map_err(at_node(&node))?;
    let Response::File(info) = answer else { return Err(unexpected()) };
    let (place, name) = (destination.to_owned(), name_of(path));
    let label = name.clone();
    let incoming = unblock(move || Incoming::begin(&place, &name, info)).await.map_err(refused)?;
    let offset = incoming.offset();
    let request = Request::FileGet { path: path.to_owned(), offset };
    let answer = client.request(request).await.map_err(at_node(&node))?;
    let Response::FileReady { .. } = answer else { return Err(unexpected()) };
    let progress = Progress::new(&label, offset, info.size, app.out.quiet);
    let incoming = receive(client.into_stream(), incoming, progress, &node).await?;
    unblock(move || incoming.finish()).await.map_err(refused)?;
    Ok(copied(&info, offset))
}

/// DATA frames to the file, until EOF.
async fn receive(
    stream: impl AsyncRead + Unpin,
    mut incoming: Incoming,
    mut progress: Progress,
    node: &NodeName,
) -> Result<Incoming> {
    let mut frames = BufReader::with_capacity(2 * DATA_MAX, stream);
    loop {
        let header = pump::header(&mut frames).await.map_err(|_| lost(node))?;
        match header.kind {
            Kind::Data => {
                let mut data = vec![0; header.len];
                frames.read_exact(&mut data).await.map_err(|_| lost(node))?;
                incoming = unblock(move || incoming.write(&data).map(|()| incoming)).await.map_err(refused)?;
                progress.at(incoming.offset());
            }
            Kind::Eof => return Ok(incoming),
            _ => return Err(Error::failed(format!("{node} cannot read the file to its end"))),
        }
    }
}

/// What broke off can go on.
fn lost(node: &NodeName) -> Error {
    Error::unreachable(format!("{node} was lost in the middle of the copy"))
        .hint("give the same command again: it goes on where it stopped")
}

fn unexpected() -> Error {
    Error::failed("the node answered something else than what it was asked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_copy_is_told_with_its_name() {
        for (destination, told) in [("gpu:", "gpu:x"), ("gpu:dir/", "gpu:dir/x"), ("gpu:y", "gpu:y"), (".", "./x")] {
            assert_eq!(place(destination, "x"), told);
        }
    }

    #[test]
    fn a_colon_before_any_slash_makes_a_place_on_a_node() {
        let on = |node: Option<&str>, path: &str| Some(Remote { node: node.map(str::to_owned), path: path.to_owned() });
        assert_eq!(remote("shed:/srv/x"), on(Some("shed"), "/srv/x"));
        assert_eq!(remote("shed:a:b"), on(Some("shed"), "a:b"));
        assert_eq!(remote("shed:"), on(Some("shed"), "."));
        assert_eq!(remote("self:notes"), on(None, "notes"));
        assert_eq!(remote("shed:~"), on(Some("shed"), "."));
        assert_eq!(remote("shed:~/x"), on(Some("shed"), "x"));
        assert_eq!(remote("shed:~x"), on(Some("shed"), "~x"));
        for here in ["x", "./a:b", "/tmp/a:b", ":x"] {
            assert_eq!(remote(here), None, "{here}");
        }
    }
}
