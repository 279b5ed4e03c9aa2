//! `hive-agent install` and `uninstall`: this agent as a service of the machine's service manager.
//!
//! [`plan`](plan::Plan) says what will be written, run and removed; this asks, does it or shows it. The service files are
//! those of `cross/service`, which `cross/deploy` puts on a device, too. Options that were given become lines of
//! `/etc/hive/environment`, secrets lines of `/etc/hive/credentials`, which root alone may read.

mod manager;
mod plan;
mod settings;

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufRead, IsTerminal, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

pub use manager::Manager;
use plan::{Content, Plan};

use crate::options::{Install, OptionError, Options, Uninstall};

/// Why the service was not installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No service manager that is known.
    #[error("this machine has neither systemd nor OpenRC nor procd")]
    NoManager,
    /// Not root.
    #[error("a service is installed and removed by root: use sudo, or --dry-run to see what would be done")]
    NotRoot,
    /// A network whose password nobody has said.
    #[error("network {0}: a service needs the password: write NAME:PASSWORD")]
    NoPassword(String),
    /// A value that the settings' file cannot hold.
    #[error("{0}: only letters, digits and . _ = + , : / @ - can be kept in the settings of a service")]
    Unkeepable(&'static str),
    /// The options.
    #[error(transparent)]
    Options(#[from] OptionError),
    /// A password.
    #[error(transparent)]
    Password(#[from] hive_protocol::password::PasswordError),
    /// A file.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The service manager refuses.
    #[error("`{0}` failed")]
    Command(String),
    /// There is nobody to ask.
    #[error("nothing was removed: give --yes where there is no terminal to answer at")]
    NotConfirmed,
    /// Standard output.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// Where a service is installed.
pub struct System<'s> {
    root: PathBuf,
    out: &'s mut dyn Write,
}

impl<'s> System<'s> {
    /// This machine; what is done is told to `out`.
    pub fn this(out: &'s mut dyn Write) -> Self {
        Self { root: "/".into(), out }
    }

    /// A tree of files that stands for a machine; no command is run.
    pub fn at(root: &Path, out: &'s mut dyn Write) -> Self {
        Self { root: root.to_owned(), out }
    }

    /// Installs the running executable with these options as a service, and starts it.
    pub fn install(&mut self, options: &Options, how: &Install) -> Result<(), Error> {
        let manager = Manager::of(&self.root).ok_or(Error::NoManager)?;
        self.need_root(how.dry_run)?;
        let (plan, made) = plan::install(manager, options, &self.root)?;
        let done = self.carry_out(&plan, how.dry_run);
        if let Some(secret) = made.filter(|_| !how.dry_run) {
            // Also where the service did not start: it is stored, and will not be shown again.
            self.say(&secret)?;
        }
        done
    }

    /// Stops the service and removes it; its state and settings only where that was said.
    pub fn uninstall(&mut self, how: &Uninstall) -> Result<(), Error> {
        let manager = Manager::of(&self.root).ok_or(Error::NoManager)?;
        self.need_root(how.dry_run)?;
        let plan = plan::uninstall(manager, how.purge, &self.root);
        if !how.dry_run && !how.yes {
            self.confirm(&plan)?;
        }
        self.carry_out(&plan, how.dry_run)
    }

    fn real(&self) -> bool {
        self.root == Path::new("/")
    }

    fn need_root(&self, dry: bool) -> Result<(), Error> {
        if self.real() && !dry && !rustix::process::geteuid().is_root() { Err(Error::NotRoot) } else { Ok(()) }
    }

    fn confirm(&mut self, plan: &Plan) -> Result<(), Error> {
        if !io::stdin().is_terminal() {
            return Err(Error::NotConfirmed);
        }
        for path in &plan.remove {
            self.say(&format!("would remove {}", path.display()))?;
        }
        write!(self.out, "Stop hive-agent and remove these? [y/N] ").map_err(Error::Output)?;
        self.out.flush().map_err(Error::Output)?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map_err(Error::Output)?;
        if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Error::NotConfirmed) }
    }

    fn carry_out(&mut self, plan: &Plan, dry: bool) -> Result<(), Error> {
        for words in plan.first {
            // What is not installed cannot be stopped.
            let _ = self.command(words, dry);
        }
        for file in &plan.files {
            self.say(&format!(
                "{} {} (mode {:o})",
                if dry { "would write" } else { "writing" },
                file.path.display(),
                file.mode
            ))?;
            if dry {
                self.show(&file.content)?;
            } else {
                file.write(&self.root)?;
            }
        }
        for path in &plan.remove {
            self.say(&format!("{} {}", if dry { "would remove" } else { "removing" }, path.display()))?;
            if !dry {
                remove(&within(&self.root, path))?;
            }
        }
        plan.last.iter().try_for_each(|words| self.command(words, dry))
    }

    fn show(&mut self, content: &Content) -> Result<(), Error> {
        match content {
            Content::Text(text) => text.lines().try_for_each(|line| self.say(&format!("    {line}"))),
            Content::Secret(_) => self.say("    (secrets, not shown)"),
            Content::ThisProgram => self.say("    (this program)"),
        }
    }

    fn command(&mut self, words: &[&str], dry: bool) -> Result<(), Error> {
        self.say(&format!("{} {}", if dry { "would run" } else { "running" }, words.join(" ")))?;
        let (Some((program, arguments)), true, false) = (words.split_first(), self.real(), dry) else { return Ok(()) };
        let ran = Command::new(program).args(arguments).status();
        if ran.is_ok_and(|status| status.success()) { Ok(()) } else { Err(Error::Command(words.join(" "))) }
    }

    fn say(&mut self, text: &str) -> Result<(), Error> {
        writeln!(self.out, "{text}").map_err(Error::Output)
    }
}

fn within(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

impl plan::File {
    /// Writes it beside its place and renames it there: what runs from the old one is not disturbed.
    fn write(&self, root: &Path) -> Result<(), Error> {
        let path = within(root, &self.path);
        let folder = path.parent().unwrap_or(root);
        let mode = if self.path.starts_with(settings::FOLDER) { 0o700 } else { 0o755 };
        DirBuilder::new().recursive(true).mode(mode).create(folder).map_err(at(folder))?;
        let mut new = path.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        // An earlier one may have another mode.
        let _ = fs::remove_file(&new);
        let file = OpenOptions::new().write(true).create_new(true).mode(self.mode).open(&new);
        let mut file = file.map_err(at(&new))?;
        // Whatever the umask was.
        file.set_permissions(fs::Permissions::from_mode(self.mode)).map_err(at(&new))?;
        self.content.write(&mut file).and_then(|()| file.sync_all()).map_err(at(&new))?;
        fs::rename(&new, &path).map_err(at(&path))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
    }
}

impl Content {
    fn write(&self, file: &mut File) -> io::Result<()> {
        match self {
            Self::Text(text) | Self::Secret(text) => file.write_all(text.as_bytes()),
            Self::ThisProgram => io::copy(&mut File::open("/proc/self/exe")?, file).map(|_| ()),
        }
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at(path)(e)),
        _ => Ok(()),
    }
}
