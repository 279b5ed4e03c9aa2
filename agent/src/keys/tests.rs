use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::*;

/// A store in a folder that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hive-keys-{name}-{}", std::process::id()));
        fs::remove_dir_all(&path).ok();
        Self(path)
    }

    fn open(&self) -> Keys {
        Keys::load(Arc::new(Store::open(&self.0).unwrap())).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// A certificate for `host` by a CA of its own: its PEM, its key's, and its issuer's.
fn set(host: &str) -> [String; 3] {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.distinguished_name.push(DnType::CommonName, format!("CA of {host}"));
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let issuer = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let names = vec![host.to_owned(), "192.0.2.1".to_owned()];
    let cert = CertificateParams::new(names).unwrap().signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    [cert.pem(), key.serialize_pem(), issuer]
}

fn entry(name: &str, key_type: KeyType, pem: &str) -> KeyEntry {
    KeyEntry { key_name: name.parse().unwrap(), key_type, pem: pem.to_owned() }
}

fn entries([cert, key, issuer]: &[String; 3]) -> Vec<KeyEntry> {
    vec![
        entry("web_cert.pem", KeyType::Cert, cert),
        entry("web_key.pem", KeyType::Key, key),
        entry("web_issuer.pem", KeyType::Issuer, issuer),
    ]
}

fn refused(keys: &Keys, entries: Vec<KeyEntry>) -> CheckError {
    match keys.put(entries) {
        Err(KeysError::Check { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_set_is_stored_listed_and_served() {
    let scratch = Scratch::new("set");
    let prefix = "web".parse().unwrap();
    scratch.open().put(entries(&set("shed.example"))).unwrap();
    let keys = scratch.open();
    let list = keys.list();
    let names: Vec<_> = list.iter().map(|row| (row.key_name.as_str(), row.key_type)).collect();
    let expected =
        [("web_cert.pem", KeyType::Cert), ("web_issuer.pem", KeyType::Issuer), ("web_key.pem", KeyType::Key)];
    assert_eq!(names, expected);
    assert_eq!(list[0].hostnames, ["shed.example", "192.0.2.1"]);
    assert!(list[0].not_after.is_some() && list[2].not_after.is_none());
    assert_eq!(keys.certificate(&prefix).unwrap().cert.len(), 2, "the issuer follows");
    keys.remove(&["web_key.pem".parse().unwrap()]).unwrap();
    assert!(keys.certificate(&prefix).is_none());
}

#[test]
fn a_set_is_replaced_in_one_step_or_not_at_all() {
    let scratch = Scratch::new("replace");
    let (keys, prefix) = (scratch.open(), "web".parse().unwrap());
    keys.put(entries(&set("old.example"))).unwrap();
    let before = keys.certificate(&prefix).unwrap();
    let new = set("new.example");
    assert_eq!(refused(&keys, vec![entries(&new).swap_remove(1)]), CheckError::Mismatch);
    assert_eq!(refused(&keys, vec![entries(&new).swap_remove(0)]), CheckError::Issuer);
    assert!(Arc::ptr_eq(&before, &keys.certificate(&prefix).unwrap()), "a refused step changes nothing");
    keys.put(entries(&new)).unwrap();
    assert_eq!(keys.list()[0].hostnames[0], "new.example");
}

#[test]
fn what_is_not_what_it_is_said_to_be_is_refused() {
    let scratch = Scratch::new("refused");
    let keys = scratch.open();
    let [cert, key, issuer] = set("shed.example");
    let as_cert = |pem: &str| refused(&keys, vec![entry("a", KeyType::Cert, pem)]);
    let as_key = |pem: &str| refused(&keys, vec![entry("a", KeyType::Key, pem)]);
    assert_eq!(as_cert("hello"), CheckError::NoCertificate);
    assert_eq!(as_cert(&format!("{cert}{key}")), CheckError::KeyAmongCertificates);
    assert_eq!(as_cert(&format!("{issuer}{cert}")), CheckError::Order(1));
    assert!(matches!(as_cert(&cert.replace("MII", "M!I")), CheckError::Pem(_)));
    assert_eq!(
        as_cert(&"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n".repeat(2)),
        CheckError::Certificate(1)
    );
    assert_eq!(as_cert(&cert.repeat(11)), CheckError::TooMany);
    assert_eq!(as_key(&cert), CheckError::NoKey);
    assert_eq!(as_key("-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n"), CheckError::Key);
    let misnamed = refused(&keys, vec![entry("web_key.pem", KeyType::Cert, &cert)]);
    assert!(matches!(misnamed, CheckError::OtherName { .. }));
    assert_eq!(keys.list(), []);
}

#[test]
fn a_private_key_is_shown_only_when_that_is_meant_and_never_by_an_error() {
    let scratch = Scratch::new("secret");
    let keys = scratch.open();
    let set = set("shed.example");
    keys.put(entries(&set)).unwrap();
    let name = "web_key.pem".parse().unwrap();
    let error = keys.show(&name, false).unwrap_err();
    assert!(matches!(&error, KeysError::Secret(_)) && !format!("{error} {error:?}").contains("BEGIN"));
    assert_eq!(keys.show(&name, true).unwrap().pem, set[1]);
    assert_eq!(keys.show(&"web_cert.pem".parse().unwrap(), false).unwrap().pem, set[0]);
}

#[test]
fn a_renewal_keeps_its_hands_off_what_was_changed_by_hand() {
    let scratch = Scratch::new("by-hand");
    let keys = scratch.open();
    let prefix: KeyPrefix = "web".parse().unwrap();
    let (first, second) = (set("shed.example"), set("shed.example"));
    let cert = || keys.show(&"web_cert.pem".parse().unwrap(), false).map(|entry| entry.pem.clone());
    let refused = |seen: &Seen| {
        for put in [entries(&second), Vec::new()] {
            assert!(matches!(keys.renew(seen, put, Vec::new()), Err(KeysError::ByHand(_))));
        }
    };
    keys.put(entries(&first)).unwrap();
    let seen = keys.seen(&prefix);
    // The same text, but somebody's own.
    keys.put(entries(&first)).unwrap();
    refused(&seen);
    assert_eq!(cert().unwrap(), first[0]);

    let seen = keys.seen(&prefix);
    let after = keys.renew(&seen, entries(&second), Vec::new()).unwrap();
    assert_eq!(cert().unwrap(), second[0]);
    refused(&seen);
    assert_eq!(keys.seen(&prefix), after);

    keys.remove(&["web_cert.pem".parse().unwrap(), "web_key.pem".parse().unwrap()]).unwrap();
    refused(&after);
    assert!(cert().is_err());
    keys.renew(&keys.seen(&prefix), entries(&second), Vec::new()).unwrap();
    assert_eq!(cert().unwrap(), second[0]);
}
