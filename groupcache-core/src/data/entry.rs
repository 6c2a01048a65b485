//! Entries, the generations they were computed under, and their form outside the process.

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
use crate::error::{Error, ErrorKind, Result};

/// The layout that [`Entry::encode`] writes. An entry with another one does not decode: it is a
/// counted miss, so releases with different layouts can share a store.
pub const SCHEMA: u8 = 1;

const MAGIC: [u8; 2] = *b"gc";
/// Magic, schema, checksum.
const HEADER_BYTES: usize = 2 + 1 + 4;

/// The current value of a group. Whatever changes it installs a value that was never current for
/// that group before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(NonZeroU128);

/// The generations of all groups of one entry, in the order of its [`Groups`].
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct GenerationVector(SmallVec<[Generation; 4]>);

/// One cached value: its key, its bytes, its groups, and the generations they had before it was
/// computed.
///
/// Immutable, and shared: backends hand it out as an `Arc`.
pub struct Entry {
    key: Key,
    groups: Groups,
    vector: GenerationVector,
    body: Bytes,
    grace: Duration,
    memo_bytes: usize,
    memo: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Generation {
    /// A generation that was never current anywhere: 128 random bits from the system's
    /// cryptographically secure generator. Draw one for each attempt on the wire, never reuse one.
    ///
    /// Not from a generator of the process: two that were forked from one, or two copies of one virtual
    /// machine, would go on with the same bits. Costs a system call.
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

    /// The generation of this number; `None` for zero, which no generation is.
    #[must_use]
    pub const fn new(value: u128) -> Option<Self> {
        match NonZeroU128::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u128 {
        self.0.get()
    }
}

impl Entry {
    /// An entry of these groups, computed after `vector` was read or minted.
    ///
    /// `grace` is the part of its time to live, at the end, in which it may only be served as stale
    /// by those who asked for that; zero for most.
    ///
    /// # Panics
    ///
    /// If `vector` does not hold one generation for each group: such an entry could never be
    /// validated.
    #[must_use]
    pub fn new(key: Key, groups: Groups, vector: GenerationVector, body: Bytes, grace: Duration) -> Self {
        assert_eq!(groups.len(), vector.len(), "an entry has one generation for each of its groups");
        Self { key, groups, vector, body, grace, memo_bytes: 0, memo: OnceLock::new() }
    }

    /// The same, of which [`memo`](Self::memo) will remember about so many bytes.
    #[must_use]
    pub const fn with_memo_bytes(mut self, bytes: usize) -> Self {
        self.memo_bytes = bytes;
        self
    }

    /// The whole key, compared on every hit: a hash that collides is a miss, never a wrong page.
    #[must_use]
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// The groups it depends on, including those found out during the computation.
    #[must_use]
    pub const fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The generation of each group before the computation.
    #[must_use]
    pub const fn vector(&self) -> &GenerationVector {
        &self.vector
    }

    /// The cached bytes.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// The part of the time to live, at its end, for use as stale only.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        self.grace
    }

    /// About how many bytes this entry takes in memory, or will with what is remembered of it; for weighers.
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

    /// What `decode` makes of the body, remembered with this very entry, so that a backend that
    /// hands out the same entry twice decodes it once. `None` if `decode` says so, or if the entry
    /// remembers something of another type.
    pub fn memo<T: Any + Send + Sync>(&self, decode: impl FnOnce(&Bytes) -> Option<T>) -> Option<Arc<T>> {
        let memo = match self.memo.get() {
            Some(memo) => Arc::clone(memo),
            None => {
                let decoded: Arc<dyn Any + Send + Sync> = Arc::new(decode(&self.body)?);
                Arc::clone(self.memo.get_or_init(|| decoded))
            }
        };
        memo.downcast().ok()
    }

    /// The entry as bytes for stores outside this process.
    ///
    /// Magic and schema, a CRC-32 (IEEE 802.3) of all that follows, then grace, key, groups with
    /// their generations, and the body last.
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

    /// The entry that [`encode`](Self::encode) turned into `bytes`. The body is a slice of `bytes`,
    /// not a copy.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Decode`] for anything else: other bytes, flipped ones, missing ones, another
    /// [`SCHEMA`].
    pub fn decode(bytes: &Bytes) -> Result<Self> {
        Self::read(bytes).ok_or_else(|| Error::new(ErrorKind::Decode, "groupcache-core"))
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
        // Anything else would tie generations to the wrong groups.
        let groups = Groups::from_sorted(groups)?;
        let body = bytes.slice_ref(from.bytes()?);
        (from.remaining() == 0).then(|| Self::new(key, groups, vector, body, grace))
    }
}

/// CRC-32 (IEEE 802.3).
fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iso_hdlc(bytes)
}

impl GenerationVector {
    /// Whether `current` are these generations, all of them, none missing.
    #[must_use]
    pub fn is_current(&self, current: &[Option<Generation>]) -> bool {
        self.0.len() == current.len() && self.0.iter().zip(current).all(|(one, other)| Some(*one) == *other)
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
    fn an_entry_comes_back_as_it_was() {
        let bytes = Bytes::from(entry().encode());
        let back = Entry::decode(&bytes).unwrap();
        assert_eq!(format!("{back:?}"), format!("{:?}", entry()));
        assert_eq!(back.body(), entry().body());
    }

    #[test]
    fn its_size_is_that_of_all_it_holds() {
        let entry = entry();
        let groups: usize = entry.groups().iter().map(Group::size_bytes).sum();
        let parts = [size_of::<Entry>(), entry.key().as_bytes().len(), "body".len(), groups];
        assert_eq!(entry.size_bytes(), parts.iter().sum::<usize>() + 2 * size_of::<Generation>());
        assert!(entry.size_bytes() >= entry.encode().len());
        let own = entry.size_bytes();
        assert_eq!(entry.with_memo_bytes(1000).size_bytes(), own + 1000);
    }

    #[test]
    fn one_flipped_bit_or_missing_byte_is_an_error() {
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
    fn what_was_decoded_from_an_entry_is_remembered() {
        let entry = entry();
        let first = entry.memo(|body| Some(body.len())).unwrap();
        let second = entry.memo(|_| -> Option<usize> { panic!("decoded twice") }).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert!(entry.memo(|_| Some("another type")).is_none());
    }
}
