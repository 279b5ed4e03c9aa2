//! `keys copy`: a certificate with its key from one node to another, over the authorised conversations with both.

use hive_protocol::{KeyEntry, KeyName, KeyPrefix};
use serde_json::json;

use super::Copy;
use crate::{
    app::App,
    args::Target,
    client::Client,
    error::{Error, Result},
};

/// Reads the set at one node and stores it at the other in one step.
pub async fn run(app: &App, args: &Copy, source: &Target) -> Result<()> {
    let mut from = app.connect(source).await?;
    let node = (!crate::cmds::is_local(&args.to)).then(|| args.to.clone());
    let mut to = app.connect(&Target { node, ..source.clone() }).await?;
    if from.node == to.node {
        return Err(Error::usage("both are the same node").hint("name the other node with --to"));
    }
    let entries = set(&mut from, &args.key_prefix).await?;
    let stored = to.put_keys(entries).await?;
    let names: Vec<&KeyName> = stored.iter().map(|key| &key.key_name).collect();
    app.out.done(&json!({ "node": to.node, "copied": names }), || {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        format!("{} now has {} of {}", to.name, names.join(", "), from.name)
    })
}

async fn set(from: &mut Client, prefix: &KeyPrefix) -> Result<Vec<KeyEntry>> {
    let listed = from.keys().await?;
    let names: Vec<_> = listed.into_iter().map(|key| key.key_name).filter(|name| belongs(name, prefix)).collect();
    if names.is_empty() {
        let what = format!("{} has no certificate with the prefix {prefix}", from.name);
        return Err(Error::failed(what).hint("`hivectl keys` lists those it has"));
    }
    let mut entries = Vec::new();
    for name in names {
        entries.push(from.key(name, true).await?);
    }
    Ok(entries)
}

fn belongs(name: &KeyName, prefix: &KeyPrefix) -> bool {
    name.split().is_some_and(|(of, _)| of == *prefix)
}
