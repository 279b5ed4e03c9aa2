//! Whether PEM texts are what they are said to be: certificates in order, keys that sign, keys that fit certificates.
//! Errors say what is wrong and never repeat any of the text.

use hive_protocol::{KeyType, Timestamp};
use rustls::{
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::{FromDer, X509Name},
};

/// Longest chain.
const MOST_CERTIFICATES: usize = 10;

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// Not PEM.
    #[error("this is no PEM text: {0}")]
    Pem(String),
    /// No certificate in it.
    #[error("there is no certificate in it")]
    NoCertificate,
    /// Too many.
    #[error("there are more than {MOST_CERTIFICATES} certificates in it")]
    TooMany,
    /// A private key where anybody may look.
    #[error("there is a private key among the certificates")]
    KeyAmongCertificates,
    /// One of them is no certificate.
    #[error("certificate {0} does not parse")]
    Certificate(usize),
    /// The chain is out of order.
    #[error("certificate {0} was not issued by the one after it")]
    Order(usize),
    /// The issuers belong to another certificate.
    #[error("the certificate was not issued by these issuers")]
    Issuer,
    /// No private key in it.
    #[error("there is no private key in it, or it is encrypted")]
    NoKey,
    /// A key of a kind that TLS has no use for.
    #[error("this kind of private key is not supported, or the key is damaged")]
    Key,
    /// The two do not belong together.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// The name says something else.
    #[error("it is said to be of type {}, but its name is that of type {}", word(*.said), word(*.named))]
    OtherName {
        /// The type given.
        said: KeyType,
        /// The type in the name.
        named: KeyType,
    },
}

impl CheckError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Pem(_) | Self::NoCertificate | Self::Certificate(_) => {
                "give the text from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----, or @FILE"
            }
            Self::KeyAmongCertificates => "store the private key as an entry of its own, of type key",
            Self::Order(_) => "put the certificate of the host first, then the one that issued it, and so on",
            Self::NoKey => "decrypt it first: openssl pkey -in FILE",
            Self::Key => "use an ECDSA key (P-256, P-384), Ed25519, or RSA of at least 2048 bits",
            Self::Mismatch | Self::Issuer => {
                "to replace both, give them in one command: repeat --key-name, --key-type and --key-content"
            }
            Self::TooMany | Self::OtherName { .. } => return None,
        })
    }
}

fn word(part: KeyType) -> &'static str {
    match part {
        KeyType::Cert => "cert",
        KeyType::Key => "key",
        KeyType::Issuer => "issuer",
    }
}

/// The certificates of a text, each issued by the next.
pub fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, CheckError> {
    if pem.contains("PRIVATE KEY-----") {
        return Err(CheckError::KeyAmongCertificates);
    }
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .take(MOST_CERTIFICATES + 1)
        .collect::<Result<_, _>>()
        .map_err(|e| CheckError::Pem(e.to_string()))?;
    match chain.len() {
        0 => return Err(CheckError::NoCertificate),
        1..=MOST_CERTIFICATES => {}
        _ => return Err(CheckError::TooMany),
    }
    check_order(&chain)?;
    Ok(chain)
}

fn check_order(chain: &[CertificateDer<'_>]) -> Result<(), CheckError> {
    let names: Vec<_> = chain.iter().map(subject_and_issuer).collect();
    if let Some(bad) = names.iter().position(Option::is_none) {
        return Err(CheckError::Certificate(bad + 1));
    }
    let names: Vec<_> = names.into_iter().flatten().collect();
    let broken = names.windows(2).position(|pair| pair[0].1 != pair[1].0);
    broken.map_or(Ok(()), |at| Err(CheckError::Order(at + 1)))
}

/// Both names in DER, in which they are compared (RFC 5280, section 6.1 asks for no more between a CA's certificates).
fn subject_and_issuer(certificate: &CertificateDer<'_>) -> Option<(Vec<u8>, Vec<u8>)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let raw = |name: &X509Name<'_>| name.as_raw().to_vec();
    Some((raw(parsed.subject()), raw(parsed.issuer())))
}

/// A certificate's text and, where that is not in it already, the chain of its issuers.
pub fn whole_chain(cert: &str, issuers: Option<&str>) -> Result<Vec<CertificateDer<'static>>, CheckError> {
    let mut whole = chain(cert)?;
    let rest = issuers.map(chain).transpose()?.unwrap_or_default();
    if whole.len() == 1 {
        whole.extend(rest);
        return match check_order(&whole) {
            Ok(()) => Ok(whole),
            Err(_) => Err(CheckError::Issuer),
        };
    }
    Ok(whole)
}

/// The private key of a text: PKCS#8, SEC1 or PKCS#1, not encrypted.
pub fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, CheckError> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| CheckError::NoKey)?;
    any_supported_type(&key).map_err(|_| CheckError::Key)?;
    Ok(key)
}

/// A chain with the key of its first certificate.
pub fn pair(chain: Vec<CertificateDer<'static>>, key: &str) -> Result<CertifiedKey, CheckError> {
    let key = any_supported_type(&private_key(key)?).map_err(|_| CheckError::Key)?;
    let pair = CertifiedKey::new(chain, key);
    pair.keys_match().map_err(|_| CheckError::Mismatch)?;
    Ok(pair)
}

/// What a chain's first certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// When it begins to hold.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// Host names and addresses it is for (subjectAltName; RFC 9525 knows no other place).
    pub names: Vec<String>,
}

impl Leaf {
    /// Reads the first certificate.
    pub fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(chain.first()?).ok()?;
        let moment = |seconds: i64| Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
        let names = parsed.subject_alternative_name().ok().flatten();
        Some(Self {
            not_before: moment(parsed.validity().not_before.timestamp()),
            not_after: moment(parsed.validity().not_after.timestamp()),
            names: names.iter().flat_map(|san| &san.value.general_names).filter_map(host).collect(),
        })
    }
}

fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(*octets).ok().map(|ip| std::net::Ipv4Addr::from(ip).to_string()),
            _ => <[u8; 16]>::try_from(*octets).ok().map(|ip| std::net::Ipv6Addr::from(ip).to_string()),
        },
        _ => None,
    }
}
