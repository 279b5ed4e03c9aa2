//! A PostgreSQL server with a fresh database in a temporary folder.

use crate::{
    lab::Host,
    process::{self, Output, PATIENCE, Process},
};
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// A running PostgreSQL. Its superuser is `postgres`, without a password.
pub struct Postgres {
    port: u16,
    process: Process,
}

impl Postgres {
    /// Starts one on a free port of the host's IPv4 address; `None` where it is not installed, said for `test`.
    pub fn start(test: &str, host: &Host) -> Option<Postgres> {
        let folders = program_folders();
        let initdb = super::find(test, "initdb", "postgresql", &folders)?;
        let server = super::find(test, "postgres", "postgresql", &folders)?;
        let data = host.folder("postgres");
        create_database(host, &initdb, &data);
        let port = host.free_port();
        let process = Process::start(host, "postgres", serve_command(host, &server, &data, port));
        process.wait_for_line("database system is ready to accept connections");
        Some(Postgres { port, process })
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Runs SQL with `psql` on `host` against `address`; standard output has one line for each row, columns apart by `|`.
    pub fn ask(host: &Host, address: SocketAddr, sql: &str) -> Output {
        let mut command = host.command("psql");
        command.args(["-X", "-A", "-t", "-U", "postgres", "-d", "postgres", "-v", "ON_ERROR_STOP=1"]);
        command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
        process::run(command, sql.as_bytes(), PATIENCE)
    }
}

/// Debian keeps the server's programs apart by version, the highest is taken.
fn program_folders() -> Vec<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut folders: Vec<PathBuf> = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    folders.sort();
    folders.reverse();
    folders
}

fn create_database(host: &Host, initdb: &Path, data: &Path) {
    let mut command = as_postgres(host, data, initdb);
    command.args(["-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"]).arg(data);
    process::run(command, b"", PATIENCE * 2).success();
    let everyone = "\nhost all all 0.0.0.0/0 trust\n";
    let rules = data.join("pg_hba.conf");
    let rules_now = fs::read_to_string(&rules).expect("rules made by initdb");
    fs::write(&rules, rules_now + everyone).expect("a file in the lab's folder");
}

fn serve_command(host: &Host, server: &Path, data: &Path, port: u16) -> Command {
    let mut command = as_postgres(host, data, server);
    command.arg("-D").arg(data).args(["-p", &port.to_string(), "-h", &host.ipv4().to_string()]);
    command.arg("-k").arg(data).args(["-F", "-c", "shared_buffers=16MB"]);
    command
}

/// PostgreSQL refuses to run as root: there it runs as the package's user, which then needs the folder.
fn as_postgres(host: &Host, data: &Path, program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return host.command(program);
    }
    let lab = data.parent().expect("a folder in the lab's folder");
    fs::set_permissions(lab, fs::Permissions::from_mode(0o711)).expect("a folder of ours");
    let mut chown = Command::new("chown");
    chown.arg("-R").arg("postgres:").arg(data);
    process::run(chown, b"", PATIENCE).success();
    let mut command = host.command("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
    // initdb looks at the working directory, which may not be its user's to see.
    command.current_dir("/");
    command
}
