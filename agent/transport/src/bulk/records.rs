//! TLS 1.3 records in place (RFC 8446, section 5.2): rustls agrees on the keys, ring seals and opens where the bytes lie.

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

use super::Error;

/// Bytes of a record's header.
pub const HEADER_LEN: usize = 5;
/// Most plaintext bytes of one record.
pub const PLAIN_MAX: usize = 16 * 1024;
/// Bytes behind the plaintext: the content type and the tag.
pub const TRAILER_LEN: usize = 1 + 16;
/// Bytes of a full record on the wire.
pub const WIRE_MAX: usize = HEADER_LEN + PLAIN_MAX + TRAILER_LEN;
/// Most bytes that a record of any correct peer has behind its header.
const BODY_MAX: usize = PLAIN_MAX + 256;
/// Records under one key: half of what AES-GCM bears (RFC 8446, section 5.5), and no burden for the other cipher.
const RECORDS_PER_KEY: u64 = 1 << 23;
const VERSION: [u8; 2] = [3, 3];

/// What a record carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Content {
    Alert = 21,
    Handshake = 22,
    Data = 23,
}

/// The key of one direction, and how many records it has served.
pub struct Key {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Key {
    /// A key as rustls hands it over, with the number of the next record.
    pub fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::Malformed),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Error::Malformed)?;
        let iv = iv.as_ref().try_into().map_err(|_| Error::Malformed)?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    /// Whether the next record should be sealed with a new key.
    pub fn is_worn(&self) -> bool {
        self.sequence >= RECORDS_PER_KEY
    }

    /// Seals a record that has its plaintext behind room for the header and before room for the trailer.
    pub fn seal(&mut self, record: &mut [u8], content: Content) -> Result<(), Error> {
        let body = record.len().saturating_sub(HEADER_LEN);
        let header = header(body)?;
        let plain = body.checked_sub(TRAILER_LEN).ok_or(Error::Malformed)?;
        let nonce = self.next_nonce();
        record[HEADER_LEN + plain] = content as u8;
        let (head, rest) = record.split_at_mut(HEADER_LEN);
        let (plain, tag) = rest.split_at_mut(plain + 1);
        head.copy_from_slice(&header);
        let sealed = self.key.seal_in_place_separate_tag(nonce, Aad::from(header), plain);
        tag.copy_from_slice(sealed.map_err(|_| Error::Malformed)?.as_ref());
        Ok(())
    }

    /// Opens a whole record; the plaintext stands behind its header. Says what it is and how long.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(Content, usize), Error> {
        let (head, body) = record.split_at_mut_checked(HEADER_LEN).ok_or(Error::Malformed)?;
        let header: [u8; HEADER_LEN] = (&*head).try_into().map_err(|_| Error::Malformed)?;
        if header[0] != Content::Data as u8 {
            return Err(Error::Malformed);
        }
        let nonce = self.next_nonce();
        let plain = self.key.open_in_place(nonce, Aad::from(header), body).map_err(|_| Error::Malformed)?;
        // The last byte that is not padding is the type.
        let end = plain.iter().rposition(|byte| *byte != 0).ok_or(Error::Malformed)?;
        let content = match plain[end] {
            21 => Content::Alert,
            22 => Content::Handshake,
            23 => Content::Data,
            _ => return Err(Error::Malformed),
        };
        if end > PLAIN_MAX { Err(Error::Malformed) } else { Ok((content, end)) }
    }

    #[cfg(test)]
    pub fn wear_out(&mut self) {
        self.sequence = RECORDS_PER_KEY - 2;
    }

    #[cfg(test)]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    fn next_nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

fn header(body: usize) -> Result<[u8; HEADER_LEN], Error> {
    let [high, low] = u16::try_from(body).map_err(|_| Error::Malformed)?.to_be_bytes();
    Ok([Content::Data as u8, VERSION[0], VERSION[1], high, low])
}

/// The length of the record that begins `bytes`, header included, once its header is there.
pub fn record_len(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let [_, _, _, high, low, ..] = *bytes else { return Ok(None) };
    let body = usize::from(u16::from_be_bytes([high, low]));
    if body > BODY_MAX { Err(Error::Malformed) } else { Ok(Some(HEADER_LEN + body)) }
}

/// A whole small record.
pub fn small(key: &mut Key, content: Content, plain: &[u8]) -> Result<Vec<u8>, Error> {
    let mut record = vec![0; HEADER_LEN + plain.len() + TRAILER_LEN];
    record[HEADER_LEN..HEADER_LEN + plain.len()].copy_from_slice(plain);
    key.seal(&mut record, content)?;
    Ok(record)
}
