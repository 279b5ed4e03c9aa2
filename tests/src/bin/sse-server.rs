//! An HTTP/1.1 server that behaves as a language model's endpoint does: it answers slowly, token by token, in
//! server-sent events. It is what the tests and the demonstration reach through the hive.

#![forbid(unsafe_code)]

use argh::FromArgs;
use futures::stream::{self, Stream, StreamExt};
use hive_tests::payload;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Frame, Incoming},
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use smol::{Executor, Timer, net::TcpListener};
use smol_hyper::rt::FuturesIo;
use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

/// Serves HTTP/1.1: GET /health; GET or POST /v1/chat/completions?tokens=N&interval_ms=M, a stream of server-sent events
/// in OpenAI's form; GET /bytes/N, N bytes that are always the same. Prints `listening on ADDRESS`.
///
/// Example: sse-server --listen 127.0.0.1:8080
#[derive(FromArgs)]
struct Arguments {
    /// address and port to listen on; port 0 is any free one
    #[argh(option, default = "SocketAddr::from(([127, 0, 0, 1], 0))")]
    listen: SocketAddr,
}

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The seed of what `/bytes/N` sends.
const BYTES_SEED: u64 = 0;
/// One frame of `/bytes/N`.
const FRAME: u64 = 16 << 10;
/// More tokens than anyone waits for.
const MOST_TOKENS: u64 = 1_000_000;

fn main() -> io::Result<()> {
    let arguments: Arguments = argh::from_env();
    let executor = Executor::new();
    smol::block_on(executor.run(serve(&executor, arguments.listen)))
}

async fn serve(executor: &Executor<'_>, address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let connection = http1::Builder::new().serve_connection(FuturesIo::new(stream), service_fn(answer));
        let ended = async {
            if let Err(error) = connection.await {
                eprintln!("connection: {error}");
            }
        };
        executor.spawn(ended).detach();
    }
}

async fn answer(request: Request<Incoming>) -> Result<Reply, hyper::Error> {
    let (head, body) = request.into_parts();
    let path: Vec<&str> = head.uri.path().split('/').skip(1).collect();
    let query = head.uri.query().unwrap_or_default();
    // A client that sends a body is read to its end before it is answered.
    let received = body.collect().await?.to_bytes().len();
    Ok(match (head.method, &path[..]) {
        (Method::GET, ["health"]) => text(StatusCode::OK, "ok\n"),
        (Method::GET | Method::POST, ["v1", "chat", "completions"]) => completion(query, received),
        (Method::GET, ["bytes", length]) => match length.parse() {
            Ok(length) => sized_bytes(length),
            Err(_) => text(StatusCode::BAD_REQUEST, "not a number\n"),
        },
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    })
}

/// A stream of events, one for each token, and the last one as OpenAI ends it. (The API: "Chat", "Streaming".)
fn completion(query: &str, received: usize) -> Reply {
    let tokens = parameter(query, "tokens").unwrap_or(8).min(MOST_TOKENS);
    let interval = Duration::from_millis(parameter(query, "interval_ms").unwrap_or(100));
    let events = stream::iter(0..tokens).then(move |index| async move {
        Timer::after(interval).await;
        event(index, received)
    });
    let end = stream::iter([Bytes::from_static(b"data: [DONE]\n\n")]);
    let mut reply = Response::new(streamed(events.chain(end)));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    reply
}

fn event(index: u64, received: usize) -> Bytes {
    let chunk = serde_json::json!({
        "id": format!("chatcmpl-{received}"),
        "object": "chat.completion.chunk",
        "model": "slow",
        "choices": [{ "index": 0, "delta": { "content": format!("token{index} ") }, "finish_reason": null }],
    });
    Bytes::from(format!("data: {chunk}\n\n"))
}

fn sized_bytes(length: u64) -> Reply {
    let offsets = (0..length).step_by(FRAME as usize);
    let frames = offsets.map(move |offset| {
        let mut frame = vec![0; FRAME.min(length - offset) as usize];
        payload::fill(BYTES_SEED, offset, &mut frame);
        Bytes::from(frame)
    });
    let mut reply = Response::new(streamed(stream::iter(frames)));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, length.into());
    reply
}

fn streamed(data: impl Stream<Item = Bytes> + Send + 'static) -> UnsyncBoxBody<Bytes, Infallible> {
    boxed(StreamBody::new(data.map(|bytes| Ok(Frame::data(bytes)))))
}

fn text(status: StatusCode, text: &'static str) -> Reply {
    let mut reply = Response::new(boxed(Full::from(text)));
    *reply.status_mut() = status;
    reply
}

fn boxed(body: impl Body<Data = Bytes, Error = Infallible> + Send + 'static) -> UnsyncBoxBody<Bytes, Infallible> {
    UnsyncBoxBody::new(body)
}

fn parameter(query: &str, name: &str) -> Option<u64> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok())
}
