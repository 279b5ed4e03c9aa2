//! Programs that `hivectl exec` runs on the far node, against OpenSSH's client and server, taking turns in one run.
//!
//! Both encrypt with AES-128-GCM. `exec` goes through two agents, ssh straight to its server.

use crate::{bulk::Direction, drain, report::Report, send};
use argh::FromArgs;
use hive_tests::{
    lab::Lab,
    pair::{ADMIN, Pair},
    services::Sshd,
};
use std::{
    io,
    process::{Command, Stdio},
    time::Instant,
};

/// Compares programs run by hivectl exec with programs run by ssh.
#[derive(FromArgs)]
#[argh(subcommand, name = "exec")]
pub struct Exec {}

/// Programs that do nothing, started one after another in each turn.
const STARTS: u32 = 10;

/// Where programs are run, in two ways.
struct Bench {
    pair: Pair,
    sshd: Sshd,
}

/// Both directions of a pipe, and how long it takes to run a program that does nothing.
pub fn measure(lab: &Lab, rounds: usize, bytes: u64) -> io::Result<Report> {
    let mut report = Report::against("exec", "ssh");
    let pair = Pair::start(lab);
    let Some(sshd) = Sshd::start("the benchmark of exec", pair.far.host()) else { return Ok(report) };
    let bench = Bench { pair, sshd };
    for (direction, name) in [(Direction::Up, "up"), (Direction::Down, "down")] {
        let script = match direction {
            Direction::Up => "cat > /dev/null".to_owned(),
            Direction::Down => format!("head -c {bytes} /dev/zero"),
        };
        bench.compare(&mut report, (&format!("through a pipe, {name}"), "MiB/s"), rounds, |way| {
            copy(way(&bench, &script), direction, bytes)
        })?;
    }
    bench.compare(&mut report, ("a program that does nothing", "ms"), rounds, |way| starts(|| way(&bench, "true")))?;
    Ok(report)
}

/// How a script is run.
type Way = fn(&Bench, &str) -> Command;

impl Bench {
    fn ssh(&self, script: &str) -> Command {
        let mut command = self.pair.far.host().command("ssh");
        command.args(["-F", "/dev/null", "-c", "aes128-gcm@openssh.com", "-p", &self.sshd.port().to_string()]);
        command.args(self.sshd.options()).args(["root@127.0.0.1", script]);
        command
    }

    fn exec(&self, script: &str) -> Command {
        self.pair.near.ctl_command(ADMIN, &["exec", "--node", "far", "--", "sh", "-c", script])
    }

    fn compare(
        &self,
        report: &mut Report,
        (name, unit): (&str, &'static str),
        rounds: usize,
        turn: impl Fn(Way) -> io::Result<f64>,
    ) -> io::Result<()> {
        let (mut ssh, mut exec) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            ssh.push(turn(Self::ssh)?);
            exec.push(turn(Self::exec)?);
        }
        report.pair(name, unit, &ssh, &exec);
        Ok(())
    }
}

/// MiB a second through the standard input or output of a program, from its start to its end.
fn copy(mut command: Command, direction: Direction, bytes: u64) -> io::Result<f64> {
    let began = Instant::now();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(mut stdout)) = (stdin, stdout) else { return Err(io::Error::other("no pipes")) };
    match direction {
        Direction::Up => send(&mut stdin, bytes)?,
        Direction::Down if drain(&mut stdout)? == bytes => {}
        Direction::Down => return Err(io::Error::other("some bytes are missing")),
    }
    drop(stdin);
    succeeded(child.wait()?)?;
    Ok(bytes as f64 / f64::from(1 << 20) / began.elapsed().as_secs_f64())
}

/// Milliseconds from the start of a client to the end of its program, on average.
fn starts(command: impl Fn() -> Command) -> io::Result<f64> {
    let began = Instant::now();
    for _ in 0..STARTS {
        succeeded(command().stdin(Stdio::null()).stdout(Stdio::null()).status()?)?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e3 / f64::from(STARTS))
}

fn succeeded(status: std::process::ExitStatus) -> io::Result<()> {
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("the program ended with {status}"))) }
}
