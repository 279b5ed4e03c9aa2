//! Removes what test processes left that were killed before they could clean up: everything that bears the id of a
//! process that is no more. Another test process may do the same at the same moment.

use super::{PREFIX, netns};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Once,
};

/// Removes leftovers, the first time that this process calls it.
pub fn sweep_once() {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(sweep);
}

fn sweep() {
    for path in ownerless(Path::new(netns::FOLDER)) {
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            netns::remove(name);
        }
    }
    for path in ownerless(&std::env::temp_dir()) {
        let _ = fs::remove_dir_all(path);
    }
}

fn ownerless(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| owner(path).is_some_and(is_dead)).collect()
}

/// The process id in `hv<pid>-…`, for nothing else than what this crate names.
fn owner(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

fn is_dead(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_names() {
        assert_eq!(owner(Path::new("/tmp/hv41-0-abc")), Some(41));
        for foreign in ["/tmp/hv-0", "/tmp/hvac-1", "/tmp/hv41", "/tmp/x41-0"] {
            assert_eq!(owner(Path::new(foreign)), None, "{foreign}");
        }
    }
}
