//! `create-key`: certificates and keys from elsewhere into the key store of a node.

use std::{
    fs::File,
    io::{self, Read},
};

use argh::{ArgsInfo, FromArgs};
use hive_protocol::{KeyEntry, KeyInfo, KeyName, KeyType, NetworkName, keys::PEM_MAX};

use super::list::{now, word};
use crate::{
    app::App,
    args::Target,
    error::{Error, Result},
    format::until,
};

/// Store a certificate, a private key or issuers in the key store of a node.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "create-key",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} --key-name web_cert.pem --key-type cert --key-content @fullchain.pem\n\
               {command_name} --key-name web_key.pem --key-type key --key-content - < privkey.pem",
    note = "A set that TLS is served with is named PREFIX_cert.pem, PREFIX_key.pem and, where the certificate's text has \
            no issuers in it, PREFIX_issuer.pem. The three options may be repeated: what they name is stored together or \
            not at all, which is how a certificate and its key are replaced."
)]
pub struct CreateKey {
    /// name of the entry; may be repeated
    #[argh(option, arg_name = "name")]
    pub key_name: Vec<KeyName>,
    /// what it is: cert, key or issuer; once for each name
    #[argh(option, arg_name = "type", from_str_fn(parse_type))]
    pub key_type: Vec<KeyType>,
    /// the PEM text, @FILE, or - for standard input; once for each name
    #[argh(option, arg_name = "pem|@file|-")]
    pub key_content: Vec<String>,
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

/// Stores the entries in one step.
pub async fn create(app: &App, args: &CreateKey) -> Result<()> {
    let entries = entries(args)?;
    let target = Target {
        node: args.node.clone(),
        network: args.network.clone(),
        user: args.user.clone(),
        password_stdin: args.password_stdin,
    };
    let mut client = app.connect(&target).await?;
    let stored = client.put_keys(entries).await?;
    app.out.done(&stored, || stored.iter().map(sentence).collect::<Vec<_>>().join("\n"))
}

fn sentence(key: &KeyInfo) -> String {
    let hosts = if key.hostnames.is_empty() { String::new() } else { format!(" for {}", key.hostnames.join(", ")) };
    let end = key.not_after.map(|end| match until(end, now()).as_str() {
        "expired" => ", which has expired".to_owned(),
        end => format!(", ends {end}"),
    });
    format!("stored {} {}{hosts}{}", word(key.key_type), key.key_name, end.unwrap_or_default())
}

fn entries(args: &CreateKey) -> Result<Vec<KeyEntry>> {
    let counts = [args.key_name.len(), args.key_type.len(), args.key_content.len()];
    if counts[0] == 0 || counts.iter().any(|count| *count != counts[0]) {
        return Err(Error::usage("--key-name, --key-type and --key-content are needed, all equally often"));
    }
    let from_stdin = args.key_content.iter().filter(|content| *content == "-").count();
    if from_stdin + usize::from(args.password_stdin) > 1 {
        return Err(Error::usage("standard input can be read once only").hint("give files with @FILE"));
    }
    let all = args.key_name.iter().zip(&args.key_type).zip(&args.key_content);
    all.map(|((name, key_type), content)| {
        Ok(KeyEntry { key_name: name.clone(), key_type: *key_type, pem: text(content)? })
    })
    .collect()
}

/// The text itself, a file's, or that of standard input.
fn text(content: &str) -> Result<String> {
    match content.strip_prefix('@') {
        _ if content == "-" => read(io::stdin().lock(), "standard input"),
        Some(path) => read(File::open(path).map_err(|e| unreadable(path, &e))?, path),
        None => Ok(content.to_owned()),
    }
}

fn read(from: impl Read, what: &str) -> Result<String> {
    let mut text = String::new();
    from.take(PEM_MAX as u64 + 1).read_to_string(&mut text).map_err(|e| unreadable(what, &e))?;
    if text.len() > PEM_MAX { Err(Error::usage(format!("{what} is longer than {PEM_MAX} bytes"))) } else { Ok(text) }
}

fn unreadable(what: &str, error: &io::Error) -> Error {
    Error::failed(format!("cannot read {what}: {error}"))
}

fn parse_type(text: &str) -> Result<KeyType, String> {
    match text {
        "cert" => Ok(KeyType::Cert),
        "key" => Ok(KeyType::Key),
        "issuer" => Ok(KeyType::Issuer),
        _ => Err("expected cert, key or issuer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        args::{Parsed, Verb, parse},
        error::Status,
    };

    fn flags(words: &[&str]) -> Result<Vec<KeyEntry>> {
        let words = ["create-key"].iter().chain(words).map(|word| (*word).to_owned());
        let Parsed::Run(args) = parse(words)? else { panic!("prints") };
        let Some(Verb::CreateKey(args)) = args.verb else { panic!("another verb") };
        entries(&args)
    }

    #[test]
    fn options_make_entries_in_their_order() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from a file").unwrap();
        let path = format!("@{}", file.path().display());
        let both = ["--key-name", "a", "--key-type", "cert", "--key-content", "literal", "--key-name", "b"];
        let made = flags(&[&both[..], &["--key-type", "key", "--key-content", &path]].concat()).unwrap();
        let pems: Vec<_> = made.iter().map(|e| (e.key_name.as_str(), e.key_type, e.pem.as_str())).collect();
        assert_eq!(pems, [("a", KeyType::Cert, "literal"), ("b", KeyType::Key, "from a file")]);
    }

    #[test]
    fn what_does_not_fit_together_is_a_usage_error() {
        for line in [
            &[][..],
            &["--key-name", "a", "--key-type", "cert"],
            &["--key-name", "a/b", "--key-type", "cert", "--key-content", "x"],
            &["--key-name", "a", "--key-type", "csr", "--key-content", "x"],
            &["--key-name", "a", "--key-type", "cert", "--key-content", "-", "--password-stdin"],
        ] {
            assert_eq!(flags(line).unwrap_err().status, Status::Usage, "{line:?}");
        }
    }
}
