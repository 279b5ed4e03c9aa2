//! CBOR forms of types whose crates do not know minicbor: multiaddresses and IP addresses. For `#[cbor(with = …)]`.

/// A multiaddress as its binary form in a byte string.
pub mod multiaddr {
    use minicbor::{Decoder, Encoder, decode as de, encode as en};
    use multiaddr::Multiaddr;

    /// Longest binary address that is decoded, in bytes. A relayed QUIC address with two peer ids takes about 110.
    pub const MAX_BYTES: usize = 256;

    /// Writes the address as a byte string.
    pub fn encode<C, W: en::Write>(addr: &Multiaddr, e: &mut Encoder<W>, _: &mut C) -> Result<(), en::Error<W::Error>> {
        e.bytes(addr.as_ref())?.ok()
    }

    /// Reads an address, refusing those longer than [`MAX_BYTES`].
    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Multiaddr, de::Error> {
        let bytes = d.bytes()?;
        if bytes.len() > MAX_BYTES {
            return Err(de::Error::message("address too long"));
        }
        Multiaddr::try_from(bytes.to_vec()).map_err(|_| de::Error::message("malformed address"))
    }
}

/// A list of addresses, each as in [`multiaddr`].
pub mod multiaddrs {
    use minicbor::{Decoder, Encoder, decode as de, encode as en};
    use multiaddr::Multiaddr;

    /// Most addresses that one list may hold.
    pub const MAX: u64 = 16;

    /// Writes an array of byte strings.
    pub fn encode<C, W: en::Write>(
        addrs: &[Multiaddr],
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), en::Error<W::Error>> {
        e.array(addrs.len() as u64)?;
        addrs.iter().try_for_each(|addr| super::multiaddr::encode(addr, e, ctx))
    }

    /// Reads at most [`MAX`] addresses.
    pub fn decode<C>(d: &mut Decoder<'_>, ctx: &mut C) -> Result<Vec<Multiaddr>, de::Error> {
        let len = d.array()?.ok_or_else(|| de::Error::message("indefinite address list"))?;
        if len > MAX {
            return Err(de::Error::message("too many addresses"));
        }
        (0..len).map(|_| super::multiaddr::decode(d, ctx)).collect()
    }
}

/// An [`IpAddr`](std::net::IpAddr) as 4 or 16 bytes.
pub mod ip {
    use std::net::IpAddr;

    use minicbor::{Decoder, Encoder, decode as de, encode as en};

    /// Writes the octets as a byte string.
    pub fn encode<C, W: en::Write>(ip: &IpAddr, e: &mut Encoder<W>, _: &mut C) -> Result<(), en::Error<W::Error>> {
        match ip {
            IpAddr::V4(v4) => e.bytes(&v4.octets())?.ok(),
            IpAddr::V6(v6) => e.bytes(&v6.octets())?.ok(),
        }
    }

    /// Reads 4 or 16 octets.
    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<IpAddr, de::Error> {
        let bytes = d.bytes()?;
        let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        let v6 = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
        v4.or(v6).map_err(|_| de::Error::message("an IP address has 4 or 16 bytes"))
    }
}
