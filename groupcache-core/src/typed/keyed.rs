//! The cache of calls: keys and groups come from a strategy.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::Backend;
use crate::backend::boxed::BoxBackend;
use crate::cache::Cache;
use crate::error::{CRATE_NAME, Error, Result};
use crate::outcome::Expiring;
use crate::read::load::LoadRules;
use crate::strategy::key_strategy::KeyStrategy;
use crate::typed::steps::{decode, decode_shared};

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
/// let reports = cache.keyed(ByArguments::of(["year"]), &["year", "format"])?;
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
    ///
    /// `arguments` are the names of the [arguments](crate::Call::arguments) that all calls have. For calls of
    /// your own type that have no named arguments, pass `&[]`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if `strategy` does not suit calls with
    /// these arguments: it selects one that is missing, or groups by fields that the model does not declare.
    ///
    /// # Examples
    ///
    /// ```
    /// # use groupcache_core::{ByModel, Cache, Model, NamedCall};
    /// # use groupcache_memory::MemoryBackend;
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Book { id: i64, title: String }
    ///
    /// impl Model for Book {
    ///     const NAME: &'static str = "book";
    ///     const GROUPS: &'static [&'static [&'static str]] = &[&["id"]];
    /// }
    ///
    /// let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).build();
    /// assert!(cache.keyed::<NamedCall, _>(ByModel::<Book>::new(), &["id"]).is_ok());
    /// let undeclared = cache.keyed::<NamedCall, _>(ByModel::<Book>::new(), &["title"]).unwrap_err();
    /// assert!(undeclared.to_string().contains("declares no group by the fields [title]"));
    /// ```
    pub fn keyed<C: ?Sized, S: KeyStrategy<C>>(
        &self,
        strategy: S,
        arguments: &[&str],
    ) -> Result<KeyedCache<C, S, B>> {
        strategy.check(arguments)?;
        Ok(KeyedCache { cache: self.clone(), strategy, calls: PhantomData })
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
        let load = move || async move { load().await.map(|value| self.cache.loaded(value)) };
        self.cache.load_at(self.strategy.address(call), decode, load, LoadRules::NONE).await
    }

    /// Returns the value of `call`, shared with all other readers. See [`Cache::get_or_load_shared`].
    ///
    /// # Errors
    ///
    /// Returns the error of `load`, and no other. A call without a key or groups is loaded and not stored.
    pub async fn get_or_load_shared<T, E, F, Fut>(&self, call: &C, load: F) -> Result<Arc<T>, E>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        E: Send,
    {
        let load = move || async move { load().await.map(|value| self.cache.loaded_shared(value)) };
        self.cache.load_at(self.strategy.address(call), decode_shared, load, LoadRules::NONE).await
    }

    /// Returns the value of `call`, refreshed in the background once it has expired. See
    /// [`Cache::get_or_revalidate`].
    ///
    /// # Errors
    ///
    /// Returns the error of `load` if there is no value within the window. A call without a key or groups is
    /// loaded and not stored.
    pub async fn get_or_revalidate<T, E, F, Fut>(&self, call: &C, load: F) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        E: Send + 'static,
    {
        let cache = self.cache.clone();
        let load = move || async move { load().await.map(|value| cache.loaded(value)) };
        self.cache.revalidate_at(self.strategy.address(call), decode, load).await
    }

    /// Returns the value of `call`, whose time to live `load` sets. See [`Cache::get_or_load_expiring`].
    ///
    /// # Errors
    ///
    /// Returns the error of `load`, and no other. A call without a key or groups is loaded and not stored.
    pub async fn get_or_load_expiring<T, E, F, Fut>(&self, call: &C, load: F) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Expiring<T>, E>> + Send,
        E: Send,
    {
        let load = move || async move { load().await.map(|expiring| self.cache.loaded_expiring(expiring)) };
        self.cache.load_at(self.strategy.address(call), decode, load, LoadRules::NONE).await
    }

    /// Returns the value of `call`, or `None` if there is no valid one. See [`Cache::get`].
    pub async fn get<T: DeserializeOwned + Send>(&self, call: &C) -> Option<T> {
        self.cache.get_at(self.strategy.address(call), decode).await
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
    /// Fails if the groups of the call cannot be determined, or if the backend did not acknowledge. Fails with
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if the call has no groups: its entry
    /// would stay. [`delete`](Self::delete) removes it.
    pub async fn invalidate(&self, call: &C) -> Result<()> {
        let groups = self.strategy.groups(call)?;
        if groups.is_empty() {
            let message =
                "the key strategy returns no groups for this call, so its value cannot be invalidated";
            return Err(Error::configuration(CRATE_NAME, message));
        }
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
