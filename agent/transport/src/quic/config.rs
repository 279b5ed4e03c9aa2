//! What every QUIC endpoint of a node has in common: certificates, windows, timers.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use libp2p::identity::Keypair;
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig},
};
use quinn_proto::RandomConnectionIdGenerator;
use ring::hmac;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use super::runtime::Runtime;
use crate::{Options, board, tcp::socket::explain, tls};

/// A dead path is noticed after this, as soon as one of TCP. NATs forget UDP after 30 s and more (RFC 4787, section 4.3: two minutes).
const IDLE: Duration = Duration::from_secs(13);
/// A path that is not used is kept by a packet this often.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Bytes on the way on one connection, in each direction, and of them on one stream half: 500 Mbit/s over 120 ms. Less
/// where that were more than this part of the board's memory.
const MOST_ON_THE_WAY: u32 = 16 << 20;
const LEAST_ON_THE_WAY: u32 = 1 << 20;
const PART_OF_MEMORY: u128 = 64;

/// Packets that wait in the kernel while this process is busy: 34 ms at 500 Mbit/s. What finds no room is lost, which slows
/// the sender down; the kernel's own default holds 2 ms.
const RECEIVE_BUFFER: usize = 2 << 20;

/// Why no endpoint can be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The cipher suites lack the one that QUIC begins with; never happens.
    #[error(transparent)]
    Suite(#[from] NoInitialCipherSuite),
}

/// The configuration of a node's endpoints. Cheap to clone.
#[derive(Clone)]
pub(super) struct Config {
    client: ClientConfig,
    server: ServerConfig,
    endpoint: EndpointConfig,
    runtime: Arc<Runtime>,
    /// From the first packet of a connection from outside to its identity.
    pub handshake_timeout: Duration,
}

impl Config {
    pub fn new(identity: &Keypair, options: &Options) -> Result<Self, Error> {
        let tls = tls::Config::new(identity)?;
        let transport = Arc::new(transport(options));
        let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls.client())?));
        client.transport_config(transport.clone());
        let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls.server())?));
        // A NAT may give a client another port at any time.
        server.transport_config(transport).migration(true);
        let runtime = Arc::new(Runtime);
        let endpoint = endpoint(identity);
        Ok(Self { client, server, endpoint, runtime, handshake_timeout: options.handshake_timeout })
    }

    /// An endpoint on a socket of its own.
    pub fn endpoint(&self, local: SocketAddr, listens: bool) -> io::Result<Endpoint> {
        let server = listens.then(|| self.server.clone());
        let socket = open(local).map_err(|error| explain(local, error))?;
        let mut endpoint = Endpoint::new(self.endpoint.clone(), server, socket, self.runtime.clone())?;
        endpoint.set_default_client_config(self.client.clone());
        Ok(endpoint)
    }
}

/// A node that was killed says nothing to its peers. Its successor answers their packets with a reset that they believe
/// (RFC 9000, section 10.3), because both have derived the same key. Connection ids are random: by default they carry a
/// mark of the process, and those of a predecessor would be passed over without a word.
fn endpoint(identity: &Keypair) -> EndpointConfig {
    let Some(secret) = identity.derive_secret(b"hive quic stateless reset") else { return EndpointConfig::default() };
    let mut endpoint = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &secret)));
    endpoint.cid_generator(|| Box::<RandomConnectionIdGenerator>::default());
    endpoint
}

fn transport(options: &Options) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let streams = u32::try_from(options.max_streams).unwrap_or(u32::MAX);
    let window = window(board::memory());
    transport
        .max_concurrent_bidi_streams(streams.into())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window((window / 2).into())
        .receive_window(window.into())
        .send_window(u64::from(window))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok());
    transport
}

/// Bytes on the way on one connection of a board with this much memory.
fn window(memory: u128) -> u32 {
    u32::try_from(memory / PART_OF_MEMORY).unwrap_or(MOST_ON_THE_WAY).clamp(LEAST_ON_THE_WAY, MOST_ON_THE_WAY)
}

fn open(local: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    if local.is_ipv6() {
        // IPv4 has a socket of its own: mapped addresses would hide where a connection comes from.
        socket.set_only_v6(true)?;
    }
    // Root gets it; others as much as `net.core.rmem_max` allows, and less is no error.
    sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)
        .or_else(|_| socket.set_recv_buffer_size(RECEIVE_BUFFER))?;
    socket.bind(&local.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use quinn::ConnectionError;
    use smol::{
        channel::{self, Receiver},
        future::or,
        net::UdpSocket,
    };

    use super::*;

    const LOOPBACK: &str = "127.0.0.1:0";

    fn config(identity: &Keypair) -> Config {
        Config::new(identity, &Options::default()).unwrap()
    }

    /// Carries the packets of one client to the address of the moment, and the answers back; from another port each time
    /// that it is told, as a NAT that has lost its mapping.
    async fn forward(front: UdpSocket, to: Arc<Mutex<SocketAddr>>, rebinds: Receiver<()>) {
        let (mut back, mut client) = (UdpSocket::bind(LOOPBACK).await.unwrap(), None);
        let (mut out, mut home) = ([0; 2048], [0; 2048]);
        loop {
            let rebind = async {
                match rebinds.recv().await {
                    Ok(()) => None,
                    Err(_) => std::future::pending().await,
                }
            };
            let outward = async { Some((true, front.recv_from(&mut out).await.unwrap())) };
            let homeward = async { Some((false, back.recv_from(&mut home).await.unwrap())) };
            let next = or(rebind, or(outward, homeward)).await;
            let Some((is_outward, (length, from))) = next else {
                back = UdpSocket::bind(LOOPBACK).await.unwrap();
                continue;
            };
            if is_outward {
                client = Some(from);
                let to = *to.lock().unwrap();
                back.send_to(&out[..length], to).await.unwrap();
            } else if let Some(client) = client {
                front.send_to(&home[..length], client).await.unwrap();
            }
        }
    }

    /// Says nothing, ever.
    fn never() -> Receiver<()> {
        channel::bounded(1).1
    }

    #[test]
    fn a_connection_outlives_another_port_of_its_nat() {
        let (server, client) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        smol::block_on(async {
            let local = LOOPBACK.parse().unwrap();
            let server = config(&server).endpoint(local, true).unwrap();
            let front = UdpSocket::bind(LOOPBACK).await.unwrap();
            let at = front.local_addr().unwrap();
            let (rebind, rebinds) = channel::bounded(1);
            let to = Arc::new(Mutex::new(server.local_addr().unwrap()));
            let _forwarding = smol::spawn(forward(front, to, rebinds));
            let client = config(&client).endpoint(local, false).unwrap();
            let dialling = client.connect(at, "l").unwrap();
            let (here, there) = futures::join!(dialling, async { server.accept().await.unwrap().await });
            let (here, there) = (here.unwrap(), there.unwrap());
            let (mut stream, _) = here.open_bi().await.unwrap();
            stream.write_all(b"before").await.unwrap();
            let (_, mut arriving) = there.accept_bi().await.unwrap();
            let mut word = [0; 6];
            arriving.read_exact(&mut word).await.unwrap();
            let before = there.remote_address();
            rebind.send(()).await.unwrap();
            stream.write_all(b"behind").await.unwrap();
            arriving.read_exact(&mut word).await.unwrap();
            assert_eq!(&word, b"behind");
            assert_ne!(there.remote_address(), before);
        });
    }

    #[test]
    fn the_window_follows_the_board() {
        const MIB: u128 = 1 << 20;
        let boards = [32 * MIB, 64 * MIB, 128 * MIB, 1024 * MIB, u128::MAX];
        let most = MOST_ON_THE_WAY;
        assert_eq!(boards.map(window), [LEAST_ON_THE_WAY, LEAST_ON_THE_WAY, 2 << 20, most, most]);
    }

    #[test]
    fn a_successor_ends_what_its_predecessor_left() {
        let (server, client) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        smol::block_on(async {
            let local = LOOPBACK.parse().unwrap();
            let [killed, successor] = [(); 2].map(|()| config(&server).endpoint(local, true).unwrap());
            let to = Arc::new(Mutex::new(killed.local_addr().unwrap()));
            let front = UdpSocket::bind(LOOPBACK).await.unwrap();
            let at = front.local_addr().unwrap();
            let _forwarding = smol::spawn(forward(front, to.clone(), never()));
            let client = config(&client).endpoint(local, false).unwrap();
            let dialling = client.connect(at, "l").unwrap();
            let (connection, accepted) = futures::join!(dialling, async { killed.accept().await.unwrap().await });
            let (connection, _accepted) = (connection.unwrap(), accepted.unwrap());
            *to.lock().unwrap() = successor.local_addr().unwrap();
            let (mut stream, _) = connection.open_bi().await.unwrap();
            stream.write_all(&[7; 1000]).await.unwrap();
            assert_eq!(connection.closed().await, ConnectionError::Reset);
        });
    }
}
