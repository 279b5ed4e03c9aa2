//! What may begin, and what is forgotten.

use std::sync::Arc;

use hive_protocol::{
    KeyEntry, KeyPrefix, KeyType,
    keys::{Challenge, TlsRequest},
};
use rcgen::{CertificateParams, KeyPair};

use super::*;

struct Scene {
    folder: std::path::PathBuf,
    keys: Keys,
    acme: Arc<Acme>,
}

impl Scene {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("hive-acme-{name}-{}", std::process::id()));
        let store = Arc::new(Store::open(&folder).unwrap());
        let keys = Keys::load(store.clone()).unwrap();
        let acme = Arc::new(Acme::load(store, Arc::<Answers>::default(), &keys).unwrap());
        Self { folder, keys, acme }
    }

    /// A certificate that is due at once: there is none yet.
    fn certificate(&self, prefix: &str, ca: &str) -> Certificate {
        let wish = TlsRequest {
            hostnames: vec!["shed.example".parse().unwrap()],
            key_prefix: prefix.parse().unwrap(),
            challenge: Challenge::Http01,
            directory: format!("https://{ca}/dir"),
            roots: None,
            email: None,
            http_port: 80,
            external: None,
        };
        let seen = self.keys.seen(&wish.key_prefix);
        Certificate { record: Record::new(wish, 0), seen }
    }

    fn due(&self) -> Option<KeyPrefix> {
        self.acme.lock().due().map(|(.., certificate)| certificate.record.wish.key_prefix)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

#[test]
fn one_ca_takes_some_of_the_places_and_one_name_is_ordered_once() {
    let scene = Scene::new("places");
    let remember = |prefix: &str, ca| scene.acme.remember(&scene.keys, scene.certificate(prefix, ca));
    (0..6).for_each(|number| remember(&format!("a{number}"), "dead.example"));
    remember("b", "other.example");
    let claim = |prefix: &KeyPrefix| {
        let wish = scene.acme.lock().certificates[prefix].record.wish.clone();
        scene.acme.claim(&wish)
    };
    let mut claims = Vec::new();
    while let Some(prefix) = scene.due() {
        claims.push((prefix.to_string(), claim(&prefix).unwrap()));
        assert!(claim(&prefix).is_none(), "two orders for {prefix}");
    }
    let begun: Vec<&str> = claims.iter().map(|(prefix, _)| prefix.as_str()).collect();
    assert_eq!(begun, ["a0", "a1", "a2", "a3", "b"]);
    claims.remove(0);
    assert_eq!(scene.due().unwrap().to_string(), "a0", "an order that ends leaves its place");
}

#[test]
fn what_was_changed_by_hand_is_forgotten_whoever_hears_of_it_first() {
    let scene = Scene::new("forgotten");
    let certificate = scene.certificate("web", "a.example");
    scene.acme.remember(&scene.keys, certificate.clone());
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["shed.example".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let entry = KeyEntry { key_name: "web_cert.pem".parse().unwrap(), key_type: KeyType::Cert, pem: own };
    scene.keys.put(vec![entry]).unwrap();
    // Its renewal ends before the one who stored it has told of it.
    scene.acme.remember(&scene.keys, certificate);
    assert_eq!(scene.due(), None);
}
