//! Runs of DATA frames: what has come of several is one write to the application.

use std::{
    io::{self, IoSlice, Write},
    net::TcpStream,
};

use hive_protocol::tunnel::{HEADER_LEN, Header, Kind};

use super::FRAME_COST;
use crate::tunnel::carrier::Reader;

/// Slices of one write: the records of one read, some of them parted by a header.
const SLICES: usize = 16;

/// Writes what has come of a frame of which `left` bytes are to be written, and of the DATA frames right behind it.
pub fn write(mut local: &TcpStream, reader: &Reader, left: usize) -> io::Result<usize> {
    let mut gathered = [IoSlice::new(&[]); SLICES];
    let count = gather(reader.slices(), left, &mut gathered);
    local.write_vectored(&gathered[..count])
}

/// Consumes `written` bytes of such a run and the headers between them. Gives what is left of the frame that it ends in,
/// and how much those behind the first one count.
pub fn consume(reader: &mut Reader, mut left: usize, mut written: usize) -> (usize, usize) {
    let mut behind = 0;
    loop {
        let now = written.min(left);
        reader.consume(now);
        (left, written) = (left - now, written - now);
        if written == 0 {
            return (left, behind);
        }
        let Some((len, _)) = reader.slices().next().and_then(data_frame) else { return (left, behind) };
        reader.consume(HEADER_LEN);
        behind += FRAME_COST + len;
        left = len;
    }
}

/// The payload of the run, up to the first frame of another kind or the first header that is not whole in one slice.
fn gather<'a>(slices: impl Iterator<Item = &'a [u8]>, mut left: usize, into: &mut [IoSlice<'a>]) -> usize {
    let mut count = 0;
    for mut slice in slices {
        while !slice.is_empty() {
            if left == 0 {
                let Some((len, payload)) = data_frame(slice) else { return count };
                (left, slice) = (len, payload);
                continue;
            }
            if count == into.len() {
                return count;
            }
            let (now, later) = slice.split_at(left.min(slice.len()));
            into[count] = IoSlice::new(now);
            (left, slice, count) = (left - now.len(), later, count + 1);
        }
    }
    count
}

/// The length of the DATA frame that begins here, and what follows its header.
fn data_frame(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
    let header = Header::parse(*header).ok().filter(|header| header.kind == Kind::Data)?;
    Some((header.len, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(payload: &[u8]) -> Vec<u8> {
        [&Header { kind: Kind::Data, len: payload.len() }.to_bytes()[..], payload].concat()
    }

    fn gathered(slices: &[&[u8]], left: usize, most: usize) -> Vec<Vec<u8>> {
        let mut into = vec![IoSlice::new(&[]); most];
        let count = gather(slices.iter().copied(), left, &mut into);
        into[..count].iter().map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn a_run_goes_on_over_frames_and_slices() {
        // The second frame has six bytes, of which two stand in the second slice.
        let first = [b"ab", &data(b"cdefgh")[..HEADER_LEN + 4]].concat();
        let second = [b"gh", &data(b"i")[..]].concat();
        assert_eq!(gathered(&[&first, &second], 2, 9), [&b"ab"[..], b"cdef", b"gh", b"i"]);
        assert_eq!(gathered(&[&first, &second], 2, 3), [&b"ab"[..], b"cdef", b"gh"]);
    }

    #[test]
    fn a_run_ends_before_what_is_no_data() {
        let eof = hive_protocol::tunnel::encode_eof(3);
        assert_eq!(gathered(&[b"abc", &eof], 3, 9), [b"abc"]);
        assert_eq!(gathered(&[b"abc", &[200, 0, 0, 1, 7]], 3, 9), [b"abc"], "no frame at all");
        let next = data(b"xyz");
        let parted = [&[b"abc", &next[..2]].concat()[..], &next[2..]];
        assert_eq!(gathered(&parted, 3, 9), [b"abc"], "a header in two slices is read whole first");
    }
}
