//! What loaders return, and what reads return.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::data::entry::Memo;
use crate::data::key::Key;

/// The reason why a read found no usable entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Miss {
    /// The store has no entry.
    Absent,
    /// The entry is past its time to live.
    Expired,
    /// A group that the entry depends on has no generation: it was never cached, or the store lost it.
    GroupMissing,
    /// The entry depends on other groups than the read names.
    GroupsChanged,
    /// A group that the entry depends on was invalidated.
    Invalidated,
    /// The backend did not respond within the read time limit.
    Timeout,
    /// The backend returned an error.
    Unavailable,
    /// The stored bytes are not an entry, or not a value of the expected type.
    Undecodable,
}

/// The result of a load, and whether to store it.
#[derive(Debug)]
pub struct Loaded<R> {
    /// The value for the reader that ran the load.
    pub value: R,
    /// What other readers get.
    pub policy: StorePolicy,
}

/// A loaded value that lives for a time of its own, for
/// [`get_or_load_expiring`](crate::Cache::get_or_load_expiring).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "every loader builds it")]
pub struct Expiring<T> {
    /// The value.
    pub value: T,
    /// How long the value lives, if it is neither invalidated nor evicted.
    pub time_to_live: Duration,
}

/// Whether and how a loaded value is stored and shared.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_enums, reason = "every loader builds it")]
pub enum StorePolicy {
    /// Store these bytes, and share them with the readers that wait for this load.
    Store(ToStore),
    /// Neither store nor share the value.
    Private,
    /// The value reports that the load failed. It is never stored, and readers may get an expired entry
    /// instead (see [`stale_if_error`](crate::EntryOptions::stale_if_error)). Waiting readers share the
    /// failure; without one, they retry one at a time. Its time to live and its key have no effect.
    Failed(Option<ToStore>),
}

/// A loaded value in the form in which it is stored.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ToStore {
    /// The bytes of the entry.
    pub body: Bytes,
    /// How long the entry lives; `None` for what the options of the cache say. With zero the value is shared
    /// but not stored.
    pub time_to_live: Option<Duration>,
    /// A key to store the value under instead of the reader's, for a value that turned out to depend on more
    /// of the call than the reader's key contains. Such a value is not shared.
    pub key: Option<Key>,
    /// The estimated size in memory of what [`Entry::memo`](crate::Entry::memo) will keep.
    pub memo_bytes: usize,
    pub(crate) memo: Option<Memo>,
}

/// The outcome of [`Cache::read`](crate::Cache::read).
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a reader must handle both")]
pub enum Served<V, R> {
    /// The value of an entry, and how it came to be served.
    Entry(V, ServedFrom),
    /// A value that this reader loaded.
    Loaded {
        /// The value that the loader returned.
        value: R,
        /// Why the read was a miss.
        miss: Miss,
        /// Whether the backend has the value. If it has not answered yet, whether the value is being stored in the
        /// background.
        stored: bool,
    },
}

/// What [`Cache::read`](crate::Cache::read) returns: what was served, and the refresh that this reader is to run, if any.
#[derive(Debug)]
#[non_exhaustive]
pub struct ReadOutcome<S, R> {
    /// What was served: a [`Served`].
    pub served: S,
    /// A [`Refresh`](crate::Refresh) if an expired entry was served and this reader is the one that replaces it.
    pub refresh: Option<R>,
}

/// Why an entry was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServedFrom {
    /// The entry is valid.
    Hit,
    /// The read was a miss, and shares the load of another reader. A shared failure is not stored.
    Shared(Miss),
    /// The entry has expired, and the load of a new value failed, or took longer than
    /// [`load_soft_timeout`](crate::EntryOptions::load_soft_timeout).
    StaleIfError,
    /// The entry has expired, and a new value is being loaded.
    StaleWhileRevalidate,
}

impl<S, R> ReadOutcome<S, R> {
    pub(crate) const fn of(served: S) -> Self {
        Self { served, refresh: None }
    }
}

impl<T> Expiring<T> {
    /// Returns a value that lives for `time_to_live`.
    #[must_use]
    pub const fn new(value: T, time_to_live: Duration) -> Self {
        Self { value, time_to_live }
    }
}

impl<R> Loaded<R> {
    /// Returns a value that is stored as `body`, for as long as the options of the cache say.
    #[must_use]
    pub const fn store(value: R, body: Bytes) -> Self {
        Self { value, policy: StorePolicy::Store(ToStore::new(body)) }
    }

    /// Returns a value that is neither stored nor shared.
    #[must_use]
    pub const fn private(value: R) -> Self {
        Self { value, policy: StorePolicy::Private }
    }
}

impl ToStore {
    /// Stores `body` under the reader's key, for as long as the options of the cache say.
    #[must_use]
    pub const fn new(body: Bytes) -> Self {
        Self { body, time_to_live: None, key: None, memo_bytes: 0, memo: None }
    }

    /// Makes `value` what [`Entry::memo`](crate::Entry::memo) returns in this process: the body need not be
    /// decoded. `bytes` is its estimated size in memory.
    #[must_use]
    pub fn with_memo<T: Any + Send + Sync>(mut self, value: Arc<T>, bytes: usize) -> Self {
        (self.memo, self.memo_bytes) = (Some(Memo(value)), bytes);
        self
    }
}
