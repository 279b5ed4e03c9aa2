//! How hive nodes reach one another: libp2p transports, security and streams on smol.
//!
//! This crate owns sockets, name resolution, the TLS and Noise handshakes, the multiplexer, the opening and
//! accepting of protocol streams, and the limits on connections. It never decides who is a member, stores
//! anything or speaks a hive protocol: its user admits connections ([`streams::Control::admit`]) and gives
//! every stream its meaning. No module needs tokio.
//!
//! | module | owns |
//! | --- | --- |
//! | [`upgrade`] | the whole transport and the [`Swarm`](libp2p::Swarm): start here |
//! | [`streams`] | opening and accepting streams, member and stranger protocols |
//! | [`limits`] | how many connections, from whom |
//! | [`autonat`] | the messages by which members check each other's addresses |
//! | [`relay`] | carrying members' connections for members |
//! | [`tls`] | the libp2p TLS 1.3 handshake on rustls and ring |
//! | [`bulk`] | TLS connections beside libp2p's, for the bytes of tunnels |
//! | [`tcp`], [`quic`], [`dns`] | sockets and names |
//! | [`files`] | a file that arrives: resumed, checked, put in its place |
//! | [`workers`], [`source`] | the threads that run tasks, and the sockets that they wait for |
//! | [`window`] | credit for several byte streams on one |
//!
//! `batch` makes few system calls of the many that cipher and multiplexer ask for. Unsafe code is denied but for the two calls of
//! [`tcp::kernel`].

pub mod autonat;
mod batch;
pub mod board;
pub mod buffers;
pub mod bulk;
pub mod dns;
pub mod files;
mod interfaces;
pub mod limits;
pub mod quic;
pub mod relay;
pub mod source;
pub mod streams;
pub mod tcp;
pub mod tls;
pub mod upgrade;
pub mod window;
pub mod workers;

pub use upgrade::{Error, Options, Security, Upgrades, swarm, swarm_over, transport, transport_beside};
