//! Mounted file systems that have a device of their own. Network file systems are passed over: asking one whose server is
//! gone would hang.

use std::{collections::BTreeSet, path::Path};

use hive_protocol::DiskMetrics;

use super::{MAX_ENTRIES, Machine, percent};

/// Size, blocks that are free, and blocks that users may take, all in bytes, of the file system at a mount point.
pub type Capacity = fn(&Path) -> Option<Space>;

/// Space on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// Not in use.
    pub free: u64,
    /// Not in use and not kept for root.
    pub available: u64,
}

/// File systems without a block device that still hold somebody's data.
const LOCAL_KINDS: [&str; 5] = ["zfs", "btrfs", "overlay", "ubifs", "jffs2"];

/// What `statvfs(3)` says of a mounted file system.
pub fn capacity(mount: &Path) -> Option<Space> {
    let stat = rustix::fs::statvfs(mount).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Some(Space { total: bytes(stat.f_blocks), free: bytes(stat.f_bfree), available: bytes(stat.f_bavail) })
}

/// Every device once, at its first mount point.
pub fn metrics(machine: &Machine, capacity: Capacity) -> Vec<DiskMetrics> {
    let text = machine.text("proc/self/mounts").unwrap_or_default();
    let mut seen = BTreeSet::new();
    let mounted = text.lines().filter_map(local).filter(|(device, mount)| {
        // Overlays have no name to tell them apart: those of containers are left out.
        if *device == "overlay" { mount == "/" } else { seen.insert(device.to_string()) }
    });
    mounted.take(MAX_ENTRIES).map(|(_, mount)| disk(mount, capacity)).collect()
}

/// Device and mount point of a line of `/proc/self/mounts` (`fstab(5)`), if the file system is local.
fn local(line: &str) -> Option<(&str, String)> {
    let mut fields = line.split(' ');
    let (device, mount, kind) = (fields.next()?, fields.next()?, fields.next()?);
    // Images of packages are always full.
    let image = kind == "squashfs" && mount != "/" && mount != "/rom";
    let local = (device.starts_with("/dev/") && !image) || LOCAL_KINDS.contains(&kind);
    local.then(|| (device, unescaped(mount)))
}

/// Space, tab, newline and backslash are octal escapes there.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

/// The share in use counts what root keeps as used up, as `df` does.
fn disk(mount: String, capacity: Capacity) -> DiskMetrics {
    let space = capacity(Path::new(&mount)).filter(|space| space.total > 0);
    let used = space.and_then(|space| {
        let used = space.total.saturating_sub(space.free);
        percent(used, used + space.available)
    });
    DiskMetrics { mount, total_bytes: space.map(|space| space.total), used_percent: used }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_file_systems_are_asked() {
        assert_eq!(local("/dev/sda1 / ext4 rw 0 0"), Some(("/dev/sda1", "/".into())));
        assert_eq!(local("/dev/sdb1 /mnt/two\\040words vfat rw 0 0"), Some(("/dev/sdb1", "/mnt/two words".into())));
        assert_eq!(local("tank/home /home zfs rw 0 0"), Some(("tank/home", "/home".into())));
        for line in ["proc /proc proc rw 0 0", "box:/share /nfs nfs4 rw 0 0", "/dev/loop0 /snap/x squashfs ro 0 0", ""]
        {
            assert_eq!(local(line), None, "{line}");
        }
    }

    #[test]
    fn this_machine_has_a_root() {
        let space = capacity(Path::new("/")).unwrap();
        assert!(space.total >= space.free && space.free >= space.available && space.total > 0);
        assert_eq!(capacity(Path::new("/no/such/place")), None);
    }
}
