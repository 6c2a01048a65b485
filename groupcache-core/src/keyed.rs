//! The cache of calls: keys and groups come from a strategy.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::Backend;
use crate::backend::boxed::BoxBackend;
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::strategy::key_strategy::KeyStrategy;

/// A cache of calls: a [`Cache`] with a [`KeyStrategy`] that derives keys and groups.
///
/// Created with [`Cache::keyed`]. Cheap to clone if the strategy is.
///
/// ```
/// # use groupcache_core::{ByArguments, Cache, Group, NamedCall};
/// # use groupcache_memory::MemoryBackend;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).build();
/// let reports = cache.keyed(ByArguments::of(["year"]));
/// let call = NamedCall::new("report").with("year", 2026).with("format", "short");
/// let load = || async { Ok::<_, std::io::Error>("sales rose".to_owned()) };
/// assert_eq!(reports.get_or_load(&call, load).await?, "sales rose");
/// assert_eq!(reports.get(&call).await, Some("sales rose".to_owned()));
///
/// cache.invalidate(Group::new("report").with("year", 2026)).await?;
/// assert_eq!(reports.get::<String>(&call).await, None);
/// # Ok(())
/// # }
/// ```
pub struct KeyedCache<C: ?Sized, S, B = BoxBackend> {
    cache: Cache<B>,
    strategy: S,
    calls: PhantomData<fn(&C)>,
}

impl<B: Backend> Cache<B> {
    /// Returns a cache of calls, whose keys and groups `strategy` derives. Shares this cache's entries and
    /// options.
    pub fn keyed<C: ?Sized, S: KeyStrategy<C>>(&self, strategy: S) -> KeyedCache<C, S, B> {
        KeyedCache { cache: self.clone(), strategy, calls: PhantomData }
    }
}

impl<C: ?Sized + Sync, S: KeyStrategy<C>, B: Backend> KeyedCache<C, S, B> {
    /// Returns the underlying cache.
    pub const fn cache(&self) -> &Cache<B> {
        &self.cache
    }

    /// Returns the value of `call`. On a miss, runs `load` and stores its value. See [`Cache::get_or_load`].
    ///
    /// # Errors
    ///
    /// Returns the error of `load`, and no other. A call without a key or groups is loaded and not stored.
    pub async fn get_or_load<T, E, F, Fut>(&self, call: &C, load: F) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        E: Send,
    {
        self.cache.load_at(self.strategy.address(call), load, |value| self.cache.store_policy(value)).await
    }

    /// Returns the value of `call`, or `None` if there is no valid one. See [`Cache::get`].
    pub async fn get<T: DeserializeOwned + Send>(&self, call: &C) -> Option<T> {
        self.cache.get_at(self.strategy.address(call)).await
    }

    /// Returns the values of several calls, in order. See [`Cache::get_many`].
    pub async fn get_many<T: DeserializeOwned + Send>(&self, calls: &[&C]) -> Vec<Option<T>> {
        let addresses = calls.iter().map(|call| self.strategy.address(call)).collect();
        self.cache.get_many_at(addresses).await
    }

    /// Runs `load` and stores its value, replacing a previous one. See [`Cache::insert`].
    ///
    /// # Errors
    ///
    /// Returns the error of `load`, or an [`Error`] if the call has no key or groups or the value could not
    /// be stored.
    pub async fn insert<T, E, F, Fut>(&self, call: &C, load: F) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        E: From<Error> + Send,
    {
        self.cache.insert_at(self.strategy.address(call), load).await
    }

    /// Makes every entry stale that depends on one of this call's groups. See [`Cache::invalidate`].
    ///
    /// # Errors
    ///
    /// Fails if the groups of the call cannot be determined, or if the backend did not acknowledge.
    pub async fn invalidate(&self, call: &C) -> Result<()> {
        let groups = self.strategy.groups(call)?;
        self.cache.invalidate(groups).await
    }

    /// Removes the value of `call`. See [`Cache::delete`].
    ///
    /// # Errors
    ///
    /// Fails if the call has no key, or if the backend did not acknowledge.
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
