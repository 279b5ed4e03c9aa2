//! Where a new agent comes from: a file here, or the executable of the local agent.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    pin::Pin,
};

use futures::{AsyncRead, AsyncReadExt, TryStreamExt, io::BufReader, stream};
use hive_protocol::{
    build::{BINARY_MAX, FoundBuild, MarkFinder},
    message::{FileInfo, Request, Response},
    tunnel::{DATA_MAX, Kind},
};
use hive_transport::files;
use smol::{Unblock, unblock};

use crate::{
    app::App,
    args::Target,
    error::{Error, Result},
    pump,
};

/// The executable of the agent that is asked for it.
const OWN: &str = "/proc/self/exe";

/// A binary to be sent, as often as it takes.
pub struct Source {
    /// What it is as a file.
    pub file: FileInfo,
    /// Version of the agent in it.
    pub version: String,
    /// Its target triple.
    pub target: String,
    /// What signs it.
    pub signature: Option<[u8; 64]>,
    /// None for the local agent's own.
    path: Option<PathBuf>,
}

/// Bytes of the binary.
pub type Bytes = Pin<Box<dyn AsyncRead + Send>>;

impl Source {
    /// A file, with the signature named or the one that lies beside it.
    pub async fn file(path: &Path, signature: Option<&Path>) -> Result<Self> {
        let (owned, signature) = (path.to_owned(), signature.map(Path::to_owned));
        unblock(move || Self::read(owned, signature)).await
    }

    fn read(path: PathBuf, signature: Option<PathBuf>) -> Result<Self> {
        let named = |e: &dyn std::fmt::Display| Error::failed(format!("{}: {e}", path.display()));
        let file = files::stat(&path).map_err(|e| Error::failed(e.to_string()))?;
        if file.size > BINARY_MAX {
            return Err(named(&format_args!("no agent is larger than {} MiB", BINARY_MAX >> 20)));
        }
        let mut finder = MarkFinder::default();
        File::open(&path).and_then(|mut image| io::copy(&mut image, &mut finder)).map_err(|e| named(&e))?;
        let build = finder.finish().map_err(|e| named(&e).hint("give the hive-agent of a release"))?;
        let FoundBuild { version, target, .. } = build;
        let mut beside = path.clone().into_os_string();
        beside.push(".sig");
        let signature = signature.or_else(|| Some(PathBuf::from(beside)).filter(|path| path.exists()));
        let signature = signature.as_deref().map(read_signature).transpose()?;
        Ok(Self { file, version, target, signature, path: Some(path) })
    }

    /// The local agent's own executable.
    pub async fn own(app: &App, signature: Option<&Path>) -> Result<Self> {
        let mut client = app.connect(&Target::default()).await?;
        let status = client.update_status().await?;
        let Response::File(file) = client.request(Request::FileStat { path: OWN.to_owned() }).await? else {
            return Err(Error::failed("the local agent does not tell about its executable"));
        };
        let signature = signature.map(read_signature).transpose()?;
        Ok(Self { file, version: status.version, target: status.target, signature, path: None })
    }

    /// The bytes from `offset` on.
    pub async fn open(&self, app: &App, offset: u64) -> Result<Bytes> {
        let Some(path) = self.path.clone() else { return own_bytes(app, offset).await };
        let file = unblock(move || files::read_from(&path, offset)).await;
        let file = file.map_err(|e| Error::failed(e.to_string()))?;
        Ok(Box::pin(Unblock::with_capacity(DATA_MAX, file)))
    }
}

fn read_signature(path: &Path) -> Result<[u8; 64]> {
    let named = |e: &dyn std::fmt::Display| Error::failed(format!("{}: {e}", path.display()));
    let bytes = fs::read(path).map_err(|e| named(&e))?;
    let exact = bytes.try_into();
    exact.map_err(|_| named(&"an Ed25519 signature has 64 bytes").hint("make it with `openssl pkeyutl -sign -rawin`"))
}

async fn own_bytes(app: &App, offset: u64) -> Result<Bytes> {
    let mut client = app.connect(&Target::default()).await?;
    let request = Request::FileGet { path: OWN.to_owned(), offset };
    let Response::FileReady { .. } = client.request(request).await? else {
        return Err(Error::failed("the local agent does not give its executable"));
    };
    let frames = BufReader::with_capacity(2 * DATA_MAX, client.into_stream());
    let chunks = stream::try_unfold(frames, |mut frames| async move {
        let broken = |e: Error| io::Error::other(e.what);
        let header = pump::header(&mut frames).await.map_err(broken)?;
        match header.kind {
            Kind::Data => {
                let mut data = vec![0; header.len];
                frames.read_exact(&mut data).await?;
                Ok(Some((data, frames)))
            }
            Kind::Eof => Ok(None),
            _ => Err(io::Error::other("the local agent cannot read its executable to its end")),
        }
    });
    Ok(Box::pin(chunks.into_async_read()))
}
