//! The steps that all methods for typed values share.

use std::any::type_name;
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;

use crate::backend::Backend;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::Entry;
use crate::data::group::Groups;
use crate::data::key::Key;
use crate::data::value;
use crate::error::{Error, Result};
use crate::load_context::LoadContext;
use crate::outcome::{Expiring, Loaded, Served, StorePolicy, ToStore};
use crate::read::load::LoadRules;
use crate::sync::Mutex;
use crate::time_limit::off_hit_path;

/// Turns an entry into the value that the reader gets.
pub(crate) type Accept<V> = fn(&Arc<Entry>) -> Option<V>;

impl<B: Backend> Cache<B> {
    /// See [`get_or_load`](Self::get_or_load).
    pub(crate) async fn load_at<V, E, F, Fut>(
        &self,
        address: Result<Address>,
        accept: Accept<V>,
        load: F,
        rules: LoadRules<V, E>,
    ) -> Result<V, E>
    where
        V: Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<V>, E>> + Send,
        E: Send,
    {
        let address = match address {
            Ok(address) => address,
            Err(error) => return self.load_without_address(&error, load).await,
        };
        if let Some(value) = self.read_now(&address, accept) {
            return Ok(value);
        }
        let outcome = self.read_by(&address, accept, load, rules).await?;
        let served = match outcome.refresh {
            // The window allows the expired value, so a failed load does not fail the read.
            Some(refresh) => off_hit_path(refresh.run(accept)).await.unwrap_or(outcome.served),
            None => outcome.served,
        };
        Ok(served.into_value())
    }

    /// See [`get_or_revalidate`](Self::get_or_revalidate).
    pub(crate) async fn revalidate_at<V, E, F, Fut>(
        &self,
        address: Result<Address>,
        accept: Accept<V>,
        load: F,
    ) -> Result<V, E>
    where
        V: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<Loaded<V>, E>> + Send + 'static,
        E: Send + 'static,
    {
        let address = match address {
            Ok(address) => address,
            Err(error) => return self.load_without_address(&error, load).await,
        };
        if let Some(value) = self.read_now(&address, accept) {
            return Ok(value);
        }
        let outcome = self.read_owned(&address, accept, load, LoadRules::NONE).await?;
        let served = match (outcome.refresh, Handle::try_current()) {
            (Some(refresh), Ok(runtime)) => {
                // Detached: the refresh reports through the counters.
                drop(runtime.spawn(refresh.run_in_background(accept)));
                outcome.served
            }
            // Without a runtime there is no background.
            (Some(refresh), Err(_)) => off_hit_path(refresh.run(accept)).await.unwrap_or(outcome.served),
            (None, _) => outcome.served,
        };
        Ok(served.into_value())
    }

    async fn load_without_address<V, E, F, Fut>(&self, error: &Error, load: F) -> Result<V, E>
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<V>, E>> + Send,
    {
        tracing::warn!(%error, "loading without the cache: the call has no key or groups");
        self.inner().counters().loads_not_stored.increment();
        self.poison_outer_load();
        load().await.map(|loaded| loaded.value)
    }

    /// See [`get`](Self::get).
    pub(crate) async fn get_at<V: Send>(&self, address: Result<Address>, accept: Accept<V>) -> Option<V> {
        match address {
            Ok(address) => self.find(&address, accept).await.ok(),
            Err(_) => {
                self.poison_outer_load();
                None
            }
        }
    }

    /// See [`get_many`](Self::get_many).
    pub(crate) async fn get_many_at<T: DeserializeOwned + Send>(
        &self,
        addresses: Vec<Result<Address>>,
    ) -> Vec<Option<T>> {
        let valid: Vec<_> = addresses.iter().filter_map(|address| address.as_ref().ok().cloned()).collect();
        if valid.len() < addresses.len() {
            self.poison_outer_load();
        }
        let mut found = self.find_many(&valid, decode).await.into_iter();
        addresses.iter().map(|address| address.as_ref().ok().and_then(|_| found.next()?.ok())).collect()
    }

    /// See [`insert`](Self::insert).
    pub(crate) async fn insert_at<T, E, F, Fut>(&self, address: Result<Address>, load: F) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        E: From<Error> + Send,
    {
        let load = move || async move {
            let value = load().await?;
            let policy = StorePolicy::Store(self.to_store(&value)?);
            Ok(Loaded { value, policy })
        };
        let address = address.inspect_err(|_| self.poison_outer_load())?;
        self.replace(&address, load).await
    }

    /// Poisons the load around a call without an address, as the groups of that call are unknown.
    #[expect(clippy::unused_self, reason = "one of the steps of a read")]
    pub(crate) fn poison_outer_load(&self) {
        if let Some(outer) = LoadContext::current() {
            outer.keep_from_store();
        }
    }

    /// Returns a loaded value that is to be stored, or not to be if it is refused.
    pub(crate) fn loaded<T: Serialize + DeserializeOwned>(&self, value: T) -> Loaded<T> {
        let policy = self.to_store(&value).map_or(StorePolicy::Private, StorePolicy::Store);
        Loaded { value, policy }
    }

    /// Returns a loaded value that backends in this process keep as it is, beside its encoding.
    pub(crate) fn loaded_shared<T>(&self, value: T) -> Loaded<Arc<T>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        let value = Arc::new(value);
        let policy = self.to_store(&*value).map_or(StorePolicy::Private, |to_store| {
            let bytes = size_of::<T>() + value::heap_bytes(&to_store.body);
            StorePolicy::Store(to_store.with_memo(Arc::clone(&value), bytes))
        });
        Loaded { value, policy }
    }

    /// Returns a loaded value that is to be stored for a time of its own.
    pub(crate) fn loaded_expiring<T: Serialize + DeserializeOwned>(
        &self,
        expiring: Expiring<T>,
    ) -> Loaded<T> {
        let mut loaded = self.loaded(expiring.value);
        if let StorePolicy::Store(to_store) = &mut loaded.policy {
            to_store.time_to_live = Some(expiring.time_to_live);
        }
        loaded
    }

    /// Encodes a value, or returns why it is refused.
    pub(crate) fn to_store<T: Serialize + DeserializeOwned>(&self, value: &T) -> Result<ToStore> {
        match value::encode(value) {
            // Without spare capacity, as an entry may live for long.
            Ok(body) => Ok(ToStore::new(Bytes::from(body.into_boxed_slice()))),
            Err(error) => {
                self.inner().counters().values_refused.increment();
                log_refusal(type_name::<T>(), &error);
                Err(error)
            }
        }
    }
}

impl<V> Served<V, V> {
    fn into_value(self) -> V {
        match self {
            Self::Entry(value, _) | Self::Loaded { value, .. } => value,
        }
    }
}

/// An error that the readers of one flight share.
struct SharedError<E>(Arc<E>);

/// Returns the failure that carries `error` to the followers of a load.
pub(crate) fn share_error<E: Send + Sync + 'static>(error: &Arc<E>) -> Option<ToStore> {
    let shared = Arc::new(SharedError(Arc::clone(error)));
    Some(ToStore::new(Bytes::new()).with_memo(shared, 0))
}

/// Turns an entry, or a failure of the flight, into what the reader gets.
pub(crate) fn decode_or_fail<T, E>(entry: &Arc<Entry>) -> Option<Result<T, Arc<E>>>
where
    T: DeserializeOwned,
    E: Send + Sync + 'static,
{
    // Entries in the cache never have such a memo.
    match entry.memo(|_| None::<SharedError<E>>) {
        Some(failure) => Some(Err(Arc::clone(&failure.0))),
        None => decode(entry).map(Ok),
    }
}

pub(crate) fn address<K: Serialize + ?Sized>(key: &K, groups: Groups) -> Result<Address> {
    Ok(Address { key: Key::of(key)?, groups })
}

pub(crate) fn decode<T: DeserializeOwned>(entry: &Arc<Entry>) -> Option<T> {
    value::decode(entry.body()).ok()
}

/// Decodes an entry once for all readers, if it has room for the decoded value.
pub(crate) fn decode_shared<T: DeserializeOwned + Send + Sync + 'static>(
    entry: &Arc<Entry>,
) -> Option<Arc<T>> {
    let decode = |body: &Bytes| value::decode(body).ok();
    match entry.has_memo() {
        // Not if the entry keeps a value of another type.
        true => entry.memo(decode).or_else(|| decode(entry.body()).map(Arc::new)),
        false => decode(entry.body()).map(Arc::new),
    }
}

/// Logs the first refusal of a type as a warning, as every load of such a value is refused.
fn log_refusal(type_name: &'static str, error: &Error) {
    static WARNED: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    if WARNED.lock().insert(type_name) {
        tracing::warn!(%error, type_name, "values of this type are not cached");
    } else {
        tracing::debug!(%error, type_name, "a loaded value is not cached");
    }
}
