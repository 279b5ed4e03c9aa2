//! `exec` and `shell`: programs on a node, with our standard streams and their exit status.

use std::io;

use argh::{ArgsInfo, FromArgs};
use async_signal::{Signal, Signals};
use futures::StreamExt;
use hive_protocol::{
    NetworkName,
    message::{Request, Response, RunRequest, TerminalInfo},
};
use smol::Unblock;

use crate::{
    app::App,
    args::{Target, node_verb},
    cmds::{connect::standard_streams, ssh},
    error::{Error, Result},
    escape::Escape,
    process::{Ends, Happening, attach},
    terminal::{self, Raw},
};

/// Bytes read ahead from standard input, and as many held back for a slow reader of an output.
const AHEAD: usize = 256 * 1024;

/// Run a program on a node, as the user that its agent runs as.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "exec",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} --node shed -- uname -a\n\
               tar c photos | {command_name} --node shed -- tar x -C /srv\n\
               {command_name} --node shed -- sh -c 'df -h | tail -1'",
    note = "No shell comes between: quote nothing twice, and name `sh -c` where you want one. Standard input, output and \
            error are kept apart, Ctrl-C goes to the program, its exit status is passed on (128 and the signal's \
            number when a signal ended it, 127 when there is no such program). When the connection is lost the \
            program is ended."
)]
pub struct Exec {
    /// node to act on, by peer id or name (default: the local agent)
    #[argh(option, arg_name = "id|name")]
    pub node: Option<String>,
    /// network of the node, needed where it is reachable in several
    #[argh(option, arg_name = "name")]
    pub network: Option<NetworkName>,
    /// user to log in as (environment: HIVE_USER; default: admin)
    #[argh(option, arg_name = "name")]
    pub user: Option<String>,
    /// the program and its arguments, after `--`
    #[argh(positional, greedy)]
    pub command: Vec<String>,
}

node_verb! {
    /// Open a shell on a node, as the user that its agent runs as.
    #[argh(
        subcommand,
        name = "shell",
        help_triggers("-h", "--help", "help"),
        example = "{command_name} --node shed\n\
                   {command_name} --node shed --ssh\n\
                   {command_name} --node shed --ssh --nc",
        note = "`~.` at the beginning of a line leaves a shell that hangs. Without a terminal the shell reads its \
                commands from standard input."
    )]
    pub struct Shell {
        /// use OpenSSH's client, through proxies that last as long as this command
        #[argh(switch)]
        pub ssh: bool,
        /// with --ssh: print the client's command instead of running it, and stay
        #[argh(switch)]
        pub nc: bool,
    }
}

/// Runs a program.
pub async fn exec(app: &App, args: &Exec) -> Result<()> {
    if args.command.is_empty() {
        return Err(Error::usage("no program was given").hint("write it after `--`: hivectl exec --node shed -- uname"));
    }
    let target = Target {
        node: args.node.clone(),
        network: args.network.clone(),
        user: args.user.clone(),
        password_stdin: false,
    };
    run(app, &target, args.command.clone(), None).await
}

/// Opens a login shell, on a terminal if we have one.
pub async fn shell(app: &App, args: &Shell) -> Result<()> {
    if args.ssh {
        return ssh::run(app, args).await;
    }
    if args.nc {
        return Err(Error::usage("--nc needs --ssh"));
    }
    run(app, &args.target(), Vec::new(), terminal::of_stdin()).await
}

async fn run(app: &App, target: &Target, command: Vec<String>, terminal: Option<TerminalInfo>) -> Result<()> {
    let mut client = app.connect(target).await?;
    let on_terminal = terminal.is_some();
    let Response::Started = client.request(Request::Run(RunRequest { command, terminal })).await? else {
        return Err(Error::failed("the node answered something else than what it was asked"));
    };
    let unusable = |e: io::Error| Error::failed(format!("the standard streams cannot be used: {e}"));
    let (input, output) = standard_streams().map_err(unusable)?;
    let errors = std::fs::File::from(rustix::io::dup(rustix::stdio::stderr()).map_err(|e| unusable(e.into()))?);
    let happenings = happenings(on_terminal).map_err(unusable)?;
    let raw = if on_terminal { Some(Raw::begin().map_err(unusable)?) } else { None };
    let ends = Ends {
        input: Unblock::with_capacity(AHEAD, input),
        output: Unblock::with_capacity(AHEAD, output),
        errors: Unblock::with_capacity(AHEAD, errors),
        escape: on_terminal.then(Escape::new),
    };
    let exit = attach(client.into_stream(), ends, happenings).await;
    drop(raw);
    app.pass_on(exit?.status());
    Ok(())
}

/// Signals that we get. On a terminal Ctrl-C is a key like any other, and reaches the program as one.
fn happenings(on_terminal: bool) -> io::Result<impl futures::Stream<Item = Happening>> {
    let wanted: &[Signal] = match on_terminal {
        true => &[Signal::Winch, Signal::Term, Signal::Hup],
        false => &[Signal::Int, Signal::Quit, Signal::Term, Signal::Hup],
    };
    Ok(Signals::new(wanted)?.map(|signal| match signal {
        Ok(Signal::Winch) => {
            let (columns, rows) = terminal::size();
            Happening::Resized { columns, rows }
        }
        Ok(Signal::Int) => Happening::Signal(2),
        Ok(Signal::Quit) => Happening::Signal(3),
        _ => Happening::Ended,
    }))
}
