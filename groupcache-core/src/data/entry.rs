//! Entries, the generations they were loaded under, and their encoding.

use std::any::Any;
use std::fmt;
use std::num::NonZeroU128;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use rand::TryRng;
use rand::rngs::SysRng;
use smallvec::SmallVec;

use crate::data::group::{Group, Groups};
use crate::data::key::Key;
use crate::data::wire::{Reader, put_bytes, put_uint};
use crate::error::{CRATE_NAME, Error, ErrorKind, Result};

/// Version of the layout that [`Entry::encode`] writes.
///
/// An entry of another schema does not decode. The cache counts it and treats it as a miss, so releases with
/// different schemas can share a store.
pub const SCHEMA: u8 = 1;

/// The generation of a group, which changes with every invalidation.
///
/// Every write to a generation installs a value that was never current for that group before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(NonZeroU128);

/// The generations of all groups of one entry, in the order of its [`Groups`].
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct GenerationVector(SmallVec<[Generation; 4]>);

/// A cached value with its key, its groups, and the generations that the groups had before the load.
///
/// Entries are immutable. Backends return them as `Arc`s.
pub struct Entry {
    key: Key,
    groups: Groups,
    vector: GenerationVector,
    body: Bytes,
    grace: Duration,
    memo_bytes: usize,
    memo: OnceLock<Memo>,
}

/// A decoded body.
#[derive(Clone)]
pub(crate) struct Memo(pub(crate) Arc<dyn Any + Send + Sync>);

impl Generation {
    /// Returns a generation that was never current anywhere: 128 random bits from the cryptographically
    /// secure generator of the operating system. Costs a system call.
    ///
    /// Draw a fresh one for each attempt to send a write. A generator in the process would not do: two forks
    /// of a process, or two clones of a virtual machine, would continue with the same bits.
    #[must_use]
    pub fn random() -> Self {
        loop {
            let mut bytes = [0; size_of::<u128>()];
            let value = match SysRng.try_fill_bytes(&mut bytes) {
                Ok(()) => u128::from_ne_bytes(bytes),
                Err(_) => rand::random(),
            };
            if let Some(value) = NonZeroU128::new(value) {
                return Self(value);
            }
        }
    }

    /// Returns the generation with this number, or `None` for zero, which is never a generation.
    #[must_use]
    pub const fn new(value: u128) -> Option<Self> {
        match NonZeroU128::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// Returns the number of this generation.
    #[must_use]
    pub const fn get(self) -> u128 {
        self.0.get()
    }
}

impl Entry {
    /// Creates an entry. `vector` must have been read or minted before the load of `body` began.
    ///
    /// `grace` is the last part of the entry's time in the store. During it the entry may only be served as
    /// stale, to readers whose options allow that. Zero for most entries.
    ///
    /// # Panics
    ///
    /// Panics if `vector` does not have one generation for each group, as such an entry could never be valid.
    #[must_use]
    pub fn new(key: Key, groups: Groups, vector: GenerationVector, body: Bytes, grace: Duration) -> Self {
        assert_eq!(groups.len(), vector.len(), "an entry has one generation for each of its groups");
        Self { key, groups, vector, body, grace, memo_bytes: 0, memo: OnceLock::new() }
    }

    /// Sets the estimated size of what [`memo`](Self::memo) will keep, for [`size_bytes`](Self::size_bytes).
    /// Defaults to 0 bytes.
    #[must_use]
    pub const fn with_memo_bytes(mut self, bytes: usize) -> Self {
        self.memo_bytes = bytes;
        self
    }

    /// Sets what [`memo`](Self::memo) returns.
    pub(crate) fn with_memo(mut self, memo: Option<Memo>) -> Self {
        self.memo = memo.map_or_else(OnceLock::new, OnceLock::from);
        self
    }

    /// Whether room for a memo is counted.
    pub(crate) const fn has_memo(&self) -> bool {
        self.memo_bytes > 0
    }

    /// Returns the whole key. The cache compares it on every hit, so a hash collision in a store is a miss.
    #[must_use]
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// Returns the groups that the entry depends on, including those discovered during the load.
    #[must_use]
    pub const fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Returns the generation that each group had before the load, in the order of the groups.
    #[must_use]
    pub const fn vector(&self) -> &GenerationVector {
        &self.vector
    }

    /// Returns the cached bytes.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the last part of the entry's time in the store, during which it may only be served as stale.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        self.grace
    }

    /// Returns the approximate size of the entry in memory, including its memo, for weighers.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.own_bytes() + self.memo_bytes
    }

    fn own_bytes(&self) -> usize {
        let groups: usize = self.groups.iter().map(Group::size_bytes).sum();
        size_of::<Self>()
            + self.key.as_bytes().len()
            + self.body.len()
            + groups
            + self.groups.len() * size_of::<Generation>()
    }

    /// Returns the decoded body, and calls `decode` only the first time.
    ///
    /// The decoded value is kept in the entry, so repeated hits in a process decode the body once. Returns
    /// `None` if `decode` does, or if the entry already keeps a value of another type.
    pub fn memo<T: Any + Send + Sync>(&self, decode: impl FnOnce(&Bytes) -> Option<T>) -> Option<Arc<T>> {
        let memo = match self.memo.get() {
            Some(memo) => Arc::clone(&memo.0),
            None => {
                let decoded = Memo(Arc::new(decode(&self.body)?));
                Arc::clone(&self.memo.get_or_init(|| decoded).0)
            }
        };
        memo.downcast().ok()
    }

    /// Encodes the entry for a store outside this process.
    ///
    /// The layout is: magic bytes, schema, CRC-32 (IEEE 802.3) of everything after it, grace, key, groups
    /// with their generations, body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.own_bytes() + HEADER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.push(SCHEMA);
        out.extend_from_slice(&[0; 4]);
        put_uint(&mut out, self.grace.as_millis());
        put_bytes(&mut out, self.key.as_bytes());
        put_uint(&mut out, self.groups.len() as u128);
        for (group, generation) in self.groups.iter().zip(self.vector.iter()) {
            put_bytes(&mut out, group.encoded());
            out.extend_from_slice(&generation.get().to_be_bytes());
        }
        put_bytes(&mut out, &self.body);
        let checksum = checksum(&out[HEADER_BYTES..]);
        out[3..HEADER_BYTES].copy_from_slice(&checksum.to_be_bytes());
        out
    }

    /// Decodes what [`encode`](Self::encode) returned. The body is a slice of `bytes`, not a copy.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Decode`] if `bytes` are truncated, corrupted, of another [`SCHEMA`] or not an entry at
    /// all.
    pub fn decode(bytes: &Bytes) -> Result<Self> {
        Self::read(bytes).ok_or_else(|| Error::new(ErrorKind::Decode, CRATE_NAME))
    }

    fn read(bytes: &Bytes) -> Option<Self> {
        let mut from = Reader::new(bytes);
        if from.array()? != MAGIC || from.array()? != [SCHEMA] {
            return None;
        }
        if u32::from_be_bytes(from.array()?) != checksum(bytes.get(HEADER_BYTES..)?) {
            return None;
        }
        let grace = Duration::from_millis(from.uint()?);
        let key = Key::from_encoded(from.bytes()?);
        let count = from.length()?;
        let expected = count.min(from.remaining() / size_of::<Generation>());
        let mut groups = SmallVec::<[Group; 1]>::with_capacity(expected);
        let mut vector = GenerationVector(SmallVec::with_capacity(expected));
        for _ in 0..count {
            groups.push(Group::decode(from.bytes()?)?);
            vector.0.push(Generation::new(u128::from_be_bytes(from.array()?))?);
        }
        // Sorting here would assign generations to the wrong groups.
        let groups = Groups::from_sorted(groups)?;
        let body = bytes.slice_ref(from.bytes()?);
        (from.remaining() == 0).then(|| Self::new(key, groups, vector, body, grace))
    }
}

impl GenerationVector {
    /// Returns whether `current` has exactly these generations, in order, with none missing.
    #[must_use]
    pub fn is_current(&self, current: &[Option<Generation>]) -> bool {
        self.0.len() == current.len()
            && self.0.iter().zip(current).all(|(own, current)| Some(*own) == *current)
    }
}

impl Deref for GenerationVector {
    type Target = [Generation];

    fn deref(&self) -> &[Generation] {
        &self.0
    }
}

impl FromIterator<Generation> for GenerationVector {
    fn from_iter<I: IntoIterator<Item = Generation>>(generations: I) -> Self {
        Self(generations.into_iter().collect())
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generation({:x})", self.0)
    }
}

impl fmt::Debug for GenerationVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memo(..)")
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .field("groups", &self.groups)
            .field("vector", &self.vector)
            .field("body_bytes", &self.body.len())
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

/// CRC-32 (IEEE 802.3).
fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iso_hdlc(bytes)
}

const MAGIC: [u8; 2] = *b"gc";

/// Length of magic, schema and checksum.
const HEADER_BYTES: usize = 2 + 1 + 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let groups = Groups::from([Group::new("book").with("id", 5), Group::new("author").with_null("name")]);
        let vector = (1..=2).filter_map(Generation::new).collect();
        let key = Key::of(&("page", 5)).unwrap();
        Entry::new(key, groups, vector, Bytes::from_static(b"body"), Duration::from_millis(1500))
    }

    #[test]
    fn an_entry_round_trips() {
        let bytes = Bytes::from(entry().encode());
        let back = Entry::decode(&bytes).unwrap();
        assert_eq!(format!("{back:?}"), format!("{:?}", entry()));
        assert_eq!(back.body(), entry().body());
    }

    #[test]
    fn the_size_counts_all_parts() {
        let entry = entry();
        let groups: usize = entry.groups().iter().map(Group::size_bytes).sum();
        let parts = [size_of::<Entry>(), entry.key().as_bytes().len(), "body".len(), groups];
        assert_eq!(entry.size_bytes(), parts.iter().sum::<usize>() + 2 * size_of::<Generation>());
        assert!(entry.size_bytes() >= entry.encode().len());
        let own = entry.size_bytes();
        assert_eq!(entry.with_memo_bytes(1000).size_bytes(), own + 1000);
    }

    #[test]
    fn a_flipped_bit_or_a_missing_byte_is_a_decode_error() {
        let bytes = entry().encode();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert_eq!(Entry::decode(&flipped.into()).unwrap_err().kind(), ErrorKind::Decode);
            }
            assert!(Entry::decode(&Bytes::copy_from_slice(&bytes[..at])).is_err());
        }
        assert!(Entry::decode(&Bytes::from_static(b"")).is_err());
    }

    #[test]
    fn the_layout_never_changes_within_a_schema() {
        let entry = Entry::new(
            Key::of("k").unwrap(),
            Group::new("g").into(),
            Generation::new(1).into_iter().collect(),
            Bytes::from_static(b"v"),
            Duration::ZERO,
        );
        let mut golden = b"gc\x01\xb2\x90\xc0\xc6\0\x03\x0a\x01k\x01\x02\x01g".to_vec();
        golden.extend_from_slice(&1_u128.to_be_bytes());
        golden.extend_from_slice(b"\x01v");
        assert_eq!(entry.encode(), golden);
    }

    #[test]
    fn the_body_is_decoded_once() {
        let entry = entry();
        let first = entry.memo(|body| Some(body.len())).unwrap();
        let second = entry.memo(|_| -> Option<usize> { panic!("decoded twice") }).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert!(entry.memo(|_| Some("another type")).is_none());
    }
}
