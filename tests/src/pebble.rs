//! Pebble, Let's Encrypt's own test server, with a name server of its own: Debian's package, unpacked where
//! `tests/pebble` puts it.

use crate::{
    lab::Host,
    notice,
    pki::Authority,
    process::{self, PATIENCE, Process},
    wait::wait_for,
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

const ACME: u16 = 14000;
const MANAGEMENT: u16 = 15000;
const DNS: u16 = 8053;
const DNS_MANAGEMENT: u16 = 8055;

/// How the CA behaves.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Good nonces that it rejects all the same, in percent.
    pub nonces_rejected: u8,
    /// Seconds that a certificate lives.
    pub validity: u32,
    /// Names that it issues nothing for.
    pub blocked: Vec<String>,
    /// Seconds that it takes to check a name.
    pub checks_for: u32,
    /// Whether a name that was proven may count as proven for a later order.
    pub remembers_proofs: bool,
    /// The identifier and the key, base64url, of an account made elsewhere; with one, none but such accounts are made.
    pub external: Option<(String, String)>,
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour {
            nonces_rejected: 15,
            validity: 90 * 24 * 3600,
            blocked: Vec::new(),
            checks_for: 0,
            remembers_proofs: true,
            external: None,
        }
    }
}

/// A running CA.
pub struct Pebble {
    host: Host,
    authority: Authority,
    folder: PathBuf,
    config: PathBuf,
    behaviour: Behaviour,
    server: Process,
    _names: Process,
}

impl Pebble {
    /// Starts one on a host; `None` where it is not there, said for `test`.
    pub fn start(test: &str, host: &Host, behaviour: &Behaviour) -> Option<Pebble> {
        let folder = std::env::var_os("HIVE_PEBBLE").map(PathBuf::from);
        let Some(folder) = folder.filter(|folder| folder.join("pebble").exists()) else {
            notice::left_out(test, "needs pebble: run tests/pebble, or name its folder in HIVE_PEBBLE");
            return None;
        };
        let authority = Authority::create("pebble's own CA");
        let mut names = host.command(folder.join("pebble-challtestsrv"));
        let address = host.ipv4().to_string();
        names.args([
            "-defaultIPv6",
            "",
            "-defaultIPv4",
            "",
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
            "-doh",
            "",
        ]);
        names.args(["-dns01", &format!("{address}:{DNS}"), "-management", &format!("{address}:{DNS_MANAGEMENT}")]);
        let names = Process::start(host, "names", names);
        let config = config(host, &authority, behaviour);
        let server = serve(host, &folder, &config, behaviour);
        let pebble = Pebble {
            host: host.clone(),
            authority,
            folder,
            config,
            behaviour: behaviour.clone(),
            server,
            _names: names,
        };
        pebble.root();
        Some(pebble)
    }

    /// Stops it and starts another in its place, which knows no account, no order and no root of the first.
    pub fn replace(&mut self) {
        self.server.kill();
        self.server = serve(&self.host, &self.folder, &self.config, &self.behaviour);
        self.root();
    }

    /// The address of its directory.
    pub fn directory(&self) -> String {
        format!("https://{}:{ACME}/dir", self.host.ipv4())
    }

    /// A file with the certificate by which its directory is to be trusted.
    pub fn ca_file(&self) -> PathBuf {
        let path = self.host.folder("pebble").join("ca.pem");
        fs::write(&path, self.authority.pem()).expect("a file in the lab's folder");
        path
    }

    /// The root of the certificates that it issues, PEM.
    pub fn root(&self) -> String {
        let url = format!("https://{}:{MANAGEMENT}/roots/0", self.host.ipv4());
        wait_for("pebble hands out its root", PATIENCE, || {
            let answer = self.curl(&["--fail", &url]);
            (answer.status == Some(0)).then_some(answer.stdout)
        })
    }

    /// Makes a name lead to an address, in place of any other.
    pub fn lead(&self, name: &str, to: Ipv4Addr) {
        let url = |verb: &str| format!("http://{}:{DNS_MANAGEMENT}/{verb}", self.host.ipv4());
        let host = format!("{name}.");
        self.curl(&["--fail", "--data", &json!({ "host": host }).to_string(), &url("clear-a")]).success();
        let record = json!({ "host": host, "addresses": [to] }).to_string();
        self.curl(&["--fail", "--data", &record, &url("add-a")]).success();
    }

    /// Where it runs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The server's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.server
    }

    fn curl(&self, arguments: &[&str]) -> process::Output {
        let mut command = self.host.command("curl");
        // Both servers need a moment before they listen.
        command.args(["--retry", "20", "--retry-connrefused", "--retry-delay", "1"]);
        command.args(["--silent", "--show-error", "--noproxy", "*", "--cacert"]).arg(self.ca_file()).args(arguments);
        process::run(command, b"", PATIENCE)
    }
}

fn serve(host: &Host, folder: &Path, config: &Path, behaviour: &Behaviour) -> Process {
    let mut server = host.command(folder.join("pebble"));
    server.arg("-config").arg(config).args(["-dnsserver", &format!("{}:{DNS}", host.ipv4())]);
    server.env("PEBBLE_WFE_NONCEREJECT", behaviour.nonces_rejected.to_string());
    if !behaviour.remembers_proofs {
        server.env("PEBBLE_AUTHZREUSE", "0");
    }
    match behaviour.checks_for {
        0 => server.env("PEBBLE_VA_NOSLEEP", "1"),
        seconds => server.env("PEBBLE_VA_SLEEPTIME", seconds.to_string()),
    };
    Process::start(host, "pebble", server)
}

fn config(host: &Host, authority: &Authority, behaviour: &Behaviour) -> PathBuf {
    let folder = host.folder("pebble");
    let own = authority.certify(&[&host.ipv4().to_string()]);
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).expect("a file in the lab's folder");
        path
    };
    let (certificate, key) = (write("cert.pem", &own.cert), write("key.pem", &own.key));
    let config = json!({ "pebble": {
        "listenAddress": format!("{}:{ACME}", host.ipv4()),
        "managementListenAddress": format!("{}:{MANAGEMENT}", host.ipv4()),
        "certificate": certificate,
        "privateKey": key,
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": behaviour.external.is_some(),
        "externalAccountMACKeys": behaviour.external.iter().cloned().collect::<BTreeMap<_, _>>(),
        "domainBlocklist": behaviour.blocked,
        "retryAfter": { "authz": 1, "order": 1 },
        "certificateValidityPeriod": behaviour.validity,
    } });
    write("config.json", &config.to_string())
}
