//! Certificates of a CA that exists for one test alone.

use crate::node::Node;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::fs;

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// Certifies hosts and stores the set at a node, in one step.
    ///
    /// # Panics
    /// When the node refuses.
    pub fn store(&self, node: &Node, prefix: &str, hosts: &[&str]) -> Certified {
        let set = self.certify(hosts);
        let contents = [("cert", &set.cert), ("key", &set.key), ("issuer", &self.pem)];
        let mut arguments = vec!["create-key".to_owned()];
        for (part, pem) in contents {
            let path = node.host().folder("pem").join(format!("{}-{prefix}-{part}", node.name()));
            fs::write(&path, pem).expect("a file in the lab's folder");
            let options = [("--key-name", format!("{prefix}_{part}.pem")), ("--key-type", part.to_owned())];
            let options = options.into_iter().chain([("--key-content", format!("@{}", path.display()))]);
            arguments.extend(options.flat_map(|(name, value)| [name.to_owned(), value]));
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let told = node.ctl(&arguments).success();
        assert!(told.contains("ends in") && !told.contains("BEGIN"), "{told}");
        set
    }
}

/// A certificate, without its issuer, and its private key, both PEM.
pub struct Certified {
    /// The certificate.
    pub cert: String,
    /// Its private key, PKCS#8.
    pub key: String,
}

impl Authority {
    /// Makes one.
    pub fn create(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names to be wrong");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Its own certificate, PEM: what clients trust.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Certifies host names or addresses.
    pub fn certify(&self, hosts: &[&str]) -> Certified {
        let names: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("host names");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Certified { cert: cert.pem(), key: key.serialize_pem() }
    }
}
