//! Variants of `get_or_load`: shared values, background refreshes, and times to live of single values.

use std::future::Future;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::Backend;
use crate::cache::Cache;
use crate::data::group::Groups;
use crate::error::{Error, Result};
use crate::outcome::{Expiring, Loaded};
use crate::read::load::LoadRules;
use crate::typed::steps::{address, decode, decode_or_fail, decode_shared, share_error};

/// Variants of [`get_or_load`](Self::get_or_load) and [`get`](Self::get).
impl<B: Backend> Cache<B> {
    /// Returns the value of `key`, shared with all other readers. Otherwise like
    /// [`get_or_load`](Self::get_or_load).
    ///
    /// A backend in this process keeps the value itself beside its encoding, so a hit decodes nothing and
    /// copies nothing. Its size in memory is estimated, and counted in the size of the entry. With other
    /// backends each hit decodes the value.
    ///
    /// # Errors
    ///
    /// Returns the error of `load`, and no other.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use groupcache_core::{Cache, Group};
    /// # use groupcache_memory::MemoryBackend;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).build();
    /// let load = || async { Ok::<_, std::io::Error>(vec!["Emma".to_owned(), "Persuasion".to_owned()]) };
    /// let titles = cache.get_or_load_shared("titles", "book", load).await?;
    /// let again = cache.get_or_load_shared("titles", "book", load).await?;
    /// assert!(Arc::ptr_eq(&titles, &again));
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_or_load_shared<'a, K, G, T, E, F, Fut>(
        &'a self,
        key: &K,
        groups: G,
        load: F,
    ) -> impl Future<Output = Result<Arc<T>, E>> + Send + use<'a, B, K, G, T, E, F, Fut>
    where
        G: Into<Groups>,
        K: Serialize + ?Sized,
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        E: Send,
    {
        let load = move || async move { load().await.map(|value| self.loaded_shared(value)) };
        self.load_at(address(key, groups.into()), decode_shared, load, LoadRules::NONE)
    }

    /// Returns the value of `key`. Concurrent callers share the load and its error. Otherwise like
    /// [`get_or_load`](Self::get_or_load).
    ///
    /// With `get_or_load`, callers that wait for a load which fails retry one at a time. Here all of them get
    /// the error of that one load. Later callers load again.
    ///
    /// # Errors
    ///
    /// Returns the error of `load`, or an [`Error`] of kind [`LoadTimeout`](crate::ErrorKind::LoadTimeout) if
    /// the [hard timeout](crate::EntryOptions::load_hard_timeout) ran out and there is no expired value to serve.
    ///
    /// # Examples
    ///
    /// ```
    /// # use groupcache_core::{Cache, Error, ErrorKind};
    /// # use groupcache_memory::MemoryBackend;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).build();
    /// let load = async || -> Result<u32, Error> {
    ///     tokio::task::yield_now().await;
    ///     Err(Error::new(ErrorKind::Unavailable, "database"))
    /// };
    /// let (one, other) = tokio::join!(
    ///     cache.try_get_or_load("total", "orders", load),
    ///     cache.try_get_or_load("total", "orders", load),
    /// );
    /// assert!(std::sync::Arc::ptr_eq(&one.unwrap_err(), &other.unwrap_err()));
    /// assert_eq!(cache.stats().loads, 1);
    /// # }
    /// ```
    pub fn try_get_or_load<'a, K, G, T, E, F, Fut>(
        &'a self,
        key: &K,
        groups: G,
        load: F,
    ) -> impl Future<Output = Result<T, Arc<E>>> + Send + use<'a, B, K, G, T, E, F, Fut>
    where
        G: Into<Groups>,
        K: Serialize + ?Sized,
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        E: From<Error> + Send + Sync + 'static,
    {
        let load = move || async move {
            let Loaded { value, policy } = self.loaded(load().await.map_err(Arc::new)?);
            Ok(Loaded { value: Ok(value), policy })
        };
        let rules = LoadRules {
            share_error: Some(share_error::<E>),
            timed_out: Some(|error| Err(Arc::new(E::from(error)))),
        };
        let read = self.load_at(address(key, groups.into()), decode_or_fail, load, rules);
        async move { read.await? }
    }

    /// Returns the value of `key`, shared with all other readers. Otherwise like [`get`](Self::get).
    ///
    /// A hit decodes nothing if the value is kept in this process and was loaded by
    /// [`get_or_load_shared`](Self::get_or_load_shared).
    pub fn get_shared<'a, T, K, G>(
        &'a self,
        key: &K,
        groups: G,
    ) -> impl Future<Output = Option<Arc<T>>> + Send + use<'a, B, T, K, G>
    where
        G: Into<Groups>,
        K: Serialize + ?Sized,
        T: DeserializeOwned + Send + Sync + 'static,
    {
        self.get_at(address(key, groups.into()), decode_shared)
    }

    /// Returns the value of `key`. An expired one within the window of
    /// [`stale_while_revalidate`](crate::EntryOptions::stale_while_revalidate) is returned at once, while a
    /// new one is loaded in the background.
    ///
    /// Otherwise like [`get_or_load`](Self::get_or_load). The first reader of an expired value spawns `load`
    /// on the current tokio runtime, so `load` must own what it uses. It is cancelled after the window, but
    /// not before 30 seconds. If it fails, the next reader of the expired value tries again, and
    /// [`load_failures`](crate::Stats::load_failures) counts the failure. Without a runtime, the reader runs
    /// `load` itself.
    ///
    /// # Errors
    ///
    /// Returns the error of `load` if there is no value within the window.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use groupcache_core::{Cache, EntryOptions, Groups, ManualClock};
    /// # use groupcache_memory::MemoryBackend;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let clock = ManualClock::new();
    /// # let backend = MemoryBackend::builder().clock(clock.clone()).build();
    /// let minute = Duration::from_secs(60);
    /// let options = EntryOptions::new().time_to_live(minute).stale_while_revalidate(10 * minute);
    /// let cache = Cache::builder(backend).clock(clock.clone()).options(options).build();
    /// let rate = |rate: u32| cache.get_or_revalidate("rate", Groups::none(), async move || Ok::<_, std::io::Error>(rate));
    /// assert_eq!(rate(7).await?, 7);
    /// clock.advance(2 * minute);
    /// assert_eq!(rate(8).await?, 7); // Expired. The new one is being loaded.
    /// # tokio::task::yield_now().await;
    /// assert_eq!(rate(9).await?, 8);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_or_revalidate<'a, K, G, T, E, F, Fut>(
        &'a self,
        key: &K,
        groups: G,
        load: F,
    ) -> impl Future<Output = Result<T, E>> + Send + use<'a, B, K, G, T, E, F, Fut>
    where
        G: Into<Groups>,
        K: Serialize + ?Sized,
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        E: Send + 'static,
    {
        let cache = self.clone();
        let load = move || async move { load().await.map(|value| cache.loaded(value)) };
        self.revalidate_at(address(key, groups.into()), decode, load)
    }

    /// Returns the value of `key`. `load` says how long the value lives. Otherwise like
    /// [`get_or_load`](Self::get_or_load).
    ///
    /// The time to live of an [`Expiring`] value takes the place of the one in the options of the cache,
    /// whether shorter or longer. Jitter applies to it. With zero the value is shared with concurrent callers
    /// and not stored.
    ///
    /// # Errors
    ///
    /// Returns the error of `load`, and no other.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use groupcache_core::{Cache, Expiring, Groups};
    /// # use groupcache_memory::MemoryBackend;
    /// # async fn request_token() -> std::io::Result<(String, u64)> { Ok(("secret".to_owned(), 3600)) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).build();
    /// let load = || async {
    ///     let (token, seconds) = request_token().await?;
    ///     Ok::<_, std::io::Error>(Expiring::new(token, Duration::from_secs(seconds - 60)))
    /// };
    /// assert_eq!(cache.get_or_load_expiring("token", Groups::none(), load).await?, "secret");
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_or_load_expiring<'a, K, G, T, E, F, Fut>(
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
        Fut: Future<Output = Result<Expiring<T>, E>> + Send,
        E: Send,
    {
        let load = move || async move { load().await.map(|expiring| self.loaded_expiring(expiring)) };
        self.load_at(address(key, groups.into()), decode, load, LoadRules::NONE)
    }
}
