//! Where `cross/build` puts static programs, and how tests run those of other processors.

use crate::lab::Host;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// This machine's own target, as a static build.
pub const NATIVE: &str = "x86_64-unknown-linux-musl";

/// The folder with both programs for this machine, from `cross/build`; `None` when that was not run.
pub fn native() -> Option<PathBuf> {
    programs(NATIVE)
}

fn programs(target: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cross").join(target).join("dist");
    (folder.join("hive-agent").exists() && folder.join("hivectl").exists()).then_some(folder)
}

/// A folder, named after the target, with both programs as scripts that run them under Debian's emulator.
///
/// # Errors
/// What is missing for that here, as a sentence.
pub fn emulated(host: &Host, target: &str) -> Result<PathBuf, String> {
    let folder = programs(target).ok_or(format!("no build for {target}: cross/build {target} makes one"))?;
    let processor = if target.starts_with("arm") { "arm" } else { target.split('-').next().unwrap_or(target) };
    let emulator = format!("/usr/bin/qemu-{}-static", processor.trim_end_matches("gc"));
    if !Path::new(&emulator).exists() {
        return Err(format!("{emulator} is not here (package qemu-user-static)"));
    }
    let scripts = host.folder(target);
    for program in ["hive-agent", "hivectl"] {
        let script = scripts.join(program);
        let text = format!("#!/bin/sh\nexec {emulator} {} \"$@\"\n", folder.join(program).display());
        fs::write(&script, text).expect("a script");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("the mode of a script");
    }
    Ok(scripts)
}
