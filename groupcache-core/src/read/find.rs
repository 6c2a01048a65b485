//! Reads that never load.

use std::pin::pin;
use std::sync::Arc;

use futures_util::future::join_all;

use crate::backend::Backend;
use crate::backend::lookup::Lookup;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::Entry;
use crate::data::group::Groups;
use crate::data::key::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::load_context::{LoadContext, NestedRead};
use crate::outcome::Miss;
use crate::read::verdict::{Verdict, judge_now};
use crate::time_limit::{TimeBudget, off_hit_path};

impl<B: Backend> Cache<B> {
    /// Returns a hit without waiting, from backends that hold their entries in this process.
    ///
    /// `None` does not mean that there is no entry: use [`read`](Self::read) or [`find`](Self::find) then.
    pub fn read_now<V>(&self, address: &Address, accept: impl FnOnce(&Arc<Entry>) -> Option<V>) -> Option<V> {
        self.find_now(&address.key, Some(&address.groups), accept)
    }

    /// Returns a hit without waiting, like [`read_now`](Self::read_now), without the groups of the entry.
    ///
    /// For keys whose groups are the same in the whole life of this process: an entry of the key then belongs
    /// to the groups, and they need not be built.
    pub fn read_now_by_key<V>(&self, key: &Key, accept: impl FnOnce(&Arc<Entry>) -> Option<V>) -> Option<V> {
        self.find_now(key, None, accept)
    }

    fn find_now<V>(
        &self,
        key: &Key,
        groups: Option<&Groups>,
        accept: impl FnOnce(&Arc<Entry>) -> Option<V>,
    ) -> Option<V> {
        let mut accept = Some(accept);
        let mut value = None;
        self.inner().backend.lookup_now(key, &mut |view| {
            let Some(expires_at) = judge_now(key, groups, view, self.options(), &*self.inner().clock) else {
                return;
            };
            if let Some(outer) = LoadContext::current() {
                if !outer.is_of(self.id()) {
                    return;
                }
                outer.after_nested_read(self.id(), view.entry, expires_at);
            }
            value = accept.take().and_then(|accept| accept(view.entry));
        });
        let value = value?;
        self.inner().counters().hits.increment();
        Some(value)
    }

    /// Returns the value of the valid entry at `address`.
    ///
    /// One round trip, or two if the entry depends on groups that this process has not seen yet.
    ///
    /// # Errors
    ///
    /// Returns why there is no valid entry.
    pub async fn find<V: Send>(
        &self,
        address: &Address,
        accept: impl Fn(&Arc<Entry>) -> Option<V> + Sync,
    ) -> Result<V, Miss> {
        let nested = NestedRead::begin();
        if let Some(outer) = nested.outer() {
            off_hit_path(outer.before_nested_read(self.id(), &address.groups)).await;
        }
        let mut budget = TimeBudget::new(self.inner().read_time_limit);
        let found = self.find_within(address, &accept, nested.outer(), &mut budget).await;
        nested.completed();
        found
    }

    /// Returns what [`find`](Self::find) returns for each of `addresses`, in order.
    ///
    /// One round trip if the backend can look several entries up at once.
    pub async fn find_many<V: Send>(
        &self,
        addresses: &[Address],
        accept: impl Fn(&Arc<Entry>) -> Option<V> + Sync,
    ) -> Vec<Result<V, Miss>> {
        let nested = NestedRead::begin();
        let found = match nested.outer() {
            Some(outer) => self.find_many_nested(addresses, &accept, outer).await,
            None => self.find_many_at_once(addresses, &accept).await,
        };
        nested.completed();
        found
    }

    /// One lookup for each address, concurrently: the load around this read has to know when each entry
    /// expires.
    async fn find_many_nested<V: Send>(
        &self,
        addresses: &[Address],
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
        outer: &LoadContext,
    ) -> Vec<Result<V, Miss>> {
        for address in addresses {
            off_hit_path(outer.before_nested_read(self.id(), &address.groups)).await;
        }
        let finds = addresses.iter().map(async |address| {
            let mut budget = TimeBudget::new(self.inner().read_time_limit);
            self.find_within(address, accept, Some(outer), &mut budget).await
        });
        join_all(finds).await
    }

    async fn find_many_at_once<V: Send>(
        &self,
        addresses: &[Address],
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
    ) -> Vec<Result<V, Miss>> {
        let mut questions = Vec::with_capacity(addresses.len());
        for address in addresses {
            let all = self.inner().discovered.extend(&address.key, &address.groups);
            questions.push((address.key.clone(), all.unwrap_or_else(|| address.groups.clone())));
        }
        let mut budget = TimeBudget::new(self.inner().read_time_limit);
        let lookups = match self.lookup_many(&questions, &mut budget).await {
            Ok(lookups) => lookups,
            Err(error) => {
                let miss = self.miss_of(&error);
                return addresses.iter().map(|_| self.count_find(Err(miss), None)).collect();
            }
        };
        let mut found = Vec::with_capacity(addresses.len());
        for (address, ((_, groups), lookup)) in addresses.iter().zip(questions.iter().zip(&lookups)) {
            found.push(match self.judge(address, groups, lookup) {
                Verdict::Hit(expires_at) => {
                    self.count_find(self.accept_hit(lookup, expires_at, accept, None), None)
                }
                Verdict::Miss(miss, _) => self.count_find(Err(miss), None),
                // Rare: only the entry knows all its groups, or it has a grace period.
                Verdict::NeedsGroups(_) | Verdict::NeedsTimeLeft => {
                    self.find_within(address, accept, None, &mut budget).await
                }
            });
        }
        found
    }

    async fn lookup_many(&self, questions: &[(Key, Groups)], budget: &mut TimeBudget) -> Result<Vec<Lookup>> {
        let backend = &self.inner().backend;
        let lookups = budget.run(backend.name(), pin!(backend.lookup_many(questions))).await?;
        if lookups.len() == questions.len() {
            Ok(lookups)
        } else {
            Err(Error::new(ErrorKind::Protocol, backend.name()))
        }
    }

    async fn find_within<V>(
        &self,
        address: &Address,
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
        outer: Option<&LoadContext>,
        budget: &mut TimeBudget,
    ) -> Result<V, Miss> {
        let found = match self.judged_lookup(address, budget).await {
            Ok(judged) => match judged.verdict {
                Verdict::Hit(expires_at) => self.accept_hit(&judged.lookup, expires_at, accept, outer),
                Verdict::Miss(miss, _) => Err(miss),
                Verdict::NeedsGroups(_) => Err(Miss::GroupsChanged),
                Verdict::NeedsTimeLeft => Err(Miss::Expired),
            },
            Err(miss) => Err(miss),
        };
        self.count_find(found, outer)
    }

    fn count_find<V>(&self, found: Result<V, Miss>, outer: Option<&LoadContext>) -> Result<V, Miss> {
        match &found {
            Ok(_) => self.inner().counters().hits.increment(),
            Err(miss) => {
                self.inner().counters().miss(*miss);
                // What the outer load uses instead of the missing value has groups that it does not know.
                if let Some(outer) = outer {
                    outer.do_not_store();
                }
            }
        }
        found
    }
}
