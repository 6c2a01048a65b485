//! Reads that never load.

use std::sync::Arc;

use crate::backend::Backend;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::Entry;
use crate::data::group::Groups;
use crate::data::key::Key;
use crate::load_context::{LoadContext, NestedRead};
use crate::outcome::Miss;
use crate::read::lookup::JudgedLookup;
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
        let clear_group = self.inner().clear_group.as_ref();
        self.inner().backend.lookup_now(key, &mut |view| {
            let Some(expires_at) =
                judge_now(key, groups, clear_group, view, self.options(), &*self.inner().clock)
            else {
                return;
            };
            if let Some(outer) = LoadContext::current() {
                if !outer.is_of(self.id()) {
                    return;
                }
                outer.after_nested_read(self.id(), view.entry, expires_at);
                outer.hold(self.id(), &[(view.guard)()]);
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

    /// Returns what [`find`](Self::find) returns for each of `addresses`, in order. An address that occurs twice
    /// is looked up twice.
    ///
    /// One round trip for all, whatever the options, if the backend can look several entries up at once; one
    /// more for all entries that depend on groups which this process has not seen yet.
    pub async fn find_many<V: Send>(
        &self,
        addresses: &[Address],
        accept: impl Fn(&Arc<Entry>) -> Option<V> + Sync,
    ) -> Vec<Result<V, Miss>> {
        let nested = NestedRead::begin();
        if let Some(outer) = nested.outer() {
            let all: Groups = addresses.iter().flat_map(|address| &address.groups).cloned().collect();
            off_hit_path(outer.before_nested_read(self.id(), &all)).await;
        }
        let mut budget = TimeBudget::new(self.inner().read_time_limit);
        let judged = self.judged_lookups(addresses, &mut budget).await;
        let found = judged.into_iter().map(|judged| self.found(judged, &accept, nested.outer()));
        let found = found.map(|found| self.count_find(found, nested.outer())).collect();
        nested.completed();
        found
    }

    async fn find_within<V>(
        &self,
        address: &Address,
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
        outer: Option<&LoadContext>,
        budget: &mut TimeBudget,
    ) -> Result<V, Miss> {
        let judged = self.judged_lookup(address, budget).await;
        self.count_find(self.found(judged, accept, outer), outer)
    }

    fn found<V>(
        &self,
        judged: Result<JudgedLookup, Miss>,
        accept: &impl Fn(&Arc<Entry>) -> Option<V>,
        outer: Option<&LoadContext>,
    ) -> Result<V, Miss> {
        let judged = judged?;
        match judged.verdict {
            Verdict::Hit(expires_at) => self.accept_hit(&judged.lookup, expires_at, accept, outer),
            Verdict::Miss(miss, _) => Err(miss),
            Verdict::NeedsGroups(_) => Err(Miss::GroupsChanged),
            Verdict::NeedsTimeLeft => Err(Miss::Expired),
        }
    }

    fn count_find<V>(&self, found: Result<V, Miss>, outer: Option<&LoadContext>) -> Result<V, Miss> {
        match &found {
            Ok(_) => self.inner().counters().hits.increment(),
            Err(miss) => {
                self.inner().counters().miss(*miss);
                // What the outer load uses instead of the missing value has groups that it does not know.
                if let Some(outer) = outer {
                    outer.keep_from_store();
                }
            }
        }
        found
    }
}
