//! Reads several keys, and loads the missing values with one call of the loader.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use futures_util::future::try_join_all;

use crate::backend::Backend;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::Entry;
use crate::data::group::{Group, Groups};
use crate::error::Result;
use crate::load_context::NestedRead;
use crate::outcome::{Loaded, Miss, Served};
use crate::read::flight_id::FlightId;
use crate::read::leader::Leader;
use crate::read::load_batch::{Batch, Generations, Missing, Own};
use crate::read::lookup::{JudgedLookup, with_groups_of_entry};
use crate::read::verdict::Verdict;
use crate::time_limit::{TimeBudget, off_hit_path};

impl<B: Backend> Cache<B> {
    /// Returns the value at each of `addresses`, in order, `None` where `load` returns none. The keys of
    /// `addresses` are distinct.
    ///
    /// `load` gets the positions of the keys to load, and returns positions and values. It is called once for
    /// all keys that no other reader loads. A key that another reader loads is read like a single one, so
    /// `load` gets it alone if the other load cannot be shared.
    pub(crate) async fn read_many<V, E, F, Fut>(
        &self,
        addresses: &[Address],
        accept: impl Fn(&Arc<Entry>) -> Option<V> + Sync,
        load: F,
    ) -> Result<Vec<Option<V>>, E>
    where
        V: Send,
        E: Send,
        F: Fn(Vec<usize>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Vec<(usize, Loaded<V>)>, E>> + Send,
    {
        let nested = NestedRead::begin();
        if let Some(outer) = nested.outer() {
            let all: Groups = addresses.iter().flat_map(|address| &address.groups).cloned().collect();
            off_hit_path(outer.before_nested_read(self.id(), &all)).await;
        }
        let finished =
            addresses.iter().map(|address| self.inner().flights.finished_count(&address.key)).collect();
        let batch = Batch { cache: self, addresses, accept: &accept, outer: nested.outer(), finished };
        let mut budget = TimeBudget::new(self.inner().read_time_limit);
        let judged = self.judged_lookups(addresses, &mut budget).await;
        let mut values: Vec<Option<V>> = addresses.iter().map(|_| None).collect();
        let (mut missing, known) = batch.take_hits(judged, &mut values);
        if !missing.is_empty() {
            let generations = batch.complete(&mut missing, known, &mut budget).await;
            let (own, others) = batch.lead(missing, &generations);
            if !own.is_empty() {
                off_hit_path(batch.load_own(own, generations, &load, &mut values)).await?;
            }
            off_hit_path(batch.read_others(others, &load, &mut values)).await?;
        }
        nested.completed();
        Ok(values)
    }
}

impl<B, A, V> Batch<'_, B, A>
where
    B: Backend,
    A: Fn(&Arc<Entry>) -> Option<V> + Sync,
    V: Send,
{
    /// Takes the values of valid entries. Returns the other keys, and the generations that were looked up.
    fn take_hits(
        &self,
        judged: Vec<Result<JudgedLookup, Miss>>,
        values: &mut [Option<V>],
    ) -> (Vec<Missing>, Generations) {
        let counters = self.cache.inner().counters();
        let (mut missing, mut known) = (Vec::new(), Generations::default());
        for (at, judged) in judged.into_iter().enumerate() {
            let JudgedLookup { groups, lookup, verdict } = match judged {
                Ok(judged) => judged,
                Err(miss) => {
                    counters.miss(miss);
                    missing.push(Missing { at, groups: None, candidate: None });
                    continue;
                }
            };
            let (miss, candidate) = match verdict {
                Verdict::Hit(expires_at) => {
                    match self.cache.accept_hit(&lookup, expires_at, self.accept, self.outer) {
                        Ok(value) => {
                            counters.hits.increment();
                            values[at] = Some(value);
                            continue;
                        }
                        Err(miss) => (miss, None),
                    }
                }
                Verdict::Miss(miss, candidate) => (miss, candidate),
                Verdict::NeedsGroups(_) => (Miss::GroupsChanged, None),
                Verdict::NeedsTimeLeft => (Miss::Expired, None),
            };
            counters.miss(miss);
            let (groups, lookup) = with_groups_of_entry(&self.addresses[at], groups, lookup);
            for (group, generation) in groups.iter().zip(lookup.current.iter()) {
                if let Some(generation) = generation {
                    // Of two generations the earlier one.
                    known.of.entry(group.clone()).or_insert(*generation);
                }
            }
            known.guards.push(lookup.guard);
            missing.push(Missing { at, groups: Some(groups), candidate });
        }
        (missing, known)
    }

    /// Mints the generations that are missing, in one round trip. If that fails, nothing of this batch is stored.
    async fn complete(
        &self,
        missing: &mut [Missing],
        mut known: Generations,
        budget: &mut TimeBudget,
    ) -> Generations {
        let all = missing.iter().filter_map(|missing| missing.groups.as_ref()).flatten();
        let unknown: BTreeSet<&Group> = all.filter(|group| !known.of.contains_key(group)).collect();
        let unknown: Vec<Group> = unknown.into_iter().cloned().collect();
        if unknown.is_empty() {
            return known;
        }
        match self.cache.inner().mint_within(&unknown, budget).await {
            Ok(minted) => {
                known.of.extend(unknown.into_iter().zip(minted.vector.iter().copied()));
                known.guards.push(minted.guard);
            }
            Err(error) => {
                self.cache.miss_of(&error);
                missing.iter_mut().for_each(|missing| missing.groups = None);
            }
        }
        known
    }

    /// Leads the flights of the missing keys. Returns the keys that this batch loads, and the positions of those
    /// that another reader loads, is about to load, or has just loaded.
    fn lead(&self, missing: Vec<Missing>, generations: &Generations) -> (Vec<Own>, Vec<usize>) {
        let inner = self.cache.inner();
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for missing in missing {
            let key = &self.addresses[missing.at].key;
            let leader = if inner.flights.unshared.contains(key) {
                None
            } else {
                match self.lead_one(&missing, generations) {
                    Some(leader) => Some(leader),
                    None => {
                        others.push(missing.at);
                        continue;
                    }
                }
            };
            own.push(Own { ticket: inner.store_order.begin(key), missing, leader });
        }
        (own, others)
    }

    /// Leads the flight of one key, unless another reader loads it or has loaded it since the lookup.
    fn lead_one(&self, missing: &Missing, generations: &Generations) -> Option<Leader> {
        let flights = &self.cache.inner().flights;
        let key = &self.addresses[missing.at].key;
        let leader = flights.try_start(key)?;
        leader.prepare(missing.groups.as_ref().map(|groups| {
            let vector = generations.of(groups);
            FlightId { key: key.clone(), groups: groups.clone(), vector }
        }));
        // A leader that is dropped hands over to readers that have joined meanwhile.
        let is_news = flights.finished_count(key) == self.finished[missing.at] && leader.landed().is_none();
        is_news.then_some(leader)
    }

    /// Reads the keys that other readers load, each like a single one.
    async fn read_others<E, F, Fut>(
        &self,
        others: Vec<usize>,
        load: &F,
        values: &mut [Option<V>],
    ) -> Result<(), E>
    where
        E: Send,
        F: Fn(Vec<usize>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Vec<(usize, Loaded<V>)>, E>> + Send,
    {
        let read = |at: usize| async move {
            let load = move || async move {
                let loaded = load(vec![at]).await?;
                let loaded = loaded.into_iter().find(|(position, _)| *position == at);
                Ok(match loaded {
                    Some((_, Loaded { value, policy })) => Loaded { value: Some(value), policy },
                    None => Loaded::private(None),
                })
            };
            let outcome = self.cache.read(&self.addresses[at], self.accept, load).await?;
            let served = match outcome.refresh {
                Some(refresh) => off_hit_path(refresh.run(self.accept)).await.unwrap_or(outcome.served),
                None => outcome.served,
            };
            Ok(match served {
                Served::Entry(value, _) => (at, Some(value)),
                Served::Loaded { value, .. } => (at, value),
            })
        };
        for (at, value) in try_join_all(others.into_iter().map(read)).await? {
            values[at] = value;
        }
        Ok(())
    }
}
