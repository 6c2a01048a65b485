//! The identity of an entry: an injective encoding of a value, and its hash.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::data::key_encoder;
use crate::error::Result;

/// What one entry is stored under.
///
/// A key is the canonical encoding of a value: typed and length-prefixed, so that keys made of
/// different values never encode alike (`{a: "bc"}` and `{ab: "c"}` differ, as do `1` and `"1"`).
/// Integers are encoded by value whatever their width, maps and structs by sorted field names, so a
/// key does not change when a field moves or a `HashMap` is iterated in another order.
///
/// The encoding is the same in every process, on every platform and in every release of this major
/// version.
///
/// ```
/// use groupcache_core::Key;
///
/// let key = Key::of(&("report", 2026, "q3"))?;
/// assert_eq!(key, Key::of(&("report", 2026_u64, "q3"))?);
/// assert_ne!(key, Key::of(&("report", 2026, "q", "3"))?);
/// # Ok::<(), groupcache_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<[u8]>);

impl Key {
    /// The key of any serialisable value.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Encode`](crate::ErrorKind::Encode) if the value's `Serialize` implementation
    /// fails.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        key_encoder::with_encoded(value, |encoded| Self(encoded.into()))
    }

    /// The key whose encoding is `bytes`, as [`as_bytes`](Self::as_bytes) returned it. For backends
    /// that keep keys outside this process.
    #[must_use]
    pub fn from_encoded(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The canonical encoding.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The BLAKE3 hash of the encoding: a name of fixed length for stores that limit theirs.
    /// Backends keep the whole key beside the entry and compare it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.0).as_bytes()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0.escape_ascii())
    }
}
