//! `completions`: shell completions made from what argh knows about the verbs, so that they cannot fall behind.

use std::fmt::Write;

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfo, FlagInfoKind, FromArgValue, FromArgs};

use crate::{app::App, args::Args, error::Result};

/// Print shell completions.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "completions",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} bash > /etc/bash_completion.d/hivectl\n\
               {command_name} zsh > \"${{fpath[1]}}/_hivectl\"\n\
               {command_name} fish > ~/.config/fish/completions/hivectl.fish"
)]
pub struct Completions {
    /// bash, zsh or fish
    #[argh(positional)]
    pub shell: Shell,
}

/// The shells that are known.
#[derive(FromArgValue, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

/// Prints the script of a shell.
pub fn run(app: &App, args: &Completions) -> Result<()> {
    let commands = commands();
    let script = match args.shell {
        Shell::Bash => bash(&commands),
        Shell::Zsh => zsh(&commands),
        Shell::Fish => fish(&commands),
    };
    app.out.raw(&script)
}

/// A verb, or a verb of a verb, and what can follow it.
struct Command {
    /// Words that lead to it: none for `hivectl` itself.
    path: Vec<String>,
    verbs: Vec<(String, String)>,
    options: Vec<Flag>,
}

struct Flag {
    long: String,
    description: String,
    takes_value: bool,
}

fn commands() -> Vec<Command> {
    let mut commands = Vec::new();
    collect(&mut commands, Vec::new(), &Args::get_args_info());
    commands
}

fn collect(commands: &mut Vec<Command>, path: Vec<String>, info: &CommandInfoWithArgs) {
    let verbs = info.commands.iter().map(|c| (c.name.to_owned(), c.command.description.to_owned())).collect();
    let options = info.flags.iter().filter(|f| !f.hidden).map(flag).collect();
    commands.push(Command { path: path.clone(), verbs, options });
    for verb in &info.commands {
        collect(commands, [path.clone(), vec![verb.name.to_owned()]].concat(), &verb.command);
    }
}

fn flag(info: &FlagInfo<'_>) -> Flag {
    Flag {
        long: format!("--{}", info.long.trim_start_matches('-')),
        description: info.description.to_owned(),
        takes_value: matches!(info.kind, FlagInfoKind::Option { .. }),
    }
}

/// Words after which the next word is a value, for the scripts to skip.
fn value_options(commands: &[Command]) -> String {
    let mut options: Vec<&str> =
        commands.iter().flat_map(|c| &c.options).filter(|f| f.takes_value).map(|f| f.long.as_str()).collect();
    options.sort_unstable();
    options.dedup();
    options.join("|")
}

/// The paths of all commands, as alternatives of a shell's `case`.
fn paths(commands: &[Command]) -> String {
    let quoted: Vec<String> = commands.iter().map(|c| format!("'{}'", joined(c))).collect();
    quoted.join("|")
}

fn bash(commands: &[Command]) -> String {
    let mut cases = String::new();
    for command in commands {
        let verbs = command.verbs.iter().map(|(name, _)| name.as_str());
        let words: Vec<&str> = verbs.chain(command.options.iter().map(|f| f.long.as_str())).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(cases, "    '{}') words='{}' ;;", joined(command), words.join(" "));
    }
    let (values, paths) = (value_options(commands), paths(commands));
    format!(
        "_hivectl() {{
    local found='' word words='' i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        case $word in
        {values}) ((++i < COMP_CWORD)) || return ;;
        -*) ;;
        *) case \"${{found:+$found }}$word\" in {paths}) found=\"${{found:+$found }}$word\" ;; esac ;;
        esac
    done
    case $found in
{cases}    esac
    COMPREPLY=($(compgen -W \"$words\" -- \"${{COMP_WORDS[COMP_CWORD]}}\"))
}}
complete -o default -F _hivectl hivectl
"
    )
}

fn zsh(commands: &[Command]) -> String {
    let mut cases = String::new();
    for command in commands {
        let verbs = command.verbs.iter().map(|(name, text)| (name, text));
        let all = verbs.chain(command.options.iter().map(|f| (&f.long, &f.description)));
        let choices: Vec<String> = all.map(|(word, text)| format!("'{word}:{}'", quoted(text))).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(cases, "    '{}') choices=({}) ;;", joined(command), choices.join(" "));
    }
    let (values, paths) = (value_options(commands), paths(commands));
    // The last lines serve both ways of loading: from a folder in fpath, and by `source`.
    format!(
        "#compdef hivectl
_hivectl() {{
    local found='' word value=0
    local -a choices
    for word in ${{words[2,CURRENT-1]}}; do
        if ((value)); then value=0; continue; fi
        case $word in
        {values}) value=1 ;;
        -*) ;;
        *) case \"${{found:+$found }}$word\" in {paths}) found=\"${{found:+$found }}$word\" ;; esac ;;
        esac
    done
    if ((value)); then _files; return; fi
    case $found in
{cases}    esac
    _describe hivectl choices
}}
if [ \"$funcstack[1]\" = _hivectl ]; then _hivectl \"$@\"; else compdef _hivectl hivectl; fi
"
    )
}

fn fish(commands: &[Command]) -> String {
    let mut script = String::from("complete -c hivectl -f\n");
    for command in commands {
        let condition = fish_condition(command);
        for (verb, text) in &command.verbs {
            // Writing to a String cannot fail.
            let _ = writeln!(script, "complete -c hivectl -n '{condition}' -a {verb} -d '{}'", quoted(text));
        }
        for Flag { long, description, takes_value } in &command.options {
            let (long, value) = (long.trim_start_matches('-'), if *takes_value { " -x" } else { "" });
            let text = quoted(description);
            let _ = writeln!(script, "complete -c hivectl -n '{condition}' -l {long}{value} -d '{text}'");
        }
    }
    script
}

/// All words of the path were typed, and none of the verbs that could follow.
fn fish_condition(command: &Command) -> String {
    let mut parts: Vec<String> = command.path.iter().map(|w| format!("__fish_seen_subcommand_from {w}")).collect();
    if !command.verbs.is_empty() {
        let verbs: Vec<&str> = command.verbs.iter().map(|(name, _)| name.as_str()).collect();
        parts.push(format!("not __fish_seen_subcommand_from {}", verbs.join(" ")));
    }
    if parts.is_empty() { "true".to_owned() } else { parts.join("; and ") }
}

fn joined(command: &Command) -> String {
    command.path.join(" ")
}

/// Text that may stand between single quotes and, in zsh, behind a colon.
fn quoted(text: &str) -> String {
    text.replace('\'', "’").replace(':', " -")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_completed_in_every_shell() {
        let commands = commands();
        let paths: Vec<String> = commands.iter().map(joined).collect();
        for path in ["", "nodes", "networks rotate", "proxy ls", "sessions rm", "completions"] {
            assert!(paths.iter().any(|p| p == path), "{path}");
        }
        for script in [bash(&commands), zsh(&commands), fish(&commands)] {
            for word in ["rotate", "grace", "direction", "password-stdin", "connect"] {
                assert!(script.contains(word), "{word}");
            }
        }
    }

    #[test]
    fn bash_accepts_its_script_and_completes() {
        let complete = "COMP_WORDS=(hivectl --socket /s networks ro); COMP_CWORD=4; _hivectl; echo ${COMPREPLY[@]}";
        let script = format!("{}\n{complete}", bash(&commands()));
        let Ok(shell) = std::process::Command::new("bash").args(["-c", &script]).output() else { return };
        assert_eq!(String::from_utf8_lossy(&shell.stderr), "");
        assert_eq!(String::from_utf8_lossy(&shell.stdout), "rotate\n");
    }
}
