//! `cross/deploy` against devices with BusyBox and a real ssh server: first deployment, update, and what a dead agent
//! comes back to.

use hive_tests::{
    board::{Board, Ssh},
    lab::Lab,
    node::Node,
    notice,
    pair::{NETWORK, PASSWORD, options},
    process::{self, Output, PATIENCE},
    static_build::{NATIVE, native},
    wait::wait_until,
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Sends two programs to a device on a busy machine.
const DEPLOYMENT: Duration = Duration::from_secs(240);

#[test]
fn to_dropbear() {
    deploys("to_dropbear", Ssh::Dropbear);
}

#[test]
fn to_openssh() {
    deploys("to_openssh", Ssh::OpenSsh);
}

fn deploys(test: &str, ssh: Ssh) {
    let Some(programs) = needed(test, ssh) else { return };
    let Some(lab) = Lab::namespaces(test) else { return };
    let desk = Node::start(&lab.host("desk"), options());
    let board = Board::boot(&lab.host("board"), ssh);

    let first = deploy(&desk, &board, &programs).success();
    assert!(first.contains("password"), "no admin account was made: {first}");
    let peer_id = peer_id_of(&desk, "shed");
    assert!(first.contains(&peer_id), "{first}");
    keeps_no_secret(&board);

    let agent = board.agent().expect("an agent on the device");
    let second = deploy(&desk, &board, &programs).success();
    assert!(second.contains("up to date") && second.contains(&peer_id), "{second}");
    assert_eq!(board.agent(), Some(agent), "an update to the same version restarted the agent");

    comes_back(test, &board, agent);
    assert_eq!(peer_id_of(&desk, "shed"), peer_id);
}

fn needed(test: &str, ssh: Ssh) -> Option<PathBuf> {
    let found = native().ok_or_else(|| format!("no static build: cross/build {NATIVE} makes one"));
    let able = Board::impossible(ssh).map_or(found, Err);
    able.map_err(|why| notice::left_out(test, &why)).ok()
}

fn deploy(desk: &Node, board: &Board, programs: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cross/deploy");
    let mut command = desk.host().command(script);
    command.args(["--network", NETWORK, "--name", "shed", "--peer", &desk.base64(), "--programs"]).arg(programs);
    command.arg(format!("root@{}", board.host().ipv4())).env("HIVE_SSH", board.ssh());
    process::run(command, format!("{PASSWORD}\n").as_bytes(), DEPLOYMENT)
}

/// The peer id of a node that is online in the table.
fn peer_id_of(node: &Node, name: &str) -> String {
    let what = format!("{name} is online");
    let is_it = |row: &serde_json::Value| row["node_name"] == name && row["online"] == true;
    let rows = |nodes: &serde_json::Value| nodes.as_array().into_iter().flatten().find(|row| is_it(row)).cloned();
    let nodes = node.wait_for_json(&what, PATIENCE, &["nodes"], |nodes| rows(nodes).is_some());
    rows(&nodes).and_then(|row| row["peer_id"].as_str().map(str::to_owned)).expect("a peer id")
}

/// Neither in the arguments of a program, nor in a file once the agent has its hash.
fn keeps_no_secret(board: &Board) {
    let calls = board.calls();
    assert!(calls.contains("hive-agent"), "no call was noted: {calls}");
    assert!(!calls.contains(PASSWORD), "the password was an argument: {calls}");
    assert!(!board.file("etc/hive/credentials").exists());
    let settings = fs::read_to_string(board.file("etc/hive/environment")).expect("the settings");
    assert!(settings.contains("HIVE_NAME=shed") && !settings.contains("CREDENTIALS"), "{settings}");
}

/// The device's init starts an agent that was killed again; how soon is told by the device's own clock.
fn comes_back(test: &str, board: &Board, agent: u32) {
    let next = board.run(&format!(
        "read was rest </proc/uptime; kill -ABRT {agent}
        until next=$(pidof hive-agent) && [ \"$next\" != {agent} ]; do usleep 20000; done
        read is rest </proc/uptime; echo $was $is"
    ));
    let seconds: Vec<f64> = next.success().split_whitespace().filter_map(|word| word.parse().ok()).collect();
    notice::say(&format!("DEPLOY: {test}: another agent after {:.2} s", seconds[1] - seconds[0]));
    let answers = || board.run("HIVE_SOCKET=/run/hive/agent.sock /usr/local/bin/hivectl id").status == Some(0);
    wait_until("it answers", PATIENCE, answers);
}
