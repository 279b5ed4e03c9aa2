//! An agent for tests of the program: it speaks the control protocol on a socket of its own and answers from memory.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
};

use hive_protocol::{
    CONTROL_PROTOCOL, Identity, NodeId, frame,
    message::{ClientMessage, Failure, FailureCode, Request, Response, ServerMessage, session_challenge},
    pake::{self, Context},
    password::PasswordHashed,
    tunnel,
};
use tempfile::TempDir;

pub const NODE: NodeId = NodeId::from_bytes([4; 32]);
pub const PASSWORD: &str = "swordfish";
const CHALLENGE: [u8; 32] = [9; 32];

/// The agent, and a home for `hivectl`.
pub struct Agent {
    home: TempDir,
    pub state: Arc<Mutex<State>>,
}

/// What tests change and look at.
#[derive(Default)]
pub struct State {
    /// Whether callers need no login.
    pub trusting: bool,
    /// Keys of sessions.
    pub enrolled: Vec<[u8; 32]>,
    /// Requests, in order.
    pub asked: Vec<Request>,
    /// Answers to requests, first come first served; without one the agent ends the conversation.
    pub answers: Vec<Response>,
    /// Whether it ends the conversation after an answer.
    pub hangs_up: bool,
}

impl Agent {
    pub fn start(state: State) -> Self {
        let (home, state) = (tempfile::tempdir().unwrap(), Arc::new(Mutex::new(state)));
        let listener = UnixListener::bind(home.path().join("agent.sock")).unwrap();
        let served = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, state) = (stream.unwrap(), served.clone());
                thread::spawn(move || Conversation { stream, state }.serve());
            }
        });
        Self { home, state }
    }

    pub fn trusting(answers: Vec<Response>) -> Self {
        Self::start(State { trusting: true, answers, ..State::default() })
    }

    /// `hivectl` with these arguments, without a terminal and with nothing of the caller's environment that matters.
    pub fn hivectl(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hivectl"));
        command.arg("--socket").arg(self.home.path().join("agent.sock")).args(line.split_whitespace());
        for variable in ["HIVE_USER", "HIVE_PASSWORD", "HIVE_SOCKET", "HIVE_NETWORK_PASSWORD"] {
            command.env_remove(variable);
        }
        command.env("XDG_STATE_HOME", self.home.path()).stdin(std::process::Stdio::null());
        command
    }

    pub fn session_file(&self) -> PathBuf {
        self.home.path().join(format!("hivectl/{NODE}.json"))
    }
}

/// Exit status, standard output, standard error.
pub fn outcome(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

struct Conversation {
    stream: UnixStream,
    state: Arc<Mutex<State>>,
}

impl Conversation {
    fn serve(mut self) -> Option<()> {
        let ClientMessage::Hello { .. } = self.hear()? else { panic!("no greeting") };
        let (authorised, name) = (self.state.lock().unwrap().trusting, "shed".parse().unwrap());
        self.say(&ServerMessage::Welcome { version: 1, node: NODE, name, authorised, challenge: CHALLENGE });
        loop {
            match self.hear()? {
                ClientMessage::Prove { key, signature } => self.prove(key, signature),
                ClientMessage::Login { user, key } => self.login(&user, key)?,
                ClientMessage::Request(request) => self.answer(request)?,
                other => panic!("{other:?}"),
            }
        }
    }

    fn prove(&mut self, key: [u8; 32], signature: [u8; 64]) {
        let signed = NodeId::from_bytes(key).verify(&session_challenge(&NODE, &CHALLENGE, &key), &signature);
        if signed && self.state.lock().unwrap().enrolled.contains(&key) {
            return self.say(&ServerMessage::Proven);
        }
        self.refuse("no such session");
    }

    fn login(&mut self, user: &str, key: [u8; 32]) -> Option<()> {
        let hashed = PasswordHashed::new(PASSWORD, [3; 16]).unwrap();
        self.say(&ServerMessage::LoginSalt { salt: hashed.salt.clone(), cost: hashed.cost });
        let ClientMessage::LoginOpen { opening } = self.hear()? else { panic!("no opening") };
        let context =
            Context { protocol: CONTROL_PROTOCOL, subject: user, initiator: &key, responder: NODE.as_bytes() };
        let (answer, proofs) = pake::answer(&context, &hashed.secret, &opening).unwrap();
        self.say(&ServerMessage::LoginAnswer { answer: answer.try_into().unwrap() });
        let ClientMessage::LoginConfirm { code } = self.hear()? else { panic!("no proof") };
        if proofs.expect.check(&code).is_err() {
            self.refuse("wrong user or password");
            return Some(());
        }
        self.state.lock().unwrap().enrolled.push(key);
        self.say(&ServerMessage::LoginDone { code: *proofs.send.as_bytes(), expires_in_s: 3600 });
        Some(())
    }

    fn answer(&mut self, request: Request) -> Option<()> {
        let connect = matches!(request, Request::Connect { .. });
        let (answer, hangs_up) = {
            let mut state = self.state.lock().unwrap();
            state.asked.push(request);
            ((!state.answers.is_empty()).then(|| state.answers.remove(0))?, state.hangs_up)
        };
        self.say(&ServerMessage::Response(answer));
        if connect { self.echo() } else { (!hangs_up).then_some(()) }
    }

    /// Sends everything back, but only once the question has ended.
    fn echo(&mut self) -> Option<()> {
        let mut frames = Vec::new();
        loop {
            let mut header = [0; tunnel::HEADER_LEN];
            self.stream.read_exact(&mut header).ok()?;
            let parsed = tunnel::Header::parse(header).unwrap();
            let mut payload = vec![0; parsed.len];
            self.stream.read_exact(&mut payload).ok()?;
            frames.extend([&header[..], &payload].concat());
            if parsed.kind == tunnel::Kind::Eof {
                self.stream.write_all(&frames).ok()?;
                return None;
            }
        }
    }

    fn refuse(&mut self, what: &str) {
        let failure = Failure::new(FailureCode::NotAuthorised, what);
        self.say(&ServerMessage::Response(Response::Error(failure)));
    }

    fn say(&mut self, message: &ServerMessage) {
        // A client that went away is the test's business.
        let _ = self.stream.write_all(&frame::encode(message, frame::CONTROL_MAX).unwrap());
    }

    fn hear(&mut self) -> Option<ClientMessage> {
        let mut prefix = [0; frame::PREFIX];
        self.stream.read_exact(&mut prefix).ok()?;
        let mut body = vec![0; frame::body_len(prefix, frame::CONTROL_MAX).unwrap()];
        self.stream.read_exact(&mut body).ok()?;
        Some(frame::decode(&body).unwrap())
    }
}

pub fn identity(node: NodeId) -> Response {
    Response::Identity(Identity { node, name: "shed".parse().unwrap(), addresses: Vec::new() })
}
