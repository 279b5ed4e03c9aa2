//! `hive-agent check`: opens the state, verifies every entry, and says in words what is there.

use std::fmt::Write;

use hive_protocol::NodeName;

use crate::{
    agent::{self, Error},
    options::{Options, host_name},
    store::Store,
};

/// The report. A damaged entry is named in it; state that cannot be opened at all is the error.
pub fn run(options: &Options) -> Result<String, Error> {
    let folder = options.state_folder();
    let store = Store::open_existing(&folder)?;
    agent::identity(&folder, &store)?;
    let (stored, skipped) = store.load(host_name())?;
    let (keys, damaged_keys) = store.load_keys()?;
    let name: &NodeName = &stored.name;
    let mut report = format!("state {}: schema {}\nnode name: {name}\n", folder.display(), crate::store::SCHEMA);
    let forged = stored.records.iter().filter(|(record, _)| record.verify().is_err()).count();
    let lines = [
        ("networks", stored.networks.len()),
        ("peer records", stored.records.len()),
        ("proxies", stored.proxies.len()),
        ("keys and certificates", keys.len()),
        ("sessions", stored.sessions.len()),
        ("records with a wrong signature", forged),
        ("damaged entries", skipped.len() + damaged_keys.len()),
    ];
    for (what, count) in lines {
        // Writing to a string does not fail.
        let _ = writeln!(report, "{what}: {count}");
    }
    for entry in skipped.iter().chain(&damaged_keys) {
        let _ = writeln!(report, "damaged: {}: {}", entry.what, entry.why);
    }
    Ok(report)
}
