//! A channel: what the handshake leaves, in two halves that work without each other.

use std::{
    collections::VecDeque,
    io::{self, Write},
    net::{Shutdown, TcpStream},
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use rustls::ExtractedSecrets;

use crate::{
    buffers::{Buffer, Pool},
    source::{Side, Source},
};

use super::{
    Error, Socket,
    handshake::Renew,
    line::Line,
    records::{self, Content, HEADER_LEN, Key, PLAIN_MAX, TRAILER_LEN, WIRE_MAX, record_len},
};

/// Full records of one write, and about as many of one read.
const BATCH: usize = 8;
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
/// Room before the first record of a batch for a key update.
const HEADROOM: usize = HEADER_LEN + KEY_UPDATE.len() + TRAILER_LEN;
const CLOSE_NOTIFY: [u8; 2] = [1, 0];
/// Reads in a row that may yield no bytes before others have their turn.
const BARREN_READS: usize = 8;
/// New keys without a byte in between; an honest peer takes one in millions of records.
const MOST_UPDATES: usize = 32;

static BUFFERS: Pool = Pool::new(HEADROOM + BATCH * WIRE_MAX, 8);

/// A mutually authenticated connection that carries bytes both ways.
pub struct Channel {
    /// From the peer.
    pub reader: Reader,
    /// To the peer.
    pub writer: Writer,
}

/// What both halves touch, seldom.
struct Shared {
    renew: Mutex<Box<dyn Renew>>,
    /// The peer asked for a new key of ours (RFC 8446, section 4.6.3).
    update_owed: AtomicBool,
}

/// The receiving half.
pub struct Reader {
    socket: Socket,
    shared: Arc<Shared>,
    key: Box<Key>,
    buffer: Option<Buffer>,
    /// Bytes of `buffer` that were read, and of these, that were opened.
    filled: usize,
    opened: usize,
    plain: VecDeque<Range<usize>>,
    /// Keys that the peer has taken since it last sent bytes.
    updates: usize,
    closed: bool,
}

/// The sending half.
pub struct Writer {
    socket: Socket,
    shared: Arc<Shared>,
    key: Box<Key>,
    buffer: Option<Buffer>,
    /// Plaintext bytes that wait.
    len: usize,
    /// Sealed bytes of `buffer` that wait for the socket.
    sealed: Range<usize>,
}

impl Channel {
    pub(super) fn new(
        socket: Source<TcpStream>,
        secrets: ExtractedSecrets,
        renew: Box<dyn Renew>,
        unread: &[u8],
    ) -> Result<Self, Error> {
        let socket = Arc::new(socket);
        let shared = Arc::new(Shared { renew: Mutex::new(renew), update_owed: AtomicBool::new(false) });
        let mut reader = Reader {
            socket: socket.clone(),
            shared: shared.clone(),
            key: Box::new(Key::new(secrets.rx)?),
            buffer: None,
            filled: unread.len(),
            opened: 0,
            plain: VecDeque::new(),
            updates: 0,
            closed: false,
        };
        if !unread.is_empty() {
            reader.buffer.insert(BUFFERS.take())[..unread.len()].copy_from_slice(unread);
        }
        let key = Box::new(Key::new(secrets.tx)?);
        let writer = Writer { socket, shared, key, buffer: None, len: 0, sealed: 0..0 };
        Ok(Self { reader, writer })
    }

    /// Whether nothing of this channel waits in either direction, so that it may serve another purpose.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.reader.is_empty() && self.reader.filled == self.reader.opened && self.writer.is_empty()
    }

    /// Whether the peer has neither closed it nor sent anything, at this moment.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let mut byte = [0];
        matches!(self.reader.socket.get_ref().peek(&mut byte), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Reader {
    /// What has arrived, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let bytes = self.buffer.as_deref().unwrap_or_default();
        self.plain.iter().map(move |range| &bytes[range.clone()])
    }

    /// Whether nothing has arrived.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plain.is_empty()
    }

    /// Takes `len` bytes off the front.
    pub fn consume(&mut self, mut len: usize) {
        while let Some(front) = self.plain.front_mut() {
            if front.len() > len {
                front.start += len;
                return;
            }
            len -= front.len();
            self.plain.pop_front();
        }
    }

    /// Waits until more has arrived; false when the peer has closed. To be called when all is consumed.
    ///
    /// # Errors
    /// If the connection broke, or somebody tampered with it.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        // A peer that sends what holds no bytes must not keep the thread.
        for _ in 0..BARREN_READS {
            self.open_records()?;
            if !self.plain.is_empty() || self.closed {
                return Poll::Ready(Ok(!self.plain.is_empty()));
            }
            self.compact();
            match ready!(self.poll_read(cx))? {
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                len => self.filled += len,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads behind what is there. Whoever waits without the beginning of a record holds no buffer.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let ready = self.socket.poll_ready(Side::Read, cx)?;
        let read = ready.is_ready().then(|| {
            let buffer = self.buffer.get_or_insert_with(|| BUFFERS.take());
            self.socket.poll_read(cx, &mut buffer[self.filled..])
        });
        let read = read.unwrap_or(Poll::Pending);
        if read.is_pending() && self.filled == 0 {
            self.buffer = None;
        }
        read
    }

    /// Moves the beginning of a record to the front of the buffer.
    fn compact(&mut self) {
        if let Some(buffer) = self.buffer.as_mut().filter(|_| self.opened > 0) {
            buffer.copy_within(self.opened..self.filled, 0);
            self.filled -= self.opened;
            self.opened = 0;
        }
    }

    fn open_records(&mut self) -> Result<(), Error> {
        let Some(buffer) = &mut self.buffer else { return Ok(()) };
        while !self.closed {
            let unopened = &mut buffer[self.opened..self.filled];
            let Some(len) = record_len(unopened)?.filter(|len| *len <= unopened.len()) else { break };
            let (content, plain) = self.key.open(&mut unopened[..len])?;
            let start = self.opened + HEADER_LEN;
            self.opened += len;
            match content {
                Content::Data if plain == 0 => {}
                Content::Data => {
                    self.updates = 0;
                    self.plain.push_back(start..start + plain);
                }
                Content::Handshake if self.updates == MOST_UPDATES => return Err(Error::Malformed),
                Content::Handshake => {
                    self.updates += 1;
                    update(&mut self.key, &self.shared, &buffer[start..start + plain])?;
                }
                Content::Alert if buffer[start..start + plain] == CLOSE_NOTIFY => self.closed = true,
                Content::Alert => return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
            }
        }
        Ok(())
    }
}

/// The only handshake message on a living channel: the peer has taken its next key.
fn update(key: &mut Key, shared: &Shared, message: &[u8]) -> Result<(), Error> {
    let [24, 0, 0, 1, requested @ 0..=1] = *message else { return Err(Error::Malformed) };
    *key = Key::new(shared.renew.lock().unwrap_or_else(PoisonError::into_inner).next_rx()?)?;
    if requested == 1 {
        shared.update_owed.store(true, Ordering::Relaxed);
    }
    Ok(())
}

impl Writer {
    /// The connection, to be looked after.
    #[must_use]
    pub fn line(&self) -> Line {
        Line(self.socket.clone())
    }

    /// Bytes that [`Self::put`] takes now.
    #[must_use]
    pub fn room(&self) -> usize {
        if self.sealed.is_empty() { BATCH * PLAIN_MAX - self.len } else { 0 }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0 && self.sealed.is_empty()
    }

    /// Takes bytes for the next batch, as many as there is room for; says how many.
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let mut left = &bytes[..bytes.len().min(self.room())];
        let taken = left.len();
        let buffer = self.buffer.get_or_insert_with(|| BUFFERS.take());
        while !left.is_empty() {
            let (record, at) = (self.len / PLAIN_MAX, self.len % PLAIN_MAX);
            let (now, later) = left.split_at(left.len().min(PLAIN_MAX - at));
            let start = HEADROOM + record * WIRE_MAX + HEADER_LEN + at;
            buffer[start..start + now.len()].copy_from_slice(now);
            self.len += now.len();
            left = later;
        }
        taken
    }

    /// Seals what waits and hands it to the socket.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.sealed.is_empty() && self.len > 0 {
            self.seal()?;
        }
        while let Some(buffer) = self.buffer.as_deref().filter(|_| !self.sealed.is_empty()) {
            self.sealed.start += ready!(self.socket.poll_write(cx, &buffer[self.sealed.clone()]))?;
        }
        self.buffer = None;
        Poll::Ready(Ok(()))
    }

    fn seal(&mut self) -> Result<(), Error> {
        let Some(buffer) = &mut self.buffer else { return Ok(()) };
        let owed = self.key.is_worn() || self.shared.update_owed.swap(false, Ordering::Relaxed);
        let mut start = HEADROOM;
        if owed {
            start = 0;
            buffer[..HEADROOM].copy_from_slice(&records::small(&mut self.key, Content::Handshake, &KEY_UPDATE)?);
            *self.key = Key::new(self.shared.renew.lock().unwrap_or_else(PoisonError::into_inner).next_tx()?)?;
        }
        let mut end = HEADROOM;
        while self.len > 0 {
            let plain = self.len.min(PLAIN_MAX);
            let wire = HEADER_LEN + plain + TRAILER_LEN;
            self.key.seal(&mut buffer[end..end + wire], Content::Data)?;
            self.len -= plain;
            end += wire;
        }
        self.sealed = start..end;
        Ok(())
    }

    /// Says that nothing more comes, as far as the socket takes it at once: nobody waits for a channel's last words.
    pub fn close(&mut self) {
        let record = records::small(&mut self.key, Content::Alert, &CLOSE_NOTIFY);
        if let Some(record) = record.ok().filter(|_| self.is_empty()) {
            let _ = self.socket.get_ref().write(&record);
        }
        let _ = self.socket.get_ref().shutdown(Shutdown::Write);
    }
}

/// What the tests reach for.
#[cfg(test)]
mod reach {
    use super::{Content, Reader, TcpStream, Writer, records};

    impl Reader {
        pub(crate) fn wear_out(&mut self) {
            self.key.wear_out();
        }

        pub(crate) fn records(&self) -> u64 {
            self.key.sequence()
        }
    }

    impl Writer {
        pub(crate) fn wear_out(&mut self) {
            self.key.wear_out();
        }

        pub(crate) fn raw(&self) -> &TcpStream {
            self.socket.get_ref()
        }

        pub(crate) fn sealed(&mut self, plain: &[u8]) -> Vec<u8> {
            records::small(&mut self.key, Content::Data, plain).unwrap()
        }

        /// Takes a new key and asks the peer to do the same.
        pub(crate) fn request_update(&mut self) {
            use std::io::Write;
            let record = records::small(&mut self.key, Content::Handshake, &[24, 0, 0, 1, 1]).unwrap();
            self.raw().write_all(&record).unwrap();
            *self.key = super::Key::new(self.shared.renew.lock().unwrap().next_tx().unwrap()).unwrap();
        }
    }
}
