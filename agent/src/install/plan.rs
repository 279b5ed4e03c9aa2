//! What installing or removing the service comes to, before any of it is done.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    Error, Manager,
    manager::Commands,
    settings::{self, CREDENTIALS, ENVIRONMENT, FOLDER},
    within,
};
use crate::{
    options::{AdminPassword, Options},
    setup,
};

/// What a firmware upgrade of OpenWrt keeps.
const KEEP: &str = "/lib/upgrade/keep.d/hive";

/// Things to do, in this order.
pub struct Plan {
    /// Commands that may fail.
    pub first: Commands,
    /// Files to write.
    pub files: Vec<File>,
    /// Files and folders to remove.
    pub remove: Vec<PathBuf>,
    /// Commands that must not fail.
    pub last: Commands,
}

/// A file to write.
pub struct File {
    /// Where, on the machine.
    pub path: PathBuf,
    /// Its mode.
    pub mode: u32,
    /// What is in it.
    pub content: Content,
}

/// What is in a file.
pub enum Content {
    /// Text that everybody may see.
    Text(String),
    /// Text that nobody is shown.
    Secret(String),
    /// The executable that runs.
    ThisProgram,
}

/// The plan that installs the service, and what has to be shown once it is done: an admin password that was made.
pub fn install(manager: Manager, options: &Options, root: &Path) -> Result<(Plan, Option<String>), Error> {
    let mut given = options.settings()?;
    let read = |path: &str| fs::read_to_string(within(root, Path::new(path))).unwrap_or_default();
    let (environment, credentials) = (read(ENVIRONMENT), read(CREDENTIALS));
    let known = credentials.lines().any(|line| line.starts_with("admin "));
    let first = !known && !holds_state(&chosen_state(manager, options, &environment), root);
    // The agent would make one and print it: here into the log.
    let made = (first && given.admin.is_none()).then(setup::generated_password);
    if let Some(password) = &made {
        given.admin = Some((setup::DEFAULT_ADMIN.to_owned(), AdminPassword::Plain(password.clone())));
    }
    let credentials = settings::credentials(&credentials, &given)?;
    let environment = settings::environment(&environment, options, &given, !credentials.is_empty())?;
    let (service, mode, text) = manager.service();
    let file = |path: &str, mode, content| File { path: path.into(), mode, content };
    let mut files =
        vec![file(ENVIRONMENT, 0o600, Content::Text(environment)), file(service, mode, Content::Text(text.to_owned()))];
    if !credentials.is_empty() {
        files.insert(0, file(CREDENTIALS, 0o600, Content::Secret(credentials)));
    }
    if !is_this(&within(root, Path::new(manager.program()))) {
        files.insert(0, file(manager.program(), 0o755, Content::ThisProgram));
    }
    if manager == Manager::Procd {
        files.push(file(KEEP, 0o644, Content::Text(format!("{FOLDER}\n"))));
    }
    let said = |password| {
        format!("admin account: user {}, password {password} (shown once, stored only as a hash)", setup::DEFAULT_ADMIN)
    };
    Ok((Plan { first: &[], files, remove: Vec::new(), last: manager.start() }, made.map(said)))
}

/// The plan that removes it. State and settings go only when they shall, and a state folder only if it is one.
pub fn uninstall(manager: Manager, purge: bool, root: &Path) -> Plan {
    let mut remove: Vec<PathBuf> = vec![manager.service().0.into(), manager.program().into()];
    remove.push(format!("{}.update", manager.program()).into());
    if manager == Manager::Procd {
        remove.push(KEEP.into());
    }
    if purge {
        let environment = fs::read_to_string(within(root, Path::new(ENVIRONMENT))).unwrap_or_default();
        remove.extend(Some(state(manager, &environment)).filter(|folder| holds_state(folder, root)));
        remove.push(FOLDER.into());
    }
    remove.retain(|path| within(root, path).exists());
    Plan { first: manager.stop(), files: Vec::new(), remove, last: manager.forget() }
}

/// The state folder that the service will have: the one given now, else the one it has.
fn chosen_state(manager: Manager, options: &Options, environment: &str) -> PathBuf {
    let given = settings::given(options.state.as_ref().map(|path| path.display().to_string()), "HIVE_STATE");
    given.map_or_else(|| state(manager, environment), PathBuf::from)
}

/// The state folder that the service has.
fn state(manager: Manager, environment: &str) -> PathBuf {
    let chosen = environment.lines().rev().find_map(|line| line.strip_prefix("HIVE_STATE="));
    PathBuf::from(chosen.unwrap_or(manager.state()))
}

fn holds_state(folder: &Path, root: &Path) -> bool {
    within(root, folder).join("data.mdb").exists()
}

fn is_this(program: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    real(program).is_some_and(|program| Some(program) == real(Path::new("/proc/self/exe")))
}
