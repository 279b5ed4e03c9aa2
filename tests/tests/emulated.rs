//! Static programs of other processors under Debian's user-mode emulator: they join a network, carry tunnels to and from a
//! native node and each other with every byte checked, and are driven by their own `hivectl`. These are the programs that
//! are deployed, byte for byte.

use hive_tests::{
    lab::{Host, Lab},
    node::{Node, Options},
    notice,
    pair::{ADMIN, NETWORK, Pair, options},
    payload, process,
    static_build::emulated,
    traffic::{self, Plan},
};
use hive_transport::files;
use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

const AARCH64: &str = "aarch64-unknown-linux-musl";
const ARMV7: &str = "armv7-unknown-linux-musleabihf";
/// Emulated: slower than the machine by a factor of 10 and more.
const CONNECTIONS: u64 = 6;
/// One more than 32 bits count, and the rest of a file behind it.
const BEYOND: u64 = 1 << 32;
const REST: usize = 300_001;
/// Hashes that much, emulated, on a busy machine.
const BIG_COPY: Duration = Duration::from_secs(900);

#[test]
fn aarch64_and_a_native_node() {
    carry("aarch64_and_a_native_node", Some(AARCH64), None);
    carry("aarch64_and_a_native_node", None, Some(AARCH64));
}

#[test]
fn armv7_and_a_native_node() {
    carry("armv7_and_a_native_node", Some(ARMV7), None);
    carry("armv7_and_a_native_node", None, Some(ARMV7));
}

#[test]
fn aarch64_and_armv7() {
    carry("aarch64_and_armv7", Some(AARCH64), Some(ARMV7));
}

/// Sizes and offsets of files are 64 bits wide on a board of 32, too: a copy each way goes on behind 4 GiB.
#[test]
fn armv7_and_files_beyond_4_gib() {
    let lab = Lab::new();
    let (near_host, far_host) = (lab.host("near"), lab.host("far"));
    let Some(board) = settings("armv7_and_files_beyond_4_gib", &near_host, Some(ARMV7)) else { return };
    let pair = Pair { near: Node::start(&near_host, board), far: Node::start(&far_host, options()) };
    pair.near.register(&pair.far, NETWORK);
    pair.wait_until_connected();
    let (here, there) = (near_host.folder("files"), far_host.folder("files"));
    let (source, arrived, back) = (here.join("source"), there.join("arrived"), here.join("back"));
    write(&source, BEYOND, &payload::bytes(7, REST));
    goes_on(&pair, (&source, source.to_str().unwrap()), (&arrived, &format!("far:{}", arrived.display())));
    goes_on(&pair, (&arrived, &format!("far:{}", arrived.display())), (&back, back.to_str().unwrap()));
}

/// A copy of which the first 4 GiB are there already. Each side is a path, and how the board's `hivectl` names it.
fn goes_on(pair: &Pair, from: (&Path, &str), to: (&Path, &str)) {
    let sent = files::stat(from.0).unwrap();
    write(&part_of(to.0, &sent.hash), BEYOND, b"");
    let command = pair.near.ctl_command(ADMIN, &["--json", "cp", from.1, to.1]);
    let copied: serde_json::Value =
        serde_json::from_str(&process::run(command, b"", BIG_COPY).success()).expect("a JSON document");
    assert_eq!((&copied["resumed_at"], &copied["bytes"]), (&BEYOND.into(), &(BEYOND + REST as u64).into()));
    assert_eq!(files::stat(to.0).unwrap(), sent);
}

/// A file with a hole of this length before its content: it takes no room.
fn write(path: &Path, hole: u64, content: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(hole).unwrap();
    file.write_all_at(content, hole).unwrap();
}

/// Where a copy that was cut has left what it had, see `hive_transport::files`.
fn part_of(place: &Path, hash: &[u8]) -> PathBuf {
    let hash: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    place.with_file_name(format!(".hive-{hash}.part"))
}

/// A tunnel from a node of the first target to one of the second; no target is a native node.
fn carry(test: &str, near: Option<&str>, far: Option<&str>) {
    let lab = Lab::new();
    let (near_host, far_host) = (lab.host("near"), lab.host("far"));
    let (Some(near), Some(far)) = (settings(test, &near_host, near), settings(test, &far_host, far)) else { return };
    let pair = Pair { near: Node::start(&near_host, near), far: Node::start(&far_host, far) };
    pair.near.register(&pair.far, NETWORK);
    pair.wait_until_connected();
    let server = traffic::Server::start(pair.far.host(), 0);
    let tunnel = pair.tunnel(server.address());
    traffic::exercise(&near_host, tunnel.entrance, &server, &Plan::sequential(CONNECTIONS));
    let status = pair.far.json(&["status"]);
    assert!(status["tunnels"]["bytes_in"].as_u64() > Some(0), "{status}");
}

/// How a node of a target is started, or a notice of what is missing.
fn settings(test: &str, host: &Host, target: Option<&str>) -> Option<Options> {
    let Some(target) = target else { return Some(options()) };
    let programs = emulated(host, target).map_err(|why| notice::left_out(test, &why)).ok()?;
    Some(options().programs(&programs))
}
