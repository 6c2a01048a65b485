//! Looking for values without computing them.

use std::pin::pin;
use std::sync::Arc;

use futures_util::future::join_all;

use crate::backend::Backend;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::Entry;
use crate::data::group::Groups;
use crate::data::key::Key;
use crate::error::{Error, ErrorKind};
use crate::load_context::{LoadContext, NestedRead};
use crate::outcome::Miss;
use crate::read::verdict::{Verdict, judge_now};
use crate::time_limit::Budget;

impl<B: Backend> Cache<B> {
    /// A hit without waiting, for backends in this process; `None` means "use [`read`](Self::read)",
    /// not "absent".
    pub fn read_now<V>(&self, address: &Address, accept: impl FnOnce(&Arc<Entry>) -> Option<V>) -> Option<V> {
        self.lookup_now(&address.key, Some(&address.groups), accept)
    }

    /// As [`read_now`](Self::read_now), for calls whose groups follow from their key in all of this
    /// process's life, so that an entry of the key is one of the groups: spares naming them.
    pub fn read_now_by_key<V>(&self, key: &Key, accept: impl FnOnce(&Arc<Entry>) -> Option<V>) -> Option<V> {
        self.lookup_now(key, None, accept)
    }

    fn lookup_now<V>(
        &self,
        key: &Key,
        named: Option<&Groups>,
        accept: impl FnOnce(&Arc<Entry>) -> Option<V>,
    ) -> Option<V> {
        let mut accept = Some(accept);
        let mut value = None;
        self.inner().backend.lookup_now(key, &mut |view| {
            let Some(expires_at) = judge_now(key, named, view, self.options(), &*self.inner().clock) else {
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

    /// The valid entry at `address`, if there is one. One round trip, two where it depends on groups
    /// that this process has not seen.
    ///
    /// # Errors
    ///
    /// Why there is none to use.
    pub async fn find<V: Send>(
        &self,
        address: &Address,
        accept: impl Fn(&Arc<Entry>) -> Option<V> + Sync,
    ) -> Result<V, Miss> {
        let nested = NestedRead::begin();
        if let Some(outer) = nested.outer() {
            Box::pin(outer.before_nested_read(self.id(), &address.groups)).await;
        }
        let mut budget = Budget::new(self.inner().read_time_limit);
        let found = self.find_within(address, &accept, nested.outer(), &mut budget).await;
        nested.answered();
        found
    }

    async fn find_within<V>(
        &self,
        address: &Address,
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
        outer: Option<&LoadContext>,
        budget: &mut Budget,
    ) -> Result<V, Miss> {
        let found = match self.look(address, budget).await {
            Ok(looked) => match looked.verdict {
                Verdict::Hit(expires_at) => self.take(&looked.lookup, expires_at, accept, outer),
                Verdict::Miss(miss, _) => Err(miss),
                Verdict::AskAlso(_) => Err(Miss::GroupsChanged),
                Verdict::AskTimeLeft => Err(Miss::Expired),
            },
            Err(miss) => Err(miss),
        };
        self.count(found, outer)
    }

    /// Several [`find`](Self::find)s, answered in order, in one round trip if the backend can.
    pub async fn find_many<V: Send>(
        &self,
        addresses: &[Address],
        accept: impl Fn(&Arc<Entry>) -> Option<V> + Sync,
    ) -> Vec<Result<V, Miss>> {
        let nested = NestedRead::begin();
        let outer = nested.outer();
        if let Some(outer) = outer {
            for address in addresses {
                Box::pin(outer.before_nested_read(self.id(), &address.groups)).await;
            }
            // At the same time rather than at once: the computation around this read must know when
            // each of them expires.
            let finds = addresses.iter().map(async |address| {
                let mut budget = Budget::new(self.inner().read_time_limit);
                self.find_within(address, &accept, Some(outer), &mut budget).await
            });
            let found = join_all(finds).await;
            nested.answered();
            return found;
        }
        let mut questions = Vec::with_capacity(addresses.len());
        for address in addresses {
            let learned = self.inner().discovered.extend(&address.key, &address.groups);
            questions.push((address.key.clone(), learned.unwrap_or_else(|| address.groups.clone())));
        }
        let mut budget = Budget::new(self.inner().read_time_limit);
        let backend = &self.inner().backend;
        let lookups = budget.run(backend.name(), pin!(backend.lookup_many(&questions))).await;
        let lookups = lookups.and_then(|lookups| {
            let complete = lookups.len() == questions.len();
            complete.then_some(lookups).ok_or_else(|| Error::new(ErrorKind::Protocol, backend.name()))
        });
        let lookups = match lookups {
            Ok(lookups) => lookups,
            Err(error) => {
                let miss = self.unanswered(&error);
                return addresses.iter().map(|_| self.count(Err(miss), outer)).collect();
            }
        };
        let mut found = Vec::with_capacity(addresses.len());
        for (address, ((_, groups), lookup)) in addresses.iter().zip(questions.iter().zip(&lookups)) {
            found.push(match self.judge(address, groups, lookup) {
                Verdict::Hit(expires_at) => {
                    let taken = self.take(lookup, expires_at, &accept, outer);
                    self.count(taken, outer)
                }
                Verdict::Miss(miss, _) => self.count(Err(miss), outer),
                // Rare: the entry depends on groups that only it knows, or is kept for use as stale.
                Verdict::AskAlso(_) | Verdict::AskTimeLeft => {
                    self.find_within(address, &accept, outer, &mut budget).await
                }
            });
        }
        nested.answered();
        found
    }

    fn count<V>(&self, found: Result<V, Miss>, outer: Option<&LoadContext>) -> Result<V, Miss> {
        match &found {
            Ok(_) => self.inner().counters().hits.increment(),
            Err(miss) => {
                self.inner().counters().miss(*miss);
                // Whatever takes the place of the missing value in a computation around this read has
                // groups that nobody has declared to that computation.
                if let Some(outer) = outer {
                    outer.do_not_store();
                }
            }
        }
        found
    }
}
