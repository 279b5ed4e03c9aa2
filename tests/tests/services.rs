//! The real servers, reached over a plain cable and through a tunnel.

use hive_tests::{
    lab::{Host, Lab},
    pair::Pair,
    payload,
    process::{self, PATIENCE},
    services::{Postgres, Redis, Sse},
    tcp,
};
use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::{
        Mutex,
        mpsc::{Receiver, sync_channel},
    },
};

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

#[test]
fn a_tunnelled_stream_arrives_token_by_token() {
    const TOKENS: u32 = 20;
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    // The server sends a token only after the client has seen the one before: what waits for more on its way hangs.
    let (seen, next) = sync_channel(1);
    let next = Mutex::new(next);
    let server = tcp::Server::start(pair.far.host(), 0, move |stream| {
        let next = next.lock().unwrap();
        let _ = stream_tokens(stream, TOKENS, &next);
    });
    let tunnel = pair.tunnel(server.address());
    let mut stream = pair.near.host().connect(tunnel.entrance).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /v1/chat/completions HTTP/1.1\r\nHost: far\r\n\r\n").unwrap();
    let tokens = BufReader::new(stream).lines().map(Result::unwrap).filter(|line| line.starts_with("data: "));
    let mut expected = 0;
    for line in tokens {
        assert_eq!(line, format!("data: token{expected}"));
        expected += 1;
        let _ = seen.send(());
    }
    assert_eq!(expected, TOKENS);
}

fn stream_tokens(mut stream: TcpStream, tokens: u32, next: &Receiver<()>) -> std::io::Result<()> {
    let head = BufReader::new(stream.try_clone()?).lines();
    head.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")?;
    for index in 0..tokens {
        stream.write_all(format!("data: token{index}\n\n").as_bytes())?;
        let _ = next.recv();
    }
    Ok(())
}

#[test]
fn the_slow_server_answers_through_a_tunnel() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let sse = Sse::start(pair.far.host());
    let entrance = pair.tunnel(sse.address()).entrance;
    for path in ["/v1/chat/completions?tokens=5&interval_ms=5", "/bytes/3000001"] {
        let fetch =
            |host: &Host, address: SocketAddr| curl(host.command("curl"), &[], &format!("http://{address}{path}"));
        let tunnelled = fetch(pair.near.host(), entrance);
        assert!(!tunnelled.is_empty() && tunnelled == fetch(pair.far.host(), sse.address()), "{path}");
    }
}

#[test]
fn postgres_serves_through_a_tunnel() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let Some(postgres) = Postgres::start("postgres_serves_through_a_tunnel", pair.far.host()) else { return };
    let entrance = pair.tunnel(pair.far.host().at(postgres.port())).entrance;
    let pgbench = |arguments: &[&str]| {
        let mut command = pair.near.host().command("pgbench");
        command.args(["-U", "postgres", "-h", &entrance.ip().to_string(), "-p", &entrance.port().to_string()]);
        command.args(arguments);
        process::run(command, b"", PATIENCE).success()
    };
    pgbench(&["--initialize", "--quiet", "postgres"]);
    let report = pgbench(&["--client", "8", "--transactions", "50", "postgres"]);
    assert!(report.contains("number of transactions actually processed: 400/400"), "{report}");
    let history = Postgres::ask(pair.near.host(), entrance, "select count(*) from pgbench_history").success();
    assert_eq!(history, "400\n");
    let wide = "select repeat(md5(n::text), 1000) from generate_series(1, 100) n";
    let tunnelled = Postgres::ask(pair.near.host(), entrance, wide).success();
    assert!(tunnelled == Postgres::ask(pair.far.host(), pair.far.host().at(postgres.port()), wide).success());
}

#[test]
fn redis_serves_through_a_tunnel() {
    let lab = Lab::new();
    let pair = Pair::start(&lab);
    let Some(redis) = Redis::start("redis_serves_through_a_tunnel", pair.far.host()) else { return };
    let entrance = pair.tunnel(pair.far.host().at(redis.port())).entrance;
    let ask = |arguments: &[&str]| Redis::ask(pair.near.host(), entrance, arguments).success();
    let value = "v".repeat(100_000);
    assert_eq!(ask(&["SET", "k", &value]), "OK\n");
    assert_eq!(ask(&["GET", "k"]), format!("{value}\n"));
    let incremented: Vec<String> = (1..=20).map(|_| ask(&["INCR", "n"])).collect();
    assert_eq!(incremented, (1..=20).map(|n| format!("{n}\n")).collect::<Vec<_>>());
}
