//! The certificate that binds a TLS key to a libp2p identity: made here, and read here.
//!
//! Ours has one fixed shape: a fresh P-256 key per process, self-signed, with the libp2p extension. Reading
//! takes any X.509 v3 certificate of at most [`MAX_LEN`] bytes whose signature algorithm ring knows.

use std::sync::Arc;

use libp2p::{
    PeerId,
    identity::{DecodingError, Keypair, PublicKey, SigningError},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use rustls::{
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime},
    sign::CertifiedKey,
};

use super::der::{self, Element, Malformed, Reader, tag};

/// The longest certificate that is looked at. An RSA identity needs about 1.5 KiB, ours 0.4.
pub(super) const MAX_LEN: usize = 8 * 1024;
/// 1.3.6.1.4.1.53594.1.1
pub(super) const LIBP2P_EXTENSION: &[u8] = &[0x2b, 6, 1, 4, 1, 0x83, 0xa2, 0x5a, 1, 1];
/// What the identity signs, before the encoded TLS key.
const SIGNATURE_PREFIX: &[u8] = b"libp2p-tls-handshake:";
/// `ecdsa-with-SHA256` (RFC 5758), and `id-ecPublicKey` on `prime256v1` (RFC 5480).
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const PRIME256V1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
/// Boards without a clock battery begin in 1970: the certificate's own lifetime is the process's.
const NOT_BEFORE: &[u8] = b"700101000000Z";
const NOT_AFTER: &[u8] = b"40960101000000Z";

/// Why this node has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The system gave no randomness.
    #[error("no randomness from the system")]
    Random,
    /// The identity cannot sign.
    #[error("the identity key cannot sign")]
    Identity(#[from] SigningError),
    /// rustls does not take the key.
    #[error("the TLS key is unusable")]
    Key(#[from] rustls::Error),
}

impl From<ring::error::Unspecified> for GenerateError {
    fn from(_: ring::error::Unspecified) -> Self {
        Self::Random
    }
}

/// Why a peer's certificate is refused.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// Not exactly one certificate was sent.
    #[error("exactly one certificate is required")]
    Chain,
    /// Longer than any sensible certificate (8 KiB).
    #[error("the certificate is too long")]
    TooLong,
    /// Not an X.509 v3 certificate in DER.
    #[error("the certificate is malformed")]
    Malformed,
    /// Before its first or after its last moment; one of the two clocks may be wrong.
    #[error("the certificate is not valid at this time (is the clock right?)")]
    Time,
    /// The certificate is signed by something that is not its own key, or by an unknown algorithm.
    #[error("the certificate's self-signature does not verify")]
    SelfSignature,
    /// There is no libp2p extension.
    #[error("the certificate carries no libp2p identity")]
    NoIdentity,
    /// An extension is there twice.
    #[error("the certificate repeats an extension")]
    Repeated,
    /// An extension is marked critical and unknown here.
    #[error("the certificate has an unknown critical extension")]
    Critical,
    /// The identity is of a kind that this node does not verify.
    #[error("the identity key is unusable here")]
    Identity(#[source] DecodingError),
    /// The identity did not sign the TLS key.
    #[error("the identity did not sign this TLS key")]
    IdentitySignature,
    /// Somebody else answered.
    #[error("expected peer {expected}, found {found}")]
    WrongPeer {
        /// The peer that was asked for.
        expected: Box<PeerId>,
        /// The peer that answered.
        found: Box<PeerId>,
    },
}

impl From<Malformed> for Invalid {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// A fresh TLS key and its certificate, signed by `identity`.
pub(super) fn generate(identity: &Keypair) -> Result<CertifiedKey, GenerateError> {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())?;
    let certificate = Draft::new(pkcs8.as_ref(), identity)?.sign()?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_ref().to_vec()));
    let key = rustls::crypto::ring::sign::any_ecdsa_type(&key)?;
    Ok(CertifiedKey::new(vec![CertificateDer::from(certificate)], Arc::clone(&key)))
}

/// Checks everything the specification demands of a certificate and says whose it is. `now` is the verifier's
/// clock, `algorithms` those accepted for the self-signature.
///
/// # Errors
/// The first rule that the certificate breaks.
pub fn verify(der: &[u8], now: UnixTime, algorithms: &WebPkiSupportedAlgorithms) -> Result<PeerId, Invalid> {
    let certificate = Certificate::parse(der)?;
    if !(certificate.not_before..=certificate.not_after).contains(&now.as_secs()) {
        return Err(Invalid::Time);
    }
    certificate.check_self_signature(algorithms)?;
    certificate.check_identity_signature()?;
    Ok(certificate.identity.to_peer_id())
}

/// The identity in a certificate that was verified before.
pub(super) fn peer_id(der: &[u8]) -> Result<PeerId, Invalid> {
    Ok(Certificate::parse(der)?.identity.to_peer_id())
}

/// The encoded public key (`SubjectPublicKeyInfo`) of a certificate.
pub(super) fn public_key(der: &[u8]) -> Result<&[u8], Invalid> {
    Ok(Certificate::parse(der)?.spki)
}

/// A certificate about to be signed.
pub(super) struct Draft {
    key: EcdsaKeyPair,
    pub extensions: Vec<Vec<u8>>,
    pub not_before: Vec<u8>,
    pub not_after: Vec<u8>,
}

impl Draft {
    /// The fixed shape, for the P-256 key in `pkcs8` and this identity.
    pub(super) fn new(pkcs8: &[u8], identity: &Keypair) -> Result<Self, GenerateError> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &SystemRandom::new())
            .map_err(|_| ring::error::Unspecified)?;
        let signed = identity.sign(&identity_message(&spki(&key)))?;
        let signed_key = der::write(
            tag::SEQUENCE,
            &[
                &der::write(tag::OCTET_STRING, &[&identity.public().encode_protobuf()]),
                &der::write(tag::OCTET_STRING, &[&signed]),
            ],
        );
        Ok(Self {
            key,
            extensions: vec![extension(LIBP2P_EXTENSION, &signed_key)],
            not_before: der::write(tag::UTC_TIME, &[NOT_BEFORE]),
            not_after: der::write(tag::GENERALIZED_TIME, &[NOT_AFTER]),
        })
    }

    /// The certificate (RFC 5280, section 4.1).
    pub(super) fn sign(&self) -> Result<Vec<u8>, GenerateError> {
        let algorithm = der::write(tag::SEQUENCE, &[&der::write(tag::OID, &[ECDSA_SHA256])]);
        let tbs = self.to_be_signed(&algorithm);
        let signature = self.key.sign(&SystemRandom::new(), &tbs)?;
        Ok(der::write(tag::SEQUENCE, &[&tbs, &algorithm, &der::write(tag::BIT_STRING, &[&[0], signature.as_ref()])]))
    }

    fn to_be_signed(&self, algorithm: &[u8]) -> Vec<u8> {
        let extensions: Vec<&[u8]> = self.extensions.iter().map(Vec::as_slice).collect();
        let name = name();
        der::write(
            tag::SEQUENCE,
            &[
                &der::write(tag::VERSION, &[&der::write(tag::INTEGER, &[&[2]])]),
                &der::write(tag::INTEGER, &[&[1]]),
                algorithm,
                &name,
                &der::write(tag::SEQUENCE, &[&self.not_before, &self.not_after]),
                &name,
                &spki(&self.key),
                &der::write(tag::EXTENSIONS, &[&der::write(tag::SEQUENCE, &extensions)]),
            ],
        )
    }
}

/// One extension, not critical.
pub(super) fn extension(oid: &[u8], value: &[u8]) -> Vec<u8> {
    der::write(tag::SEQUENCE, &[&der::write(tag::OID, &[oid]), &der::write(tag::OCTET_STRING, &[value])])
}

fn identity_message(spki: &[u8]) -> Vec<u8> {
    [SIGNATURE_PREFIX, spki].concat()
}

fn spki(key: &EcdsaKeyPair) -> Vec<u8> {
    let algorithm =
        der::write(tag::SEQUENCE, &[&der::write(tag::OID, &[EC_PUBLIC_KEY]), &der::write(tag::OID, &[PRIME256V1])]);
    let point = der::write(tag::BIT_STRING, &[&[0], key.public_key().as_ref()]);
    der::write(tag::SEQUENCE, &[&algorithm, &point])
}

/// `CN=libp2p`: some readers refuse an empty issuer.
fn name() -> Vec<u8> {
    let value = der::write(tag::UTF8_STRING, &[b"libp2p"]);
    let attribute = der::write(tag::SEQUENCE, &[&der::write(tag::OID, &[COMMON_NAME]), &value]);
    der::write(tag::SEQUENCE, &[&der::write(tag::SET, &[&attribute])])
}

/// What a certificate says, before anything of it is believed.
struct Certificate<'a> {
    to_be_signed: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    /// Seconds since 1970; a date before that counts as 0.
    not_before: u64,
    not_after: u64,
    spki: &'a [u8],
    identity: PublicKey,
    identity_signature: &'a [u8],
}

impl<'a> Certificate<'a> {
    fn parse(der: &'a [u8]) -> Result<Self, Invalid> {
        if der.len() > MAX_LEN {
            return Err(Invalid::TooLong);
        }
        let mut outer = Reader::new(der);
        let mut certificate = outer.enter(tag::SEQUENCE)?;
        outer.finish()?;
        let tbs = certificate.expect(tag::SEQUENCE)?;
        let algorithm = certificate.expect(tag::SEQUENCE)?.content;
        let signature = bits(certificate.expect(tag::BIT_STRING)?)?;
        certificate.finish()?;
        Self::parse_signed(tbs, algorithm, signature)
    }

    fn parse_signed(tbs: Element<'a>, algorithm: &'a [u8], signature: &'a [u8]) -> Result<Self, Invalid> {
        let mut fields = Reader::new(tbs.content);
        skip_to_validity(&mut fields, algorithm)?;
        let mut validity = fields.enter(tag::SEQUENCE)?;
        let (not_before, not_after) = (time(validity.element()?)?, time(validity.element()?)?);
        validity.finish()?;
        let _subject = fields.expect(tag::SEQUENCE)?;
        let spki = fields.expect(tag::SEQUENCE)?.raw;
        let (identity, identity_signature) = signed_key(libp2p_extension(extensions(fields)?)?)?;
        let to_be_signed = tbs.raw;
        Ok(Self { to_be_signed, algorithm, signature, not_before, not_after, spki, identity, identity_signature })
    }

    fn check_self_signature(&self, algorithms: &WebPkiSupportedAlgorithms) -> Result<(), Invalid> {
        let mut spki = Reader::new(self.spki).enter(tag::SEQUENCE)?;
        let key_algorithm = spki.expect(tag::SEQUENCE)?.content;
        let key = bits(spki.expect(tag::BIT_STRING)?)?;
        spki.finish()?;
        algorithms
            .all
            .iter()
            .filter(|known| known.signature_alg_id().as_ref() == self.algorithm)
            .find(|known| known.public_key_alg_id().as_ref() == key_algorithm)
            .and_then(|known| known.verify_signature(key, self.to_be_signed, self.signature).ok())
            .ok_or(Invalid::SelfSignature)
    }

    fn check_identity_signature(&self) -> Result<(), Invalid> {
        if self.identity.verify(&identity_message(self.spki), self.identity_signature) {
            Ok(())
        } else {
            Err(Invalid::IdentitySignature)
        }
    }
}

/// Version 3, a serial number, the algorithm that also stands beside the signature, and an issuer.
fn skip_to_validity(fields: &mut Reader<'_>, algorithm: &[u8]) -> Result<(), Malformed> {
    let version = fields.enter(tag::VERSION)?.expect(tag::INTEGER)?.content;
    let _serial = fields.expect(tag::INTEGER)?;
    let same_algorithm = fields.expect(tag::SEQUENCE)?.content == algorithm;
    let _issuer = fields.expect(tag::SEQUENCE)?;
    if version == [2] && same_algorithm { Ok(()) } else { Err(Malformed) }
}

/// The extensions, which end the certificate. The deprecated unique ids before them are refused.
fn extensions(mut fields: Reader<'_>) -> Result<Reader<'_>, Invalid> {
    if fields.peek().is_none() {
        return Err(Invalid::NoIdentity);
    }
    let mut explicit = fields.enter(tag::EXTENSIONS)?;
    fields.finish()?;
    let extensions = explicit.enter(tag::SEQUENCE)?;
    explicit.finish()?;
    Ok(extensions)
}

/// The value of the libp2p extension, once all extensions were looked at.
fn libp2p_extension(mut extensions: Reader<'_>) -> Result<&[u8], Invalid> {
    let mut seen: Vec<&[u8]> = Vec::new();
    let mut found = None;
    while extensions.peek().is_some() {
        let (oid, critical, value) = read_extension(&mut extensions)?;
        if seen.contains(&oid) {
            return Err(Invalid::Repeated);
        }
        seen.push(oid);
        match (oid == LIBP2P_EXTENSION, critical) {
            (true, _) => found = Some(value),
            (false, true) => return Err(Invalid::Critical),
            (false, false) => {}
        }
    }
    found.ok_or(Invalid::NoIdentity)
}

fn read_extension<'a>(extensions: &mut Reader<'a>) -> Result<(&'a [u8], bool, &'a [u8]), Malformed> {
    let mut extension = extensions.enter(tag::SEQUENCE)?;
    let oid = extension.expect(tag::OID)?.content;
    let critical = match extension.peek() {
        Some(tag::BOOLEAN) => extension.expect(tag::BOOLEAN)?.content != [0],
        _ => false,
    };
    let value = extension.expect(tag::OCTET_STRING)?.content;
    extension.finish()?;
    Ok((oid, critical, value))
}

fn signed_key(value: &[u8]) -> Result<(PublicKey, &[u8]), Invalid> {
    let mut outer = Reader::new(value);
    let mut signed = outer.enter(tag::SEQUENCE)?;
    outer.finish()?;
    let key = signed.expect(tag::OCTET_STRING)?.content;
    let signature = signed.expect(tag::OCTET_STRING)?.content;
    signed.finish()?;
    Ok((PublicKey::try_decode_protobuf(key).map_err(Invalid::Identity)?, signature))
}

/// The bytes of a bit string of whole bytes.
fn bits(element: Element<'_>) -> Result<&[u8], Malformed> {
    element.content.strip_prefix(&[0]).ok_or(Malformed)
}

/// Seconds since 1970 of a `UTCTime` or `GeneralizedTime` in the forms of RFC 5280, section 4.1.2.5.
fn time(element: Element<'_>) -> Result<u64, Malformed> {
    let digits = element.content.strip_suffix(b"Z").ok_or(Malformed)?;
    let (year, rest) = match (element.tag, digits.len()) {
        (tag::UTC_TIME, 12) => (century(number(&digits[..2])?), &digits[2..]),
        (tag::GENERALIZED_TIME, 14) => (number(&digits[..4])?, &digits[4..]),
        _ => return Err(Malformed),
    };
    let mut parts = [0; 5];
    for (part, digits) in parts.iter_mut().zip(rest.chunks(2)) {
        *part = number(digits)?;
    }
    let [month, day, hour, minute, second] = parts;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return Err(Malformed);
    }
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Ok(u64::try_from(seconds).unwrap_or(0))
}

fn century(year: i64) -> i64 {
    if year < 50 { 2000 + year } else { 1900 + year }
}

fn number(digits: &[u8]) -> Result<i64, Malformed> {
    digits.iter().try_fold(0, |number, digit| match digit {
        b'0'..=b'9' => Ok(number * 10 + i64::from(digit - b'0')),
        _ => Err(Malformed),
    })
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, counting years from March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests;
