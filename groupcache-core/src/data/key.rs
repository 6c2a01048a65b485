//! Keys: what entries are stored under.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::data::key_encoder;
use crate::error::Result;

/// The key that an entry is stored under.
///
/// A key is the canonical encoding of a value. Values are typed and length-prefixed, so different values
/// never have the same key: `{a: "bc"}` and `{ab: "c"}` differ, as do `1` and `"1"`.
///
/// Structs and enums are encoded with their (serde) names, so the keys `User { id: 1 }` and `Order { id: 1 }`
/// differ. Two types of one name in two modules have equal keys; give one of them another name with
/// `#[serde(rename = "..")]`, or each of them a [name](Self::named) as a key. Renaming a type changes its keys.
///
/// Integers are encoded by value, whatever their width. Maps and structs are encoded by sorted field names,
/// so neither the order of fields nor the iteration order of a `HashMap` changes a key.
///
/// A `HashSet` is encoded in sorted order, too: the encoder recognises it by its name. It does not where
/// code of the application hides the set: in a `Serialize` written by hand, under `#[serde(transparent)]` or
/// `#[serde(serialize_with = "..")]`. Use a `BTreeSet` there; otherwise equal sets have different keys, and
/// reads are misses.
///
/// The encoding is the same in every process, on every platform and in every release of this major version.
/// Keys are cheap to clone.
///
/// ```
/// use groupcache_core::Key;
///
/// let key = Key::of(&("report", 2026, "q3"))?;
/// assert_eq!(key, Key::of(&("report", 2026_u64, "q3"))?);
/// assert_ne!(key, Key::of(&("report", 2026, "q", "3"))?);
///
/// #[derive(serde::Serialize)]
/// struct User { id: u32 }
/// #[derive(serde::Serialize)]
/// struct Order { id: u32 }
/// assert_ne!(Key::of(&User { id: 1 })?, Key::of(&Order { id: 1 })?);
/// # Ok::<(), groupcache_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<[u8]>);

impl Key {
    /// Returns the key of a serialisable value.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Encode`](crate::ErrorKind::Encode) if the value's `Serialize` implementation fails.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        key_encoder::with_encoded(None, value, |encoded| Self(encoded.into()))
    }

    /// Returns the key of a value in a key space of its own. It equals no key of another name, and none
    /// without a name, as [`of`](Self::of) returns.
    ///
    /// For adapters that share a cache with the application. Names that begin with `gc:` are those of this
    /// project.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Encode`](crate::ErrorKind::Encode) if the value's `Serialize` implementation fails.
    ///
    /// # Examples
    ///
    /// ```
    /// use groupcache_core::Key;
    ///
    /// let key = Key::named("thumbnail", &(5, "small"))?;
    /// assert_ne!(key, Key::named("preview", &(5, "small"))?);
    /// assert_ne!(key, Key::of(&("thumbnail", (5, "small")))?);
    /// # Ok::<(), groupcache_core::Error>(())
    /// ```
    pub fn named<T: Serialize + ?Sized>(name: &str, value: &T) -> Result<Self> {
        key_encoder::with_encoded(Some(name), value, |encoded| Self(encoded.into()))
    }

    /// Restores a key from what [`as_bytes`](Self::as_bytes) returned, for backends that store keys outside
    /// the process. The bytes are not checked.
    #[must_use]
    pub fn from_encoded(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// Returns the canonical encoding.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the BLAKE3 hash of the encoding, for stores that limit the length of their keys.
    ///
    /// A hash may collide. The cache therefore compares the whole key, which every [`Entry`](crate::Entry)
    /// contains.
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
