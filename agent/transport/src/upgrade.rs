//! From a raw transport to a swarm: security and multiplexing, and the workers for the connections.
//!
//! Owns the order in which TLS and Noise are offered, the multiplexer's sizes, the time a handshake may take,
//! and the swarm's settings. It adds no behaviour: closing connections is left to those who know why.

use std::time::Duration;

use async_channel::Sender;
use futures::{
    AsyncRead, AsyncWrite,
    future::{BoxFuture, Either},
};
use futures_rustls::TlsStream;
use libp2p::{
    PeerId, Swarm, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, upgrade::Version},
        upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
    },
    identity::Keypair,
    noise,
    swarm::{Config, NetworkBehaviour},
    yamux,
};

use crate::{
    batch::{Gather, ReadAhead},
    dns, quic, tcp, tls,
    workers::{self, GiveWay},
};

/// Inbound streams of one connection that may negotiate at once: a burst of 512, twice.
const NEGOTIATING_STREAMS: usize = 1024;
/// Longer than any process lives: the swarm itself never closes a connection for being idle.
const NO_IDLE_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Which handshakes a node offers and accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    /// Both; the cheaper one on this CPU is proposed first.
    #[default]
    TlsAndNoise,
    /// TLS 1.3 alone.
    Tls,
    /// Noise alone.
    Noise,
}

/// How connections are made.
#[derive(Debug, Clone)]
pub struct Options {
    /// The handshakes offered.
    pub security: Security,
    /// From accepting a connection to its multiplexer; a stranger that says nothing is dropped after this.
    pub handshake_timeout: Duration,
    /// From resolving a name to the multiplexer, for connections that we open.
    pub dial_timeout: Duration,
    /// Streams of one connection, both directions together; one more ends the connection. At most 4,032: see
    /// `MAX_STREAMS`.
    pub max_streams: usize,
    /// Where accepted sockets of the [bulk plane](crate::bulk) go; without it there is none.
    pub bulk: Option<Sender<tcp::TcpStream>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            security: Security::default(),
            handshake_timeout: Duration::from_secs(10),
            dial_timeout: Duration::from_secs(15),
            max_streams: MAX_STREAMS,
            bulk: None,
        }
    }
}

/// yamux promises each stream of a connection this window, out of a total for all of them.
const PROMISED_WINDOW: usize = 256 * 1024;
const TOTAL_WINDOW: usize = 1024 * 1024 * 1024;
/// What is not promised is what the windows of busy streams may grow by, all of a connection's together: one stream at
/// 500 Mbit/s needs 4 MiB over 60 ms. With nothing left to grow by it would be held to 34 Mbit/s there.
const GROWTH: usize = 16 * 1024 * 1024;
const MAX_STREAMS: usize = (TOTAL_WINDOW - GROWTH) / PROMISED_WINDOW;

/// Security and multiplexing for one identity, to be put on any raw transport.
#[derive(Clone)]
pub struct Upgrades {
    offer: Offer,
    yamux: yamux::Config,
    options: Options,
}

impl Upgrades {
    /// Prepares certificates and keys.
    ///
    /// # Errors
    /// If the system gives no randomness, or the identity cannot sign.
    pub fn new(identity: &Keypair, options: &Options) -> Result<Self, Error> {
        let mut yamux = yamux::Config::default();
        yamux.set_max_num_streams(options.max_streams.min(MAX_STREAMS));
        Ok(Self { offer: Offer::new(identity, options.security)?, yamux, options: options.clone() })
    }

    /// The upgraded transport. TCP passes through here, and so does a relay client's transport; a transport
    /// that brings its own security and streams (QUIC) is put beside it with `or_transport`.
    pub fn apply<T>(&self, raw: T) -> Boxed<(PeerId, StreamMuxerBox)>
    where
        T: Transport + Send + Unpin + 'static,
        T::Output: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        T::Error: Send + Sync + 'static,
        T::Dial: Send + 'static,
        T::ListenerUpgrade: Send + 'static,
    {
        raw.map(|socket, _| ReadAhead::new(socket))
            .upgrade(Version::V1Lazy)
            .authenticate(self.offer.clone())
            .multiplex(self.yamux.clone())
            .inbound_timeout(self.options.handshake_timeout)
            .outbound_timeout(self.options.dial_timeout)
            .boxed()
    }
}

/// Names, QUIC and TCP, security and multiplexing.
///
/// # Errors
/// See [`Upgrades::new`].
pub fn transport(identity: &Keypair, options: &Options) -> Result<Boxed<(PeerId, StreamMuxerBox)>, Error> {
    let quic = dns::Transport::with(quic::Transport::new(identity, options)?, quic::is_quic);
    let quic = quic.map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
    let tcp = dns::Transport::with(tcp::Transport::with_bulk(options.bulk.clone()), |addr| !quic::is_quic(addr));
    let tcp = Upgrades::new(identity, options)?.apply(tcp);
    Ok(quic.or_transport(tcp).map(|either, _| either.into_inner()).boxed())
}

/// The same beside another raw transport, which is asked first: a relay client's, which takes only circuits.
///
/// # Errors
/// See [`Upgrades::new`].
pub fn transport_beside<T>(
    raw: T,
    identity: &Keypair,
    options: &Options,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, Error>
where
    T: Transport + Send + Unpin + 'static,
    T::Output: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    T::Error: Send + Sync + 'static,
    T::Dial: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
{
    let circuits = Upgrades::new(identity, options)?.apply(raw);
    let direct = transport(identity, options)?;
    Ok(circuits.or_transport(direct).map(|either, _| either.into_inner()).boxed())
}

/// A swarm over [`transport`], driven by whoever polls it; its connections run on the [`workers`].
///
/// # Errors
/// See [`Upgrades::new`].
pub fn swarm<B: NetworkBehaviour>(identity: &Keypair, options: &Options, behaviour: B) -> Result<Swarm<B>, Error> {
    Ok(swarm_over(transport(identity, options)?, identity.public().to_peer_id(), behaviour))
}

/// A swarm over a transport put together elsewhere, such as [`transport`] beside a relay client's.
pub fn swarm_over<B: NetworkBehaviour>(
    transport: Boxed<(PeerId, StreamMuxerBox)>,
    local: PeerId,
    behaviour: B,
) -> Swarm<B> {
    let config = Config::with_executor(|task| workers::spawn(task).detach())
        // Saves a round trip per stream. A refusal then shows at the first read: `streams::Stream` names it.
        .with_substream_upgrade_protocol_override(Version::V1Lazy)
        .with_max_negotiating_inbound_streams(NEGOTIATING_STREAMS)
        .with_idle_connection_timeout(NO_IDLE_TIMEOUT);
    Swarm::new(transport, behaviour, local, config)
}

/// Why a connection could not be secured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// TLS failed.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// QUIC cannot be set up.
    #[error("cannot prepare QUIC")]
    Quic(#[from] quic::ConfigError),
    /// Noise failed.
    #[error("Noise handshake failed")]
    Noise(#[from] noise::Error),
}

/// TLS and Noise side by side, under one list of names.
#[derive(Clone)]
struct Offer {
    names: Vec<&'static str>,
    tls: tls::Config,
    noise: noise::Config,
}

const NOISE: &str = "/noise";

impl Offer {
    fn new(identity: &Keypair, security: Security) -> Result<Self, Error> {
        Ok(Self {
            names: names(security, tls::cpu_has_aes()),
            tls: tls::Config::new(identity)?,
            noise: noise::Config::new(identity)?,
        })
    }
}

/// Which protocols are offered, the preferred one first.
///
/// CPU seconds per GiB, both ends, x86_64 with ring: TLS with AES-128 1.28, Noise 1.85, TLS with ChaCha20-Poly1305 2.02.
/// So Noise leads where AES is slow.
fn names(security: Security, aes: bool) -> Vec<&'static str> {
    match security {
        Security::TlsAndNoise if aes => vec![tls::PROTOCOL, NOISE],
        Security::TlsAndNoise => vec![NOISE, tls::PROTOCOL],
        Security::Tls => vec![tls::PROTOCOL],
        Security::Noise => vec![NOISE],
    }
}

type Secured<C> = Gather<Either<TlsStream<C>, noise::Output<C>>>;

impl UpgradeInfo for Offer {
    type Info = &'static str;
    type InfoIter = std::vec::IntoIter<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.names.clone().into_iter()
    }
}

impl<C> InboundConnectionUpgrade<C> for Offer
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Secured<C>);
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Output, Error>>;

    /// Behind living tunnels: whoever calls may be a stranger.
    fn upgrade_inbound(self, socket: C, name: &'static str) -> Self::Future {
        let secured = async move {
            if name == tls::PROTOCOL {
                let (peer, stream) = self.tls.upgrade_inbound(socket, name).await?;
                return Ok((peer, Gather::new(Either::Left(stream))));
            }
            let (peer, stream) = self.noise.upgrade_inbound(socket, name).await?;
            Ok((peer, Gather::new(Either::Right(stream))))
        };
        Box::pin(GiveWay::new(Box::pin(secured)))
    }
}

impl<C> OutboundConnectionUpgrade<C> for Offer
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Secured<C>);
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Output, Error>>;

    fn upgrade_outbound(self, socket: C, name: &'static str) -> Self::Future {
        Box::pin(async move {
            if name == tls::PROTOCOL {
                let (peer, stream) = self.tls.upgrade_outbound(socket, name).await?;
                return Ok((peer, Gather::new(Either::Left(stream))));
            }
            let (peer, stream) = self.noise.upgrade_outbound(socket, name).await?;
            Ok((peer, Gather::new(Either::Right(stream))))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_leads_where_the_cpu_lacks_aes() {
        assert_eq!(names(Security::TlsAndNoise, true), [tls::PROTOCOL, NOISE]);
        assert_eq!(names(Security::TlsAndNoise, false), [NOISE, tls::PROTOCOL]);
        assert_eq!(names(Security::Tls, false), [tls::PROTOCOL]);
        assert_eq!(names(Security::Noise, true), [NOISE]);
    }
}
