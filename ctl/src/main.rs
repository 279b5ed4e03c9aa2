//! `hivectl`: drives any node of a hive federation from any other. It talks to the local agent's socket, which passes
//! the conversation on to the node acted on, or dials a node itself with `--direct`. It holds no state but saved logins.

#![forbid(unsafe_code)]

mod app;
mod args;
mod client;
mod cmds;
mod error;
mod escape;
mod format;
mod out;
mod place;
mod process;
mod progress;
mod prompt;
mod pump;
mod session;
mod style;
mod table;
mod terminal;
mod watch;

use std::process::ExitCode;

use app::App;
use args::{Args, Parsed};
use error::{Error, Result};
use out::Out;

fn main() -> ExitCode {
    match run() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            out::report(&error);
            ExitCode::from(error.status as u8)
        }
    }
}

/// Does what it was asked; answers the exit status of a program on a node, else 0.
fn run() -> Result<u8> {
    let not_text = |arg: std::ffi::OsString| Error::usage(format!("not UTF-8: {}", arg.to_string_lossy()));
    let args = std::env::args_os().skip(1).map(|arg| arg.into_string().map_err(not_text));
    match args::parse(args.collect::<Result<Vec<_>>>()?)? {
        Parsed::Print(text) => Out::new(false, false).raw(&text).map(|()| 0),
        Parsed::Run(args) => act(*args),
    }
}

fn act(mut args: Args) -> Result<u8> {
    let Some(verb) = args.verb.take() else {
        return Err(Error::usage("no verb was given").hint("`hivectl help` lists them"));
    };
    let app = App::new(&args);
    smol::block_on(cmds::run(&app, verb)).map(|()| app.status())
}
