//! One value of every variant, with every field filled and no two fields alike where they could be mixed up.

mod peers;
mod proxies;

use hive_protocol::{
    AgentMetrics, Carrier, ConnectionCounts, CpuMetrics, DiskMetrics, GpuMetrics, Identity, InterfaceMetrics, KeyEntry,
    KeyInfo, KeyType, LogLevel, LogLine, MappingProtocol, MemoryMetrics, Metrics, NetworkInfo, NetworkName, NodeId,
    NodeInfo, NodeName, PathKind, PeerRecord, PortMapping, Problem, Reachability, SessionInfo, StatusInfo,
    TemperatureMetrics, Timestamp, TunnelCounts,
    keys::{Challenge, ExternalAccount, TlsRequest},
    message::{
        ClientMessage, Failure, FailureCode, FileInfo, Request, Response, RunRequest, ServerMessage, TerminalInfo,
        UpdateRecord, UpdateRequest, UpdateStage, UpdateStatus,
    },
    password::Cost,
    process::{Exit, Frame, Stream},
};
use libp2p_identity::ed25519;
use multiaddr::Multiaddr;

pub use peers::*;
pub use proxies::*;

/// Golden files that stand for something else than a variant.
pub const OTHER_FILES: &[&str] = &[
    "PeerMessage",
    "PeerRecord",
    "SignedRecord",
    "Identity",
    "Identity.text",
    "Request.ProxyAdd.least",
    "Request.ProxyAdd.path",
    "Request.ProxyAdd.ssh",
    "Request.ProxyAdd.tls",
    "Response.Proxies.named",
    "Response.Proxies.path",
    "Response.Proxies.ssh",
    "ClientMessage.Hello.least",
    "Response.Error.least",
    "Response.Nodes.relayed",
    "Request.Update.least",
    "Response.Status.mapped",
    "Response.UpdateStatus.least",
    "session_challenge",
    "frame",
    "process.data",
    "process.end",
    "process.credit",
    "process.resize",
    "process.signal",
    "process.exit",
    "process.killed",
    "tunnel.open",
    "tunnel.accept",
    "tunnel.refuse",
    "tunnel.data",
    "tunnel.eof",
    "tunnel.reset",
    "tunnel.open.grace",
    "tunnel.accept.grace",
    "tunnel.ack",
    "tunnel.window",
    "tunnel.resume",
    "tunnel.resumed",
    "tunnel.open.attempt",
    "tunnel.resume.attempt",
];

pub fn network() -> NetworkName {
    "lab".parse().unwrap()
}

pub fn name() -> NodeName {
    "shed".parse().unwrap()
}

/// The key of the first test vector of RFC 8032, section 7.1.
pub fn key() -> ed25519::Keypair {
    let secret = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    let secret = data_encoding::HEXLOWER.decode(secret.as_bytes()).unwrap();
    ed25519::Keypair::from(ed25519::SecretKey::try_from_bytes(secret).unwrap())
}

pub fn node() -> NodeId {
    NodeId::from(&key().public())
}

fn addresses() -> Vec<Multiaddr> {
    vec!["/ip4/192.0.2.7/tcp/4180".parse().unwrap(), "/dns4/shed.example/tcp/4181".parse().unwrap()]
}

pub fn identity() -> Identity {
    Identity { node: node(), name: name(), addresses: addresses() }
}

pub fn record() -> PeerRecord {
    PeerRecord {
        network: network(),
        node: node(),
        seq: 1_760_000_000_001,
        issued: Timestamp(1_760_000_000_000),
        name: name(),
        addresses: addresses(),
        version: "0.1.0".into(),
        target: "aarch64-unknown-linux-musl".into(),
        relay: true,
        left: false,
    }
}

fn failure() -> Failure {
    Failure::new(FailureCode::Usage, "there is no proxy 7").hint("list them")
}

pub fn client_messages() -> Vec<ClientMessage> {
    vec![
        ClientMessage::Hello { min: 1, max: 2, node: Some("shed".into()), network: Some(network()) },
        ClientMessage::Prove { key: [0x11; 32], signature: [0x22; 64] },
        ClientMessage::Login { user: "admin".into(), key: [0x33; 32] },
        ClientMessage::LoginOpen { opening: [0x44; 33] },
        ClientMessage::LoginConfirm { code: [0x55; 32] },
        ClientMessage::Request(Request::Nodes),
    ]
}

pub fn least_hello() -> ClientMessage {
    ClientMessage::Hello { min: 1, max: 1, node: None, network: None }
}

pub fn server_messages() -> Vec<ServerMessage> {
    let cost = Cost { memory_kib: 19_456, passes: 2, lanes: 1 };
    vec![
        ServerMessage::Welcome { version: 1, node: node(), name: name(), authorised: true, challenge: [0x66; 32] },
        ServerMessage::Proven,
        ServerMessage::LoginSalt { salt: vec![0x77; 16], cost },
        ServerMessage::LoginAnswer { answer: [0x88; 33] },
        ServerMessage::LoginDone { code: [0x99; 32], expires_in_s: 43_200 },
        ServerMessage::Response(Response::Done),
    ]
}

pub fn requests() -> Vec<Request> {
    let password = || "correct horse".to_owned();
    vec![
        Request::Identity,
        Request::Register { identity: identity(), network: network() },
        Request::Networks,
        Request::NetworkJoin { network: network(), password: password() },
        Request::NetworkLeave { network: network() },
        Request::NetworkRotate { network: network(), password: password(), grace_s: 3600 },
        Request::Ban { network: Some(network()), node: node(), banned: true },
        Request::Nodes,
        Request::Status,
        Request::ProxyAdd(proxy_request()),
        Request::Proxies,
        Request::ProxyRemove { id: 7 },
        Request::ProxyEnable { id: 7, enabled: false },
        Request::Connect { host: "127.0.0.1".into(), port: 22 },
        Request::Logout,
        Request::Sessions,
        Request::SessionRevoke { id: "d75a9801".into() },
        Request::Rename { name: name() },
        Request::Listen { addresses: addresses() },
        Request::Keys,
        Request::KeysPut { entries: vec![key_entry()] },
        Request::KeysRemove { names: vec![key_entry().key_name.clone()] },
        Request::KeyShow { name: key_entry().key_name.clone(), reveal: true },
        Request::TlsObtain(tls_request()),
        Request::Metrics,
        Request::Logs { lines: 200, follow: true },
        Request::Run(run_request()),
        Request::FilePut { path: "/srv/model".into(), name: "model".into(), file: file() },
        Request::FileStat { path: "notes".into() },
        Request::FileGet { path: "notes".into(), offset: 70_000 },
        Request::Update(update()),
        Request::UpdateStatus,
    ]
}

fn update() -> UpdateRequest {
    UpdateRequest {
        file: file(),
        version: "0.2.0".into(),
        target: "aarch64-unknown-linux-musl".into(),
        downgrade: true,
        signature: Some([0xe1; 64]),
        patience_s: 120,
    }
}

/// Without a signature.
pub fn least_update() -> Request {
    Request::Update(UpdateRequest { signature: None, downgrade: false, ..update() })
}

fn update_status() -> UpdateStatus {
    UpdateStatus {
        version: "0.1.0".into(),
        target: "aarch64-unknown-linux-musl".into(),
        hash: Some([0xe2; 32]),
        last: Some(UpdateRecord {
            number: 3,
            stage: UpdateStage::RolledBack,
            from: "0.1.0".into(),
            to: "0.2.0".into(),
            why: Some("it ended with status 1".into()),
        }),
    }
}

/// Of a node that was never updated.
pub fn least_update_status() -> Response {
    Response::UpdateStatus(UpdateStatus { hash: None, last: None, ..update_status() })
}

pub fn responses() -> Vec<Response> {
    vec![
        Response::Done,
        Response::Error(failure()),
        Response::Identity(identity()),
        Response::Registered { node: node(), name: name(), members: 3 },
        Response::Networks(vec![network_info()]),
        Response::Nodes { rows: vec![node_info()], more: true },
        Response::Status(status()),
        Response::ProxyAdded { id: 7 },
        Response::Proxies { rows: vec![proxy_info()], more: false },
        Response::Connected,
        Response::Sessions(vec![session()]),
        Response::Keys { rows: vec![key_info()], more: true },
        Response::KeyEntry(key_entry()),
        Response::KeysStored(vec![key_info()]),
        Response::TlsStep { text: "the CA may ask now".into() },
        Response::Metrics(Box::new(metrics())),
        Response::Logs { lines: vec![log_line()], missed: 3, more: true },
        Response::Started,
        Response::FileReady { offset: 70_000 },
        Response::File(file()),
        Response::UpdateStatus(update_status()),
    ]
}

pub fn least_error() -> Response {
    Response::Error(Failure { hint: None, ..failure() })
}

fn network_info() -> NetworkInfo {
    NetworkInfo {
        name: network(),
        members: 5,
        online: 4,
        refused_joins: 2,
        old_password_until: Some(Timestamp(1_760_000_000_000)),
        banned: vec![node()],
    }
}

fn node_info() -> NodeInfo {
    NodeInfo {
        peer_id: node(),
        node_name: name(),
        network: network(),
        latest_contact: Timestamp(1_760_000_000_000),
        online: true,
        path: PathKind::Direct,
        transport: Some(Carrier::Quic),
        rtt_ms: Some(1.5),
        addresses: addresses(),
        version: "0.1.0".into(),
        target: "x86_64-unknown-linux-gnu".into(),
        relay: None,
        why_relayed: None,
    }
}

fn status() -> StatusInfo {
    StatusInfo {
        peer_id: node(),
        node_name: name(),
        version: "0.1.0".into(),
        uptime_s: 86_400,
        reachability: Reachability::Private,
        relays: vec![node()],
        connections: ConnectionCounts { direct: 6, relayed: 1 },
        tunnels: TunnelCounts { active: 2, bytes_in: 1000, bytes_out: 70_000 },
        listening: addresses(),
        problems: vec![Problem { what: "a proxy needs shed".into(), hint: "start it".into() }],
        port_mapping: None,
    }
}

/// With the field that came after version 0.1.
pub fn mapped_status() -> Response {
    let port_mapping = Some(PortMapping {
        gateway: "192.168.1.1".parse().unwrap(),
        protocol: Some(MappingProtocol::NatPmp),
        addresses: vec!["/ip4/203.0.113.9/tcp/4180".parse().unwrap()],
        problem: Some("it has no port left".into()),
    });
    Response::Status(StatusInfo { port_mapping, ..status() })
}

fn session() -> SessionInfo {
    SessionInfo {
        id: "d75a9801".into(),
        user: "admin".into(),
        created: Timestamp(1_760_000_000_000),
        expires: Timestamp(1_760_043_200_000),
        last_used: Timestamp(1_760_000_060_000),
    }
}

fn run_request() -> RunRequest {
    let terminal = TerminalInfo { kind: "xterm-256color".into(), columns: 132, rows: 43 };
    RunRequest { command: vec!["ls".into(), "-l".into()], terminal: Some(terminal) }
}

fn file() -> FileInfo {
    FileInfo { size: 80_000, mode: 0o750, hash: [0xb3; 32] }
}

pub fn process_frames() -> Vec<(&'static str, Frame<'static>)> {
    vec![
        ("data", Frame::Data(Stream::Out, b"hello")),
        ("end", Frame::End(Stream::In)),
        ("credit", Frame::Credit(Stream::Err, 70_000)),
        ("resize", Frame::Resize { columns: 132, rows: 43 }),
        ("signal", Frame::Signal(2)),
        ("exit", Frame::Exit(Exit::Status(3))),
        ("killed", Frame::Exit(Exit::Signal(9))),
    ]
}

fn log_line() -> LogLine {
    LogLine { time: Timestamp(1_760_000_000_000), level: LogLevel::Warn, text: "the path broke".into() }
}

fn metrics() -> Metrics {
    Metrics {
        node_version: "0.1.0".into(),
        target: "aarch64-unknown-linux-musl".into(),
        uptime_s: 86_400,
        cpu: CpuMetrics { cores: Some(4), usage_percent: Some(12.5), load: vec![0.25, 0.5, 0.75] },
        memory: MemoryMetrics {
            total_bytes: Some(4_000_000_000),
            available_bytes: Some(3_000_000_000),
            used_percent: Some(25.0),
        },
        agent: AgentMetrics { rss_bytes: Some(9_000_000), cpu_seconds: Some(1.5), threads: Some(4), fds: Some(21) },
        disks: vec![DiskMetrics { mount: "/".into(), total_bytes: Some(31_000_000_000), used_percent: Some(62.5) }],
        temperatures: vec![TemperatureMetrics { sensor: "cpu-thermal".into(), celsius: Some(48.5) }],
        gpus: vec![GpuMetrics {
            name: "Orin".into(),
            vendor: "nvidia".into(),
            utilization_percent: Some(37.5),
            memory_total_bytes: Some(8_000_000_000),
            memory_used_bytes: Some(1_000_000_000),
            celsius: Some(51.5),
            watts: None,
        }],
        network: vec![InterfaceMetrics { interface: "eth0".into(), rx_bytes: 1000, tx_bytes: 70_000 }],
    }
}

/// A row that says how it is relayed, as nodes do since hole punches.
pub fn relayed_nodes() -> Response {
    let why = Some("2 hole punches did not come through".to_owned());
    Response::Nodes { rows: vec![NodeInfo { relay: Some(node()), why_relayed: why, ..node_info() }], more: false }
}

fn key_entry() -> KeyEntry {
    let pem = "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n".into();
    KeyEntry { key_name: "web_key.pem".parse().unwrap(), key_type: KeyType::Key, pem }
}

fn key_info() -> KeyInfo {
    KeyInfo {
        key_name: "web_cert.pem".parse().unwrap(),
        key_type: KeyType::Cert,
        not_after: Some(Timestamp(1_767_776_000_000)),
        hostnames: vec!["shed.example".into(), "www.shed.example".into()],
        renews_at: Some(Timestamp(1_765_184_000_000)),
        last_error: Some("the name did not resolve".into()),
    }
}

fn tls_request() -> TlsRequest {
    TlsRequest {
        hostnames: vec!["shed.example".parse().unwrap(), "www.shed.example".parse().unwrap()],
        key_prefix: "web".parse().unwrap(),
        challenge: Challenge::TlsAlpn01,
        directory: "https://ca.example/directory".into(),
        roots: Some("-----BEGIN CERTIFICATE-----\n".into()),
        email: Some("me@shed.example".into()),
        external: Some(ExternalAccount { kid: "kid-1".into(), hmac_key: vec![0xe1; 32] }),
        http_port: 8080,
    }
}
