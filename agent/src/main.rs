//! `hive-agent`: see `hive-agent --help`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use hive_agent::{
    BUILD, agent, check, files,
    install::System,
    logs, memory,
    options::{Command, OptionError, Options},
    sftp, terminal,
};
use hive_protocol::password::PasswordHashed;

fn main() -> ExitCode {
    let options = match parse() {
        Ok(options) => options,
        Err(code) => return code,
    };
    if let Err((option, problem)) = logs::start(options.log.as_deref()) {
        return complain(&OptionError::Value { option, problem }.into());
    }
    memory::give_back_large_blocks();
    files::raise_limit();
    let outcome = match &options.command {
        _ if options.version => say(&format!("hive-agent {} {} {}", BUILD.version, BUILD.target, BUILD.commit)),
        Some(Command::HashPassword(_)) => hash_password(),
        Some(Command::SftpServer(_)) => sftp::serve(io::stdin().lock(), io::stdout().lock()).map_err(agent::Error::Io),
        Some(Command::Install(how)) => System::this(&mut io::stdout()).install(&options, how).map_err(Into::into),
        Some(Command::Uninstall(how)) => System::this(&mut io::stdout()).uninstall(how).map_err(Into::into),
        Some(Command::Check(_)) => check::run(&options).and_then(|report| say(report.trim_end())),
        None => agent::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

/// Help ends with status 0, a wrong command line with 2.
fn parse() -> Result<Options, ExitCode> {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    argh::FromArgs::from_args(&["hive-agent"], &words).map_err(|early: argh::EarlyExit| {
        let text = early.output.trim_end();
        if early.status.is_ok() {
            let _ = say(text);
            return ExitCode::SUCCESS;
        }
        let _ = writeln!(io::stderr(), "error: {}\nhint: `hive-agent --help` shows what can be given", sentence(text));
        ExitCode::from(2)
    })
}

/// argh's complaint as one sentence.
fn sentence(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty() && *line != "help").collect();
    let text = lines
        .join(" ")
        .replace("Error parsing option '", "'")
        .replace("Unrecognized argument: ", "no such option or command: ");
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

fn hash_password() -> Result<(), agent::Error> {
    let password = terminal::read_new_secret("Password")?;
    let hashed = PasswordHashed::new(&password, agent::salt()).map_err(agent::Error::Password)?;
    say(&format!("hash_{}", hashed.to_phc()))
}

fn say(text: &str) -> Result<(), agent::Error> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

fn complain(error: &agent::Error) -> ExitCode {
    let mut stderr = io::stderr();
    let _ = writeln!(stderr, "error: {error}");
    if let Some(hint) = error.hint() {
        let _ = writeln!(stderr, "hint: {hint}");
    }
    ExitCode::from(error.status())
}
