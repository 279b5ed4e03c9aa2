//! The admin account: who may drive a node, from where, and for how long.

use hive_tests::{
    lab::Lab,
    nobody,
    node::{Node, Options},
    process::{self, Output, PATIENCE},
    view::{column, wait_until_all_see_all},
};
use std::{path::PathBuf, process::Command, time::Duration};

const GOOD: &str = "admin:battery staple";
const WRONG: &str = "admin:wrong";

fn member(lab: &Lab, name: &str, admin: &str) -> Node {
    let options = Options::member("garden:correct horse").name(name);
    Node::start(&lab.host(name), options.admin(admin))
}

/// Two members that see each other; what `a` does at `b` needs a login there.
fn pair(lab: &Lab) -> (Node, Node) {
    let (a, b) = (member(lab, "a", "admin:of a"), member(lab, "b", GOOD));
    a.register(&b, "garden");
    wait_until_all_see_all(&[&a, &b]);
    (a, b)
}

/// The file in which `hivectl` keeps its session at `other`.
fn session_file(at: &Node, other: &Node) -> PathBuf {
    let folder = at.state().parent().expect("the node's folder").join("home/state/hivectl");
    folder.join(format!("{}.json", other.peer_id()))
}

fn direct(node: &Node) -> String {
    let identity = node.json(&["id"]);
    let first = identity["addresses"][0].as_str().expect("an address");
    format!("{first}/p2p/{}", node.peer_id())
}

#[test]
fn a_login_opens_a_session_that_is_listed_used_and_ended() {
    let lab = Lab::new();
    let (a, b) = pair(&lab);
    let told = a.ctl_as("", &["id", "--node", "b"]).failure(3);
    assert!(told.contains("error: a login at b is needed"), "{told}");
    a.ctl_as(GOOD, &["login", "--node", "b"]).success();
    // From here on without a password.
    let seen = a.ctl_as("", &["--json", "id", "--node", "b"]).success();
    assert!(seen.contains(&b.peer_id()), "{seen}");
    let sessions = b.json(&["sessions"]);
    assert_eq!(column(&sessions, "user"), ["admin"]);
    let id = &column(&sessions, "id")[0];
    b.ctl(&["sessions", "rm", id]).success();
    assert_eq!(b.json(&["sessions"]), serde_json::json!([]));
    a.ctl_as("", &["id", "--node", "b"]).failure(3);
    a.ctl_as(GOOD, &["login", "--node", "b"]).success();
    a.ctl_as("", &["logout", "--node", "b"]).success();
    assert_eq!(b.json(&["sessions"]), serde_json::json!([]));
    a.ctl_as("", &["id", "--node", "b"]).failure(3);
}

#[test]
fn a_wrong_password_and_an_unknown_user_look_the_same() {
    let lab = Lab::new();
    let (a, b) = pair(&lab);
    let wrong = a.ctl_as(WRONG, &["login", "--node", "b"]).failure(3);
    let unknown = a.ctl_as("root:wrong", &["login", "--node", "b"]).failure(3);
    assert!(wrong.contains("error: wrong user or password"), "{wrong}");
    assert_eq!(wrong, unknown);
    assert_eq!(b.json(&["sessions"]), serde_json::json!([]));
    assert!(!session_file(&a, &b).exists(), "nothing is saved");
}

#[test]
fn a_saved_key_that_is_not_enrolled_opens_nothing() {
    let lab = Lab::new();
    let (a, mut b) = pair(&lab);
    a.ctl_as(GOOD, &["login", "--node", "b"]).success();
    let file = session_file(&a, &b);
    let saved = std::fs::read_to_string(&file).unwrap();
    let mut forged: serde_json::Value = serde_json::from_str(&saved).unwrap();
    forged["key"] = "07".repeat(32).into();
    std::fs::write(&file, forged.to_string()).unwrap();
    a.ctl_as("", &["id", "--node", "b"]).failure(3);
    // The true one outlives a restart, and no expiry that the file claims helps once the node has forgotten it.
    std::fs::write(&file, &saved).unwrap();
    b.restart();
    wait_until_all_see_all(&[&a, &b]);
    a.ctl_as("", &["id", "--node", "b"]).success();
    b.ctl(&["sessions", "rm", &column(&b.json(&["sessions"]), "id")[0]]).success();
    let mut lasting: serde_json::Value = serde_json::from_str(&saved).unwrap();
    lasting["expires_ms"] = u64::MAX.into();
    std::fs::write(&file, lasting.to_string()).unwrap();
    a.ctl_as("", &["id", "--node", "b"]).failure(3);
    // An expired one is not even shown to the node.
    lasting["expires_ms"] = 1.into();
    std::fs::write(&file, lasting.to_string()).unwrap();
    a.ctl_as("", &["id", "--node", "b"]).failure(3);
    assert!(!file.exists());
}

#[test]
fn another_password_at_start_ends_all_sessions_and_the_same_none() {
    let lab = Lab::new();
    let (a, mut b) = pair(&lab);
    a.ctl_as(GOOD, &["login", "--node", "b"]).success();
    b.restart();
    wait_until_all_see_all(&[&a, &b]);
    a.ctl_as("", &["id", "--node", "b"]).success();
    b.options_mut().admin = "admin:new moon".to_owned();
    b.restart();
    wait_until_all_see_all(&[&a, &b]);
    assert_eq!(b.json(&["sessions"]), serde_json::json!([]));
    a.ctl_as("", &["id", "--node", "b"]).failure(3);
    a.ctl_as(GOOD, &["id", "--node", "b"]).failure(3);
    a.ctl_as("admin:new moon", &["id", "--node", "b"]).success();
}

fn hash_of(password: &str) -> String {
    let mut command = Command::new(process::binary("hive-agent"));
    command.arg("hash-password");
    process::run(command, password.as_bytes(), PATIENCE).success().trim().to_owned()
}

#[test]
fn the_account_may_be_given_as_a_hash() {
    let lab = Lab::new();
    let hash = hash_of("battery staple\n");
    assert!(hash.starts_with("hash_$argon2id$"), "{hash}");
    let (a, b) = (member(&lab, "a", "admin:of a"), member(&lab, "b", &format!("keeper:{hash}")));
    a.register(&b, "garden");
    wait_until_all_see_all(&[&a, &b]);
    a.ctl_as("keeper:battery staple", &["id", "--node", "b"]).success();
    a.ctl_as("", &["logout", "--node", "b"]).success();
    a.ctl_as(GOOD, &["id", "--node", "b"]).failure(3);
}

#[test]
fn a_password_made_up_is_printed_once_and_stored_as_a_hash() {
    let lab = Lab::new();
    let (a, mut b) = (member(&lab, "a", GOOD), member(&lab, "b", ""));
    let line = b.process().wait_for_line("admin account: ");
    let password = line.split("password ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a password");
    assert_eq!(password.len(), 26, "128 bits in base32: {line}");
    b.restart();
    assert!(!b.process().printed().contains("admin account"), "{}", b.process().printed());
    a.register(&b, "garden");
    wait_until_all_see_all(&[&a, &b]);
    a.ctl_as(&format!("admin:{password}"), &["id", "--node", "b"]).success();
    b.stop();
    for entry in std::fs::read_dir(b.state()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!contains(&bytes, password.as_bytes()), "the password itself is stored");
    }
    assert!(contains(&std::fs::read(b.state().join("data.mdb")).unwrap(), b"$argon2id$"));
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_node_is_named_by_name_or_id_and_never_by_guess() {
    let lab = Lab::new();
    let (a, b) = pair(&lab);
    let c = member(&lab, "c", "admin:of c");
    c.register(&a, "garden");
    wait_until_all_see_all(&[&a, &b, &c]);
    for who in ["b", &b.peer_id()] {
        assert!(a.ctl_as(GOOD, &["id", "--node", who]).success().contains(&b.peer_id()));
    }
    c.ctl(&["rename", "b"]).success();
    let twins = |nodes: &serde_json::Value| column(nodes, "node_name") == ["a", "b", "b"];
    a.wait_for_json("two nodes of one name", PATIENCE, &["nodes"], twins);
    let told = a.ctl_as(GOOD, &["id", "--node", "b"]).failure(2);
    assert!(told.contains(&b.peer_id()) && told.contains(&c.peer_id()), "{told}");
    let told = a.ctl_as(GOOD, &["id", "--node", "nobody-there"]).failure(4);
    assert!(told.contains("hint: "), "{told}");
    a.ctl_as(GOOD, &["id", "--node", &b.peer_id()]).success();
    // The password of the one is not that of the other.
    a.ctl_as(GOOD, &["id", "--node", &c.peer_id()]).failure(3);
}

fn direct_command(at: &Node, to: &str, credentials: &str, arguments: &[&str]) -> Output {
    at.ctl_as(credentials, &[&["--direct", to], arguments].concat())
}

#[test]
fn without_a_local_agent_a_login_is_needed_all_the_same() {
    let lab = Lab::new();
    let b = member(&lab, "b", GOOD);
    let stranger = Node::prepare(&lab.host("stranger"), Options::default());
    let to = direct(&b);
    direct_command(&stranger, &to, "", &["nodes"]).failure(3);
    direct_command(&stranger, &to, WRONG, &["nodes"]).failure(3);
    let shown = direct_command(&stranger, &to, GOOD, &["--json", "nodes"]).success();
    assert!(shown.contains(&b.peer_id()), "{shown}");
    direct_command(&stranger, &to, "", &["rename", "shed"]).success();
    assert_eq!(b.json(&["id"])["node_name"], "shed");
    let (address, _) = to.rsplit_once("/p2p/").unwrap();
    let other = "12D3KooWRNKbdUKDb4UJx4sd5u5tt35eBWY7xT4YJL3tkfEpZurH";
    let told = direct_command(&stranger, &format!("{address}/p2p/{other}"), GOOD, &["nodes"]).failure(4);
    assert!(told.contains("another node answered"), "{told}");
}

#[test]
fn a_node_reached_directly_is_the_one_acted_on() {
    let lab = Lab::new();
    let (a, b) = pair(&lab);
    let c = member(&lab, "c", "admin:of c");
    let told = direct_command(&c, &direct(&b), GOOD, &["id", "--node", &a.peer_id()]).failure(2);
    assert!(told.contains("error: --direct acts on b"), "{told}");
}

#[test]
fn who_guesses_waits_and_who_is_in_does_not() {
    let lab = Lab::new();
    let (a, b) = pair(&lab);
    let c = member(&lab, "c", "admin:of c");
    c.register(&b, "garden");
    wait_until_all_see_all(&[&a, &b, &c]);
    a.ctl_as(GOOD, &["login", "--node", "b"]).success();
    let refused = |output: &Output| output.status == Some(3) && output.stderr.contains("too many failed attempts");
    let guesses: Vec<Output> = (0..8).map(|_| c.ctl_as(WRONG, &["login", "--node", "b"])).collect();
    assert!(guesses[..5].iter().all(|output| output.status == Some(3)), "{guesses:#?}");
    let waiting = guesses.iter().find(|output| refused(output));
    let waiting = waiting.unwrap_or_else(|| panic!("never told to wait: {guesses:#?}"));
    assert!(waiting.stderr.contains("hint: try again in "), "{waiting:#?}");
    // The session goes on, and so does a new login of the member that had one.
    a.ctl_as("", &["id", "--node", "b"]).success();
    a.ctl_as(GOOD, &["login", "--node", "b"]).success();
    let good_again = || c.ctl_as(GOOD, &["login", "--node", "b"]).status == Some(0);
    hive_tests::wait::wait_until("the wait is over", Duration::from_secs(120), good_again);
}

#[test]
fn another_user_of_the_machine_has_to_log_in() {
    if !nobody::is_possible("another_user_of_the_machine_has_to_log_in") {
        return;
    }
    let lab = Lab::new();
    let node = member(&lab, "a", GOOD);
    nobody::open_way(lab.folder());
    nobody::give(&node.state().parent().unwrap().join("home"));
    let as_nobody = |credentials: &str, arguments: &[&str]| {
        let command: Command = node.ctl_command(credentials, arguments);
        process::run(nobody::run_as(&command, &process::binary("hivectl")), b"", PATIENCE)
    };
    node.ctl_as("", &["id"]).success();
    let told = as_nobody("", &["id"]).failure(3);
    assert!(told.contains("error: a login at a is needed"), "{told}");
    as_nobody(WRONG, &["id"]).failure(3);
    as_nobody(GOOD, &["id"]).success();
    assert_eq!(column(&node.json(&["sessions"]), "user"), ["admin"]);
}

#[test]
fn a_credentials_file_that_others_can_read_is_refused() {
    let lab = Lab::new();
    let node = Node::prepare(&lab.host("a"), Options::default());
    let file = lab.folder().join("secrets");
    std::fs::write(&file, "network garden:correct horse\nadmin admin:battery staple\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let mut command = node.agent_command();
    command.arg("--credentials").arg(&file);
    let told = process::run(command, b"", PATIENCE).failure(2);
    assert!(told.contains("others may read it; run `chmod 600 "), "{told}");
    assert!(!told.contains("battery staple") && !told.contains("correct horse"), "{told}");
    assert!(!node.state().exists(), "nothing was begun");
}
