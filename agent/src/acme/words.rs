//! What a CA refuses, in words, with what to do about it: its problem documents (RFC 8555, section 6.7).

use instant_acme::{Error, Problem};
use rustls::CertificateError;

use super::{client::HttpError, record::Trouble};

const URN: &str = "urn:ietf:params:acme:error:";

/// An error in words.
pub fn trouble(error: &Error) -> Trouble {
    match error {
        Error::Api(problem) => of_problem(problem),
        Error::Other(other) => match other.downcast_ref::<HttpError>() {
            Some(http) => Trouble { what: http_chain(http), hint: network_hint(http).into() },
            None => plain(error),
        },
        Error::Json(_) => Trouble {
            what: "the CA's answer is none of ACME".into(),
            hint: "is --directory the address of an ACME directory?".into(),
        },
        _ => plain(error),
    }
}

/// A problem document in words.
pub fn of_problem(problem: &Problem) -> Trouble {
    let kind = kind(problem);
    let mut details: Vec<&str> = problem.detail.as_deref().into_iter().collect();
    details.extend(problem.subproblems.iter().filter_map(|sub| sub.detail.as_deref()));
    let details = if details.is_empty() { kind.to_owned() } else { details.join("; ") };
    Trouble { what: format!("{}: {details}", sentence(kind)), hint: hint(kind).into() }
}

/// The last part of a problem's type.
pub fn kind(problem: &Problem) -> &str {
    problem.r#type.as_deref().map_or("unknown", |kind| kind.strip_prefix(URN).unwrap_or(kind))
}

/// Whether the same request may succeed a little later.
pub fn is_passing(error: &Error) -> bool {
    match error {
        Error::Api(problem) => {
            matches!(kind(problem), "badNonce" | "serverInternal" | "rateLimited")
                || problem.status.is_some_and(|status| status >= 500 || status == 429)
        }
        Error::Other(other) => {
            let http = other.downcast_ref::<HttpError>();
            http.is_some_and(|http| !matches!(http, HttpError::Address(_)) && untrusted(http).is_none())
        }
        // What answers instead of a CA that is down has no JSON and no nonce.
        Error::Json(_) | Error::Str(_) => true,
        _ => false,
    }
}

fn plain(error: &Error) -> Trouble {
    Trouble { what: error.to_string(), hint: "see the log, and try again later".into() }
}

fn sentence(kind: &str) -> &'static str {
    match kind {
        "dns" => "the CA could not resolve the name",
        "connection" => "the CA could not connect to the name's address",
        "tls" => "the CA connected, but TLS failed",
        "unauthorized" | "incorrectResponse" => "the CA did not get this node's answer",
        "caa" => "the name's CAA record does not allow this CA",
        "rateLimited" => "the CA limits how often it is asked",
        "rejectedIdentifier" | "unsupportedIdentifier" => "the CA issues no certificates for this name",
        "accountDoesNotExist" => "the CA does not know this node's account",
        "externalAccountRequired" => "the CA wants an account made elsewhere",
        "invalidContact" | "unsupportedContact" => "the CA does not take this e-mail address",
        "userActionRequired" => "the CA wants something done by a person",
        "badNonce" | "serverInternal" => "the CA has a problem of its own",
        _ => "the CA refused",
    }
}

fn hint(kind: &str) -> &'static str {
    match kind {
        "dns" => "check the name's A and AAAA records: dig +short NAME",
        "connection" => {
            "port 80 (http-01) or 443 (tls-alpn-01) of the name must lead here from everywhere: check its address records, \
             firewalls, port forwarding, and the proxies on the way"
        }
        "tls" | "unauthorized" | "incorrectResponse" => {
            "the name may lead to another machine, also by its AAAA record; for tls-alpn-01 a proxy with --tls true on this \
             node must be what answers on port 443"
        }
        "caa" => "allow the CA in the name's CAA record, or remove that record",
        "rateLimited" => "wait, and try with a test directory (--directory) meanwhile",
        "externalAccountRequired" => "give --eab-kid and --eab-key-file from your account there",
        "invalidContact" | "unsupportedContact" => "give another --email",
        "rejectedIdentifier" | "unsupportedIdentifier" => "check --hostname: it must be a public DNS name",
        _ => "what the CA says is above; see its documentation",
    }
}

fn http_chain(error: &HttpError) -> String {
    match (error, untrusted(error)) {
        (HttpError::Connect(host, _), Some(why)) => format!("the certificate of {host} is not trusted: {}", doubt(why)),
        (HttpError::Exchange(_, source), _) => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

fn network_hint(error: &HttpError) -> &'static str {
    if untrusted(error).is_some() {
        return "give the root certificate of a private CA with --ca-file: that by which its directory is served, which need \
                not be that of the certificates it issues";
    }
    match error {
        HttpError::Address(_) => "give --directory as https://…",
        _ => "check this node's way to the CA: name resolution, firewall, and the address in --directory",
    }
}

/// Why the server was reached and not believed, if so.
fn untrusted(error: &HttpError) -> Option<&CertificateError> {
    let HttpError::Connect(_, source) = error else { return None };
    match source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => Some(why),
        _ => None,
    }
}

fn doubt(why: &CertificateError) -> String {
    use CertificateError as E;
    match why {
        E::UnknownIssuer => "none of the trusted roots issued it".into(),
        E::NotValidForName | E::NotValidForNameContext { .. } => "it is for another name".into(),
        E::Expired | E::ExpiredContext { .. } => "it has ended, or this node's clock is wrong".into(),
        E::NotValidYet | E::NotValidYetContext { .. } => "it has not begun yet, or this node's clock is wrong".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_becomes_words_and_a_hint() {
        let problem = Problem {
            r#type: Some(format!("{URN}dns")),
            detail: Some("NXDOMAIN for shed.example".into()),
            status: Some(400),
            subproblems: Vec::new(),
        };
        let told = of_problem(&problem);
        assert_eq!(told.what, "the CA could not resolve the name: NXDOMAIN for shed.example");
        assert!(told.hint.contains("AAAA"));
        assert!(!is_passing(&Error::Api(problem.clone())));
        let busy = Problem { r#type: Some(format!("{URN}rateLimited")), ..problem };
        assert!(is_passing(&Error::Api(busy)));
    }
}
