//! The key store, as people use it.

use hive_tests::{
    lab::Lab,
    node::Node,
    pair::{self, Pair},
    pki::Authority,
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

fn names(keys: &Value) -> Vec<&str> {
    keys.as_array().unwrap().iter().map(|key| key["key_name"].as_str().unwrap()).collect()
}

#[test]
fn keys_are_stored_listed_written_and_removed() {
    let lab = Lab::new();
    let mut node = Node::start(&lab.host("node"), pair::options());
    let authority = Authority::create("a CA");
    let set = authority.store(&node, "web", &["shed.example", "www.shed.example"]);
    node.restart();
    let listed = node.json(&["keys"]);
    assert_eq!(names(&listed), ["web_cert.pem", "web_issuer.pem", "web_key.pem"]);
    assert_eq!(listed[0]["hostnames"], json!(["shed.example", "www.shed.example"]));
    assert_eq!((&listed[2]["key_type"], &listed[2]["not_after"]), (&json!("key"), &Value::Null));
    assert_eq!(node.ctl(&["keys", "--names"]).success(), "web_cert.pem\nweb_issuer.pem\nweb_key.pem\n");

    let folder = node.host().folder("out");
    let out = |more: &[&str]| node.ctl(&[&["keys", "--out", folder.to_str().unwrap()], more].concat()).success();
    out(&[]);
    assert!(folder.join("web_cert.pem").exists() && !folder.join("web_key.pem").exists());
    out(&["--reveal"]);
    assert_eq!(fs::read_to_string(folder.join("web_key.pem")).unwrap(), set.key);
    assert_eq!(fs::metadata(folder.join("web_key.pem")).unwrap().permissions().mode() & 0o777, 0o600);

    let told = node.ctl(&["keys", "show", "--key-name", "web_key.pem"]).failure(2);
    assert!(told.contains("--reveal") && !told.contains("BEGIN"), "{told}");
    node.ctl(&["keys", "rm", "--key-name", "web_key.pem", "--key-name", "web_cert.pem"]).success();
    assert_eq!(names(&node.json(&["keys"])), ["web_issuer.pem"]);
    assert!(!node.process().printed().contains("PRIVATE"));
}

#[test]
fn a_key_that_does_not_fit_is_refused() {
    let lab = Lab::new();
    let node = Node::start(&lab.host("node"), pair::options());
    let authority = Authority::create("a CA");
    authority.store(&node, "web", &["shed.example"]);
    let other = authority.certify(&["shed.example"]);
    let create = ["create-key", "--key-name", "web_key.pem", "--key-type", "key", "--key-content", "-"];
    let told = node.ctl_with_stdin("", &create, other.key.as_bytes()).failure(2);
    assert!(told.contains("does not belong") && told.contains("hint: "), "{told}");
    let told = node.ctl_with_stdin("", &create, b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n").failure(2);
    assert!(!told.contains("c2VjcmV0"), "{told}");
}

#[test]
fn a_set_is_copied_to_another_node() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let authority = Authority::create("a CA");
    let set = authority.store(&pair.near, "web", &["shed.example"]);
    pair.near.ctl(&["keys", "copy", "--key-prefix", "web", "--to", "far"]).success();
    let folder = pair.far.host().folder("out");
    pair.far.ctl(&["keys", "--out", folder.to_str().unwrap(), "--reveal"]).success();
    let read = |name: &str| fs::read_to_string(Path::new(&folder).join(name)).unwrap();
    assert_eq!((read("web_cert.pem"), read("web_key.pem")), (set.cert, set.key));
}
