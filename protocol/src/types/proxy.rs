//! One side of a tunnel: as stored, and as listed with its live state.

use std::net::{IpAddr, Ipv4Addr};

use minicbor::{Decode, Encode};

use super::PathKind;
use crate::{HostPattern, KeyPrefix, NetworkName, NodeId, NodeName, PathRule, codec};

/// Number of a proxy on its node; never used twice there.
pub type ProxyId = u64;

/// Which end of a tunnel a proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[cbor(index_only)]
pub enum Direction {
    /// Listens for local connections and sends them to the peer.
    #[n(0)]
    Egress,
    /// Takes connections from the peer to a local target.
    #[n(1)]
    Ingress,
}

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[cbor(index_only)]
pub enum ProxyKind {
    /// Any protocol over TCP, passed through.
    #[n(0)]
    Tcp,
    /// SSH, served by the agent itself: the egress leads to this node and to no peer.
    #[n(1)]
    Ssh,
}

/// Who may log in at a proxy that speaks SSH.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SshLogin {
    /// The user name to log in with, whatever the account that the agent runs as is called.
    #[n(0)]
    pub user: String,
    /// PHC string of the password; none: only keys log in.
    #[n(1)]
    pub password: Option<String>,
    /// Public keys that may log in, each a line as in `authorized_keys` without options.
    #[n(2)]
    pub keys: Vec<String>,
}

/// Neither the name nor the hash belongs into a log.
impl std::fmt::Debug for SshLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SshLogin(…)")
    }
}

/// By what a client knows an SSH server again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct SshHost {
    /// The host's public key as in `known_hosts`, without a name: `ssh-ed25519 AAAA…`.
    #[n(0)]
    pub key: String,
    /// Its fingerprint as OpenSSH writes it: `SHA256:…`.
    #[n(1)]
    pub fingerprint: String,
}

/// The other end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(map)]
pub struct Remote {
    /// Network that gives the right.
    #[n(0)]
    pub network: NetworkName,
    /// The peer.
    #[n(1)]
    pub node: NodeId,
    /// At an egress the peer's port that is asked for; at an ingress the peer's listening port that is let in.
    #[n(2)]
    pub port: u16,
}

/// One side of a tunnel, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ProxySpec {
    /// Its number on the node.
    #[n(0)]
    pub id: ProxyId,
    /// Which end.
    #[n(1)]
    pub direction: Direction,
    /// What it speaks.
    #[n(2)]
    pub kind: ProxyKind,
    /// At an egress the local listening port, at an ingress the local target's port.
    #[n(3)]
    pub port: u16,
    /// Address an egress listens on.
    #[cbor(n(4), with = "codec::ip")]
    pub bind: IpAddr,
    /// Host of an ingress' target: a name or an IP address.
    #[n(5)]
    pub host: String,
    /// The other end; none where the proxy leads to this node.
    #[n(6)]
    pub remote: Option<Remote>,
    /// Whether it serves.
    #[n(7)]
    pub enabled: bool,
    /// Whether it ends with the session that made it; such a proxy is never stored.
    #[n(8)]
    pub temporary: bool,
    /// Seconds for which an egress' connections outlive the path under them, 0 for not at all; else
    /// [`DEFAULT_RESUME`].
    #[n(9)]
    pub resume: Option<u32>,
    /// The certificate with which TLS is terminated here; none to pass bytes on as they are.
    #[n(20)]
    pub key_prefix: Option<KeyPrefix>,
    /// At an egress, the host name by which TLS clients ask for this proxy, among others on the same port.
    #[n(21)]
    pub sni: Option<HostPattern>,
    /// Who may log in, where it speaks SSH.
    #[n(22)]
    pub ssh: Option<SshLogin>,
    /// Which paths it may take; none for any.
    #[n(23)]
    pub path_rule: Option<PathRule>,
}

impl ProxySpec {
    /// Which paths it may take.
    #[must_use]
    pub fn paths(&self) -> PathRule {
        self.path_rule.unwrap_or_default()
    }
}

/// Seconds for which a tunnelled connection outlives its path, unless told otherwise.
pub const DEFAULT_RESUME: u32 = 60;
/// The address an egress listens on unless told otherwise.
pub const DEFAULT_BIND: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The target host of an ingress unless told otherwise.
pub const DEFAULT_HOST: &str = "127.0.0.1";

/// What a proxy is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[cbor(index_only)]
pub enum ProxyState {
    /// An egress that listens while its peer is not connected.
    #[n(0)]
    Listening,
    /// The peer is connected.
    #[n(1)]
    Connected,
    /// Disabled, or an ingress whose peer is not connected.
    #[n(2)]
    Waiting,
    /// Cannot serve; `last_error` says why.
    #[n(3)]
    Failed,
}

/// A proxy with its live state.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cbor(map)]
pub struct ProxyInfo {
    /// See [`ProxySpec`].
    #[n(0)]
    pub id: ProxyId,
    /// Which end.
    #[n(1)]
    pub direction: Direction,
    /// What it speaks.
    #[n(2)]
    pub kind: ProxyKind,
    /// Local port.
    #[n(3)]
    pub port: u16,
    /// Address of an egress.
    #[cbor(n(4), with = "codec::ip")]
    pub bind: IpAddr,
    /// Target host of an ingress.
    #[n(5)]
    pub host: String,
    /// The peer; none where the proxy leads to this node.
    #[n(6)]
    pub peer_id: Option<NodeId>,
    /// The peer's name, where known.
    #[n(7)]
    pub peer_name: Option<NodeName>,
    /// The peer's port.
    #[n(8)]
    pub peer_port: Option<u16>,
    /// The network.
    #[n(9)]
    pub network: Option<NetworkName>,
    /// Whether TLS is terminated here.
    #[n(10)]
    pub tls: bool,
    /// Names the certificate.
    #[n(11)]
    pub key_prefix: Option<String>,
    /// Whether it serves.
    #[n(12)]
    pub enabled: bool,
    /// Whether it ends with its session.
    #[n(13)]
    pub temporary: bool,
    /// What it is doing.
    #[n(14)]
    pub state: ProxyState,
    /// How the peer is reached.
    #[n(15)]
    pub path: PathKind,
    /// Connections open now.
    #[n(16)]
    pub streams: u32,
    /// Connections served since the agent started.
    #[n(17)]
    pub streams_total: u64,
    /// Bytes that came from the peer since the agent started.
    #[n(18)]
    pub bytes_in: u64,
    /// Bytes that went to the peer since the agent started.
    #[n(19)]
    pub bytes_out: u64,
    /// The last failure, cleared by a success.
    #[n(20)]
    pub last_error: Option<String>,
    /// Host name by which TLS clients ask for an egress.
    #[n(21)]
    pub sni: Option<HostPattern>,
    /// The host key, where it speaks SSH.
    #[n(22)]
    pub ssh: Option<SshHost>,
    /// Which paths it may take; none where it takes none, or the node is too old to say.
    #[n(23)]
    pub path_rule: Option<PathRule>,
}
