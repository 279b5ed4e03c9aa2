//! The port on which http-01 challenges are answered (80, where the world looks). It has nothing else to offer, so every
//! other request is sent on to https.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use async_io::{Async, Timer};
use futures::{AsyncReadExt, AsyncWriteExt};
use hive_protocol::HostPattern;
use smol::{Task, lock::Semaphore};

use super::answers::Answers;
use crate::{exec, time::within};

const WELL_KNOWN: &str = "/.well-known/acme-challenge/";
/// For a request to come.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest head of a request.
const LONGEST: usize = 8 * 1024;
/// Most requests at once; further ones wait in the kernel's queue.
const MOST: usize = 64;
/// After an error of `accept`: most likely there are no file descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens on a port of every address until the task is dropped.
pub fn listen(port: u16, answers: Arc<Answers>) -> io::Result<Task<()>> {
    let both = Async::<TcpListener>::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    let socket = both.or_else(|_| Async::<TcpListener>::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))?;
    log::info!("answering http-01 challenges on port {port}");
    Ok(exec::spawn(serve(socket, answers)))
}

async fn serve(socket: Async<TcpListener>, answers: Arc<Answers>) {
    let room = Arc::new(Semaphore::new(MOST));
    loop {
        let place = room.acquire_arc().await;
        match socket.accept().await {
            Ok((stream, _)) => {
                let answers = answers.clone();
                exec::spawn(async move {
                    // Whoever goes away or says nothing is nobody's business.
                    let _ = within(PATIENCE, respond(stream, &answers)).await;
                    drop(place);
                })
                .detach();
            }
            Err(e) => {
                log::warn!("http-01: cannot accept a connection: {e}");
                Timer::after(PAUSE).await;
            }
        }
    }
}

async fn respond(mut stream: Async<TcpStream>, answers: &Answers) -> io::Result<()> {
    let head = read_head(&mut stream).await?;
    let answer = answer(&head, answers);
    stream.write_all(answer.as_bytes()).await?;
    stream.get_ref().shutdown(std::net::Shutdown::Write)?;
    // An unread byte would turn the end into a reset, which may overtake the answer.
    futures::io::copy(&mut stream.take(LONGEST as u64), &mut futures::io::sink()).await.map(drop)
}

/// All up to the empty line, or as much as is let in.
async fn read_head(stream: &mut Async<TcpStream>) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while head.len() < LONGEST && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut chunk).await? {
            0 => break,
            len => head.extend_from_slice(&chunk[..len]),
        }
    }
    Ok(head)
}

/// The answer to a request.
fn answer(head: &[u8], answers: &Answers) -> String {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let (Ok(httparse::Status::Complete(_)), Some(path)) = (request.parse(head), request.path) else {
        return plain("400 Bad Request", "");
    };
    if let Some(token) = path.strip_prefix(WELL_KNOWN) {
        let known = answers.for_token(token);
        return known.map_or_else(|| plain("404 Not Found", ""), |text| plain("200 OK", &text));
    }
    let host = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("host"));
    let host = host.and_then(|header| std::str::from_utf8(header.value).ok()).map(without_port);
    let safe = |path: &str| path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic());
    match host.and_then(|host| host.parse::<HostPattern>().ok()).filter(|host| !host.is_wildcard()) {
        Some(host) if safe(path) => redirect(&format!("https://{host}{path}")),
        _ => plain("400 Bad Request", ""),
    }
}

fn without_port(host: &str) -> &str {
    host.split_once(':').map_or(host, |(name, _)| name)
}

fn plain(status: &str, body: &str) -> String {
    let kind = "application/octet-stream";
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 308 Permanent Redirect\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(request: &str) -> String {
        answer(request.as_bytes(), &Answers::default()).lines().take(2).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_no_challenge_is_sent_on_to_https() {
        let to = asked("GET /a?b=c HTTP/1.1\r\nHost: Shed.example:80\r\n\r\n");
        assert_eq!(to, "HTTP/1.1 308 Permanent Redirect Location: https://shed.example/a?b=c");
        assert!(asked("GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: a.b\r\n\r\n").contains("404"));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "GET",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET http://x/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: evil.example/x\r\n\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            assert!(asked(bad).contains("400"), "{bad:?}");
        }
    }
}
