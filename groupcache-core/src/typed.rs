//! The cache for any serialisable value.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::Backend;
use crate::backend::boxed::BoxBackend;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::Entry;
use crate::data::group::Groups;
use crate::data::key::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::load_context::LoadContext;
use crate::outcome::{Loaded, Served, StorePolicy, ToStore};
use crate::strategy::key_strategy::KeyStrategy;
use crate::time_limit::off_hit_path;

/// Any value that serde can write and read back is stored as MessagePack with field names, which
/// tolerates fields that are added with a default. A stored value that does not read back as `T` is
/// a counted miss.
impl<B: Backend> Cache<B> {
    /// The value of `key`, computed by `load` if there is no valid one, and stored under `groups`.
    ///
    /// Concurrent calls that miss compute once. `load` may find out further groups while it runs and
    /// [`depend`](crate::depend) on them. Never fails because of the cache.
    ///
    /// A hit is one round trip. Where [`stale_while_revalidate`](crate::EntryOptions) is set, the one
    /// caller that finds the value expired computes the new one; the others are served the old one at
    /// once.
    ///
    /// # Errors
    ///
    /// What `load` returned.
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
        self.load_at(address(key, groups.into()), load, stored)
    }

    /// Like [`get_or_load`](Self::get_or_load) for values that may not exist. `None` is stored where
    /// [`negative_time_to_live`](crate::EntryOptions::negative_time_to_live) is set, for that long.
    ///
    /// # Errors
    ///
    /// What `load` returned.
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
        let negative = self.options().negative().unwrap_or(Duration::ZERO);
        let keep = move |value: &Option<T>| match stored(value) {
            StorePolicy::Store(to_store) if value.is_none() => {
                StorePolicy::Store(ToStore { time_to_live: Some(negative), ..to_store })
            }
            keep => keep,
        };
        self.load_at(address(key, groups.into()), load, keep)
    }

    /// The value of `key` if there is a valid one. One round trip; a failing backend is a miss.
    ///
    /// `groups` are those it was stored under; groups found out by its computation are known from
    /// the entry.
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
        self.get_at(address(key, groups.into()))
    }

    /// Several [`get`](Self::get)s, answered in order, in one round trip if the backend can.
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

    /// Computes the value of `key` anew and stores it, replacing what is there, once its generations
    /// are read. Returns when the store has acknowledged: two round trips.
    ///
    /// It takes a computation, not a value: a value read before this call could be older than an
    /// invalidation that came in between.
    ///
    /// # Errors
    ///
    /// What `load` returned, or why the value could not be stored.
    pub fn insert<'a, K, G, T, E, F, Fut>(
        &'a self,
        key: &K,
        groups: G,
        load: F,
    ) -> impl Future<Output = Result<T, E>> + Send + use<'a, B, K, G, T, E, F, Fut>
    where
        G: Into<Groups>,
        K: Serialize + ?Sized,
        T: Serialize + Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        E: From<Error> + Send,
    {
        self.insert_at(address(key, groups.into()), load)
    }

    /// Removes the value of `key`; there being none is fine. To make something stale,
    /// [`invalidate`](Self::invalidate) its group: a computation under way may store this key again.
    ///
    /// # Errors
    ///
    /// If the key does not encode or the backend did not acknowledge.
    pub fn delete<'a, K: Serialize + ?Sized>(
        &'a self,
        key: &K,
    ) -> impl Future<Output = Result<()>> + Send + use<'a, B, K> {
        let key = Key::of(key);
        async move { self.delete_at(&key?).await }
    }

    /// The cache with a strategy that turns calls into keys and groups.
    pub fn keyed<C: ?Sized, S: KeyStrategy<C>>(&self, strategy: S) -> KeyedCache<C, S, B> {
        KeyedCache { cache: self.clone(), strategy, calls: PhantomData }
    }

    async fn load_at<T, E, F, Fut>(
        &self,
        address: Result<Address>,
        load: F,
        keep: impl FnOnce(&T) -> StorePolicy + Send,
    ) -> Result<T, E>
    where
        T: DeserializeOwned + Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        E: Send,
    {
        let address = match address {
            Ok(address) => address,
            Err(error) => {
                tracing::warn!(%error, "computed without the cache: the call has no key");
                self.inner().counters().not_stored.increment();
                self.not_declared();
                return load().await;
            }
        };
        if let Some(value) = self.read_now(&address, decode) {
            return Ok(value);
        }
        let load = move || async move {
            let value = load().await?;
            let policy = keep(&value);
            Ok(Loaded { value, policy })
        };
        let outcome = self.read(&address, decode, load).await?;
        let served = match outcome.refresh {
            Some(refresh) => off_hit_path(refresh.run(decode)).await?,
            None => outcome.served,
        };
        Ok(match served {
            Served::Entry(value, _) | Served::Loaded { value, .. } => value,
        })
    }

    async fn get_at<T: DeserializeOwned + Send>(&self, address: Result<Address>) -> Option<T> {
        match address {
            Ok(address) => self.find(&address, decode).await.ok(),
            Err(_) => {
                self.not_declared();
                None
            }
        }
    }

    /// A call without an address has groups that nobody declares to whoever computes around it.
    #[expect(clippy::unused_self, reason = "one of the steps of a read")]
    fn not_declared(&self) {
        if let Some(outer) = LoadContext::current() {
            outer.do_not_store();
        }
    }

    async fn get_many_at<T: DeserializeOwned + Send>(
        &self,
        addresses: Vec<Result<Address>>,
    ) -> Vec<Option<T>> {
        let sound: Vec<_> = addresses.iter().filter_map(|address| address.as_ref().ok().cloned()).collect();
        if sound.len() < addresses.len() {
            self.not_declared();
        }
        let mut found = self.find_many(&sound, decode).await.into_iter();
        addresses.iter().map(|address| address.as_ref().ok().and_then(|_| found.next()?.ok())).collect()
    }

    async fn insert_at<T, E, F, Fut>(&self, address: Result<Address>, load: F) -> Result<T, E>
    where
        T: Serialize + Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        E: From<Error> + Send,
    {
        let load = move || async move {
            let value = load().await?;
            let policy = stored(&value);
            Ok(Loaded { value, policy })
        };
        let address = address.inspect_err(|_| self.not_declared())?;
        self.replace(&address, load).await
    }
}

/// A cache and a [`KeyStrategy`]: what is asked for are calls, not keys and groups.
///
/// ```
/// # use groupcache_core::{Backend, ByArguments, Cache, NamedCall};
/// # async fn example(cache: Cache<impl Backend>) -> Result<(), std::io::Error> {
/// let reports = cache.keyed(ByArguments::of(["year"]));
/// let call = NamedCall::new("report").with("year", 2026).with("format", "short");
/// let report: String = reports.get_or_load(&call, || async { Ok::<_, std::io::Error>("...".into()) }).await?;
/// # Ok(())
/// # }
/// ```
pub struct KeyedCache<C: ?Sized, S, B = BoxBackend> {
    cache: Cache<B>,
    strategy: S,
    calls: PhantomData<fn(&C)>,
}

impl<C: ?Sized + Sync, S: KeyStrategy<C>, B: Backend> KeyedCache<C, S, B> {
    /// The cache behind it.
    pub const fn cache(&self) -> &Cache<B> {
        &self.cache
    }

    /// As [`Cache::get_or_load`].
    ///
    /// # Errors
    ///
    /// What `load` returned.
    pub async fn get_or_load<T, E, F, Fut>(&self, call: &C, load: F) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        E: Send,
    {
        self.cache.load_at(self.strategy.address(call), load, stored).await
    }

    /// As [`Cache::get`].
    pub async fn get<T: DeserializeOwned + Send>(&self, call: &C) -> Option<T> {
        self.cache.get_at(self.strategy.address(call)).await
    }

    /// As [`Cache::get_many`].
    pub async fn get_many<T: DeserializeOwned + Send>(&self, calls: &[&C]) -> Vec<Option<T>> {
        let addresses = calls.iter().map(|call| self.strategy.address(call)).collect();
        self.cache.get_many_at(addresses).await
    }

    /// As [`Cache::insert`].
    ///
    /// # Errors
    ///
    /// What `load` returned, that the call has no key, or why the value could not be stored.
    pub async fn insert<T, E, F, Fut>(&self, call: &C, load: F) -> Result<T, E>
    where
        T: Serialize + Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        E: From<Error> + Send,
    {
        self.cache.insert_at(self.strategy.address(call), load).await
    }

    /// Makes every entry stale that is in one of this call's groups.
    ///
    /// # Errors
    ///
    /// If the call has no groups, or the backend did not acknowledge.
    pub async fn invalidate(&self, call: &C) -> Result<()> {
        let groups = self.strategy.groups(call)?;
        self.cache.invalidate(groups).await
    }

    /// As [`Cache::delete`].
    ///
    /// # Errors
    ///
    /// If the call has no key, or the backend did not acknowledge.
    pub async fn delete(&self, call: &C) -> Result<()> {
        let key = self.strategy.key(call)?;
        self.cache.delete_at(&key).await
    }
}

impl<C: ?Sized, S: Clone, B> Clone for KeyedCache<C, S, B> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone(), strategy: self.strategy.clone(), calls: PhantomData }
    }
}

impl<C: ?Sized, S, B: Backend> fmt::Debug for KeyedCache<C, S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCache").field("cache", &self.cache).finish_non_exhaustive()
    }
}

fn address<K: Serialize + ?Sized>(key: &K, groups: Groups) -> Result<Address> {
    Ok(Address { key: Key::of(key)?, groups })
}

fn decode<T: DeserializeOwned>(entry: &Arc<Entry>) -> Option<T> {
    rmp_serde::from_slice(entry.body()).ok()
}

fn stored<T: Serialize>(value: &T) -> StorePolicy {
    match rmp_serde::to_vec_named(value) {
        // Without the room that was left to grow: an entry is kept for long.
        Ok(body) => StorePolicy::Store(ToStore::new(Bytes::from(body.into_boxed_slice()))),
        Err(source) => {
            let error = Error::new(ErrorKind::Encode, "groupcache-core").with_source(source);
            tracing::warn!(%error, "a computed value was not stored");
            StorePolicy::Private
        }
    }
}
