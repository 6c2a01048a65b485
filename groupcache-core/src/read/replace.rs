//! Loads a value and stores it, whatever the cache has.

use std::future::Future;

use crate::backend::Backend;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::error::{Error, ErrorKind, Result};
use crate::load_context::{LoadContext, NestedRead};
use crate::outcome::{Loaded, StorePolicy};
use crate::read::wait_graph::WaitNode;
use crate::time_limit::{TimeBudget, off_hit_path};

impl<B: Backend> Cache<B> {
    /// Loads the value at `address` and stores it, replacing what is there. Returns once the backend has
    /// acknowledged the store: two round trips.
    ///
    /// Takes a loader rather than a value, because the generations have to be read before the data. A value
    /// that was read before this call could be older than an invalidation.
    ///
    /// # Errors
    ///
    /// Returns the error of `loader`, or the reason why the value was not stored. The value is lost then.
    pub async fn replace<R, E, F, Fut>(&self, address: &Address, loader: F) -> Result<R, E>
    where
        E: From<Error>,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
        R: Send,
    {
        let nested = NestedRead::begin();
        if let Some(outer) = nested.outer() {
            off_hit_path(outer.before_nested_read(self.id(), &address.groups)).await;
        }
        let mut budget = TimeBudget::new(self.inner().write_time_limit);
        let backend = self.inner().backend.name();
        let minted = self.inner().mint_within(&address.groups, &mut budget).await?;
        let node = WaitNode::new();
        let _edge = nested.outer().map(|outer| outer.node().needs(&node));
        let context = LoadContext::new(self.id(), self.minter(), node).with_vector(
            &address.groups,
            &minted.vector,
            &address.groups,
            vec![minted.guard],
        );
        let (loaded, sealed) = self.run_loader(context, loader).await;
        let Loaded { value, policy } = loaded?;
        let StorePolicy::Store(to_store) = policy else {
            let error = Error::new(ErrorKind::Encode, backend).with_message("the value cannot be stored");
            return Err(error.into());
        };
        if !sealed.storable || !sealed.late.is_empty() {
            self.inner().counters().loads_not_stored.increment();
            let why = "the generation of a group that the value depends on could not be read in time";
            return Err(Error::new(ErrorKind::Unavailable, backend).with_message(why).into());
        }
        let entry = self.entry(address, &to_store, &sealed);
        let (stored, expires_at) = (std::sync::Arc::clone(&entry.entry), entry.expires_at);
        self.store(entry, sealed.guards).await?;
        if let Some(outer) = nested.outer() {
            outer.after_nested_read(self.id(), &stored, expires_at);
        }
        nested.completed();
        Ok(value)
    }
}
