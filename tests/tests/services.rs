//! The real servers, reached over a plain cable.

use hive_tests::{
    lab::Lab,
    payload,
    process::{self, PATIENCE},
    services::{Postgres, Redis, Sse},
};
use std::process::Command;

fn curl(mut command: Command, arguments: &[&str], url: &str) -> String {
    command.args(["--silent", "--show-error", "--fail", "--noproxy", "*"]).args(arguments).arg(url);
    process::run(command, b"", PATIENCE).success()
}

#[test]
fn the_slow_server_streams_tokens() {
    let lab = Lab::new();
    let (client, server) = (lab.host("client"), lab.host("server"));
    let sse = Sse::start(&server);
    let url = |path: &str| format!("http://{}{path}", sse.address());
    assert_eq!(curl(client.command("curl"), &[], &url("/health")), "ok\n");
    let slow = url("/v1/chat/completions?tokens=3&interval_ms=5");
    for arguments in [&[][..], &["--data", "{\"stream\":true}"]] {
        let streamed = curl(client.command("curl"), arguments, &slow);
        assert_eq!(streamed.matches("chat.completion.chunk").count(), 3, "{streamed}");
        assert!(streamed.ends_with("data: [DONE]\n\n"), "{streamed}");
    }
}

#[test]
fn the_slow_server_sends_known_bytes() {
    let lab = Lab::new();
    let (client, server) = (lab.host("client"), lab.host("server"));
    let sse = Sse::start(&server);
    let saved = lab.folder().join("saved");
    let url = format!("http://{}/bytes/100001", sse.address());
    curl(client.command("curl"), &["--output", saved.to_str().unwrap()], &url);
    assert!(std::fs::read(saved).unwrap() == payload::bytes(0, 100_001));
}

#[test]
fn postgres_answers() {
    let lab = Lab::new();
    let (client, server) = (lab.host("client"), lab.host("server"));
    let Some(postgres) = Postgres::start("postgres_answers", &server) else { return };
    let sql = "create table t (n int); insert into t select generate_series(1, 1000); select sum(n), count(*) from t;";
    let answer = Postgres::ask(&client, server.at(postgres.port()), sql).success();
    assert!(answer.ends_with("500500|1000\n"), "{answer}");
    assert_eq!(Postgres::ask(&client, server.at(postgres.port()), "select 1/0").status, Some(3));
}

#[test]
fn redis_answers() {
    let lab = Lab::new();
    let (client, server) = (lab.host("client"), lab.host("server"));
    let Some(redis) = Redis::start("redis_answers", &server) else { return };
    let ask = |arguments: &[&str]| Redis::ask(&client, server.at(redis.port()), arguments).success();
    assert_eq!(ask(&["SET", "k", "v"]), "OK\n");
    assert_eq!(ask(&["GET", "k"]), "v\n");
}
