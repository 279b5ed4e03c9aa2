//! A node of the hive on a host of the lab: a real `hive-agent` in a folder of its own, driven by a real `hivectl` on the
//! same host, as `README.md` tells people to. Secrets travel in the environment, sessions stay in the node's folder.

use crate::{
    lab::Host,
    process::{self, Output, PATIENCE, Process},
    usage::Usage,
    wait::{wait_for, wait_until},
};
use serde_json::Value;
use std::{
    fs,
    os::unix::{fs::OpenOptionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// How long a command of `hivectl` may take before the test fails.
const CTL_PATIENCE: Duration = Duration::from_secs(120);

/// How a node is started. Every field may be left empty.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The node's name; else that of its host.
    pub name: String,
    /// `NAME:PASSWORD` of each network to join.
    pub networks: Vec<String>,
    /// `USER:PASSWORD` or `USER:hash_PHC` (then name the password with [`Node::ctl_as`]); empty: the agent makes one up.
    pub admin: String,
    /// Multiaddresses; else the agent's own default, and on a lab of loopback a free TCP port of the host's address.
    pub listen: Vec<String>,
    /// More arguments of the agent.
    pub arguments: Vec<String>,
    /// More environment of the agent.
    pub environment: Vec<(String, String)>,
    /// The folder with both programs; else where [`process::binary`] finds them.
    pub programs: Option<PathBuf>,
}

impl Options {
    /// A member of one network, `NAME:PASSWORD`.
    pub fn member(network: &str) -> Options {
        Options::default().network(network)
    }

    /// The same with one more network, `NAME:PASSWORD`.
    pub fn network(mut self, network: &str) -> Options {
        self.networks.push(network.to_owned());
        self
    }

    /// The same with this admin account, `USER:PASSWORD` or `USER:hash_PHC`.
    pub fn admin(self, admin: &str) -> Options {
        Options { admin: admin.to_owned(), ..self }
    }

    /// The same with this name.
    pub fn name(self, name: &str) -> Options {
        Options { name: name.to_owned(), ..self }
    }

    /// The same with one more address to listen on.
    pub fn listen(mut self, multiaddr: &str) -> Options {
        self.listen.push(multiaddr.to_owned());
        self
    }

    /// The same with one more argument.
    pub fn argument(mut self, argument: &str) -> Options {
        self.arguments.push(argument.to_owned());
        self
    }

    /// The same with the programs in this folder.
    pub fn programs(self, folder: &Path) -> Options {
        Options { programs: Some(folder.to_owned()), ..self }
    }

    /// The same with one more variable of the environment.
    pub fn environment(mut self, name: &str, value: &str) -> Options {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A node. Dropping it kills the agent.
pub struct Node {
    host: Host,
    options: Options,
    folder: PathBuf,
    process: Option<Process>,
}

impl Node {
    /// Starts an agent with a fresh state and waits until it answers on its socket. A node's name must be unique in the lab.
    ///
    /// # Panics
    /// When it ends before, with what it printed.
    pub fn start(host: &Host, options: Options) -> Node {
        let mut node = Node::prepare(host, options);
        node.start_again();
        node
    }

    /// A node that is not running yet, for a test that starts it in its own way.
    pub fn prepare(host: &Host, mut options: Options) -> Node {
        if options.name.is_empty() {
            options.name = host.name().to_owned();
        }
        if options.listen.is_empty() && !host.has_namespace() {
            options.listen.push(format!("/ip4/{}/tcp/0", host.ipv4()));
        }
        let folder = host.folder(&options.name);
        Node { host: host.clone(), options, folder, process: None }
    }

    /// Starts the agent on the state that it left, and waits until it answers.
    ///
    /// # Panics
    /// When it runs already, or ends before it answers.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name());
        let mut agent = Process::start(&self.host, self.name(), self.agent_command());
        let socket = self.socket();
        wait_until("the agent answers on its socket", PATIENCE, || {
            let ended = agent.ended();
            assert!(ended.is_none(), "the agent ended before it answered: {ended:?}");
            UnixStream::connect(&socket).is_ok()
        });
        self.process = Some(agent);
    }

    /// The command that starts the agent, for a test that does so itself.
    pub fn agent_command(&self) -> Command {
        let mut command = self.host.command(self.program("hive-agent"));
        self.isolate(&mut command);
        command.arg("--state").arg(self.state());
        command.arg("--socket").arg(self.socket());
        command.args(["--name", self.name()]);
        for multiaddr in &self.options.listen {
            command.args(["--listen", multiaddr]);
        }
        command.args(&self.options.arguments);
        self.pass_secrets(&mut command);
        command.envs(self.options.environment.iter().cloned());
        command
    }

    /// Stops the agent with SIGTERM.
    ///
    /// # Panics
    /// When it ends with another status than 0.
    pub fn stop(&mut self) {
        let status = self.take_process().terminate();
        assert!(status.success(), "{} ended with {status} on SIGTERM", self.name());
    }

    /// Kills the agent with SIGKILL.
    pub fn kill9(&mut self) {
        self.take_process().kill();
    }

    /// Stops the agent and starts it again on the same state.
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Whether the agent was started, and neither stopped nor killed since.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The running agent.
    ///
    /// # Panics
    /// When it was stopped.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the agent runs")
    }

    /// What the kernel knows about the running agent.
    pub fn usage(&self) -> Usage {
        self.process().usage()
    }

    /// Runs `hivectl` with these arguments on the node's host, against its local agent. Where the arguments name another
    /// node, its user and password are taken to be those of this node; see [`Node::ctl_as`].
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        self.ctl_as(&self.options.admin, arguments)
    }

    /// The same with these credentials, `USER:PASSWORD`, for the node that the arguments name.
    pub fn ctl_as(&self, credentials: &str, arguments: &[&str]) -> Output {
        self.ctl_with_stdin(credentials, arguments, b"")
    }

    /// The same with something on standard input.
    pub fn ctl_with_stdin(&self, credentials: &str, arguments: &[&str], stdin: &[u8]) -> Output {
        process::run(self.ctl_command(credentials, arguments), stdin, CTL_PATIENCE)
    }

    /// The JSON document that a successful `hivectl --json` prints.
    ///
    /// # Panics
    /// When it fails, or prints anything else.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let whole = [&["--json"], arguments].concat();
        let printed = self.ctl(&whole).success();
        serde_json::from_str(&printed).unwrap_or_else(|why| panic!("{arguments:?}: {why}\n{printed}"))
    }

    /// What this node knows of another, as `nodes --json` has it; null when it knows nothing.
    pub fn row_of(&self, peer_id: &str) -> Value {
        let nodes = self.json(&["nodes"]);
        let mut rows = nodes.as_array().into_iter().flatten();
        rows.find(|row| row["peer_id"] == peer_id).cloned().unwrap_or_default()
    }

    /// Asks again and again until the JSON document pleases, and returns it; a command that fails is asked again, too.
    ///
    /// # Panics
    /// Once `within` has passed, saying `what` did not happen.
    pub fn wait_for_json(
        &self,
        what: &str,
        within: Duration,
        arguments: &[&str],
        pleases: impl Fn(&Value) -> bool,
    ) -> Value {
        let whole = [&["--json"], arguments].concat();
        let what = format!("{}: {what}", self.name());
        wait_for(&what, within, || {
            let output = self.ctl(&whole);
            let document = serde_json::from_str(&output.stdout).ok()?;
            (output.status == Some(0) && pleases(&document)).then_some(document)
        })
    }

    /// Registers another node here, by its identity, in a network of both.
    ///
    /// # Panics
    /// When the command fails.
    pub fn register(&self, other: &Node, network: &str) {
        self.ctl(&["register", "--b64", &other.base64(), "--network", network]).success();
    }

    /// Waits until this node's table has all these others as online.
    ///
    /// # Panics
    /// Once [`PATIENCE`] has passed.
    pub fn wait_until_sees(&self, others: &[&Node]) {
        let ids: Vec<String> = others.iter().map(|other| other.peer_id()).collect();
        let online = |nodes: &Value, id: &String| {
            let rows = nodes.as_array().into_iter().flatten();
            rows.filter(|row| row["online"] == true).any(|row| row["peer_id"] == id.as_str())
        };
        self.wait_for_json("all others are online", PATIENCE, &["nodes"], |nodes| {
            ids.iter().all(|id| online(nodes, id))
        });
    }

    /// The command `hivectl` with these credentials and arguments, for a test that runs it beside others.
    pub fn ctl_command(&self, credentials: &str, arguments: &[&str]) -> Command {
        let mut command = self.host.command(self.program("hivectl"));
        self.isolate(&mut command);
        command.arg("--socket").arg(self.socket()).args(arguments);
        if let Some((user, password)) = credentials.split_once(':') {
            command.env("HIVE_USER", user).env("HIVE_PASSWORD", password);
        }
        command
    }

    /// Its peer id.
    pub fn peer_id(&self) -> String {
        self.identity("peer_id")
    }

    /// Its identity in base64, as `register --b64` takes it.
    pub fn base64(&self) -> String {
        self.identity("base64")
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Its host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its state folder.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    /// Its options, for the next start.
    pub fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }

    fn program(&self, name: &str) -> PathBuf {
        let folder = self.options.programs.as_ref();
        folder.map_or_else(|| process::binary(name), |folder| folder.join(name))
    }

    fn identity(&self, key: &str) -> String {
        let identity = self.json(&["id"]);
        let value = identity[key].as_str();
        value.unwrap_or_else(|| panic!("no {key} in {identity}")).to_owned()
    }

    fn take_process(&mut self) -> Process {
        self.process.take().expect("the agent runs")
    }

    /// Gives a program none of the tester's settings and folders of its own.
    fn isolate(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HIVE_") {
                command.env_remove(name);
            }
        }
        for (name, folder) in [
            ("HOME", "home"),
            ("XDG_STATE_HOME", "home/state"),
            ("XDG_CONFIG_HOME", "home/config"),
            ("XDG_CACHE_HOME", "home/cache"),
            ("XDG_RUNTIME_DIR", "home/run"),
        ] {
            let path = self.folder.join(folder);
            fs::create_dir_all(&path).expect("a folder of the node");
            command.env(name, path);
        }
    }

    /// One network fits into the environment; several need the file.
    fn pass_secrets(&self, command: &mut Command) {
        if !self.options.admin.is_empty() {
            command.env("HIVE_ADMIN", &self.options.admin);
        }
        match &self.options.networks[..] {
            [] => {}
            [network] => {
                command.env("HIVE_NETWORK", network);
            }
            networks => {
                let lines = networks.iter().map(|network| format!("network {network}\n"));
                let path = self.folder.join("credentials");
                write_private(&path, &lines.collect::<String>());
                command.env("HIVE_CREDENTIALS", path);
            }
        }
    }
}

fn write_private(path: &Path, text: &str) {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
