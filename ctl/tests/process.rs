//! `hivectl` as a process, against an agent that answers from memory: statuses, what stands on which output, sessions
//! from one command to the next, signals.
#![allow(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

mod agent;

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::PermissionsExt,
    process::Stdio,
};

use agent::{Agent, NODE, PASSWORD, State, identity, outcome};
use hive_protocol::{
    Direction, NetworkInfo, NodeId,
    message::{Failure, FailureCode, ProxyRequest, Request, Response},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

#[test]
fn a_login_serves_later_commands_until_the_node_forgets_it() {
    let agent = Agent::start(State { answers: vec![Response::Networks(Vec::new()); 3], ..State::default() });
    let (code, out, err) = outcome(&mut agent.hivectl("networks"));
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.starts_with("error: a login at shed is needed") && err.contains("\nhint: "), "{err}");
    assert_eq!(
        outcome(agent.hivectl("--json networks").env("HIVE_PASSWORD", PASSWORD)),
        (0, "[]\n".into(), String::new())
    );
    assert_eq!(agent.session_file().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(outcome(agent.hivectl("networks").env("HIVE_PASSWORD", "wrong")).0, 0, "the session comes first");
    assert_eq!(outcome(agent.hivectl("networks").env("HIVE_USER", "other")).0, 3, "it is the session of admin");
    agent.state.lock().unwrap().enrolled.clear();
    let (code, _, err) = outcome(agent.hivectl("networks").env("HIVE_PASSWORD", "wrong"));
    assert_eq!((code, err.lines().next()), (3, Some("error: wrong user or password")));
    assert!(!agent.session_file().exists(), "a refused session is dropped");
    assert_eq!(outcome(agent.hivectl("networks").env("HIVE_PASSWORD", PASSWORD)).0, 0);
}

#[test]
fn login_and_logout_keep_the_file_and_the_node_in_step() {
    let agent = Agent::start(State { answers: vec![Response::Done], ..State::default() });
    let mut login =
        agent.hivectl("login --password-stdin").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    login.stdin.take().unwrap().write_all(b"swordfish\n").unwrap();
    let mut said = String::new();
    login.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(login.wait().unwrap().success());
    assert_eq!(said, "logged in at shed as admin, session ends in 1 h\n");
    assert!(agent.session_file().exists());
    assert_eq!(outcome(&mut agent.hivectl("logout")), (0, "logged out at shed as admin\n".into(), String::new()));
    assert!(!agent.session_file().exists());
    assert_eq!(agent.state.lock().unwrap().asked, [Request::Logout]);
    assert_eq!(outcome(&mut agent.hivectl("logout")).1, "no session with shed is saved\n");
}

#[test]
fn a_home_that_cannot_be_written_costs_a_warning() {
    let agent = Agent::start(State { answers: vec![Response::Networks(Vec::new()); 2], ..State::default() });
    let command = |line| {
        let mut command = agent.hivectl(line);
        command.env("HIVE_PASSWORD", PASSWORD).env("XDG_STATE_HOME", "/dev/null");
        outcome(&mut command)
    };
    let (code, _, err) = command("networks");
    assert!(code == 0 && err.starts_with("warning: the session is not saved"), "{err}");
    assert_eq!(command("--quiet networks").2, "");
}

#[test]
fn errors_stand_on_standard_error_and_carry_the_status_of_their_kind() {
    let codes = [
        (FailureCode::Failed, 1),
        (FailureCode::Usage, 2),
        (FailureCode::NotAuthorised, 3),
        (FailureCode::Unreachable, 4),
        (FailureCode::Version, 1),
        (FailureCode::Busy, 1),
    ];
    let failure = |(code, _)| Response::Error(Failure::new(code, "it did not work").hint("try another"));
    let agent = Agent::trusting(codes.map(failure).to_vec());
    for (_, code) in codes {
        let expected = (code, String::new(), "error: it did not work\nhint: try another\n".to_owned());
        assert_eq!(outcome(&mut agent.hivectl("--json status")), expected);
    }
    assert_eq!(outcome(&mut agent.hivectl("status")).2.lines().next(), Some("error: the agent ended the conversation"));
    assert_eq!(outcome(&mut agent.hivectl("nonsense")).0, 2);
    let (code, out, err) = outcome(&mut agent.hivectl("--help"));
    assert!(code == 0 && out.starts_with("Usage: hivectl") && err.is_empty());
}

#[test]
fn json_is_one_document_and_quiet_is_silent() {
    let answers = [identity(NODE), identity(NODE), Response::Done, Response::Done];
    let agent = Agent::trusting(answers.to_vec());
    let id: Value = serde_json::from_str(&outcome(&mut agent.hivectl("id --json")).1).unwrap();
    assert_eq!((&id["peer_id"], &id["node_name"]), (&NODE.to_string().into(), &"shed".into()));
    let (_, base64, _) = outcome(&mut agent.hivectl("id --base64"));
    assert_eq!(id["base64"], base64.trim_end());
    assert_eq!(outcome(&mut agent.hivectl("proxy rm 3 --json")).1, "{\"id\":3}\n");
    assert_eq!(outcome(&mut agent.hivectl("proxy rm 3 --quiet")), (0, String::new(), String::new()));
}

#[test]
fn connect_carries_both_directions_to_their_ends() {
    let agent = Agent::trusting(vec![Response::Connected]);
    let mut connect = agent.hivectl("connect shed:22").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let question: Vec<u8> = (0..200_000_u32).map(|i| (i / 7) as u8).collect();
    connect.stdin.take().unwrap().write_all(&question).unwrap();
    let mut answer = Vec::new();
    connect.stdout.take().unwrap().read_to_end(&mut answer).unwrap();
    assert!(answer == question);
    assert!(connect.wait().unwrap().success());
    assert_eq!(agent.state.lock().unwrap().asked, [Request::Connect { host: "127.0.0.1".into(), port: 22 }]);
}

#[test]
fn forward_takes_its_first_side_back_when_the_second_fails() {
    let taken = Response::Error(Failure::new(FailureCode::Failed, "port 80 is taken"));
    let other = NodeId::from_bytes([5; 32]);
    let added = Response::ProxyAdded { id: 7 };
    let agent = Agent::trusting(vec![identity(NODE), identity(other), added, taken, Response::Done]);
    let (code, out, err) = outcome(&mut agent.hivectl("forward --from self:80 --to shed:8080"));
    assert_eq!((code, out.as_str(), err.as_str()), (1, "", "error: port 80 is taken\n"));
    let asked = &agent.state.lock().unwrap().asked;
    let [_, _, Request::ProxyAdd(first), Request::ProxyAdd(second), Request::ProxyRemove { id: 7 }] = &asked[..] else {
        panic!("{asked:?}")
    };
    let sides = |r: &ProxyRequest| (r.direction, r.port, r.peer.clone(), r.peer_port);
    assert_eq!(sides(first), (Direction::Ingress, 8080, NODE.to_string(), 80));
    assert_eq!(sides(second), (Direction::Egress, 80, other.to_string(), 8080));
}

#[test]
fn a_temporary_proxy_stays_until_it_is_told_to_end() {
    let agent = Agent::trusting(vec![Response::ProxyAdded { id: 1 }]);
    let line = "proxy --direction egress --target shed:80 --port 8080 --temporary";
    let mut proxy = agent.hivectl(line).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(proxy.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "proxy 1 at shed: port 8080 leads to shed:80 until this command ends (Ctrl-C)\n");
    assert!(proxy.try_wait().unwrap().is_none());
    kill_process(Pid::from_child(&proxy), Signal::TERM).unwrap();
    assert!(proxy.wait().unwrap().success());
}

#[test]
fn a_temporary_proxy_ends_with_the_agent() {
    let answers = vec![Response::ProxyAdded { id: 1 }];
    let agent = Agent::start(State { trusting: true, answers, hangs_up: true, ..State::default() });
    let (code, out, err) = outcome(&mut agent.hivectl("proxy --direction ingress --origin a:1 --port 80 --temporary"));
    assert!(code == 1 && out.starts_with("proxy 1 at shed: a:1 is let in to port 80"), "{out}");
    assert!(err.starts_with("error: the agent ended the conversation"), "{err}");
}

#[test]
fn a_reader_that_went_away_ends_the_command_without_a_word() {
    let home = NetworkInfo {
        name: "home".parse().unwrap(),
        members: 1,
        online: 1,
        refused_joins: 0,
        old_password_until: None,
        banned: Vec::new(),
    };
    let agent = Agent::trusting(vec![Response::Networks(vec![home])]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let (code, _, err) = outcome(agent.hivectl("networks").stdout(writer));
    assert_eq!((code, err.as_str()), (141, ""));
}
