//! The load of several keys: one call of the loader, whose values are shared and stored each for itself.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{join, join_all};
use tokio::sync::OwnedSemaphorePermit;

use crate::backend::Backend;
use crate::backend::lookup::GenerationGuard;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::{Entry, Generation, GenerationVector};
use crate::data::group::{Group, Groups};
use crate::data::key::Key;
use crate::error::Result;
use crate::load_context::{LoadContext, Sealed};
use crate::outcome::{Loaded, StorePolicy, ToStore};
use crate::read::flight::{FlightOutcome, SharedLoad};
use crate::read::leader::Leader;
use crate::read::progress::Progress;
use crate::read::store::NewEntry;
use crate::read::store_order::StoreTicket;
use crate::read::verdict::StaleCandidate;
use crate::read::wait_graph::WaitNode;
use crate::time_limit::in_background;

/// One read of several keys.
pub(crate) struct Batch<'a, B, A> {
    pub(crate) cache: &'a Cache<B>,
    pub(crate) addresses: &'a [Address],
    pub(crate) accept: &'a A,
    /// The load context of the load that this read is nested in.
    pub(crate) outer: Option<&'a LoadContext>,
    /// How many flights of each key had finished before the lookup.
    pub(crate) finished: Vec<u64>,
}

/// A key of the batch without a valid entry.
pub(crate) struct Missing {
    /// Its position in the batch.
    pub(crate) at: usize,
    /// Its groups and those of a stale entry; `None` if the backend did not answer.
    pub(crate) groups: Option<Groups>,
    pub(crate) candidate: Option<StaleCandidate>,
}

/// A key that this batch loads.
pub(crate) struct Own {
    pub(crate) missing: Missing,
    /// `None` if readers of the key do not wait for each other.
    pub(crate) leader: Option<Leader>,
    /// From before the load.
    pub(crate) ticket: StoreTicket,
}

/// The generations of all groups of the missing keys, read or minted before the load.
#[derive(Default)]
pub(crate) struct Generations {
    pub(crate) of: BTreeMap<Group, Generation>,
    pub(crate) guards: Vec<GenerationGuard>,
}

/// What is to be written after a load.
struct Writes {
    /// One for all of them. `None` if too much is being written already.
    permit: Option<OwnedSemaphorePermit>,
    entries: Vec<(NewEntry, StoreTicket, Option<Leader>)>,
    /// Keys whose expired entry is replaced by no other.
    deletes: Vec<(Key, Option<Leader>)>,
}

impl<B, A, V> Batch<'_, B, A>
where
    B: Backend,
    A: Fn(&Arc<Entry>) -> Option<V> + Sync,
    V: Send,
{
    /// Calls the loader for the keys that this batch loads. Shares the values, and stores them in the background.
    pub(crate) async fn load_own<E, F, Fut>(
        &self,
        mut own: Vec<Own>,
        generations: Generations,
        load: &F,
        values: &mut [Option<V>],
    ) -> Result<(), E>
    where
        F: Fn(Vec<usize>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Vec<(usize, Loaded<V>)>, E>> + Send,
    {
        let Generations { of, guards } = generations;
        let (loaded, mut sealed) = self.run(&own, &of, guards, load).await;
        #[cfg(groupcache_mutants)]
        let of = self.cache.mint_late(of).await;
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => return self.serve_stale(&mut own, values).ok_or(error),
        };
        let mut loaded: BTreeMap<usize, Loaded<V>> = loaded.into_iter().collect();
        let guards = std::mem::take(&mut sealed.guards);
        if let Some(outer) = self.outer {
            outer.hold(self.cache.id(), &guards);
        }
        let permit = self.cache.background_permit();
        let mut writes = Writes { permit, entries: Vec::new(), deletes: Vec::new() };
        for own in own {
            let at = own.missing.at;
            let sealed = self.seal(&own.missing, &of, &sealed);
            let (value, policy) = match loaded.remove(&at) {
                Some(Loaded { value, policy }) => (Some(value), Some(policy)),
                None => (None, None),
            };
            values[at] = value;
            self.end(own, policy, &sealed, &mut writes);
        }
        self.write_all(writes, guards).await;
        Ok(())
    }

    /// Runs the loader, as the leader of the flights of all these keys.
    async fn run<E, F, Fut>(
        &self,
        own: &[Own],
        of: &BTreeMap<Group, Generation>,
        guards: Vec<GenerationGuard>,
        load: &F,
    ) -> (Result<Vec<(usize, Loaded<V>)>, E>, Sealed)
    where
        F: Fn(Vec<usize>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Vec<(usize, Loaded<V>)>, E>> + Send,
    {
        let cache = self.cache;
        let (groups, vector): (Vec<_>, Vec<_>) = of.iter().map(|(group, now)| (group.clone(), *now)).unzip();
        let (groups, vector) = (groups.into(), vector.into_iter().collect());
        let declared = cache.inner().with_clear_group(Groups::none());
        // Each flight ends with this load, and the load around this read waits for it.
        let node = WaitNode::new();
        let leaders = || own.iter().filter_map(|own| own.leader.as_ref());
        let _edges: Vec<_> = self
            .outer
            .map(|outer| outer.node().needs(&node))
            .into_iter()
            .chain(leaders().map(|leader| leader.node().needs(&node)))
            .collect();
        let context = LoadContext::new(cache.id(), cache.minter(), node);
        let context = context.with_vector(&groups, &vector, &declared, guards);
        leaders().for_each(Leader::begin);
        let positions = own.iter().map(|own| own.missing.at).collect();
        let load = || async { load(positions).await.map(Loaded::private) };
        let work = Box::pin(cache.run_loader(context, load));
        let (loaded, sealed) = Progress::of_all(leaders().map(Leader::progress).collect(), work).await;
        (loaded.map(|loaded| loaded.value), sealed)
    }

    /// What the value of one key depends on: its own groups, and everything that the load declared. Without the
    /// generation of each of its groups it is not stored.
    fn seal(&self, missing: &Missing, generations: &BTreeMap<Group, Generation>, load: &Sealed) -> Sealed {
        let groups = self.addresses[missing.at].groups.union(&load.groups);
        let generation = |group| match load.groups.binary_search(group) {
            Ok(at) => Some(load.vector[at]),
            Err(_) => generations.get(group).copied(),
        };
        let vector = groups.iter().map(generation).collect::<Option<GenerationVector>>();
        let is_complete = missing.groups.is_some() && vector.is_some();
        let (groups, vector) = match vector {
            Some(vector) => (groups, vector),
            None => (load.groups.clone(), load.vector.clone()),
        };
        Sealed {
            groups,
            vector,
            guards: Vec::new(),
            late: load.late.clone(),
            expires_at: load.expires_at,
            storable: load.storable && is_complete,
            private: load.private,
        }
    }

    /// Ends the flight of one key, and adds what is to be written to `writes`.
    fn end(&self, own: Own, policy: Option<StorePolicy>, sealed: &Sealed, writes: &mut Writes) {
        let Own { missing: Missing { at, candidate, .. }, mut leader, ticket } = own;
        let (outcome, new) = self.outcome(at, policy, sealed, writes.permit.is_some());
        if let Some(leader) = &mut leader {
            leader.finish(outcome);
        }
        match new {
            Some(entry) => writes.entries.push((entry, ticket, leader)),
            None if candidate.is_some() => writes.deletes.push((self.addresses[at].key.clone(), leader)),
            None => {}
        }
    }

    /// Returns what the load of one key came to, and the entry to store. Without a policy the loader returned no
    /// value.
    fn outcome(
        &self,
        at: usize,
        policy: Option<StorePolicy>,
        sealed: &Sealed,
        may_store: bool,
    ) -> (FlightOutcome, Option<NewEntry>) {
        let (cache, address) = (self.cache, &self.addresses[at]);
        let is_complete = sealed.storable && sealed.late.is_empty();
        match policy {
            Some(StorePolicy::Store(to_store)) if !sealed.private => {
                self.shared_outcome(address, &to_store, sealed, may_store)
            }
            Some(StorePolicy::Failed(_)) if !sealed.private => {
                self.not_stored();
                (FlightOutcome::Private, None)
            }
            Some(_) => {
                cache.inner().flights.unshared.remember(&address.key);
                cache.inner().counters().loads_not_stored.increment();
                if let Some(outer) = self.outer {
                    outer.do_not_store();
                }
                (FlightOutcome::Private, None)
            }
            None if is_complete => {
                // The load around this read depends on there being no value.
                let (groups, vector) = (sealed.groups.clone(), sealed.vector.clone());
                let absent = Entry::new(address.key.clone(), groups, vector, Bytes::new(), Duration::ZERO);
                self.depend_on(&absent, sealed.expires_at);
                (FlightOutcome::Private, None)
            }
            None => {
                self.keep_outer_from_storing();
                (FlightOutcome::Private, None)
            }
        }
    }

    /// Returns the outcome of a load whose value is shared, and the entry or the placeholder to store.
    fn shared_outcome(
        &self,
        address: &Address,
        to_store: &ToStore,
        sealed: &Sealed,
        may_store: bool,
    ) -> (FlightOutcome, Option<NewEntry>) {
        let (cache, counters) = (self.cache, self.cache.inner().counters());
        cache.inner().flights.unshared.forget(&address.key);
        if sealed.storable || !sealed.late.is_empty() {
            cache.learn(address, &sealed.groups.union(&sealed.late));
        }
        let new = cache.entry(address, to_store, sealed);
        let is_complete = sealed.storable && sealed.late.is_empty();
        let is_to_store = new.time_to_live != Some(Duration::ZERO);
        if is_complete && is_to_store && !may_store {
            counters.stores_skipped.increment();
        }
        let is_stored = is_complete && is_to_store && may_store;
        let (entry, expires_at) = (Arc::clone(&new.entry), new.expires_at);
        let outcome = FlightOutcome::Loaded(SharedLoad { entry, expires_at, is_complete, is_stored });
        if is_complete {
            self.depend_on(&new.entry, expires_at);
            return (outcome, is_stored.then_some(new));
        }
        self.not_stored();
        let has_placeholder = sealed.storable && is_to_store && may_store;
        (outcome, has_placeholder.then(|| cache.placeholder(address, to_store, sealed)))
    }

    fn not_stored(&self) {
        self.cache.inner().counters().loads_not_stored.increment();
        self.keep_outer_from_storing();
    }

    /// Stores the entries in the background.
    async fn write_all(&self, writes: Writes, guards: Vec<GenerationGuard>) {
        let Writes { permit: Some(permit), entries, deletes } = writes else {
            return;
        };
        if entries.is_empty() && deletes.is_empty() {
            return;
        }
        let cache = self.cache.clone();
        in_background(async move {
            // The reader has its values whether or not the stores succeed.
            let stores = entries.into_iter().map(|(entry, ticket, leader)| {
                cache.store_in_turn(ticket, entry, Vec::new(), || drop(leader))
            });
            let deletes = deletes.into_iter().map(|(key, leader)| {
                let cache = &cache;
                async move {
                    cache.delete_stale(&key).await;
                    drop(leader);
                }
            });
            drop(join(join_all(stores), join_all(deletes)).await);
            drop((guards, permit));
        })
        .await;
    }

    /// Serves the expired values of all keys after a failed load; `None` if one has none that it may serve.
    fn serve_stale(&self, own: &mut [Own], values: &mut [Option<V>]) -> Option<()> {
        let counters = self.cache.inner().counters();
        counters.load_failures.increment();
        own.iter_mut().filter_map(|own| own.leader.take()).for_each(Leader::fail);
        let stale = own.iter().map(|own| own.missing.candidate.as_ref()?.if_error(self.accept));
        let stale: Vec<V> = stale.collect::<Option<_>>()?;
        for (own, value) in own.iter().zip(stale) {
            counters.stale_if_error.increment();
            values[own.missing.at] = Some(value);
        }
        self.keep_outer_from_storing();
        Some(())
    }

    fn depend_on(&self, entry: &Entry, expires_at: Option<Instant>) {
        if let Some(outer) = self.outer {
            outer.after_nested_read(self.cache.id(), entry, expires_at);
        }
    }

    /// The load around this read has seen a value whose groups it does not know.
    fn keep_outer_from_storing(&self) {
        if let Some(outer) = self.outer {
            outer.keep_from_store();
        }
    }
}

impl Generations {
    pub(crate) fn of(&self, groups: &Groups) -> GenerationVector {
        groups.iter().filter_map(|group| self.of.get(group).copied()).collect()
    }
}
