//! `keys` and `create-key`: the key store of a node.

mod copy;
mod create;
mod list;

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use argh::{ArgsInfo, FromArgs};
use hive_protocol::{KeyEntry, KeyInfo, KeyName, KeyPrefix, KeyType, message::Request};
use serde_json::json;

use crate::{
    app::App,
    args::{Target, node_verb},
    client::Client,
    error::{Error, Result},
    format::counted,
};

pub use create::{CreateKey, create};
pub use list::now;

node_verb! {
    /// List the certificates and keys of a node, show, remove or copy them.
    #[argh(
        subcommand,
        name = "keys",
        help_triggers("-h", "--help", "help"),
        example = "{command_name}\n{command_name} --out /etc/ssl/hive --reveal\n{command_name} copy --key-prefix web --to shed",
        note = "A private key is shown, written or copied only where that is said: by --reveal, or by copy."
    )]
    pub struct Keys {
        /// print the names alone
        #[argh(switch)]
        pub names: bool,
        /// write every entry into a file of its name in this folder
        #[argh(option, arg_name = "dir")]
        pub out: Option<PathBuf>,
        /// with --out: private keys, too
        #[argh(switch)]
        pub reveal: bool,
        /// list them if no verb is given
        #[argh(subcommand)]
        pub verb: Option<KeysVerb>,
    }
}

/// What to do with the keys there are.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum KeysVerb {
    /// Show.
    Show(Show),
    /// Remove.
    Rm(Rm),
    /// Copy.
    Copy(Copy),
}

node_verb! {
    /// Print the text of an entry.
    #[argh(subcommand, name = "show", help_triggers("-h", "--help", "help"), example = "{command_name} --key-name web_cert.pem")]
    pub struct Show {
        /// name of the entry
        #[argh(option, arg_name = "name")]
        pub key_name: KeyName,
        /// also if it is a private key
        #[argh(switch)]
        pub reveal: bool,
    }
}

node_verb! {
    /// Remove entries.
    #[argh(subcommand, name = "rm", help_triggers("-h", "--help", "help"), example = "{command_name} --key-name web_key.pem")]
    pub struct Rm {
        /// name of an entry; may be repeated
        #[argh(option, arg_name = "name")]
        pub key_name: Vec<KeyName>,
    }
}

node_verb! {
    /// Copy a certificate with its key and issuers to another node.
    #[argh(
        subcommand,
        name = "copy",
        help_triggers("-h", "--help", "help"),
        example = "{command_name} --key-prefix web --to shed",
        note = "The private key travels to the other node. Where it need not: run `tls --challenge tls-alpn-01` there."
    )]
    pub struct Copy {
        /// what the names of the entries begin with
        #[argh(option, arg_name = "prefix")]
        pub key_prefix: KeyPrefix,
        /// node to copy to, by peer id or name
        #[argh(option, arg_name = "id|name")]
        pub to: String,
    }
}

/// Lists the entries, or does what the nested verb says.
pub async fn run(app: &App, args: &Keys) -> Result<()> {
    let outer = args.target();
    match &args.verb {
        None => list(app, args, &outer).await,
        Some(KeysVerb::Show(show)) => self::show(app, show, &show.target().or(outer)).await,
        Some(KeysVerb::Rm(rm)) => remove(app, rm, &rm.target().or(outer)).await,
        Some(KeysVerb::Copy(copy)) => copy::run(app, copy, &copy.target().or(outer)).await,
    }
}

async fn list(app: &App, args: &Keys, target: &Target) -> Result<()> {
    if args.reveal && args.out.is_none() {
        return Err(Error::usage("--reveal needs --out DIR")
            .hint("`hivectl keys show --key-name NAME --reveal` prints a single key"));
    }
    let mut client = app.connect(target).await?;
    let keys = client.keys().await?;
    if let Some(folder) = &args.out {
        return write_all(app, &mut client, &keys, folder, args.reveal).await;
    }
    if args.names {
        let names: Vec<_> = keys.iter().map(|key| &key.key_name).collect();
        return app.out.show(&names, || names.iter().map(|name| format!("{name}\n")).collect());
    }
    app.out.show(&keys, || app.out.table(&list::table(&keys, now())))
}

async fn show(app: &App, args: &Show, target: &Target) -> Result<()> {
    let mut client = app.connect(target).await?;
    let entry = client.key(args.key_name.clone(), args.reveal).await?;
    let value = json!({ "key_name": entry.key_name, "key_type": entry.key_type, "pem": entry.pem });
    app.out.show(&value, || entry.pem.clone())
}

async fn remove(app: &App, args: &Rm, target: &Target) -> Result<()> {
    if args.key_name.is_empty() {
        return Err(Error::usage("--key-name NAME is needed"));
    }
    let mut client = app.connect(target).await?;
    client.done(Request::KeysRemove { names: args.key_name.clone() }).await?;
    let names = || args.key_name.iter().map(KeyName::as_str).collect::<Vec<_>>();
    app.out.done(&json!({ "removed": names() }), || format!("{}: removed {}", client.name, names().join(", ")))
}

/// Writes entries to files; private keys only where that is said.
async fn write_all(app: &App, client: &mut Client, keys: &[KeyInfo], folder: &Path, reveal: bool) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| cannot_write(folder, &e))?;
    let wanted: Vec<_> = keys.iter().filter(|key| reveal || key.key_type != KeyType::Key).collect();
    let mut written = Vec::new();
    for key in &wanted {
        let entry = client.key(key.key_name.clone(), reveal).await?;
        written.push(write(folder, &entry)?);
    }
    let kept = keys.len() - wanted.len();
    if kept > 0 {
        let keys = counted(kept as u64, "private key");
        app.out.warn(&format!("{keys} not written: say --reveal if they shall be"));
    }
    app.out.done(&json!({ "written": written }), || {
        format!("{} written to {}", counted(written.len() as u64, "file"), folder.display())
    })
}

/// Writes an entry to a file of its name, a private key for this user alone.
fn write(folder: &Path, entry: &KeyEntry) -> Result<PathBuf> {
    if entry.key_name.as_str().starts_with('.') {
        return Err(Error::failed(format!("{} is no name for a file that can be seen", entry.key_name)));
    }
    let path = folder.join(entry.key_name.as_str());
    let mode = if entry.key_type == KeyType::Key { 0o600 } else { 0o644 };
    // Beside the old file, then in its place: a program that reads it sees one or the other, and the mode is right from
    // the first byte on.
    let fresh = folder.join(format!(".{}.new", entry.key_name));
    let options = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh);
    let written =
        options.and_then(|mut file| file.write_all(entry.pem.as_bytes())).and_then(|()| fs::rename(&fresh, &path));
    written.map_err(|e| {
        // What is left of an attempt would keep the next one from beginning.
        let _ = fs::remove_file(&fresh);
        cannot_write(&path, &e)
    })?;
    Ok(path)
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::failed(format!("cannot write {}: {error}", path.display()))
}
