//! `tls`: obtain a certificate from a CA, which the node renews by itself from then on.

use std::{fs, path::PathBuf};

use argh::{ArgsInfo, FromArgs};
use hive_protocol::{
    HostPattern, KeyInfo, KeyPrefix, NetworkName,
    keys::{Challenge, ExternalAccount, TlsRequest},
};

use crate::{
    app::App,
    args::Target,
    cmds::parse_port,
    error::{Error, Result},
    format::until,
};

/// Let's Encrypt.
const DEFAULT_DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
const HTTP_PORT: u16 = 80;

/// Obtain a certificate for host names of a node, store it there and renew it by itself from then on.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "tls",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} --hostname shed.example.org --key-prefix web --challenge tls-alpn-01 --node shed\n\
               {command_name} --hostname example.org --hostname www.example.org --key-prefix site",
    note = "The CA checks that the names lead here. http-01: it asks on port 80, which this node answers, sending all else \
            on to https. tls-alpn-01: it asks on port 443, which a proxy of this node with --tls true answers, also through \
            a tunnel: a node behind NAT proves its names itself, and its key never leaves it. Using a CA means that you \
            agree to its terms of service."
)]
pub struct Tls {
    /// host name; may be repeated
    #[argh(option, arg_name = "host")]
    pub hostname: Vec<HostPattern>,
    /// what the names in the key store begin with: PREFIX_cert.pem, PREFIX_key.pem, PREFIX_issuer.pem
    #[argh(option, arg_name = "prefix")]
    pub key_prefix: KeyPrefix,
    /// how the names are proven: http-01 or tls-alpn-01 (default: http-01)
    #[argh(option, default = "Challenge::Http01", from_str_fn(parse_challenge))]
    pub challenge: Challenge,
    /// the CA's ACME directory (default: Let's Encrypt)
    #[argh(option, arg_name = "url", default = "DEFAULT_DIRECTORY.to_owned()")]
    pub directory: String,
    /// PEM file with the root of a private CA, which its directory is checked against
    #[argh(option, arg_name = "pem")]
    pub ca_file: Option<PathBuf>,
    /// address to which the CA may write
    #[argh(option)]
    pub email: Option<String>,
    /// account made at the CA elsewhere: its key identifier (external account binding)
    #[argh(option, arg_name = "id")]
    pub eab_kid: Option<String>,
    /// file with the key of that account, base64url, as the CA gave it
    #[argh(option, arg_name = "file")]
    pub eab_key_file: Option<PathBuf>,
    /// http-01: port on which this node answers; port 80 of the names must lead there (default: 80)
    #[argh(option, default = "HTTP_PORT", from_str_fn(parse_port))]
    pub http_port: u16,
    /// node to act on, by peer id or name (default: the local agent)
    #[argh(option, arg_name = "id|name")]
    pub node: Option<String>,
    /// network of the node, needed where it is reachable in several
    #[argh(option, arg_name = "name")]
    pub network: Option<NetworkName>,
    /// user to log in as (environment: HIVE_USER; default: admin)
    #[argh(option, arg_name = "name")]
    pub user: Option<String>,
    /// read the password from standard input (environment: HIVE_PASSWORD)
    #[argh(switch)]
    pub password_stdin: bool,
}

/// Waits for the certificate and shows each step towards it.
pub async fn run(app: &App, args: &Tls) -> Result<()> {
    let request = request(args)?;
    let (node, network, user) = (args.node.clone(), args.network.clone(), args.user.clone());
    let mut client = app.connect(&Target { node, network, user, password_stdin: args.password_stdin }).await?;
    let stored = client.obtain(request, |step| app.out.step(step)).await?;
    app.out.done(&stored, || sentence(&client.name.to_string(), &stored))
}

fn sentence(node: &str, stored: &[KeyInfo]) -> String {
    let names: Vec<_> = stored.iter().map(|key| key.key_name.as_str()).collect();
    let now = super::keys::now();
    let first = stored.first();
    let end = first.and_then(|key| key.not_after).map(|end| format!(", ends {}", until(end, now)));
    let renewal = first.and_then(|key| key.renews_at).map(|at| format!(", is renewed {}", until(at, now)));
    format!("{node} now has {}{}{}", names.join(", "), end.unwrap_or_default(), renewal.unwrap_or_default())
}

fn request(args: &Tls) -> Result<TlsRequest> {
    if args.hostname.is_empty() {
        return Err(Error::usage("--hostname HOST is needed"));
    }
    let read = |path: &PathBuf| {
        fs::read_to_string(path).map_err(|e| Error::failed(format!("cannot read {}: {e}", path.display())))
    };
    let external = match (&args.eab_kid, &args.eab_key_file) {
        (Some(kid), Some(file)) => Some(ExternalAccount { kid: kid.clone(), hmac_key: mac_key(&read(file)?)? }),
        (None, None) => None,
        _ => return Err(Error::usage("--eab-kid and --eab-key-file belong together")),
    };
    Ok(TlsRequest {
        hostnames: args.hostname.clone(),
        key_prefix: args.key_prefix.clone(),
        challenge: args.challenge,
        directory: args.directory.clone(),
        roots: args.ca_file.as_ref().map(read).transpose()?,
        email: args.email.clone(),
        external,
        http_port: args.http_port,
    })
}

fn mac_key(text: &str) -> Result<Vec<u8>> {
    let text = text.trim().trim_end_matches('=');
    let decoded = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes());
    decoded.map_err(|_| {
        Error::usage("the key of the external account is not base64url").hint("store it as the CA gave it")
    })
}

fn parse_challenge(text: &str) -> Result<Challenge, String> {
    match text {
        "http-01" => Ok(Challenge::Http01),
        "tls-alpn-01" => Ok(Challenge::TlsAlpn01),
        _ => Err("expected http-01 or tls-alpn-01".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        args::{Parsed, Verb, parse},
        error::Status,
    };

    fn flags(line: &str) -> Result<TlsRequest> {
        let words = format!("tls {line}").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let Parsed::Run(args) = parse(words)? else { panic!("{line} prints") };
        let Some(Verb::Tls(args)) = args.verb else { panic!("{line} is another verb") };
        request(&args)
    }

    #[test]
    fn names_are_enough() {
        let wish = flags("--hostname Shed.example --hostname www.shed.example --key-prefix web").unwrap();
        let names: Vec<_> = wish.hostnames.iter().map(HostPattern::as_str).collect();
        assert_eq!(names, ["shed.example", "www.shed.example"]);
        assert_eq!((wish.challenge, wish.http_port, wish.roots), (Challenge::Http01, 80, None));
        assert!(wish.directory.starts_with("https://"));
    }

    #[test]
    fn an_external_account_has_a_name_and_a_key() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "_-8=\n").unwrap();
        let base = "--hostname a.b --key-prefix web --eab-kid k1";
        let wish = flags(&format!("{base} --eab-key-file {}", file.path().display())).unwrap();
        assert_eq!(wish.external, Some(ExternalAccount { kid: "k1".into(), hmac_key: vec![0xff, 0xef] }));
        for line in [base, "--key-prefix web", "--hostname a.b", "--hostname a.b --key-prefix web --challenge dns-01"] {
            assert_eq!(flags(line).unwrap_err().status, Status::Usage, "{line}");
        }
    }
}
