//! Whether a binary may be tried: what is said of it before it is sent, and what it says itself once it is here.

use std::{
    fs::File,
    io::{self, Read},
};

use hive_protocol::{
    build::{BINARY_MAX, Build, Machine},
    message::{Failure, FailureCode, UpdateRequest},
};

use super::{Place, ReleaseKey, Updates};
use crate::BUILD;

/// What an update may give a new agent to prove itself, in seconds.
const PATIENCE: std::ops::RangeInclusive<u32> = 5..=3600;

fn refused(what: impl Into<String>) -> Failure {
    Failure::new(FailureCode::Failed, what)
}

/// What can be said before a byte is sent. Also makes the folder for it.
pub fn offer<'p>(updates: &'p Updates, wish: &UpdateRequest) -> Result<&'p Place, Failure> {
    let place = updates.place.as_ref().ok_or_else(moved)?;
    if place.on_trial() || Updates::taken(place) {
        let failure = Failure::new(FailureCode::Busy, "another update is being tried");
        return Err(failure.hint("try again in a few minutes"));
    }
    if wish.file.size > BINARY_MAX {
        return Err(refused(format!("the binary is larger than {} MiB", BINARY_MAX >> 20)));
    }
    if !PATIENCE.contains(&wish.patience_s) {
        return Err(Failure::new(FailureCode::Usage, "a new agent gets 5 to 3600 seconds to prove itself"));
    }
    let said = Build { version: &wish.version, target: &wish.target, commit: "" };
    version(&said, wish.downgrade)?;
    if updates.key.is_some() && wish.signature.is_none() {
        return Err(unsigned("the binary is not signed, and this node takes only signed ones"));
    }
    place.prepare().map_err(|error| {
        let name = place.executable().display();
        refused(format!("{name} cannot be replaced: {error}"))
            .hint("the agent's user needs to write in that folder: install the agent where it may, or update it there by hand")
    })?;
    Ok(place)
}

fn moved() -> Failure {
    refused("the agent's executable is not where it was started from any more")
        .hint("restart the agent there: somebody replaced its binary by hand")
}

fn version(build: &Build<'_>, downgrade: bool) -> Result<(), Failure> {
    if build.target != BUILD.target {
        let what = format!("the binary is for {}, this node is {}", build.target, BUILD.target);
        return Err(refused(what).hint("give a binary of that target with --binary"));
    }
    if build.is_older_than(BUILD.version) && !downgrade {
        let what = format!("version {} is older than {}, which runs", build.version, BUILD.version);
        return Err(refused(what).hint("--allow-downgrade installs it all the same"));
    }
    Ok(())
}

fn unsigned(what: &str) -> Failure {
    refused(what)
        .hint("sign it with the release key that the node was started with (--update-key) and give --signature")
}

/// What a whole binary shows itself. Its hash was checked when it arrived.
pub fn binary(key: Option<&ReleaseKey>, wish: &UpdateRequest, image: &[u8]) -> Result<(), Failure> {
    let own = own_machine().map_err(|e| refused(format!("the agent cannot read its own executable: {e}")))?;
    own.check(image).map_err(|e| refused(format!("the binary is refused: {e}")))?;
    let build = Build::find(image).map_err(|e| refused(format!("the binary is refused: {e}")))?;
    if (build.version, build.target) != (&wish.version, &wish.target) {
        return Err(refused(format!("the binary is {} for {}, not what was announced", build.version, build.target)));
    }
    version(&build, wish.downgrade)?;
    let Some(key) = key else { return Ok(()) };
    match &wish.signature {
        Some(signature) if key.verify(image, signature) => Ok(()),
        _ => Err(unsigned("the signature is not one of this node's release key over this binary")),
    }
}

fn own_machine() -> io::Result<Machine> {
    let mut head = [0; 64];
    File::open("/proc/self/exe")?.read_exact(&mut head)?;
    Machine::of(&head).map_err(io::Error::other)
}
