//! The cache for serialisable values: `get_or_load` and related methods.

pub(crate) mod keyed;
mod many;
mod steps;
mod variants;

use std::future::Future;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::Backend;
use crate::cache::Cache;
use crate::data::group::Groups;
use crate::data::key::Key;
use crate::error::{Error, Result};
use crate::outcome::StorePolicy;
use crate::read::load::LoadRules;
use crate::typed::steps::{address, decode};

/// Methods for values that serde can serialise.
///
/// A hit is equal to the value that was loaded. Values are stored in a self-describing format with field
/// names, so a field with a default can be added later. A stored value that cannot be deserialised as `T` is
/// counted and is a miss.
///
/// Before a value is stored, the cache decodes what it has encoded. A value that comes out as another one is
/// refused: it is served and not stored, counted in [`Stats::values_refused`](crate::Stats::values_refused),
/// and the first one of its type is logged. Such types serialise other fields than they deserialise, or are
/// `#[serde(untagged)]` enums of which an earlier variant reads what a later one writes. Two values are equal
/// if serde writes them alike; the order of elements does not count if it changes.
impl<B: Backend> Cache<B> {
    /// Returns the value of `key`. On a miss, runs `load` and stores its value under `groups`.
    ///
    /// Concurrent calls that miss share one load. If the caller that runs it is cancelled, a waiting caller
    /// takes over. If the load fails, the waiting callers retry one at a time, as `E` cannot be shared; see
    /// [`try_get_or_load`](Self::try_get_or_load). `load` may discover further groups, on which it must [`depend`](crate::depend) before it
    /// reads their data. A value without groups is never invalidated.
    ///
    /// With [`stale_while_revalidate`](crate::EntryOptions::stale_while_revalidate), the first caller that
    /// finds an expired value waits for the load of a new one, and the others get the expired value at once.
    /// If that load fails, the first caller gets the expired value too. `load` may borrow, so it cannot go on
    /// without its caller; with [`get_or_revalidate`](Self::get_or_revalidate) no caller waits.
    ///
    /// A hit costs one round trip. A miss costs one more if a group has no generation, and one in the
    /// background to store the value.
    ///
    /// # Errors
    ///
    /// Returns the error of `load`, and no other. If the backend fails, the value is loaded and not stored.
    ///
    /// # Examples
    ///
    /// ```
    /// # use groupcache_core::{Cache, Group};
    /// # use groupcache_memory::MemoryBackend;
    /// # async fn title_from_database(id: i64) -> std::io::Result<String> { Ok(format!("Book {id}")) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).build();
    /// let book = Group::new("book").with("id", 5);
    /// for _ in 0..10 {
    ///     let title = cache.get_or_load(&("title", 5), book.clone(), || title_from_database(5)).await?;
    ///     assert_eq!(title, "Book 5");
    /// }
    /// assert_eq!((cache.stats().loads, cache.stats().hits), (1, 9));
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_or_load<'a, K, G, T, E, F, Fut>(
        &'a self,
        key: &K,
        groups: G,
        load: F,
    ) -> impl Future<Output = Result<T, E>> + Send + use<'a, B, K, G, T, E, F, Fut>
    where
        G: Into<Groups>,
        K: Serialize + ?Sized,
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        E: Send,
    {
        let load = move || async move { load().await.map(|value| self.loaded(value)) };
        self.load_at(address(key, groups.into()), decode, load, LoadRules::NONE)
    }

    /// Returns the value of `key`, which may not exist. Otherwise like [`get_or_load`](Self::get_or_load).
    ///
    /// A `None` is stored for [`negative_time_to_live`](crate::EntryOptions::negative_time_to_live). Without
    /// that option a `None` is shared with concurrent callers and not stored.
    ///
    /// # Errors
    ///
    /// Returns the error of `load`, and no other.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use groupcache_core::{Cache, EntryOptions, Group};
    /// # use groupcache_memory::MemoryBackend;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = EntryOptions::new().negative_time_to_live(Duration::from_secs(60));
    /// let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).options(options).build();
    /// let book = || Group::new("book").with("id", 5);
    ///
    /// let load = |title: Option<&'static str>| async move { Ok::<_, std::io::Error>(title.map(str::to_owned)) };
    /// assert_eq!(cache.get_or_load_optional("title", book(), || load(None)).await?, None);
    /// assert_eq!(cache.get_or_load_optional("title", book(), || load(Some("Emma"))).await?, None);
    /// cache.invalidate(book()).await?;
    /// let title = cache.get_or_load_optional("title", book(), || load(Some("Emma"))).await?;
    /// assert_eq!(title.as_deref(), Some("Emma"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_or_load_optional<'a, K, G, T, E, F, Fut>(
        &'a self,
        key: &K,
        groups: G,
        load: F,
    ) -> impl Future<Output = Result<Option<T>, E>> + Send + use<'a, B, K, G, T, E, F, Fut>
    where
        G: Into<Groups>,
        K: Serialize + ?Sized,
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Option<T>, E>> + Send,
        E: Send,
    {
        let load = move || async move {
            let mut loaded = self.loaded(load().await?);
            if let (None, StorePolicy::Store(to_store)) = (&loaded.value, &mut loaded.policy) {
                to_store.time_to_live = Some(self.options().negative().unwrap_or(Duration::ZERO));
            }
            Ok(loaded)
        };
        self.load_at(address(key, groups.into()), decode, load, LoadRules::NONE)
    }

    /// Returns the value of `key`, or `None` if there is no valid one or the backend fails.
    ///
    /// `groups` are those that the value was stored under. Groups discovered during its load need not be
    /// named.
    ///
    /// Costs one round trip, or two if the value depends on groups that this process has not seen.
    pub fn get<'a, T, K, G>(
        &'a self,
        key: &K,
        groups: G,
    ) -> impl Future<Output = Option<T>> + Send + use<'a, B, T, K, G>
    where
        G: Into<Groups>,
        K: Serialize + ?Sized,
        T: DeserializeOwned + Send,
    {
        self.get_at(address(key, groups.into()), decode)
    }

    /// Returns the values of several keys, in order. A key whose [`get`](Self::get) would return `None`
    /// yields `None`.
    ///
    /// Costs one round trip for all keys, whatever the options, if the backend can look up everything at once.
    /// It costs one more for all values that depend on groups which this process has not seen. No keys cost none.
    ///
    /// # Examples
    ///
    /// ```
    /// # use groupcache_core::{Cache, Group};
    /// # use groupcache_memory::MemoryBackend;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), groupcache_core::Error> {
    /// let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).build();
    /// let book = |id: i64| Group::new("book").with("id", id);
    /// cache.insert(&("title", 5), book(5), || async { Ok::<_, groupcache_core::Error>("Emma".to_owned()) }).await?;
    ///
    /// let titles: Vec<Option<String>> = cache.get_many([5, 6].map(|id| (("title", id), book(id)))).await;
    /// assert_eq!(titles, [Some("Emma".to_owned()), None]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_many<'a, T, K, G, I>(
        &'a self,
        keys: I,
    ) -> impl Future<Output = Vec<Option<T>>> + Send + use<'a, B, T, K, G, I>
    where
        I: IntoIterator<Item = (K, G)>,
        K: Serialize,
        G: Into<Groups>,
        T: DeserializeOwned + Send,
    {
        self.get_many_at(keys.into_iter().map(|(key, groups)| address(&key, groups.into())).collect())
    }

    /// Runs `load` and stores its value under `key`, replacing a previous one.
    ///
    /// Takes a loader, not a value: a value that was read before this call could be older than an
    /// invalidation in the meantime. The generations of `groups` are read before `load` runs.
    ///
    /// Once this has returned, no load of this process that began earlier stores its value. A load of another
    /// process may, and so may a store whose response was late.
    ///
    /// Costs two round trips. Returns when the store has acknowledged the value.
    ///
    /// # Errors
    ///
    /// Returns the error of `load`, or an [`Error`] if the value could not be stored. If `load` found groups
    /// after it had read their data, its kind is [`LateGroups`](crate::ErrorKind::LateGroups), and the next call
    /// succeeds. If the call is cancelled, the value may or may not be stored.
    ///
    /// # Examples
    ///
    /// ```
    /// # use groupcache_core::{Cache, Error, Group};
    /// # use groupcache_memory::MemoryBackend;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Error> {
    /// let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).build();
    /// let sales = || Group::new("sales").with("year", 2026);
    /// let total = cache.insert(&("total", 2026), sales(), || async { Ok::<u64, Error>(100) }).await?;
    /// assert_eq!(cache.get(&("total", 2026), sales()).await, Some(total));
    /// # Ok(())
    /// # }
    /// ```
    pub fn insert<'a, K, G, T, E, F, Fut>(
        &'a self,
        key: &K,
        groups: G,
        load: F,
    ) -> impl Future<Output = Result<T, E>> + Send + use<'a, B, K, G, T, E, F, Fut>
    where
        G: Into<Groups>,
        K: Serialize + ?Sized,
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        E: From<Error> + Send,
    {
        self.insert_at(address(key, groups.into()), load)
    }

    /// Removes the value of `key`, in one round trip. Succeeds if there is none.
    ///
    /// A load in flight may store the value again. To make a value stale, [`invalidate`](Self::invalidate)
    /// one of its groups.
    ///
    /// # Errors
    ///
    /// Fails if the key cannot be encoded, or if the backend did not acknowledge.
    pub fn delete<'a, K: Serialize + ?Sized>(
        &'a self,
        key: &K,
    ) -> impl Future<Output = Result<()>> + Send + use<'a, B, K> {
        let key = Key::of(key);
        async move { self.delete_at(&key?).await }
    }
}
