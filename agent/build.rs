//! Tells the agent, and `hivectl`, which target and commit it was built for.

use std::{env, path::Path, process::Command};

fn main() {
    let target = env::var("TARGET").unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo::rustc-env=HIVE_TARGET={target}");
    println!("cargo::rustc-env=HIVE_COMMIT={}", commit().unwrap_or_else(|| "unknown".to_owned()));
    for file in ["../.git/HEAD", "../.git/refs/heads/main"] {
        if Path::new(file).exists() {
            println!("cargo::rerun-if-changed={file}");
        }
    }
    println!("cargo::rerun-if-env-changed=HIVE_COMMIT");
}

/// From the environment where there is no git (packages), else from git.
fn commit() -> Option<String> {
    if let Ok(given) = env::var("HIVE_COMMIT") {
        return Some(given);
    }
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
