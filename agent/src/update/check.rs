//! Whether a binary may be tried: what is said of it before it is sent, and what it says itself once it is here.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::FileExt,
};

use hive_protocol::{
    build::{BINARY_MAX, Build, Machine, MarkFinder, NotABuild},
    message::{Failure, FailureCode, UpdateRequest},
};

use super::{Lock, Place, ReleaseKey, Updates, signature::Signature};
use crate::BUILD;

/// What an update may give a new agent to prove itself, in seconds.
const PATIENCE: std::ops::RangeInclusive<u32> = 5..=3600;

fn refused(what: impl Into<String>) -> Failure {
    Failure::new(FailureCode::Failed, what)
}

/// What can be said before a byte is sent. Also makes the folder for it, and keeps agents out that share the executable,
/// for as long as the lock is held.
pub fn offer<'p>(updates: &'p Updates, wish: &UpdateRequest) -> Result<(&'p Place, Lock), Failure> {
    let place = updates.place.as_ref().ok_or_else(moved)?;
    if place.on_trial() {
        return Err(taken());
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
    let lock = place.prepare().and_then(|()| place.lock()).map_err(|error| {
        let name = place.executable().display();
        refused(format!("{name} cannot be replaced: {error}"))
            .hint("the agent's user needs to write in that folder: install the agent where it may, or update it there by hand")
    })?;
    // Looked at with the lock, so that nobody begins an update in between.
    let lock = lock.filter(|_| !Updates::taken(place)).ok_or_else(taken)?;
    Ok((place, lock))
}

fn taken() -> Failure {
    Failure::new(FailureCode::Busy, "another update is under way").hint("try again in a few minutes")
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

/// What a whole binary shows itself, in one pass over it: it may be larger than this board's memory.
pub fn binary(key: Option<&ReleaseKey>, wish: &UpdateRequest, image: &File) -> Result<(), Failure> {
    let unreadable = |e: io::Error| refused(format!("the binary cannot be read: {e}"));
    let own = own_machine().map_err(|e| refused(format!("the agent cannot read its own executable: {e}")))?;
    let no_agent = |e: NotABuild| refused(format!("the binary is refused: {e}"));
    let len = image.metadata().map_err(unreadable)?.len();
    own.check(len, |at, bytes| image.read_exact_at(bytes, at)).map_err(no_agent)?;
    let mut pass = Pass::new(key, wish);
    io::copy(&mut &*image, &mut pass).map_err(unreadable)?;
    let Pass { hash, mark, signature } = pass;
    if hash.finalize() != wish.file.hash {
        return Err(refused("the binary has changed since it arrived"));
    }
    let found = mark.finish().map_err(no_agent)?;
    if (&found.version, &found.target) != (&wish.version, &wish.target) {
        return Err(refused(format!("the binary is {} for {}, not what was announced", found.version, found.target)));
    }
    version(&found.build(), wish.downgrade)?;
    let signed = key.is_none() || signature.is_some_and(Signature::verify);
    if signed { Ok(()) } else { Err(unsigned("the signature is not one of this node's release key over this binary")) }
}

/// Everything that is asked of all bytes of a binary.
struct Pass {
    hash: blake3::Hasher,
    mark: MarkFinder,
    signature: Option<Signature>,
}

impl Pass {
    fn new(key: Option<&ReleaseKey>, wish: &UpdateRequest) -> Self {
        let signature = key.zip(wish.signature).and_then(|(key, signature)| key.begin(&signature));
        Self { hash: blake3::Hasher::new(), mark: MarkFinder::default(), signature }
    }
}

impl Write for Pass {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.mark.write_all(bytes)?;
        if let Some(signature) = &mut self.signature {
            signature.update(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn own_machine() -> io::Result<Machine> {
    let mut head = [0; 64];
    File::open("/proc/self/exe")?.read_exact(&mut head)?;
    Machine::of(&head).map_err(io::Error::other)
}
