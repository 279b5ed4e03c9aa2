//! What a node says of itself to the members of one network, signed so that anybody may pass it on.

use std::sync::Arc;

use libp2p_identity::ed25519;
use minicbor::{Decode, Decoder, Encode, Encoder, bytes::ByteSlice, decode, encode};
use multiaddr::Multiaddr;

use crate::{NetworkName, NodeId, NodeName, Timestamp, codec, frame};

/// Largest encoded record, in bytes, without its signature.
pub const MAX_BYTES: usize = 3 * 1024;
/// Longest version or target text in a record, in bytes.
pub const MAX_LABEL: usize = 64;
/// Most addresses in a record.
pub const MAX_ADDRESSES: usize = codec::multiaddrs::MAX as usize;

/// Separates record signatures from every other use of a node's key.
const CONTEXT: &[u8] = b"hive peer record v1\0";

/// A node's own statement, valid for one network.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PeerRecord {
    /// Network the record speaks in; it is never taken into another's table.
    #[n(0)]
    pub network: NetworkName,
    /// Whose record it is.
    #[n(1)]
    pub node: NodeId,
    /// Grows with each statement: the later one holds. Milliseconds since the Unix epoch, or one more than the last
    /// where the clock went back.
    #[n(2)]
    pub seq: u64,
    /// When it was made, by the owner's clock.
    #[n(3)]
    pub issued: Timestamp,
    /// The node's name.
    #[n(4)]
    pub name: NodeName,
    /// Where it can be dialled, best first.
    #[cbor(n(5), with = "codec::multiaddrs")]
    pub addresses: Vec<Multiaddr>,
    /// Agent version.
    #[n(6)]
    pub version: String,
    /// Target triple the agent was built for.
    #[n(7)]
    pub target: String,
    /// Whether it relays for members.
    #[n(8)]
    pub relay: bool,
    /// Whether the node has left the network: a tombstone.
    #[n(9)]
    pub left: bool,
}

/// A record as its owner encoded and signed it. The bytes travel unchanged, so fields this build does not know
/// survive the passage. They are held once: clones share them, so a record costs the same in a table, in ten messages
/// and on its way to the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRecord(Arc<Signed>);

#[derive(Debug, PartialEq, Eq)]
struct Signed {
    /// CBOR of the [`PeerRecord`].
    body: Box<[u8]>,
    /// Ed25519 signature over the context and the body.
    signature: [u8; 64],
    /// None where the body is no record that this build can read.
    head: Option<Head>,
}

/// What is asked of a record again and again, whoever signed it. A table of thousands holds this of each and decodes the
/// rest when somebody wants it: texts and addresses take three times as much in memory as on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Whose record it is.
    pub node: NodeId,
    /// As in [`PeerRecord::seq`].
    pub seq: u64,
    /// When it was made, by the owner's clock.
    pub issued: Timestamp,
    /// What it adds to the digest of a range: BLAKE3 of node id and sequence number.
    pub fingerprint: u128,
    /// Whether it names an address.
    pub dialable: bool,
    /// Whether the node relays for members.
    pub relay: bool,
    /// Whether the node has left the network.
    pub left: bool,
}

impl Head {
    fn of(record: &PeerRecord) -> Self {
        Self {
            node: record.node,
            seq: record.seq,
            issued: record.issued,
            fingerprint: fingerprint(&record.node, record.seq),
            dialable: !record.addresses.is_empty(),
            relay: record.relay,
            left: record.left,
        }
    }
}

fn fingerprint(node: &NodeId, seq: u64) -> u128 {
    let hash = blake3::Hasher::new().update(node.as_bytes()).update(&seq.to_be_bytes()).finalize();
    let mut head = [0; 16];
    head.copy_from_slice(&hash.as_bytes()[..16]);
    u128::from_be_bytes(head)
}

/// A signed record on the wire.
#[derive(Encode, Decode)]
#[cbor(map)]
struct Wire<'b> {
    #[b(0)]
    body: &'b ByteSlice,
    #[cbor(n(1), with = "minicbor::bytes")]
    signature: [u8; 64],
}

/// Why a signed record was not taken.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Larger than [`MAX_BYTES`].
    #[error("record of {0} bytes, at most {MAX_BYTES} are allowed")]
    TooLarge(usize),
    /// The body does not decode.
    #[error(transparent)]
    Content(#[from] frame::DecodeError),
    /// A version or target text over [`MAX_LABEL`] bytes or with control characters.
    #[error("version or target text is too long or unprintable")]
    Label,
    /// Not signed by the node it speaks of.
    #[error("the signature is not the owner's")]
    Signature,
}

impl SignedRecord {
    /// Signs a record with its owner's key.
    #[must_use]
    pub fn sign(record: &PeerRecord, key: &ed25519::Keypair) -> Self {
        let body = minicbor::to_vec(record).unwrap_or_else(|_| unreachable!("encoding to memory"));
        let signature = key.sign(&signed_bytes(&body)).try_into();
        let signature = signature.unwrap_or_else(|_| unreachable!("an Ed25519 signature has 64 bytes"));
        Self::new(body.into(), signature)
    }

    fn new(body: Box<[u8]>, signature: [u8; 64]) -> Self {
        let head = read(&body).ok().as_ref().map(Head::of);
        Self(Arc::new(Signed { body, signature, head }))
    }

    /// Checks bounds and signature and returns what the owner said.
    pub fn verify(&self) -> Result<PeerRecord, RecordError> {
        let record = self.read()?;
        if !record.node.verify(&signed_bytes(&self.0.body), &self.0.signature) {
            return Err(RecordError::Signature);
        }
        Ok(record)
    }

    /// Decodes and bounds the record without the signature check: for records this node verified before it stored them.
    pub fn read(&self) -> Result<PeerRecord, RecordError> {
        read(&self.0.body)
    }

    /// The head of a record that can be [read](Self::read), without the signature check and at no cost.
    #[must_use]
    pub fn head(&self) -> Option<&Head> {
        self.0.head.as_ref()
    }

    /// Bytes it takes on a wire, about.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.body.len() + self.0.signature.len() + 8
    }
}

fn read(body: &[u8]) -> Result<PeerRecord, RecordError> {
    if body.len() > MAX_BYTES {
        return Err(RecordError::TooLarge(body.len()));
    }
    let record: PeerRecord = frame::decode(body)?;
    let printable = |text: &str| text.len() <= MAX_LABEL && !text.chars().any(char::is_control);
    if !printable(&record.version) || !printable(&record.target) {
        return Err(RecordError::Label);
    }
    Ok(record)
}

impl<C> Encode<C> for SignedRecord {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), encode::Error<W::Error>> {
        let Signed { body, signature, .. } = &*self.0;
        Wire { body: (&**body).into(), signature: *signature }.encode(e, ctx)
    }
}

impl<'b, C> Decode<'b, C> for SignedRecord {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let Wire { body, signature } = Wire::decode(d, ctx)?;
        Ok(Self::new(Box::from(&**body), signature))
    }
}

fn signed_bytes(body: &[u8]) -> Vec<u8> {
    [CONTEXT, body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &ed25519::Keypair) -> PeerRecord {
        PeerRecord {
            network: "lab".parse().unwrap(),
            node: NodeId::from(&key.public()),
            seq: 5,
            issued: Timestamp(5),
            name: "shed".parse().unwrap(),
            addresses: vec!["/ip4/192.0.2.7/tcp/4180".parse().unwrap()],
            version: "0.1.0".into(),
            target: "x".into(),
            relay: false,
            left: false,
        }
    }

    #[test]
    fn the_owner_signs_and_anybody_verifies() {
        let key = ed25519::Keypair::generate();
        let signed = SignedRecord::sign(&record(&key), &key);
        assert_eq!(signed.verify().unwrap(), record(&key));
    }

    #[test]
    fn another_key_or_another_byte_is_refused() {
        let (key, other) = (ed25519::Keypair::generate(), ed25519::Keypair::generate());
        let forged = SignedRecord::sign(&record(&key), &other);
        assert!(matches!(forged.verify(), Err(RecordError::Signature)));
        let signed = SignedRecord::sign(&record(&key), &key);
        let mut body = signed.0.body.clone();
        *body.last_mut().unwrap() ^= 1;
        assert!(SignedRecord::new(body, signed.0.signature).verify().is_err());
    }

    #[test]
    fn bounds_hold() {
        let key = ed25519::Keypair::generate();
        let long = PeerRecord { version: "v".repeat(MAX_LABEL + 1), ..record(&key) };
        assert!(matches!(SignedRecord::sign(&long, &key).verify(), Err(RecordError::Label)));
        let crowd = PeerRecord { addresses: vec!["/ip4/1.2.3.4/tcp/1".parse().unwrap(); 17], ..record(&key) };
        let crowd = SignedRecord::sign(&crowd, &key);
        assert!(matches!(crowd.verify(), Err(RecordError::Content(_))));
        assert_eq!(crowd.head(), None);
        let huge = SignedRecord::new(vec![0; MAX_BYTES + 1].into(), [0; 64]);
        assert!(matches!(huge.read(), Err(RecordError::TooLarge(_))));
        let bytes = minicbor::to_vec(&huge).unwrap();
        assert_eq!(minicbor::decode::<SignedRecord>(&bytes).unwrap(), huge, "what cannot be read breaks no message");
    }

    #[test]
    fn the_head_says_what_the_record_says() {
        let key = ed25519::Keypair::generate();
        let said = PeerRecord { relay: true, ..record(&key) };
        let head = SignedRecord::sign(&said, &key).head().cloned().unwrap();
        assert_eq!((head.node, head.seq, head.issued), (said.node, said.seq, said.issued));
        assert_eq!((head.dialable, head.relay, head.left), (true, true, false));
        let last = SignedRecord::sign(&PeerRecord { addresses: vec![], left: true, ..said }, &key);
        let last = last.head().cloned().unwrap();
        assert_eq!((last.dialable, last.left, last.fingerprint), (false, true, head.fingerprint));
    }

    #[test]
    fn fields_of_a_newer_version_survive() {
        let key = ed25519::Keypair::generate();
        let mut body = minicbor::to_vec(record(&key)).unwrap();
        assert_eq!(body[0], 0xaa, "a map of ten entries");
        body[0] = 0xab;
        body.extend_from_slice(&[0x18, 99, 0x01]);
        let signature = key.sign(&signed_bytes(&body)).try_into().unwrap();
        let newer = SignedRecord::new(body.into(), signature);
        let bytes = minicbor::to_vec(&newer).unwrap();
        let received: SignedRecord = minicbor::decode(&bytes).unwrap();
        assert_eq!(received.verify().unwrap(), record(&key));
        assert_eq!(minicbor::to_vec(&received).unwrap(), bytes);
    }
}
