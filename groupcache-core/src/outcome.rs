//! What goes into a read and what comes out of it.

use std::time::Duration;

use bytes::Bytes;

use crate::data::key::Key;

/// Why a read found no usable entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Miss {
    /// There is none.
    Absent,
    /// It is past its time to live.
    Expired,
    /// A group it depends on has no generation: never cached, or lost by the store.
    GroupMissing,
    /// It depends on other groups than this read.
    GroupsChanged,
    /// A group it depends on was invalidated.
    Invalidated,
    /// The backend did not answer within the soft time limit.
    Timeout,
    /// The backend failed.
    Unavailable,
    /// What is stored does not decode.
    Undecodable,
}

/// What a computation returned and whether to keep it.
#[derive(Debug)]
pub struct Loaded<R> {
    /// For the reader that computed it.
    pub value: R,
    /// For the others.
    pub policy: StorePolicy,
}

/// Whether and how a computed value is kept.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_enums, reason = "every loader builds it")]
pub enum StorePolicy {
    /// Store these bytes, and share them with those who wait for them.
    Store(ToStore),
    /// Neither store nor share.
    Private,
    /// The value says that the computation failed: an expired entry may be better. Never stored. With
    /// bytes, those who wait share them; without, each of them computes.
    Failed(Option<Bytes>),
}

/// What to store.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ToStore {
    /// The bytes of the entry.
    pub body: Bytes,
    /// How long it lives, if not as long as the cache's options say. Zero: share, do not store.
    pub time_to_live: Option<Duration>,
    /// Store it under this key instead, and share it with nobody: the value turned out to depend on
    /// more of the call than the key has.
    pub key: Option<Key>,
    /// About how many bytes [`Entry::memo`](crate::Entry::memo) will remember of it.
    pub memo_bytes: usize,
}

/// The outcome of [`Cache::read`](crate::Cache::read).
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a reader must treat both")]
pub enum Served<V, R> {
    /// The value of an entry.
    Entry(V, ServedFrom),
    /// This reader computed it.
    Loaded {
        /// What the computation returned.
        value: R,
        /// Why it had to.
        miss: Miss,
        /// Whether it is stored, or being stored, for others.
        stored: bool,
    },
}

/// How an entry came to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServedFrom {
    /// It is valid.
    Hit,
    /// Another reader was computing it when this one missed. If that failed it is not stored.
    Shared(Miss),
    /// It has expired, and the computation of a new one failed.
    StaleIfError,
    /// It has expired, and a new one is being computed.
    StaleWhileRevalidate,
}

impl<R> Loaded<R> {
    /// A value, stored as these bytes for as long as the cache's options say.
    #[must_use]
    pub const fn store(value: R, body: Bytes) -> Self {
        Self { value, policy: StorePolicy::Store(ToStore::new(body)) }
    }

    /// A value for its reader only.
    #[must_use]
    pub const fn private(value: R) -> Self {
        Self { value, policy: StorePolicy::Private }
    }
}

impl ToStore {
    /// These bytes, for as long as the cache's options say, under the reader's key.
    #[must_use]
    pub const fn new(body: Bytes) -> Self {
        Self { body, time_to_live: None, key: None, memo_bytes: 0 }
    }
}
