//! Holds `README.md` against the programs: every command in its console blocks is one that they take, and every verb
//! has an example there.

use hive_tests::process::{self, Output};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const SOON: Duration = Duration::from_secs(60);
/// What a command line that makes no sense ends with, see `hivectl --help`.
const USAGE: i32 = 2;

#[test]
fn every_command_is_one_that_the_programs_take() {
    let commands = commands();
    assert!(commands.len() > 40, "only {} commands were found", commands.len());
    let identity = identity(&commands);
    let refused: Vec<String> = commands.iter().filter_map(|words| refusal(words, &identity)).collect();
    assert!(refused.is_empty(), "README.md has commands that are refused:\n{}", refused.join("\n"));
}

#[test]
fn a_command_that_makes_no_sense_is_noticed() {
    let told = |line: &str| refusal(&split(line)[0], "");
    for line in [
        "hivectl nodes --nonsense",
        "hivectl register --network home",
        "hivectl proxy --direction egress --port 80",
        "hivectl --direct /ip4/192.0.2.7/tcp/4180/p2p/nobody id",
        "hive-agent --nonsense",
        "hive-agent wash-password",
    ] {
        assert!(told(line).is_some(), "{line}");
    }
    assert_eq!(told("hivectl nodes"), None);
}

#[test]
fn every_verb_has_an_example() {
    let shown: BTreeSet<String> = commands().into_iter().flatten().collect();
    for program in ["hivectl", "hive-agent"] {
        let help = run(program, &["--help".to_owned()], "").success();
        let (_, verbs) = help.split_once("Commands:").expect("a list of verbs in the help");
        let (verbs, _) = verbs.split_once("\n\n").expect("more help below the verbs");
        // Descriptions that need a second line are indented further.
        let verbs = verbs.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
        let verbs: Vec<&str> = verbs.filter_map(|line| line.split_whitespace().next()).collect();
        assert!(!verbs.is_empty(), "{help}");
        let missing: Vec<_> = verbs.iter().filter(|verb| !shown.contains(**verb)).collect();
        assert!(missing.is_empty(), "README.md has no example of {program} {missing:?}");
    }
}

#[test]
fn links_lead_somewhere() {
    let text = readme();
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let (inside, outside): (Vec<&str>, Vec<&str>) = targets.partition(|target| target.starts_with('#'));
    let anchors: BTreeSet<String> = text.lines().filter(|line| line.starts_with("##")).map(anchor).collect();
    let lost: Vec<_> = inside.iter().filter(|target| !anchors.contains(**target)).collect();
    let files: Vec<_> = outside.iter().filter(|target| !target.contains("://")).collect();
    let missing: Vec<_> = files.iter().filter(|file| !root().join(file).exists()).collect();
    assert!(!inside.is_empty() && !files.is_empty());
    assert!(lost.is_empty() && missing.is_empty(), "README.md links to {lost:?} {missing:?}");
}

/// What a heading's link looks like, as GitHub and others make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-'));
    std::iter::once('#').chain(kept.map(|c| if c == ' ' { '-' } else { c })).collect()
}

#[test]
fn lines_are_split_as_a_shell_does() {
    assert_eq!(
        split("hivectl id | hivectl register --b64 -"),
        [vec!["hivectl", "id"], vec!["hivectl", "register", "--b64", "-"]]
    );
    assert_eq!(split("a 'b c' \"d 'e'\"f # not this"), [["a", "b c", "d 'e'f"]]);
    assert_eq!(split("a && b; c & d"), [["a"], ["b"], ["c"], ["d"]]);
    assert_eq!(split("a > file"), [["a"]]);
    assert_eq!(command(&split("sudo HIVE_USER=x hivectl id")[0]), Some(vec!["hivectl".into(), "id".into()]));
    assert_eq!(command(&split("curl hivectl")[0]), None);
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the workspace around this crate").to_owned()
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("README.md beside the workspace's Cargo.toml")
}

/// The commands of our programs in all console blocks, as words.
fn commands() -> Vec<Vec<String>> {
    let text = readme();
    let mut commands = Vec::new();
    for block in text.split("\n```console\n").skip(1) {
        let block = block.split("\n```").next().unwrap_or_default().replace("\\\n", " ");
        let lines = block.lines().filter_map(|line| line.strip_prefix("$ "));
        commands.extend(lines.flat_map(split).filter_map(|words| command(&words)));
    }
    commands
}

/// The first identity that is registered, for those commands that read one from another program.
fn identity(commands: &[Vec<String>]) -> String {
    let pairs = commands.iter().flat_map(|words| words.windows(2));
    let mut values = pairs.filter(|pair| pair[0] == "--b64").map(|pair| pair[1].clone());
    values.find(|value| value != "-").expect("a whole `register --b64 IDENTITY`")
}

/// The command without what stands before the program, if it is one of ours.
fn command(words: &[String]) -> Option<Vec<String>> {
    let before = |word: &&String| word.as_str() == "sudo" || (word.contains('=') && !word.starts_with('-'));
    let skipped = words.iter().take_while(before).count();
    let program = words.get(skipped)?.as_str();
    matches!(program, "hivectl" | "hive-agent").then(|| words[skipped..].to_vec())
}

/// The simple commands of a line, as words: enough of a shell for a README.
fn split(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut word, mut quote) = (vec![Vec::new()], None::<String>, None);
    for c in format!("{line}\n").chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            // What follows is a file.
            (None, '>' | '<') => break,
            (None, '|' | '&' | ';') => {
                last(&mut commands).extend(word.take());
                commands.push(Vec::new());
            }
            (None, c) if c.is_whitespace() => last(&mut commands).extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    last(&mut commands).extend(word);
    commands.retain(|words| !words.is_empty());
    commands
}

fn last(commands: &mut [Vec<String>]) -> &mut Vec<String> {
    commands.last_mut().expect("there is always one")
}

/// What a program with this on its standard input says against a command, if it refuses to understand it. No agent is
/// started and none is reached.
fn refusal(words: &[String], stdin: &str) -> Option<String> {
    let (program, arguments) = words.split_first().expect("a command has a program");
    let needs_help = program == "hive-agent" || arguments.iter().any(|word| word == "--direct");
    let mut arguments = arguments.to_vec();
    if needs_help {
        // Everything before is parsed first, and nothing is done.
        arguments.push("--help".to_owned());
    }
    let output = run(program, &arguments, stdin);
    (output.status == Some(USAGE)).then(|| format!("{}\n    {}", words.join(" "), output.stderr.trim()))
}

fn run(program: &str, arguments: &[String], stdin: &str) -> Output {
    let nowhere = std::env::temp_dir().join("hive-readme-has-no-agent");
    let mut command = Command::new(process::binary(program));
    command.args(arguments).env("HIVE_SOCKET", nowhere.join("agent.sock")).env("HOME", &nowhere);
    for name in ["HIVE_USER", "HIVE_PASSWORD", "HIVE_NETWORK_PASSWORD", "XDG_STATE_HOME"] {
        command.env_remove(name);
    }
    process::run(command, stdin.as_bytes(), SOON)
}
