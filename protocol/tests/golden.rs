//! The bytes of protocol version 1, one file per message variant under `golden/v1`.
//!
//! A golden file never changes: an agent in the field speaks it. A new variant is named in its `variants!` list (the
//! compiler insists), gets a sample here, and its file is made once by `HIVE_GOLDEN=new cargo test -p hive-protocol
//! --test golden`, which writes missing files only, and is then checked by hand. Lines that begin with `#` show the
//! same bytes in CBOR's diagnostic notation (RFC 8949, section 8).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod golden_samples;

use std::{collections::BTreeSet, fmt::Debug, fs, path::PathBuf};

use golden_samples as samples;
use hive_protocol::{
    Carrier, Direction, Identity, KeyType, LogLevel, MappingProtocol, PathKind, PathRule, ProxyKind, ProxyState,
    Reachability, SignedRecord, frame,
    keys::Challenge,
    message::{ClientMessage, FailureCode, Request, Response, ServerMessage, UpdateStage, session_challenge},
    peer::{JoinMessage, JoinRefusal, PeerMessage, PunchMessage, RangeContent, SyncMessage},
    process,
    tunnel::{self, Kind, RefuseReason},
};
use minicbor::{Decode, Encode};

/// A wire type whose variants all have a golden file.
trait Variants: Sized {
    const TYPE: &'static str;
    const ALL: &'static [&'static str];
    fn variant(&self) -> &'static str;
}

/// Names every variant of a type; a variant that is not named does not compile.
macro_rules! variants {
    ($type:ident: $($variant:ident),+ $(,)?) => {
        impl Variants for $type {
            const TYPE: &'static str = stringify!($type);
            const ALL: &'static [&'static str] = &[$(stringify!($variant)),+];
            fn variant(&self) -> &'static str {
                match self { $(Self::$variant { .. } => stringify!($variant)),+ }
            }
        }
    };
}

variants!(ClientMessage: Hello, Prove, Login, LoginOpen, LoginConfirm, Request);
variants!(ServerMessage: Welcome, Proven, LoginSalt, LoginAnswer, LoginDone, Response);
variants!(Request: Identity, Register, Networks, NetworkJoin, NetworkLeave, NetworkRotate, Ban, Nodes, Status,
    ProxyAdd, Proxies, ProxyRemove, ProxyEnable, Connect, Logout, Sessions, SessionRevoke, Rename, Listen, Keys, KeysPut,
    KeysRemove, KeyShow, TlsObtain, Metrics, Logs, Run, FilePut, FileStat, FileGet,
    Update, UpdateStatus);
variants!(Response: Done, Error, Identity, Registered, Networks, Nodes, Status, ProxyAdded, Proxies, Connected,
    Sessions, Keys, KeyEntry, KeysStored, TlsStep, Metrics, Logs, Started, FileReady, File, UpdateStatus);
variants!(FailureCode: Failed, Usage, NotAuthorised, Unreachable, Version, Busy);
variants!(JoinMessage: Open, Answer, Confirm, Refused, Done);
variants!(PunchMessage: Connect, Sync);
variants!(JoinRefusal: NotAccepted, TryLater);
variants!(SyncMessage: Compare, Want, Records);
variants!(RangeContent: Digest, List);
variants!(RefuseReason: NoRule, Target, Busy, Unknown, Path);
variants!(PathRule: Any, Direct, Relay);
variants!(MappingProtocol: Pcp, NatPmp);
variants!(PathKind: This, Direct, Relayed, None);
variants!(Carrier: Tcp, Quic);
variants!(Direction: Egress, Ingress);
variants!(ProxyKind: Tcp, Ssh);
variants!(ProxyState: Listening, Connected, Waiting, Failed);
variants!(Challenge: Http01, TlsAlpn01);
variants!(KeyType: Cert, Key, Issuer);
variants!(Reachability: Public, Private, Unknown);
variants!(UpdateStage: Trial, Confirmed, Kept, RolledBack);
variants!(LogLevel: Error, Warn, Info, Debug, Trace);

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(format!("{name}.hex"))
}

/// The bytes of a golden file; a missing one is made of `ours` if that was asked for.
fn golden(name: &str, ours: &[u8]) -> Vec<u8> {
    let path = path(name);
    if !path.exists() && std::env::var("HIVE_GOLDEN").is_ok_and(|v| v == "new") {
        let lines: Vec<_> = data_encoding::HEXLOWER.encode(ours).as_bytes().chunks(64).map(<[u8]>::to_vec).collect();
        fs::write(&path, [lines.join(&b'\n'), b"\n".to_vec()].concat()).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let digits: String = text.lines().filter(|line| !line.starts_with('#')).flat_map(str::chars).collect();
    data_encoding::HEXLOWER.decode(digits.replace(' ', "").as_bytes()).unwrap()
}

/// Today's code writes these bytes and reads them back as this value.
fn pin<T>(name: &str, value: &T)
where
    T: Encode<()> + for<'b> Decode<'b, ()> + PartialEq + Debug,
{
    let ours = minicbor::to_vec(value).unwrap();
    let pinned = golden(name, &ours);
    assert_eq!(ours, pinned, "{name}: encoding changed");
    assert_eq!(frame::decode::<T>(&pinned).unwrap(), *value, "{name}: decoding changed");
}

/// Pins a sample of every variant.
fn pin_all<T>(samples: Vec<T>)
where
    T: Variants + Encode<()> + for<'b> Decode<'b, ()> + PartialEq + Debug,
{
    let mut seen = BTreeSet::new();
    for sample in &samples {
        pin(&format!("{}.{}", T::TYPE, sample.variant()), sample);
        assert!(seen.insert(sample.variant()), "two samples of one variant");
    }
    assert_eq!(seen, T::ALL.iter().copied().collect(), "every variant of {} has a sample", T::TYPE);
}

#[test]
fn control_messages() {
    pin_all::<ClientMessage>(samples::client_messages());
    pin_all::<ServerMessage>(samples::server_messages());
    pin_all::<Request>(samples::requests());
    pin_all::<Response>(samples::responses());
}

#[test]
fn messages_between_nodes() {
    pin_all::<JoinMessage>(samples::join_messages());
    pin_all::<PunchMessage>(samples::punch_messages());
    pin_all::<SyncMessage>(samples::sync_messages());
    pin_all::<RangeContent>(samples::range_contents());
    let body = samples::sync_messages().remove(1);
    pin("PeerMessage", &PeerMessage { network: samples::network(), body });
}

#[test]
fn numbers_that_stand_for_words() {
    use hive_protocol as p;
    pin_all(vec![
        FailureCode::Failed,
        FailureCode::Usage,
        FailureCode::NotAuthorised,
        FailureCode::Unreachable,
        FailureCode::Version,
        FailureCode::Busy,
    ]);
    pin_all(vec![JoinRefusal::NotAccepted, JoinRefusal::TryLater]);
    let reasons = [RefuseReason::NoRule, RefuseReason::Target, RefuseReason::Busy, RefuseReason::Unknown];
    pin_all(reasons.into_iter().chain([RefuseReason::Path]).collect());
    pin_all(vec![MappingProtocol::Pcp, MappingProtocol::NatPmp]);
    pin_all(vec![PathRule::Any, PathRule::Direct, PathRule::Relay]);
    pin_all(vec![p::PathKind::This, p::PathKind::Direct, p::PathKind::Relayed, p::PathKind::None]);
    pin_all(vec![p::Carrier::Tcp, p::Carrier::Quic]);
    pin_all(vec![p::Direction::Egress, p::Direction::Ingress]);
    pin_all(vec![p::ProxyKind::Tcp, p::ProxyKind::Ssh]);
    pin_all(vec![p::ProxyState::Listening, p::ProxyState::Connected, p::ProxyState::Waiting, p::ProxyState::Failed]);
    pin_all(vec![Challenge::Http01, Challenge::TlsAlpn01]);
    pin_all(vec![p::KeyType::Cert, p::KeyType::Key, p::KeyType::Issuer]);
    pin_all(vec![p::Reachability::Public, p::Reachability::Private, p::Reachability::Unknown]);
    pin_all(vec![UpdateStage::Trial, UpdateStage::Confirmed, UpdateStage::Kept, UpdateStage::RolledBack]);
    pin_all(vec![LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace]);
}

#[test]
fn optional_fields_may_be_absent() {
    pin("Request.ProxyAdd.least", &samples::least_proxy());
    pin("Request.ProxyAdd.path", &samples::direct_proxy());
    pin("Response.Proxies.path", &samples::direct_proxies());
    pin("Request.ProxyAdd.tls", &samples::tls_proxy());
    pin("Request.ProxyAdd.ssh", &samples::ssh_proxy());
    pin("Response.Proxies.ssh", &samples::ssh_proxies());
    pin("Response.Proxies.named", &samples::named_proxies());
    pin("ClientMessage.Hello.least", &samples::least_hello());
    pin("Response.Error.least", &samples::least_error());
    pin("Response.Nodes.relayed", &samples::relayed_nodes());
    pin("Request.Update.least", &samples::least_update());
    pin("Response.Status.mapped", &samples::mapped_status());
    pin("Response.UpdateStatus.least", &samples::least_update_status());
}

#[test]
fn a_record_as_its_owner_signs_it() {
    let record = samples::record();
    pin("PeerRecord", &record);
    let signed = SignedRecord::sign(&record, &samples::key());
    pin("SignedRecord", &signed);
    let pinned: SignedRecord = frame::decode(&golden("SignedRecord", &[])).unwrap();
    assert_eq!(pinned.verify().unwrap(), record);
}

#[test]
fn an_identity_and_its_line_of_text() {
    let identity = samples::identity();
    pin("Identity", &identity);
    let text = identity.to_string();
    let pinned = String::from_utf8(golden("Identity.text", text.as_bytes())).unwrap();
    assert_eq!(text, pinned);
    assert_eq!(pinned.parse::<Identity>().unwrap(), identity);
}

#[test]
fn what_a_session_key_signs() {
    let challenge = session_challenge(&samples::node(), &[0xc1; 32], &[0xc2; 32]);
    assert_eq!(challenge, golden("session_challenge", &challenge));
}

#[test]
fn a_frame_of_each_stream() {
    let message = ClientMessage::Request(Request::Nodes);
    let bytes = frame::encode(&message, frame::CONTROL_MAX).unwrap();
    assert_eq!(bytes, golden("frame", &bytes));
}

#[test]
fn tunnel_frames() {
    let open = tunnel::encode_cbor(Kind::Open, &samples::open());
    let refuse = tunnel::encode_cbor(Kind::Refuse, &samples::refusal());
    let header = |kind, len| tunnel::Header { kind, len }.to_bytes().to_vec();
    let resume = tunnel::encode_cbor(Kind::Resume, &samples::resume());
    let kinds = [Kind::Open, Kind::Accept, Kind::Refuse, Kind::Data, Kind::Eof, Kind::Reset];
    for kind in kinds.into_iter().chain([Kind::Ack, Kind::Window, Kind::Resume, Kind::Resumed]) {
        let (name, bytes) = match kind {
            Kind::Open => ("open", open.clone()),
            Kind::Accept => ("accept", header(kind, 0)),
            Kind::Refuse => ("refuse", refuse.clone()),
            Kind::Data => ("data", [header(kind, 5), b"hello".to_vec()].concat()),
            Kind::Eof => ("eof", tunnel::encode_eof(0x0102_0304_0506_0708).to_vec()),
            Kind::Reset => ("reset", header(kind, 0)),
            Kind::Ack => ("ack", tunnel::encode_count(kind, 0x0102_0304_0506_0708).to_vec()),
            Kind::Window => ("window", tunnel::encode_u32(kind, 1024 * 1024).to_vec()),
            Kind::Resume => ("resume", resume.clone()),
            Kind::Resumed => ("resumed", tunnel::encode_count(kind, 0x0102_0304_0506_0709).to_vec()),
        };
        let pinned = golden(&format!("tunnel.{name}"), &bytes);
        assert_eq!(bytes, pinned, "{name}");
        let parsed = tunnel::Header::parse(pinned[..tunnel::HEADER_LEN].try_into().unwrap()).unwrap();
        assert_eq!((parsed.kind, parsed.len), (kind, pinned.len() - tunnel::HEADER_LEN));
    }
    assert_eq!(tunnel::decode_cbor::<tunnel::Open>(&open[tunnel::HEADER_LEN..]).unwrap(), samples::open());
    assert_eq!(tunnel::decode_cbor::<tunnel::Refusal>(&refuse[tunnel::HEADER_LEN..]).unwrap(), samples::refusal());
    assert_eq!(tunnel::decode_cbor::<tunnel::Resume>(&resume[tunnel::HEADER_LEN..]).unwrap(), samples::resume());
}

#[test]
fn tunnel_frames_of_a_stream_that_resumes() {
    let open = tunnel::encode_cbor(Kind::Open, &samples::lasting_open());
    assert_eq!(open, golden("tunnel.open.grace", &open));
    assert_eq!(tunnel::decode_cbor::<tunnel::Open>(&open[tunnel::HEADER_LEN..]).unwrap(), samples::lasting_open());
    let accept = tunnel::encode_u32(Kind::Accept, 60);
    assert_eq!(accept.to_vec(), golden("tunnel.accept.grace", &accept));
}

#[test]
fn tunnel_frames_of_a_further_attempt() {
    let (open, resume) = samples::third_attempt();
    let opened = tunnel::encode_cbor(Kind::Open, &open);
    assert_eq!(opened, golden("tunnel.open.attempt", &opened));
    assert_eq!(tunnel::decode_cbor::<tunnel::Open>(&opened[tunnel::HEADER_LEN..]).unwrap(), open);
    let resumed = tunnel::encode_cbor(Kind::Resume, &resume);
    assert_eq!(resumed, golden("tunnel.resume.attempt", &resumed));
    assert_eq!(tunnel::decode_cbor::<tunnel::Resume>(&resumed[tunnel::HEADER_LEN..]).unwrap(), resume);
}

#[test]
fn process_frames() {
    for (name, frame) in samples::process_frames() {
        let bytes = frame.to_bytes();
        let pinned = golden(&format!("process.{name}"), &bytes);
        assert_eq!(bytes, pinned, "{name}");
        let (header, body) = pinned.split_at(process::HEADER_LEN);
        let header = header.try_into().unwrap();
        assert_eq!(process::body_len(header), Ok(body.len()));
        assert_eq!(process::Frame::parse(header, body), Ok(frame));
    }
}

#[test]
fn every_golden_file_is_pinned_by_a_test() {
    let files = fs::read_dir(path("x").parent().unwrap()).unwrap();
    let held: BTreeSet<_> =
        files.map(|f| f.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
    let mut known: BTreeSet<String> = samples::OTHER_FILES.iter().map(|name| (*name).to_owned()).collect();
    let mut add = |kind: &str, all: &[&str]| known.extend(all.iter().map(|variant| format!("{kind}.{variant}")));
    macro_rules! all { ($($type:ident),+) => { $(add($type::TYPE, $type::ALL);)+ } }
    all!(
        ClientMessage,
        ServerMessage,
        Request,
        Response,
        FailureCode,
        JoinMessage,
        JoinRefusal,
        PunchMessage,
        SyncMessage
    );
    all!(Challenge, KeyType, LogLevel, UpdateStage);
    all!(
        RangeContent,
        RefuseReason,
        PathKind,
        PathRule,
        MappingProtocol,
        Carrier,
        Direction,
        ProxyKind,
        ProxyState,
        Reachability
    );
    assert_eq!(held, known);
}

#[test]
fn an_unknown_variant_is_told_from_garbage() {
    let newer = frame::decode::<Request>(&[0x82, 0x18, 0xfe, 0x80]);
    assert!(matches!(newer, Err(frame::DecodeError::Newer(_))), "{newer:?}");
    let garbage = frame::decode::<Request>(&[0x61, 0x78]);
    assert!(matches!(garbage, Err(frame::DecodeError::Malformed(_))), "{garbage:?}");
}
