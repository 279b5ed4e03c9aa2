//! The little DER that a libp2p certificate needs (ITU-T X.690, section 10): definite, minimal lengths only.

/// Universal and context tags used in certificates.
pub(super) mod tag {
    pub const BOOLEAN: u8 = 0x01;
    pub const INTEGER: u8 = 0x02;
    pub const BIT_STRING: u8 = 0x03;
    pub const OCTET_STRING: u8 = 0x04;
    pub const OID: u8 = 0x06;
    pub const UTF8_STRING: u8 = 0x0c;
    pub const UTC_TIME: u8 = 0x17;
    pub const GENERALIZED_TIME: u8 = 0x18;
    pub const SEQUENCE: u8 = 0x30;
    pub const SET: u8 = 0x31;
    /// `[0]` and `[3]`, explicit.
    pub const VERSION: u8 = 0xa0;
    pub const EXTENSIONS: u8 = 0xa3;
}

/// The input is not DER, or not the element expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// One element: its tag, what it contains, and all of its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element<'a> {
    pub tag: u8,
    pub content: &'a [u8],
    pub raw: &'a [u8],
}

/// Reads elements one after the other; copies nothing.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// The tag of the next element, if there is one.
    pub(super) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element, of any tag.
    pub(super) fn element(&mut self) -> Result<Element<'a>, Malformed> {
        let input = self.0;
        let (&tag, rest) = input.split_first().ok_or(Malformed)?;
        let (length, body) = length(rest)?;
        if body.len() < length {
            return Err(Malformed);
        }
        let (content, after) = body.split_at(length);
        self.0 = after;
        Ok(Element { tag, content, raw: &input[..input.len() - after.len()] })
    }

    /// The next element, which must have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Result<Element<'a>, Malformed> {
        self.element().and_then(|element| if element.tag == tag { Ok(element) } else { Err(Malformed) })
    }

    /// Reads inside the next element, which must have this tag.
    pub(super) fn enter(&mut self, tag: u8) -> Result<Reader<'a>, Malformed> {
        Ok(Reader(self.expect(tag)?.content))
    }

    /// Nothing may be left.
    pub(super) fn finish(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// A length of at most 65,535 in its shortest form, and what follows it.
fn length(input: &[u8]) -> Result<(usize, &[u8]), Malformed> {
    match *input {
        [short @ 0..=0x7f, ref rest @ ..] => Ok((short.into(), rest)),
        [0x81, long @ 0x80..=0xff, ref rest @ ..] => Ok((long.into(), rest)),
        [0x82, high @ 1..=0xff, low, ref rest @ ..] => Ok((u16::from_be_bytes([high, low]).into(), rest)),
        _ => Err(Malformed),
    }
}

/// An element with the parts, joined, as its content. Content beyond 65,535 bytes is never written here.
pub(super) fn write(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let [.., high, low] = content.len().to_be_bytes();
    let mut out = vec![tag];
    match (high, low) {
        (0, 0..=0x7f) => out.push(low),
        (0, _) => out.extend([0x81, low]),
        _ => out.extend([0x82, high, low]),
    }
    out.extend(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_it_reads() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x1234] {
            let content = vec![7; length];
            let written = write(tag::OCTET_STRING, &[&content]);
            let mut reader = Reader::new(&written);
            let element = reader.expect(tag::OCTET_STRING).unwrap();
            assert_eq!((element.content, element.raw), (&content[..], &written[..]));
            assert!(reader.finish().is_ok());
        }
    }

    #[test]
    fn refuses_truncated_indefinite_and_padded_lengths() {
        let bad: [&[u8]; 7] =
            [&[], &[4], &[4, 2, 0], &[4, 0x80, 0, 0], &[4, 0x81, 0x7f], &[4, 0x82, 0, 0x80], &[4, 0x84, 0, 0, 0, 1, 0]];
        for input in bad {
            assert_eq!(Reader::new(input).element().unwrap_err(), Malformed, "{input:x?}");
        }
    }
}
