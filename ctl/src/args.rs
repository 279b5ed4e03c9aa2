//! The command line: global options, the verbs, and what the verbs that act on a node have in common.
//!
//! argh does the parsing; [`parse`] adds what people expect beside it: `--option=value`, and `--json` and its like
//! after the verb as well as before it.

use std::path::PathBuf;

use argh::{ArgsInfo, EarlyExit, FromArgs};
use hive_protocol::NetworkName;
use multiaddr::Multiaddr;

use crate::{
    cmds,
    error::{Error, Result},
};

/// Version, target triple and commit.
const VERSION: &str =
    concat!("hivectl ", env!("CARGO_PKG_VERSION"), " ", env!("HIVE_TARGET"), " ", env!("HIVE_COMMIT"), "\n");

/// Drive any node of a hive federation from any other.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    help_triggers("-h", "--help", "help"),
    example = "{command_name} nodes\n{command_name} --json status --node shed",
    note = "A password is never taken from the command line: it comes from a saved session, HIVE_USER and \
            HIVE_PASSWORD, --password-stdin, or the prompt.",
    error_code(1, "the operation failed"),
    error_code(2, "the command line makes no sense"),
    error_code(3, "not authorised"),
    error_code(4, "the node cannot be reached")
)]
pub struct Args {
    /// socket of the local agent (environment: HIVE_SOCKET)
    #[argh(option, arg_name = "path")]
    pub socket: Option<PathBuf>,
    /// use no local agent: dial this address, which ends in /p2p/ID
    #[argh(option, arg_name = "multiaddr")]
    pub direct: Option<Multiaddr>,
    /// print one JSON document and nothing else
    #[argh(switch)]
    pub json: bool,
    /// print no confirmations and no warnings
    #[argh(switch)]
    pub quiet: bool,
    /// print version, target triple and commit
    #[argh(switch)]
    pub version: bool,
    /// what to do
    #[argh(subcommand)]
    pub verb: Option<Verb>,
}

/// The verbs.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum Verb {
    /// See [`cmds::login::Login`].
    Login(cmds::login::Login),
    /// See [`cmds::login::Logout`].
    Logout(cmds::login::Logout),
    /// See [`cmds::sessions::Sessions`].
    Sessions(cmds::sessions::Sessions),
    /// See [`cmds::id::Id`].
    Id(cmds::id::Id),
    /// See [`cmds::register::Register`].
    Register(cmds::register::Register),
    /// See [`cmds::networks::Networks`].
    Networks(cmds::networks::Networks),
    /// See [`cmds::nodes::Nodes`].
    Nodes(cmds::nodes::Nodes),
    /// See [`cmds::status::Status`].
    Status(cmds::status::Status),
    /// See [`cmds::proxy::Proxy`].
    Proxy(cmds::proxy::Proxy),
    /// See [`cmds::forward::Forward`].
    Forward(cmds::forward::Forward),
    /// See [`cmds::connect::Connect`].
    Connect(cmds::connect::Connect),
    /// See [`cmds::tls::Tls`].
    Tls(cmds::tls::Tls),
    /// See [`cmds::keys::Keys`].
    Keys(cmds::keys::Keys),
    /// See [`cmds::keys::CreateKey`].
    CreateKey(cmds::keys::CreateKey),
    /// See [`cmds::exec::Shell`].
    Shell(cmds::exec::Shell),
    /// See [`cmds::exec::Exec`].
    Exec(cmds::exec::Exec),
    /// See [`cmds::cp::Cp`].
    Cp(cmds::cp::Cp),
    /// See [`cmds::metrics::GetMetrics`].
    GetMetrics(cmds::metrics::GetMetrics),
    /// See [`cmds::logs::Logs`].
    Logs(cmds::logs::Logs),
    /// See [`cmds::update::UpdateNode`].
    UpdateNode(cmds::update::UpdateNode),
    /// See [`cmds::node::Rename`].
    Rename(cmds::node::Rename),
    /// See [`cmds::node::Listen`].
    Listen(cmds::node::Listen),
    /// See [`cmds::completions::Completions`].
    Completions(cmds::completions::Completions),
}

/// The node that a verb acts on, and as whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Peer id or name; none for the local agent.
    pub node: Option<String>,
    /// Network in which the node is looked up.
    pub network: Option<NetworkName>,
    /// User to log in as.
    pub user: Option<String>,
    /// Whether the node's password is on standard input.
    pub password_stdin: bool,
}

impl Target {
    /// This target, completed by what was said before a nested verb: `networks --node shed ls`.
    pub fn or(self, outer: Self) -> Self {
        Self {
            node: self.node.or(outer.node),
            network: self.network.or(outer.network),
            user: self.user.or(outer.user),
            password_stdin: self.password_stdin || outer.password_stdin,
        }
    }
}

/// Declares the arguments of a verb that acts on a node: its own fields, then those of [`Target`].
macro_rules! node_verb {
    ($(#[$($meta:tt)*])* pub struct $name:ident {
        // argh has to see the tokens of a type, so it cannot be taken as `ty`.
        $($(#[$($field_meta:tt)*])* pub $field:ident: $ty:ident $(<$inner:ident>)?,)*
    }) => {
        #[derive(argh::FromArgs, argh::ArgsInfo, Debug)]
        $(#[$($meta)*])*
        pub struct $name {
            $($(#[$($field_meta)*])* pub $field: $ty $(<$inner>)?,)*
            /// node to act on, by peer id or name (default: the local agent)
            #[argh(option, arg_name = "id|name")]
            pub node: Option<String>,
            /// network of the node, needed where it is reachable in several
            #[argh(option, arg_name = "name")]
            pub network: Option<hive_protocol::NetworkName>,
            /// user to log in as (environment: HIVE_USER; default: admin)
            #[argh(option, arg_name = "name")]
            pub user: Option<String>,
            /// read the password from standard input (environment: HIVE_PASSWORD)
            #[argh(switch)]
            pub password_stdin: bool,
        }

        impl $name {
            /// The node acted on.
            pub fn target(&self) -> $crate::args::Target {
                $crate::args::Target {
                    node: self.node.clone(),
                    network: self.network.clone(),
                    user: self.user.clone(),
                    password_stdin: self.password_stdin,
                }
            }
        }
    };
}
pub(crate) use node_verb;

/// What a command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// A verb with its options.
    Run(Box<Args>),
    /// A text to print, and nothing else to do.
    Print(String),
}

/// Parses the arguments that follow the program's name.
pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Parsed> {
    let args = normalise(args);
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match Args::from_args(&["hivectl"], &words) {
        Ok(args) if args.version && args.json => Ok(Parsed::Print(version_json())),
        Ok(args) if args.version => Ok(Parsed::Print(VERSION.to_owned())),
        Ok(args) => Ok(Parsed::Run(Box::new(args))),
        Err(EarlyExit { output, status: Ok(()) }) => Ok(Parsed::Print(wrapped(&output))),
        Err(EarlyExit { output, .. }) => Err(misused(&output, &words)),
    }
}

fn version_json() -> String {
    let (version, target, commit) = (env!("CARGO_PKG_VERSION"), env!("HIVE_TARGET"), env!("HIVE_COMMIT"));
    serde_json::json!({ "version": version, "target": target, "commit": commit }).to_string() + "\n"
}

/// Width of a help text, which argh keeps to but in notes.
const WIDTH: usize = 80;

/// A help text whose notes are broken into lines, too; what is to be copied stays whole.
fn wrapped(help: &str) -> String {
    help.lines()
        .flat_map(
            |line| if line.trim_start().starts_with("hivectl") { vec![line.to_owned()] } else { wrapped_line(line) },
        )
        .map(|line| line + "\n")
        .collect()
}

fn wrapped_line(line: &str) -> Vec<String> {
    let indent = &line[..line.len() - line.trim_start().len()];
    if line.chars().count() <= WIDTH {
        return vec![line.to_owned()];
    }
    let mut lines = vec![indent.to_owned()];
    for word in line.split_whitespace() {
        let Some(last) = lines.last_mut() else { continue };
        let begun = last.len() > indent.len();
        if begun && last.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(format!("{indent}{word}"));
        } else {
            last.push_str(if begun { " " } else { "" });
            last.push_str(word);
        }
    }
    lines
}

/// What parsers of the standard library say, in words for people.
const PLAIN: [(&str, &str); 8] = [
    ("Error parsing option ", "the option "),
    ("Error parsing positional argument ", "the argument "),
    ("Unrecognized argument: ", "there is no option or argument "),
    ("invalid digit found in string", "not a whole number"),
    ("number too large to fit in target type", "the number is too large"),
    ("cannot parse integer from empty string", "it is empty"),
    ("provided string was not `true` or `false`", "expected true or false"),
    ("invalid IP address syntax", "not an IP address"),
];

/// The first word that is no global option: the verb, if there is such a verb.
fn first_word<'a>(words: &[&'a str]) -> Option<&'a str> {
    let mut words = words.iter().copied();
    loop {
        match words.next()? {
            "--socket" | "--direct" => drop(words.next()),
            word if !word.starts_with('-') => return Some(word),
            _ => {}
        }
    }
}

fn is_verb(word: &str) -> bool {
    Args::get_args_info().commands.iter().any(|verb| verb.name == word)
}

/// argh's complaint as one sentence.
fn misused(output: &str, words: &[&str]) -> Error {
    let hint = match first_word(words) {
        Some(verb) if is_verb(verb) => format!("`hivectl {verb} --help` shows what can be given"),
        Some(word) if output.starts_with("Unrecognized argument") && output.contains(word) => {
            return Error::usage(format!("no such verb: {word}")).hint("`hivectl help` lists the verbs");
        }
        _ => "`hivectl help` lists the verbs".to_owned(),
    };
    let output = PLAIN.iter().fold(output.to_owned(), |text, (from, to)| text.replace(from, to));
    let mut lines = output.lines().map(str::trim).filter(|l| !l.is_empty());
    let head = lines.next().unwrap_or("this command line makes no sense").trim_end_matches('.');
    let rest: Vec<&str> = lines.filter(|l| *l != "help").collect();
    let what = if rest.is_empty() { head.to_owned() } else { format!("{head} {}", rest.join(", ")) };
    Error::usage(lower_first(&what)).hint(hint)
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_lowercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

/// Splits `--option=value` and brings global options to the front; what follows `--` stays as it is.
fn normalise(args: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut args = args.into_iter();
    let (mut front, mut rest) = (Vec::new(), Vec::new());
    while let Some(arg) = args.next() {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
            _ => (arg, None),
        };
        match name.as_str() {
            "--json" | "--quiet" => front.extend([Some(name), value].into_iter().flatten()),
            "--socket" | "--direct" => front.extend([Some(name), value.or_else(|| args.next())].into_iter().flatten()),
            "--" => {
                rest.push(name);
                rest.extend(args.by_ref());
            }
            _ => rest.extend([Some(name), value].into_iter().flatten()),
        }
    }
    front.extend(rest);
    front
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn run(line: &str) -> Args {
        match parse(words(line)) {
            Ok(Parsed::Run(args)) => *args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn global_options_stand_anywhere_before_a_double_dash() {
        assert_eq!(normalise(words("nodes --json --socket=/s")), words("--json --socket /s nodes"));
        assert_eq!(normalise(words("nodes --socket /s --ls")), words("--socket /s nodes --ls"));
        assert_eq!(normalise(words("x -- --json a=b --c=d")), words("x -- --json a=b --c=d"));
        let args = run("id --node=shed --json");
        assert!(args.json && matches!(args.verb, Some(Verb::Id(id)) if id.node.as_deref() == Some("shed")));
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error() {
        for line in ["nonsense", "nodes --nonsense", "register", "proxy rm", "id --network two:words", "rename"] {
            let error = parse(words(line)).unwrap_err();
            assert_eq!(error.status, Status::Usage, "{line}");
            assert!(!error.what.contains('\n') && error.what.starts_with(char::is_lowercase), "{}", error.what);
        }
        let missing = parse(words("register --b64 x")).unwrap_err();
        assert_eq!(missing.what, "required options not provided: --network");
        let told = |line| parse(words(line)).map(drop).unwrap_err();
        assert_eq!(told("bogus --node x").what, "no such verb: bogus");
        assert_eq!(told("proxy rm three").what, "the argument 'id' with value 'three': not a whole number");
        assert_eq!(told("proxy rm three").hint.unwrap(), "`hivectl proxy --help` shows what can be given");
    }

    #[test]
    fn help_and_version_are_no_errors() {
        for line in
            ["--help", "-h", "help", "nodes --help", "nodes -h", "networks join -h", "help proxy rm", "proxy help"]
        {
            let Ok(Parsed::Print(text)) = parse(words(line)) else { panic!("{line}") };
            assert!(text.starts_with("Usage: hivectl"), "{text}");
            assert!(text.contains("Examples:"), "{line}: {text}");
        }
        assert!(matches!(parse(words("--version")), Ok(Parsed::Print(v)) if v.starts_with("hivectl 0.")));
        assert!(matches!(parse(words("--version --json")), Ok(Parsed::Print(v)) if v.starts_with("{\"commit\"")));
    }

    #[test]
    fn notes_are_broken_into_lines_and_examples_are_not() {
        let (note, example) = (format!("  {}", "word ".repeat(40)), format!("  hivectl {}", "--x y ".repeat(20)));
        let text = wrapped(&format!("{note}\n{example}\n"));
        let (last, notes) = {
            let mut lines: Vec<_> = text.lines().collect();
            (lines.pop().unwrap(), lines)
        };
        assert_eq!(last, example);
        assert!(
            notes.len() == 3 && notes.iter().all(|line| line.len() <= WIDTH && line.starts_with("  word")),
            "{text}"
        );
    }

    #[test]
    fn the_nested_verb_completes_the_outer_target() {
        let outer = Target { node: Some("a".into()), password_stdin: true, ..Target::default() };
        let inner = Target { node: Some("b".into()), ..Target::default() };
        assert_eq!(inner.clone().or(outer.clone()).node.as_deref(), Some("b"));
        assert!(inner.or(outer.clone()).password_stdin);
        assert_eq!(Target::default().or(outer.clone()), outer);
    }
    #[test]
    fn every_verb_that_may_log_in_takes_the_password_from_standard_input() {
        fn without(info: &argh::CommandInfoWithArgs, found: &mut Vec<String>) {
            let has = |name: &str| info.flags.iter().any(|flag| flag.long.trim_start_matches('-') == name);
            if has("user") && !has("password-stdin") {
                found.push(info.name.to_owned());
            }
            info.commands.iter().for_each(|verb| without(&verb.command, found));
        }
        let mut found = Vec::new();
        without(&Args::get_args_info(), &mut found);
        found.sort();
        assert_eq!(found, ["connect", "exec"], "theirs is for the program");
    }
}
