//! As much of protobuf's encoding as AutoNAT's messages need: varints, fixed 64-bit numbers, and bytes.

/// Bytes of one message; a request with all the addresses that are looked at has less.
pub const MAX_LEN: usize = 4096;

/// A message under construction.
#[derive(Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// With a varint.
    pub fn number(mut self, field: u8, value: u64) -> Self {
        self.0.push(field << 3);
        self.0.extend(varint(value));
        self
    }

    /// With a fixed 64-bit number.
    pub fn fixed(mut self, field: u8, value: u64) -> Self {
        self.0.push(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// With bytes.
    pub fn bytes(mut self, field: u8, value: &[u8]) -> Self {
        self.0.push(field << 3 | 2);
        self.0.extend(varint(value.len() as u64));
        self.0.extend(value);
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A varint.
    Number(u64),
    /// A fixed 64-bit number.
    Fixed(u64),
    /// Bytes.
    Bytes(&'a [u8]),
}

/// The fields of a message, in their order.
pub struct Fields<'a>(Vec<(u64, Value<'a>)>);

impl<'a> Fields<'a> {
    /// Reads a whole message; none if it is cut off or has a kind of value that these messages lack.
    pub fn parse(mut bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let (tag, rest) = read_varint(bytes)?;
            let (value, rest) = read_value(tag & 7, rest)?;
            fields.push((tag >> 3, value));
            bytes = rest;
        }
        Some(Self(fields))
    }

    /// Every value of a field.
    pub fn all(&self, field: u64) -> impl Iterator<Item = Value<'a>> {
        self.0.iter().filter(move |(number, _)| *number == field).map(|(_, value)| *value)
    }

    /// The last value of a field counts.
    fn last(&self, field: u64) -> Option<Value<'a>> {
        self.all(field).last()
    }

    pub fn number(&self, field: u64) -> Option<u64> {
        self.last(field).and_then(|value| if let Value::Number(number) = value { Some(number) } else { None })
    }

    pub fn fixed(&self, field: u64) -> Option<u64> {
        self.last(field).and_then(|value| if let Value::Fixed(number) = value { Some(number) } else { None })
    }

    pub fn bytes(&self, field: u64) -> Option<&'a [u8]> {
        self.last(field).and_then(|value| if let Value::Bytes(bytes) = value { Some(bytes) } else { None })
    }
}

fn read_value(kind: u64, bytes: &[u8]) -> Option<(Value<'_>, &[u8])> {
    match kind {
        0 => read_varint(bytes).map(|(number, rest)| (Value::Number(number), rest)),
        1 => {
            let (number, rest) = bytes.split_first_chunk::<8>()?;
            Some((Value::Fixed(u64::from_le_bytes(*number)), rest))
        }
        2 => {
            let (length, rest) = read_varint(bytes)?;
            let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            Some((Value::Bytes(value), rest))
        }
        _ => None,
    }
}

/// A number, seven bits a byte, the lowest first.
pub fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Reads such a number and says what is left; none if it is cut off or too long.
pub fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)?;
    let number = bytes[..=end]
        .iter()
        .rev()
        .try_fold(0u64, |number, byte| (number.leading_zeros() >= 7).then_some(number << 7 | u64::from(byte & 0x7f)))?;
    Some((number, &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_what_was_written() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let bytes = varint(number);
            assert_eq!(read_varint(&[&bytes[..], &[7]].concat()), Some((number, &[7][..])));
            assert!(bytes.len() == 1 || read_varint(&bytes[..bytes.len() - 1]).is_none());
        }
        assert_eq!(varint(300), [0xac, 0x02]);
        assert_eq!(read_varint(&[0xff; 12]), None);
    }

    #[test]
    fn a_length_beyond_the_message_is_refused() {
        assert!(Fields::parse(&[0x0a, 5, 1, 2]).is_none());
        assert!(Fields::parse(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).is_none());
        assert!(Fields::parse(&[0x0b]).is_none(), "groups");
        assert_eq!(Fields::parse(&[]).unwrap().number(1), None);
    }
}
