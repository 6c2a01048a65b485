//! Loads the missing values of several keys together.

use std::collections::HashMap;
use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::Backend;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::group::Groups;
use crate::data::key::Key;
use crate::error::Result;
use crate::typed::steps::{address, decode};

/// Reads of several keys that load what is missing.
impl<B: Backend> Cache<B> {
    /// Returns the values of several keys, in order. Calls `load` once, with all keys that miss, and stores what it
    /// returns.
    ///
    /// `load` gets the keys to load, in order and without duplicates, and returns pairs of a key and its value, in
    /// any order: a list or a map. A key for which it returns no value yields `None`, and nothing is stored for it.
    /// Pairs of other keys are ignored. `load` is not called if every key is a hit.
    ///
    /// All values of one call of `load` depend on the groups that it discovers, as with
    /// [`depend`](crate::depend), and on the groups of reads inside it. Each depends on its own `groups` besides.
    ///
    /// If a key occurs twice, both places get the same value, which depends on the groups of both. A key that cannot
    /// be encoded yields `None`, and is logged.
    ///
    /// # Concurrent reads
    ///
    /// Readers of one of these keys wait for this load and share its value. Keys that another reader loads already
    /// are not loaded again: this call waits for them after its own load. If such a load fails, or cannot be
    /// shared, `load` is called once more for that key alone. If this call is cancelled, readers that wait load on
    /// their own. [Leases](crate::EntryOptions::lease) are not used: two processes may load the same keys. Nor are
    /// the timeouts of loads: [`load_soft_timeout`](crate::EntryOptions::load_soft_timeout) and
    /// [`load_hard_timeout`](crate::EntryOptions::load_hard_timeout) do not end this load.
    ///
    /// With [`stale_if_error`](crate::EntryOptions::stale_if_error), expired values are served if `load` fails and
    /// every key that it was to load has one.
    ///
    /// # Cost
    ///
    /// One round trip if all are hits, or two if entries depend on groups that this process has not seen. Misses
    /// cost one more for all groups that have no generation, and one for each stored value in the background, all
    /// at once. No keys cost none.
    ///
    /// # Errors
    ///
    /// Returns the error of `load`, and no other. Values that were found are lost then. If the backend fails, the
    /// values are loaded and not stored.
    ///
    /// # Examples
    ///
    /// ```
    /// # use groupcache_core::{Cache, Group};
    /// # use groupcache_memory::MemoryBackend;
    /// # async fn titles_of(ids: Vec<i64>) -> std::io::Result<Vec<(i64, String)>> {
    /// #     Ok(ids.into_iter().filter(|id| *id < 7).map(|id| (id, format!("Book {id}"))).collect())
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).build();
    /// let books = [5, 6, 7].map(|id| (id, Group::new("book").with("id", id)));
    /// // One query, such as `SELECT id, title FROM book WHERE id IN (..)`.
    /// let titles = cache.get_many_or_load(books, |ids| titles_of(ids)).await?;
    /// assert_eq!(titles, [Some("Book 5".to_owned()), Some("Book 6".to_owned()), None]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_many_or_load<'a, K, G, T, P, E, I, F, Fut>(
        &'a self,
        keys: I,
        load: F,
    ) -> impl Future<Output = Result<Vec<Option<T>>, E>> + Send + use<'a, B, K, G, T, P, E, I, F, Fut>
    where
        I: IntoIterator<Item = (K, G)>,
        K: Serialize + Clone + Send + Sync,
        G: Into<Groups>,
        T: Serialize + DeserializeOwned + Clone + Send,
        P: IntoIterator<Item = (K, T)>,
        E: Send,
        F: Fn(Vec<K>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<P, E>> + Send,
    {
        let batch = Batch::new(keys.into_iter().map(|(key, groups)| {
            let address = address(&key, groups.into());
            (key, address)
        }));
        async move {
            if batch.places.iter().any(Option::is_none) {
                self.poison_outer_load();
            }
            let load = |positions: Vec<usize>| {
                let keys = positions.iter().map(|at| batch.keys[*at].clone()).collect();
                let loading = load(keys);
                let batch = &batch;
                async move {
                    let pairs = loading.await?.into_iter();
                    let values = pairs.filter_map(|(key, value)| Some((batch.position(&key)?, value)));
                    Ok(values.map(|(at, value)| (at, self.loaded(value))).collect())
                }
            };
            let values = self.read_many(&batch.addresses, decode, load).await?;
            Ok(batch.places.iter().map(|place| values[(*place)?].clone()).collect())
        }
    }
}

/// The keys of a call, without duplicates.
struct Batch<K> {
    keys: Vec<K>,
    addresses: Vec<Address>,
    positions: HashMap<Key, usize>,
    /// The position of each key of the caller; `None` for one that cannot be encoded.
    places: Vec<Option<usize>>,
}

impl<K: Serialize> Batch<K> {
    fn new(all: impl Iterator<Item = (K, Result<Address>)>) -> Self {
        let mut batch =
            Self { keys: Vec::new(), addresses: Vec::new(), positions: HashMap::new(), places: Vec::new() };
        for (key, address) in all {
            let place = match address {
                Ok(address) => Some(batch.place(key, address)),
                Err(error) => {
                    tracing::warn!(%error, "a key cannot be encoded, so its value is neither read nor loaded");
                    None
                }
            };
            batch.places.push(place);
        }
        batch
    }

    fn place(&mut self, key: K, address: Address) -> usize {
        if let Some(at) = self.positions.get(&address.key) {
            let groups = &mut self.addresses[*at].groups;
            *groups = groups.union(&address.groups);
            return *at;
        }
        let at = self.keys.len();
        self.positions.insert(address.key.clone(), at);
        self.keys.push(key);
        self.addresses.push(address);
        at
    }

    fn position(&self, key: &K) -> Option<usize> {
        Key::of(key).ok().and_then(|key| self.positions.get(&key).copied())
    }
}
