//! The messages of NAT-PMP (RFC 6886) and PCP (RFC 6887), as far as a client that maps IPv4 ports needs them.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Transport;

/// Bytes that are enough for any answer; RFC 6887 (section 7) bounds messages so.
pub const MAX_LEN: usize = 1100;

const PCP: u8 = 2;
const NAT_PMP: u8 = 0;
const RESPONSE: u8 = 0x80;
const ANNOUNCE: u8 = 0;
const MAP: u8 = 1;
/// UNSUPP_VERSION, in either protocol.
const UNSUPPORTED_VERSION: u16 = 1;

/// A request to map a port; a lifetime of zero takes the mapping back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Of which protocol the port is.
    pub transport: Transport,
    /// The port here.
    pub internal: u16,
    /// The public port wished for, zero for any.
    pub external: u16,
    /// Seconds.
    pub lifetime: u32,
}

/// What a gateway says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The protocol that it speaks.
    pub version: Version,
    /// Seconds since it began to keep its table.
    pub epoch: u32,
    /// What about.
    pub body: Body,
}

/// One of the two protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
}

/// What an answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// It is there; PCP says nothing more, NAT-PMP its public address.
    Announce(Option<Ipv4Addr>),
    /// A port is mapped.
    Mapped(Mapped),
    /// A port is not mapped.
    Refused {
        /// Which request, where the answer says so.
        request: Option<(Transport, u16)>,
        /// Its nonce, in PCP.
        nonce: Option<[u8; 12]>,
        /// Why, as the RFC numbers it.
        code: u16,
        /// Seconds for which this will not change.
        lifetime: u32,
    },
    /// It does not speak the version of the request.
    OtherVersion,
}

/// A mapping as granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// Of which protocol the port is.
    pub transport: Transport,
    /// The port here.
    pub internal: u16,
    /// The public port.
    pub external: u16,
    /// Seconds.
    pub lifetime: u32,
    /// The public address and the request's nonce, which only PCP says.
    pub pcp: Option<(Ipv4Addr, [u8; 12])>,
}

/// A PCP MAP request (RFC 6887, section 11.1) from `client`.
pub fn pcp_map(client: Ipv4Addr, nonce: [u8; 12], ask: &Ask, external: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![PCP, MAP, 0, 0];
    bytes.extend(ask.lifetime.to_be_bytes());
    bytes.extend(client.to_ipv6_mapped().octets());
    bytes.extend(nonce);
    bytes.extend([protocol(ask.transport), 0, 0, 0]);
    bytes.extend(ask.internal.to_be_bytes());
    bytes.extend(ask.external.to_be_bytes());
    bytes.extend(external.to_ipv6_mapped().octets());
    bytes
}

/// A NAT-PMP mapping request (RFC 6886, section 3.3).
pub fn nat_pmp_map(ask: &Ask) -> Vec<u8> {
    let mut bytes = vec![NAT_PMP, opcode(ask.transport), 0, 0];
    bytes.extend(ask.internal.to_be_bytes());
    bytes.extend(ask.external.to_be_bytes());
    bytes.extend(ask.lifetime.to_be_bytes());
    bytes
}

/// A NAT-PMP request for the public address (RFC 6886, section 3.2).
pub fn nat_pmp_address() -> Vec<u8> {
    vec![NAT_PMP, 0]
}

/// Reads an answer; none for anything else.
pub fn parse(bytes: &[u8]) -> Option<Answer> {
    match *bytes.first()? {
        PCP => parse_pcp(bytes),
        NAT_PMP => parse_nat_pmp(bytes),
        _ => None,
    }
}

/// RFC 6887, sections 7.2, 11.1 and 14.1.
fn parse_pcp(bytes: &[u8]) -> Option<Answer> {
    let opcode = bytes.get(1)?.checked_sub(RESPONSE)?;
    let (code, lifetime) = (u16::from(*bytes.get(3)?), number(bytes, 4)?);
    let answer = |body| Some(Answer { version: Version::Pcp, epoch: number(bytes, 8)?, body });
    let map = || {
        let transport = transport(*bytes.get(36)?)?;
        let (internal, external) = (short(bytes, 40)?, short(bytes, 42)?);
        let address: [u8; 16] = bytes.get(44..60)?.try_into().ok()?;
        let nonce: [u8; 12] = bytes.get(24..36)?.try_into().ok()?;
        Some((transport, internal, external, Ipv6Addr::from(address).to_ipv4_mapped(), nonce))
    };
    match (opcode, code) {
        (_, UNSUPPORTED_VERSION) => answer(Body::OtherVersion),
        (ANNOUNCE, 0) => answer(Body::Announce(None)),
        (MAP, 0) => {
            let (transport, internal, external, address, nonce) = map()?;
            answer(Body::Mapped(Mapped { transport, internal, external, lifetime, pcp: Some((address?, nonce)) }))
        }
        (MAP, code) => {
            let about = map();
            let request = about.map(|(transport, internal, ..)| (transport, internal));
            answer(Body::Refused { request, nonce: about.map(|(.., nonce)| nonce), code, lifetime })
        }
        _ => None,
    }
}

/// RFC 6886, sections 3.2 to 3.5.
fn parse_nat_pmp(bytes: &[u8]) -> Option<Answer> {
    let opcode = bytes.get(1)?.checked_sub(RESPONSE)?;
    let code = short(bytes, 2)?;
    // What knows no version but its own may say so in four bytes.
    let epoch = number(bytes, 4).or((code == UNSUPPORTED_VERSION).then_some(0))?;
    let answer = |body| Some(Answer { version: Version::NatPmp, epoch, body });
    let about = match opcode {
        1 => Some(Transport::Udp),
        2 => Some(Transport::Tcp),
        _ => None,
    };
    match (opcode, code, about) {
        (_, UNSUPPORTED_VERSION, _) => answer(Body::OtherVersion),
        (0, 0, _) => answer(Body::Announce(Some(Ipv4Addr::from(number(bytes, 8)?)))),
        (_, 0, Some(transport)) => answer(Body::Mapped(Mapped {
            transport,
            internal: short(bytes, 8)?,
            external: short(bytes, 10)?,
            lifetime: number(bytes, 12)?,
            pcp: None,
        })),
        (0..=2, code, about) => {
            let request = about.and_then(|transport| Some((transport, short(bytes, 8)?)));
            answer(Body::Refused { request, nonce: None, code, lifetime: 0 })
        }
        _ => None,
    }
}

/// Why a gateway refuses, in words (RFC 6887, section 7.4; RFC 6886, section 3.5).
pub fn reason(version: Version, code: u16) -> &'static str {
    match (version, code) {
        (_, 2) => "it is switched off there, or not for this machine",
        (Version::NatPmp, 3) | (Version::Pcp, 7) => "it has no address from its own provider",
        (Version::NatPmp, 4) | (Version::Pcp, 8 | 10) => "it has no port left",
        (Version::Pcp, 12) => "another router stands between",
        _ => "it cannot",
    }
}

/// IANA's number of the protocol.
fn protocol(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    }
}

fn transport(protocol: u8) -> Option<Transport> {
    match protocol {
        6 => Some(Transport::Tcp),
        17 => Some(Transport::Udp),
        _ => None,
    }
}

/// NAT-PMP's number of the request.
fn opcode(transport: Transport) -> u8 {
    match transport {
        Transport::Udp => 1,
        Transport::Tcp => 2,
    }
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASK: Ask = Ask { transport: Transport::Tcp, internal: 4180, external: 4180, lifetime: 7200 };
    const NONCE: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

    /// Bytes as the figures of the RFCs have them, a line of theirs in each string.
    fn bytes(words: &[&str]) -> Vec<u8> {
        let digits = words.concat().replace(' ', "");
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn requests_are_laid_out_as_rfc_6886_says() {
        assert_eq!(nat_pmp_address(), bytes(&["00 00"]));
        assert_eq!(nat_pmp_map(&ASK), bytes(&["00 02 0000", "1054 1054", "00001c20"]));
        let taken_back = Ask { transport: Transport::Udp, external: 0, lifetime: 0, ..ASK };
        assert_eq!(nat_pmp_map(&taken_back), bytes(&["00 01 0000", "1054 0000", "00000000"]));
    }

    #[test]
    fn requests_are_laid_out_as_rfc_6887_says() {
        let expected = [
            "02 01 0000",
            "00001c20",
            "00000000 00000000 0000ffff 0a000005",
            "01020304 05060708 090a0b0c",
            "06 000000",
            "1054 1054",
            "00000000 00000000 0000ffff 00000000",
        ];
        let request = pcp_map(Ipv4Addr::new(10, 0, 0, 5), NONCE, &ASK, Ipv4Addr::UNSPECIFIED);
        assert_eq!(request, bytes(&expected));
    }

    #[test]
    fn answers_of_nat_pmp_are_read() {
        let address = parse(&bytes(&["00 80 0000", "00000064", "cb007109"])).unwrap();
        assert_eq!((address.version, address.epoch), (Version::NatPmp, 100));
        assert_eq!(address.body, Body::Announce(Some(PUBLIC)));
        let mapped = parse(&bytes(&["00 82 0000", "00000065", "1054 1388", "00000e10"])).unwrap().body;
        let expected = Mapped { transport: Transport::Tcp, internal: 4180, external: 5000, lifetime: 3600, pcp: None };
        assert_eq!(mapped, Body::Mapped(expected));
        let refused = parse(&bytes(&["00 81 0002", "00000065", "1054 0000", "00000000"])).unwrap().body;
        let request = Some((Transport::Udp, 4180));
        assert_eq!(refused, Body::Refused { request, nonce: None, code: 2, lifetime: 0 });
        // To a request of PCP.
        assert_eq!(parse(&bytes(&["00 81 0001", "00000065"])).unwrap().body, Body::OtherVersion);
    }

    #[test]
    fn answers_of_pcp_are_read() {
        let map = |code: &str| {
            let head = ["02 81 00", code, "00000e10", "00000064", "00000000 00000000 00000000"];
            let rest = ["01020304 05060708 090a0b0c", "06 000000", "1054 1388", "00000000 00000000 0000ffff cb007109"];
            bytes(&[head.concat(), rest.concat()].each_ref().map(String::as_str))
        };
        let mapped = parse(&map("00")).unwrap();
        let expected = Mapped {
            transport: Transport::Tcp,
            internal: 4180,
            external: 5000,
            lifetime: 3600,
            pcp: Some((PUBLIC, NONCE)),
        };
        assert_eq!(mapped, Answer { version: Version::Pcp, epoch: 100, body: Body::Mapped(expected) });
        let refused = parse(&map("08")).unwrap().body;
        let request = Some((Transport::Tcp, 4180));
        assert_eq!(refused, Body::Refused { request, nonce: Some(NONCE), code: 8, lifetime: 3600 });
        let announced = bytes(&["02 80 00 00", "00000000", "00000001", "00000000 00000000 00000000"]);
        assert_eq!(parse(&announced).unwrap().body, Body::Announce(None));
    }

    #[test]
    fn what_is_no_answer_is_passed_over() {
        let whole = bytes(&["00 82 0000", "00000065", "1054 1388", "00000e10"]);
        assert!((0..whole.len()).all(|length| parse(&whole[..length]).is_none()));
        assert!(parse(&[]).is_none() && parse(&[2]).is_none() && parse(&[9; 60]).is_none());
        assert!(parse(&nat_pmp_map(&ASK)).is_none(), "a request");
        assert!((0..=60).all(|length| parse(&vec![2; length]).is_none()));
    }
}
