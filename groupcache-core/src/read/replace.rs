//! Loads a value and stores it, whatever the cache has.

use std::future::Future;
use std::pin::pin;

use crate::backend::Backend;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::error::{Error, ErrorKind, Result};
use crate::load_context::{LoadContext, NestedRead, Sealed};
use crate::outcome::{Loaded, StorePolicy};
use crate::read::wait_graph::WaitNode;
use crate::time_limit::{TimeBudget, off_hit_path, within};

impl<B: Backend> Cache<B> {
    /// Loads the value at `address` and stores it, replacing what is there. Returns once the backend has
    /// acknowledged the store: two round trips.
    ///
    /// Takes a loader rather than a value, because the generations have to be read before the data. A value
    /// that was read before this call could be older than an invalidation.
    ///
    /// # Errors
    ///
    /// Returns the error of `loader`, or the reason why the value was not stored. The value is lost then:
    ///
    /// * [`ErrorKind::LateGroups`] if the loader found groups after it had read their data. This process
    ///   knows them from then on, so the next call succeeds.
    /// * [`ErrorKind::Private`] if the loader marked the value as not to be stored.
    /// * [`ErrorKind::LoadTimeout`] if it took longer than the
    ///   [hard timeout](crate::EntryOptions::load_hard_timeout).
    /// * The error of the backend otherwise.
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
        let value = off_hit_path(self.load_and_store(address, loader, nested.outer())).await?;
        nested.completed();
        Ok(value)
    }

    async fn load_and_store<R, E, F, Fut>(
        &self,
        address: &Address,
        loader: F,
        outer: Option<&LoadContext>,
    ) -> Result<R, E>
    where
        E: From<Error>,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
        R: Send,
    {
        let mut budget = TimeBudget::new(self.inner().write_time_limit);
        let backend = self.inner().backend.name();
        let named = self.inner().with_clear_group(address.groups.clone());
        let groups = self.known_groups(address);
        let minted = self.inner().mint_within(&groups, &mut budget).await?;
        let ticket = self.inner().store_order.begin(&address.key);
        let node = WaitNode::new();
        let _edge = outer.map(|outer| outer.node().needs(&node));
        let context = LoadContext::new(self.id(), self.minter(), node).with_vector(
            &groups,
            &minted.vector,
            &named,
            vec![minted.guard],
        );
        let load = Box::pin(self.run_loader(context, loader));
        let (loaded, sealed) = match self.options().load_hard_timeout {
            None => load.await,
            Some(time_limit) => within(time_limit, load).await.ok_or_else(|| self.timed_out())?,
        };
        let Loaded { value, policy } = loaded?;
        let to_store = match policy {
            StorePolicy::Store(to_store) => why_unstored(&sealed).map_or(Ok(to_store), Err),
            StorePolicy::Private => Err(ErrorKind::Private),
            StorePolicy::Failed(_) => Err(ErrorKind::Encode),
        };
        if sealed.storable || !sealed.late.is_empty() {
            self.learn(address, &sealed.groups.union(&sealed.late));
        }
        let to_store = to_store.map_err(|kind| {
            self.inner().counters().loads_not_stored.increment();
            Error::new(kind, backend)
        })?;
        let entry = self.entry(address, &to_store, &sealed);
        let (stored, expires_at) = (std::sync::Arc::clone(&entry.entry), entry.expires_at);
        if let Some(outer) = outer {
            outer.hold(self.id(), &sealed.guards);
        }
        // A store in flight, of a load that began earlier, ends before this one. Later ones do not begin.
        let mut budget = TimeBudget::new(self.inner().write_time_limit);
        let turn = budget.run(backend, pin!(async { Ok(ticket.insert().await) })).await?;
        off_hit_path(self.store(entry, sealed.guards)).await?;
        drop(turn);
        if let Some(outer) = outer {
            outer.after_nested_read(self.id(), &stored, expires_at);
        }
        Ok(value)
    }

    /// Returns the error of a load that took too long, and counts it.
    pub(crate) fn timed_out(&self) -> Error {
        self.inner().counters().load_timeouts.increment();
        Error::new(ErrorKind::LoadTimeout, self.inner().backend.name())
    }
}

/// Returns why a value may not be stored although its loader allows it.
const fn why_unstored(sealed: &Sealed) -> Option<ErrorKind> {
    if sealed.private {
        Some(ErrorKind::Private)
    } else if !sealed.storable {
        // The generation of a group could not be read, or a read within the load did not complete.
        Some(ErrorKind::Unavailable)
    } else if sealed.late.is_empty() {
        None
    } else {
        Some(ErrorKind::LateGroups)
    }
}
