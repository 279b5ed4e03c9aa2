use data_encoding::HEXLOWER_PERMISSIVE;
use rustls::crypto::ring::default_provider;

use super::*;

/// libp2p specs, `tls/tls.md`, test vector 1: a valid certificate of an Ed25519 identity.
const SPEC_ED25519: &str = "\
    308201ae30820156a0030201020204499602d2300a06082a8648ce3d040302302031123010060355040a13096c69627032702e69\
    6f310a300806035504051301313020170d3735303130313133303030305a180f34303936303130313133303030305a3020311230\
    10060355040a13096c69627032702e696f310a300806035504051301313059301306072a8648ce3d020106082a8648ce3d030107\
    034200040c901d423c831ca85e27c73c263ba132721bb9d7a84c4f0380b2a6756fd601331c8870234dec878504c174144fa4b14b\
    66a651691606d8173e55bd37e381569ea37c307a3078060a2b0601040183a25a0101046a3068042408011220a77f1d92fedb59dd\
    daea5a1c4abd1ac2fbde7d7b879ed364501809923d7c11b90440d90d2769db992d5e6195dbb08e706b6651e024fda6cfb8846694\
    a435519941cac215a8207792e42849cccc6cd8136c6e4bde92a58c5e08cfd4206eb5fe0bf909300a06082a8648ce3d0403020346\
    003043021f50f6b6c52711a881778718238f650c9fb48943ae6ee6d28427dc6071ae55e702203625f116a7a454db9c56986c82a2\
    5682f7248ea1cb764d322ea983ed36a31b77";
const SPEC_ED25519_PEER: &str = "12D3KooWM6CgA9iBFZmcYAHA6A2qvbAxqfkmrYiRQuz3XEsk4Ksv";
/// Test vector 3: valid, of a secp256k1 identity, a kind that this build does not verify.
const SPEC_SECP256K1: &str = "\
    308201ba3082015fa0030201020204499602d2300a06082a8648ce3d040302302031123010060355040a13096c69627032702e69\
    6f310a300806035504051301313020170d3735303130313133303030305a180f34303936303130313133303030305a3020311230\
    10060355040a13096c69627032702e696f310a300806035504051301313059301306072a8648ce3d020106082a8648ce3d030107\
    034200040c901d423c831ca85e27c73c263ba132721bb9d7a84c4f0380b2a6756fd601331c8870234dec878504c174144fa4b14b\
    66a651691606d8173e55bd37e381569ea38184308181307f060a2b0601040183a25a01010471306f0425080212210206dc696872\
    6765b820f050263ececf7f71e4955892776c0970542efd689d2382044630440220145e15a991961f0d08cd15425bb95ec93f6ffa\
    03c5a385eedc34ecf464c7a8ab022026b3109b8a3f40ef833169777eb2aa337cfb6282f188de0666d1bcec2a4690dd300a06082a\
    8648ce3d0403020349003046022100e1a217eeef9ec9204b3f774a08b70849646b6a1e6b8b27f93dc00ed58545d9fe022100b00d\
    afa549d0f03547878338c7b15e7502888f6d45db387e5ae6b5d46899cef0";

fn bytes(hex: &str) -> Vec<u8> {
    HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).unwrap()
}

fn check_at(der: &[u8], seconds: u64) -> Result<PeerId, Invalid> {
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    verify(der, now, &default_provider().signature_verification_algorithms)
}

/// In 2026.
fn check(der: &[u8]) -> Result<PeerId, Invalid> {
    check_at(der, 1_780_000_000)
}

fn pkcs8() -> Vec<u8> {
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
    key.unwrap().as_ref().to_vec()
}

fn draft(identity: &Keypair) -> Draft {
    Draft::new(&pkcs8(), identity).unwrap()
}

fn signed(draft: &Draft) -> Vec<u8> {
    draft.sign().unwrap()
}

#[test]
fn the_specifications_certificate_is_valid() {
    assert_eq!(check(&bytes(SPEC_ED25519)).unwrap().to_string(), SPEC_ED25519_PEER);
}

#[test]
fn an_identity_of_another_kind_is_refused_by_name() {
    let refused = check(&bytes(SPEC_SECP256K1)).unwrap_err();
    assert!(matches!(refused, Invalid::Identity(_)), "{refused:?}");
}

#[test]
fn our_own_certificate_is_valid_from_1970_on() {
    let identity = Keypair::generate_ed25519();
    let certified = generate(&identity).unwrap();
    let der = certified.end_entity_cert().unwrap();
    for seconds in [0, 1_780_000_000, 40_000_000_000] {
        assert_eq!(check_at(der, seconds).unwrap(), identity.public().to_peer_id());
    }
    assert!(der.len() < 450, "{}", der.len());
}

/// Flips every byte in turn: whatever it is, the certificate no longer holds.
#[test]
fn no_byte_can_be_changed() {
    let identity = Keypair::generate_ed25519();
    let good = signed(&draft(&identity));
    for position in 0..good.len() {
        let mut bad = good.clone();
        bad[position] ^= 0x01;
        assert!(check(&bad).is_err(), "byte {position}");
    }
}

#[test]
fn no_byte_can_be_missing_or_added() {
    let good = bytes(SPEC_ED25519);
    for length in 0..good.len() {
        assert!(check(&good[..length]).is_err(), "{length} bytes");
    }
    let mut longer = good;
    longer.push(0);
    assert!(matches!(check(&longer), Err(Invalid::Malformed)));
}

#[test]
fn the_identity_must_have_signed_this_key() {
    let identity = Keypair::generate_ed25519();
    let mut stolen = draft(&identity);
    stolen.extensions = draft(&identity).extensions;
    assert!(matches!(check(&signed(&stolen)), Err(Invalid::IdentitySignature)));
}

#[test]
fn the_certificate_must_be_signed_by_its_own_key() {
    let identity = Keypair::generate_ed25519();
    let (one, other) = (draft(&identity), draft(&identity));
    let mut forged = signed(&one);
    let signature = signed(&other);
    let split = |der: &[u8]| der.len() - 72;
    forged.truncate(split(&forged));
    forged.extend(&signature[split(&signature)..]);
    assert!(check(&forged).is_err());
    let mut bad_signature = signed(&one);
    let last = bad_signature.len() - 1;
    bad_signature[last] ^= 1;
    assert!(matches!(check(&bad_signature), Err(Invalid::SelfSignature)));
}

#[test]
fn expired_and_early_certificates_are_refused() {
    let mut draft = draft(&Keypair::generate_ed25519());
    draft.not_before = der::write(tag::UTC_TIME, &[b"260101000000Z"]);
    draft.not_after = der::write(tag::UTC_TIME, &[b"260102000000Z"]);
    let der = signed(&draft);
    let begin = 1_767_225_600;
    assert!(matches!(check_at(&der, begin - 1), Err(Invalid::Time)));
    assert!(check_at(&der, begin).is_ok());
    assert!(check_at(&der, begin + 86_400).is_ok());
    assert!(matches!(check_at(&der, begin + 86_401), Err(Invalid::Time)));
}

#[test]
fn times_that_are_none_are_malformed() {
    let bad: [&[u8]; 6] =
        [b"261301000000Z", b"260100000000Z", b"260101240000Z", b"260101000000", b"2601010000Z", b"26010100000xZ"];
    for text in bad {
        let mut draft = draft(&Keypair::generate_ed25519());
        draft.not_after = der::write(tag::UTC_TIME, &[text]);
        assert!(matches!(check(&signed(&draft)), Err(Invalid::Malformed)), "{text:?}");
    }
}

#[test]
fn the_extension_must_be_there_once() {
    let mut draft = draft(&Keypair::generate_ed25519());
    draft.extensions.push(draft.extensions[0].clone());
    assert!(matches!(check(&signed(&draft)), Err(Invalid::Repeated)));
    draft.extensions.clear();
    assert!(matches!(check(&signed(&draft)), Err(Invalid::NoIdentity)));
}

#[test]
fn unknown_extensions_count_only_when_critical() {
    let other = &[0x55, 0x1d, 0x0e];
    let mut draft = draft(&Keypair::generate_ed25519());
    draft.extensions.push(extension(other, b"\x04\x01x"));
    assert!(check(&signed(&draft)).is_ok());
    draft.extensions[1] = der::write(
        tag::SEQUENCE,
        &[
            &der::write(tag::OID, &[other]),
            &der::write(tag::BOOLEAN, &[&[0xff]]),
            &der::write(tag::OCTET_STRING, &[b"\x04\x01x"]),
        ],
    );
    assert!(matches!(check(&signed(&draft)), Err(Invalid::Critical)));
}

#[test]
fn our_extension_may_be_critical() {
    let mut draft = draft(&Keypair::generate_ed25519());
    let mut parts = Reader::new(&draft.extensions[0]).enter(tag::SEQUENCE).unwrap();
    let (oid, value) = (parts.element().unwrap().raw, parts.element().unwrap().raw);
    let critical = der::write(tag::BOOLEAN, &[&[0xff]]);
    draft.extensions[0] = der::write(tag::SEQUENCE, &[oid, &critical, value]);
    assert!(check(&signed(&draft)).is_ok());
}

#[test]
fn an_overlong_certificate_is_not_read() {
    let mut draft = draft(&Keypair::generate_ed25519());
    draft.extensions.push(extension(&[0x55, 0x1d, 0x0e], &vec![0; MAX_LEN]));
    assert!(matches!(check(&signed(&draft)), Err(Invalid::TooLong)));
}
