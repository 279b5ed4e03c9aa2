//! The TLS handshake of a channel: rustls without buffers of its own, one record at a time.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
};

use libp2p::PeerId;
use rustls::{
    CommonState, ConnectionTrafficSecrets, ExtractedSecrets,
    client::{ClientConnectionData, UnbufferedClientConnection},
    kernel::KernelConnection,
    pki_types::ServerName,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus},
};

use super::{Channel, Error, PROTOCOL, records::record_len};
use crate::{
    source::{Side, Source},
    tls,
};

/// Most bytes of a handshake that may wait for more.
const UNREAD_MAX: usize = 20 * 1024;

/// The keys' future: each direction renews its own.
pub trait Renew: Send {
    /// The next key for sending.
    fn next_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error>;
    /// The next key for receiving.
    fn next_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error>;
}

impl<Data: Send> Renew for KernelConnection<Data> {
    fn next_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        self.update_tx_secret()
    }

    fn next_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        self.update_rx_secret()
    }
}

/// The two roles, of which rustls makes two types.
trait Role {
    type Data;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn session(&self) -> &CommonState;
    fn finish(self) -> Result<(ExtractedSecrets, Box<dyn Renew>), rustls::Error>;
}

impl Role for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn session(&self) -> &CommonState {
        self
    }

    fn finish(self) -> Result<(ExtractedSecrets, Box<dyn Renew>), rustls::Error> {
        let (secrets, renew) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Box::new(renew)))
    }
}

impl Role for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn session(&self) -> &CommonState {
        self
    }

    fn finish(self) -> Result<(ExtractedSecrets, Box<dyn Renew>), rustls::Error> {
        let (secrets, renew) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Box::new(renew)))
    }
}

/// The dialling role.
pub async fn client(socket: Source<TcpStream>, tls: &tls::Config) -> Result<Channel, Error> {
    // rustls wants a name; with SNI off it is neither sent nor compared.
    let name = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    let role = UnbufferedClientConnection::new(tls.client(), name)?;
    Ok(run(socket, role).await?.1)
}

/// The listening role.
pub async fn server(socket: Source<TcpStream>, tls: &tls::Config) -> Result<(PeerId, Channel), Error> {
    run(socket, UnbufferedServerConnection::new(tls.server())?).await
}

async fn run(socket: Source<TcpStream>, mut role: impl Role) -> Result<(PeerId, Channel), Error> {
    let mut unread = Vec::new();
    let mut unsent = Vec::new();
    while step(&mut role, &mut unread, &mut unsent)? == Step::Blocked {
        write_all(&socket, &mut unsent).await?;
        read_some(&socket, &mut unread).await?;
    }
    write_all(&socket, &mut unsent).await?;
    let peer = tls::authenticated_for(role.session(), PROTOCOL)?;
    let (secrets, renew) = role.finish()?;
    Ok((peer, Channel::new(socket, secrets, renew, &unread)?))
}

#[derive(PartialEq, Eq)]
enum Step {
    Blocked,
    Done,
}

/// Goes as far as what was read allows. rustls sees one record at a time: what follows the last one of the handshake is
/// the channel's.
fn step(role: &mut impl Role, unread: &mut Vec<u8>, unsent: &mut Vec<u8>) -> Result<Step, Error> {
    loop {
        let whole = record_len(unread)?.filter(|len| *len <= unread.len()).unwrap_or(0);
        let UnbufferedStatus { discard, state } = role.process(&mut unread[..whole]);
        let mut blocked = false;
        match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, unsent)?,
            // It is on its way from here on: `run` writes before it reads.
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::BlockedHandshake) => blocked = true,
            Ok(ConnectionState::WriteTraffic(_)) if whole == 0 || discard > 0 => {
                unread.drain(..discard);
                return Ok(Step::Done);
            }
            Ok(_) => return Err(Error::Malformed),
            Err(error) => return Err(refusal(error)),
        }
        unread.drain(..discard);
        if blocked && discard == 0 {
            return if whole == 0 { Ok(Step::Blocked) } else { Err(Error::Malformed) };
        }
    }
}

/// Our verifier's own reason, where it was the verifier.
fn refusal(error: rustls::Error) -> Error {
    tls::Error::refused(&error).map_or(Error::Tls(error), Error::Peer)
}

fn encode<Data>(data: &mut rustls::unbuffered::EncodeTlsData<'_, Data>, unsent: &mut Vec<u8>) -> Result<(), Error> {
    let at = unsent.len();
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = data.encode(&mut []) {
        unsent.resize(at + required_size, 0);
        data.encode(&mut unsent[at..]).map_err(|_| Error::Malformed)?;
    }
    Ok(())
}

async fn write_all(socket: &Source<TcpStream>, unsent: &mut Vec<u8>) -> io::Result<()> {
    let mut left = unsent.as_slice();
    while !left.is_empty() {
        let written = socket.io(Side::Write, |mut socket| socket.write(left)).await?;
        left = &left[written..];
    }
    unsent.clear();
    Ok(())
}

async fn read_some(socket: &Source<TcpStream>, unread: &mut Vec<u8>) -> Result<(), Error> {
    let at = unread.len();
    if at >= UNREAD_MAX {
        return Err(Error::Malformed);
    }
    unread.resize(at + 4096, 0);
    let read = socket.io(Side::Read, |mut socket| socket.read(&mut unread[at..])).await;
    unread.truncate(at + *read.as_ref().unwrap_or(&0));
    if read? == 0 { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) } else { Ok(()) }
}
