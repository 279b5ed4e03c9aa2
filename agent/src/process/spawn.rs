//! Starting a program, on pipes or on a pseudoterminal of its own, and ending its whole process group.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_io::{Async, Timer};
use futures::{AsyncReadExt, AsyncWriteExt};
use hive_protocol::{
    message::{RunRequest, TerminalInfo},
    process::Exit,
};
use rustix::{
    process::{Pid, Signal, kill_process_group},
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{InputModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize},
};
use smol::{
    channel::{self, Receiver, Sender},
    future::or,
    process::{ChildStderr, ChildStdin, ChildStdout},
};

use super::account::Account;
use crate::{exec, time::within};

/// From SIGHUP to SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// For the last of a terminal's output, when something in the background still holds it open.
const LAST_OUTPUT: Duration = Duration::from_millis(200);
/// What a terminal reads as the end of its input: Ctrl-D.
const END_OF_TRANSMISSION: u8 = 4;

/// Variables of a program's environment beside those of the account.
pub type Variables<'a> = &'a [(String, String)];

/// Starts the program that is wished for.
pub fn spawn(wish: &RunRequest, variables: Variables<'_>) -> io::Result<Child> {
    match &wish.terminal {
        Some(terminal) => on_terminal(wish, variables, terminal),
        None => on_pipes(wish, variables),
    }
}

/// A running program.
pub struct Child {
    child: smol::process::Child,
    control: Control,
    input: Input,
    outputs: (Option<Output>, Option<Output>),
    /// Closed when the program has ended.
    running: Option<Sender<()>>,
}

/// What can be done to a running program from beside.
#[derive(Clone)]
pub struct Control {
    group: Option<Pid>,
    terminal: Option<Arc<Async<File>>>,
    exited: Arc<AtomicBool>,
}

/// A program's input.
pub enum Input {
    /// Nobody reads it any more.
    Closed,
    /// A pipe.
    Pipe(ChildStdin),
    /// A terminal.
    Terminal(Arc<Async<File>>),
}

/// One of a program's outputs.
pub enum Output {
    /// A pipe: standard output.
    Out(ChildStdout),
    /// A pipe: standard error.
    Err(ChildStderr),
    /// A terminal, and what closes when its program has ended.
    Terminal(Arc<Async<File>>, Receiver<()>),
}

fn on_pipes(wish: &RunRequest, variables: Variables<'_>) -> io::Result<Child> {
    let mut command = smol::process::Command::from(command(wish, variables, None));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let input = child.stdin.take().map_or(Input::Closed, Input::Pipe);
    let outputs = (child.stdout.take().map(Output::Out), child.stderr.take().map(Output::Err));
    Ok(Child { control: Control::of(&child, None), child, input, outputs, running: None })
}

fn on_terminal(wish: &RunRequest, variables: Variables<'_>, info: &TerminalInfo) -> io::Result<Child> {
    let (master, slave) = open_terminal(info)?;
    let mut command = smol::process::Command::from(command(wish, variables, Some(&info.kind)));
    let (second, third) = (slave.try_clone()?, slave.try_clone()?);
    let child = command.stdin(slave).stdout(second).stderr(third).spawn()?;
    // With it goes our last handle on the slave: the terminal ends with those who use it.
    drop(command);
    let (running, ended) = channel::bounded(1);
    let terminal = Arc::new(Async::new(File::from(master))?);
    Ok(Child {
        control: Control::of(&child, Some(terminal.clone())),
        child,
        input: Input::Terminal(terminal.clone()),
        outputs: (Some(Output::Terminal(terminal, ended)), None),
        running: Some(running),
    })
}

/// Both ends of a new pseudoterminal (`pty(7)`) of this size, set up for UTF-8.
fn open_terminal(info: &TerminalInfo) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    tcsetwinsize(&master, size(info.columns, info.rows))?;
    let mut modes = tcgetattr(&slave)?;
    modes.input_modes.insert(InputModes::IUTF8);
    tcsetattr(&slave, OptionalActions::Now, &modes)?;
    Ok((master, slave))
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// The program in a session and process group of its own, with default signals, at home.
fn command(wish: &RunRequest, variables: Variables<'_>, terminal: Option<&str>) -> std::process::Command {
    let account = Account::own();
    let mut command = match wish.command.split_first() {
        Some((program, arguments)) => {
            let mut command = std::process::Command::new(program);
            command.args(arguments);
            command
        }
        None => login_shell(&account),
    };
    command.env_clear().envs(account.environment(terminal)).current_dir(account.folder());
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let on_terminal = terminal.is_some();
    #[expect(unsafe_code, reason = "only a child before exec can make itself a session leader")]
    // SAFETY: the closure allocates nothing, takes no lock and makes only system calls that are safe after fork
    // (`signal-safety(7)`); all zeros are a valid `sigset_t`, which is then emptied.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            if on_terminal {
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            }
            // What the agent's starter ignored (`nohup`, a job in the background) the program shall not ignore.
            for signal in 1..32 {
                libc::signal(signal, libc::SIG_DFL);
            }
            // Nor be deaf to what the thread that starts it has blocked.
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            match libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    command
}

/// A shell is a login shell when its name begins with a dash (`sh(1)`).
fn login_shell(account: &Account) -> std::process::Command {
    let name = account.shell.file_name().unwrap_or_default().to_string_lossy();
    let mut command = std::process::Command::new(&account.shell);
    command.arg0(format!("-{name}"));
    command
}

impl Child {
    /// A handle for what comes beside its streams.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Its input, once.
    pub fn take_input(&mut self) -> Input {
        std::mem::replace(&mut self.input, Input::Closed)
    }

    /// Its outputs, once: on a terminal there is only one.
    pub fn take_outputs(&mut self) -> (Option<Output>, Option<Output>) {
        std::mem::take(&mut self.outputs)
    }

    /// Waits for its end.
    pub async fn exited(&mut self) -> io::Result<Exit> {
        let status = self.child.status().await?;
        self.control.exited.store(true, Ordering::Relaxed);
        self.running = None;
        Ok(exit(status))
    }
}

/// Its link is gone: SIGHUP to its process group, and SIGKILL to what is left of it a little later.
impl Drop for Child {
    fn drop(&mut self) {
        if self.control.exited.load(Ordering::Relaxed) {
            return;
        }
        let control = self.control.clone();
        control.send(Signal::HUP);
        // What was stopped does not hear it.
        control.send(Signal::CONT);
        exec::spawn(async move {
            Timer::after(GRACE).await;
            control.send(Signal::KILL);
        })
        .detach();
    }
}

fn exit(status: ExitStatus) -> Exit {
    let number = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Status(number(code)),
        (None, signal) => Exit::Signal(number(signal.unwrap_or_default())),
    }
}

impl Control {
    fn of(child: &smol::process::Child, terminal: Option<Arc<Async<File>>>) -> Self {
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Self { group, terminal, exited: Arc::default() }
    }

    /// Changes the terminal's size; the kernel tells the programs on it (SIGWINCH).
    pub fn resize(&self, columns: u16, rows: u16) {
        let resized = self.terminal.as_ref().map(|terminal| tcsetwinsize(terminal, size(columns, rows)));
        if let Some(Err(e)) = resized {
            log::debug!("cannot resize a terminal: {e}");
        }
    }

    /// Sends a signal to the program and its children.
    pub fn signal(&self, number: u8) {
        if let Some(signal) = Signal::from_named_raw(i32::from(number)) {
            self.send(signal);
        }
    }

    /// Once the program has been waited for, its number may be another's.
    fn send(&self, signal: Signal) {
        let group = self.group.filter(|_| !self.exited.load(Ordering::Relaxed));
        if let Some(group) = group {
            // All of them may have ended by themselves.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Input {
    /// Hands bytes over; nobody who reads them any more is no failure.
    pub async fn write(&mut self, bytes: &[u8]) {
        let written = match self {
            Self::Closed => return,
            Self::Pipe(pipe) => pipe.write_all(bytes).await,
            Self::Terminal(terminal) => (&**terminal).write_all(bytes).await,
        };
        if written.is_err() {
            *self = Self::Closed;
        }
    }

    /// Says that nothing more will come.
    pub async fn close(mut self) {
        if let Self::Terminal(_) = self {
            self.write(&[END_OF_TRANSMISSION]).await;
        }
    }
}

impl Output {
    /// Some bytes; none at the end. An output that cannot be read has ended.
    pub async fn read(&mut self, buffer: &mut [u8]) -> usize {
        let read = match self {
            Self::Out(pipe) => pipe.read(buffer).await,
            Self::Err(pipe) => pipe.read(buffer).await,
            Self::Terminal(terminal, running) => read_terminal(terminal, running, buffer).await,
        };
        read.unwrap_or(0)
    }
}

/// A terminal ends with EIO when nobody holds it open, or when its program has ended and it has been silent for a moment.
async fn read_terminal(terminal: &Async<File>, running: &Receiver<()>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match terminal.get_ref().read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            done => return done,
        }
        if running.is_closed() {
            match within(LAST_OUTPUT, terminal.readable()).await {
                Some(ready) => ready?,
                None => return Ok(0),
            }
        } else {
            let ended = async {
                // Nobody ever sends: the channel closes.
                let _ = running.recv().await;
                Ok(())
            };
            or(terminal.readable(), ended).await?;
        }
    }
}
