//! Several egress proxies on one port, told apart by the host name in TLS' first message (SNI, RFC 6066 section 3).
//!
//! Nothing is decrypted and nothing taken: the ClientHello is looked at where it lies in the socket, and the proxy
//! carries it on with the rest. A client may be hostile: what it sends first is bounded in size and time.

use std::{io, net::TcpStream, sync::Arc, time::Duration};

use async_io::Timer;
use futures::AsyncWriteExt;
use hive_protocol::ProxySpec;
use hive_transport::source::{Side, Source};
use rustls::server::Acceptor;

use super::alert::{self, Alert};
use crate::time::within;

/// For the whole ClientHello.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest ClientHello; those with post-quantum keys have 2 KiB.
const LONGEST: usize = 16 * 1024;
/// Between looks at a ClientHello of which only a part is there: its bytes stay in the socket, so that is always ready.
/// Doubled while nothing comes, so that many slow clients cost little.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// The longest of these pauses.
const LOOK_SELDOM: Duration = Duration::from_millis(320);

/// Why a connection goes to no proxy.
#[derive(Debug, thiserror::Error)]
pub enum SniError {
    /// Its first message is none of TLS.
    #[error("the client does not begin with TLS: {0}")]
    NotTls(rustls::Error),
    /// Its first message is too long.
    #[error("the client's first message is longer than {LONGEST} bytes")]
    TooLong,
    /// Its first message did not come.
    #[error("the client's first message did not come within {} s", DEADLINE.as_secs())]
    Slow,
    /// It asks for a name that no proxy has, or for none.
    #[error("no proxy here is for {}", .0.as_deref().unwrap_or("clients without a host name"))]
    Unknown(Option<String>),
    /// It went away.
    #[error(transparent)]
    Gone(#[from] io::Error),
}

/// The proxy that a connection is for. One that is for none is told so by a TLS alert and ended.
pub async fn route(client: &Source<TcpStream>, group: &[Arc<ProxySpec>]) -> Result<Arc<ProxySpec>, SniError> {
    let asked = within(DEADLINE, look(client)).await.unwrap_or(Err(SniError::Slow));
    let chosen = asked.and_then(|host| choose(group, host.as_deref()).ok_or(SniError::Unknown(host)));
    if let Err(error) = &chosen {
        let alert = match error {
            SniError::Unknown(_) => alert::UNRECOGNIZED_NAME,
            _ => alert::DECODE_ERROR,
        };
        // A client that is gone needs no alert.
        let _ = refuse(client, alert).await;
    }
    chosen
}

/// The proxy for a host name: its own before a wildcard's.
fn choose(group: &[Arc<ProxySpec>], host: Option<&str>) -> Option<Arc<ProxySpec>> {
    let host = host?;
    let matches = |spec: &&Arc<ProxySpec>| spec.sni.as_ref().is_some_and(|sni| sni.matches(host));
    let wild = |spec: &&Arc<ProxySpec>| spec.sni.as_ref().is_some_and(|sni| sni.is_wildcard());
    group.iter().filter(matches).min_by_key(wild).cloned()
}

/// Looks at the ClientHello until it is whole, and says which host it asks for.
async fn look(client: &Source<TcpStream>) -> Result<Option<String>, SniError> {
    let mut seen = vec![0; 2048];
    let (mut before, mut pause) = (0, LOOK_AGAIN);
    loop {
        let len = client.io(Side::Read, |socket| socket.peek(&mut seen)).await?;
        match parse(&seen[..len])? {
            Some(host) => return Ok(host),
            None if len == LONGEST => return Err(SniError::TooLong),
            None if len == seen.len() => seen.resize(LONGEST, 0),
            None if len == before && ended(client)? => return Err(SniError::Gone(io::ErrorKind::UnexpectedEof.into())),
            None => drop(Timer::after(pause).await),
        }
        pause = if len > before { LOOK_AGAIN } else { (pause * 2).min(LOOK_SELDOM) };
        before = len;
    }
}

/// Whether nothing more will come after what lies in the socket.
fn ended(client: &Source<TcpStream>) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut asked = [PollFd::new(client, PollFlags::RDHUP)];
    poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(asked[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR))
}

/// The host that a ClientHello asks for; none while it is not whole.
fn parse(seen: &[u8]) -> Result<Option<Option<String>>, SniError> {
    let mut acceptor = Acceptor::default();
    let mut unread = seen;
    while !unread.is_empty() {
        if acceptor.read_tls(&mut unread)? == 0 {
            break;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(Some(accepted.client_hello().server_name().map(str::to_owned))),
            Ok(None) => {}
            Err((error, _)) => return Err(SniError::NotTls(error)),
        }
    }
    Ok(None)
}

/// Sends an alert, which has room in a socket that nothing was written to, and ends the connection.
async fn refuse(mut client: &Source<TcpStream>, alert: Alert) -> io::Result<()> {
    client.write_all(&alert).await?;
    client.end()?;
    alert::part(client).await;
    Ok(())
}

#[cfg(test)]
mod tests;
