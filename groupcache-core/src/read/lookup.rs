//! The lookup that every read begins with: look the entry up, judge it, complete the vector on a miss.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use crate::backend::Backend;
use crate::backend::lookup::{EntryView, Found, GenerationGuard, Lookup, TimeLeft};
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::{Entry, GenerationVector};
use crate::data::group::{Group, Groups};
use crate::data::key::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::load_context::LoadContext;
use crate::outcome::Miss;
use crate::read::held_lease::LeaseClaim;
use crate::read::permit::LoadPermit;
use crate::read::verdict::{Verdict, judge};
use crate::time_limit::{TimeBudget, off_hit_path};

/// What a read knows after its lookup.
pub(crate) enum LookupOutcome<V> {
    Hit(V),
    /// In a box, so that the outcome of a hit is small.
    Miss(Box<LoadPermit>),
    /// The backend failed or timed out.
    Unavailable(Miss),
}

/// A lookup and what it amounts to.
pub(crate) struct JudgedLookup {
    /// The groups whose generations were looked up.
    pub(crate) groups: Groups,
    pub(crate) lookup: Lookup,
    pub(crate) verdict: Verdict,
}

/// A vector without a missing generation, and what came with it.
struct CompleteVector {
    vector: GenerationVector,
    guards: Vec<GenerationGuard>,
    claim: LeaseClaim,
}

impl<B: Backend> Cache<B> {
    /// Looks up the entry at `address`. On a miss, returns the permit to load it.
    pub(crate) async fn look_up<V>(
        &self,
        address: &Address,
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
        budget: &mut TimeBudget,
    ) -> LookupOutcome<V> {
        let JudgedLookup { groups, lookup, verdict } = match self.judged_lookup(address, budget).await {
            Ok(judged) => judged,
            Err(miss) => return LookupOutcome::Unavailable(miss),
        };
        let (miss, candidate) = match verdict {
            Verdict::Hit(expires_at) => {
                match self.accept_hit(&lookup, expires_at, accept, LoadContext::current().as_ref()) {
                    Ok(value) => return LookupOutcome::Hit(value),
                    Err(miss) => (miss, None),
                }
            }
            Verdict::Miss(miss, candidate) => (miss, candidate),
            Verdict::NeedsGroups(_) => (Miss::GroupsChanged, None),
            Verdict::NeedsTimeLeft => (Miss::Expired, None),
        };
        let (groups, lookup) = with_groups_of_entry(address, groups, lookup);
        #[cfg(groupcache_mutants)]
        let seen = Box::new(crate::mutants::with_missing(lookup.current.iter().copied()));
        match off_hit_path(self.complete_vector(address, &groups, lookup, budget)).await {
            Ok(CompleteVector { vector, guards, claim }) => LookupOutcome::Miss(Box::new(LoadPermit {
                miss,
                groups,
                vector,
                guards,
                candidate,
                claim,
                #[cfg(groupcache_mutants)]
                seen,
            })),
            Err(error) => LookupOutcome::Unavailable(self.miss_of(&error)),
        }
    }

    /// Looks up the entry and all groups that it is known to depend on. Looks up once more if the entry turns
    /// out to depend on others too.
    pub(crate) async fn judged_lookup(
        &self,
        address: &Address,
        budget: &mut TimeBudget,
    ) -> Result<JudgedLookup, Miss> {
        let backend = &self.inner().backend;
        let mut groups = self.known_groups(address);
        let mut time_left = self.time_left();
        let mut has_all_groups = false;
        loop {
            let lookup = backend.lookup(&address.key, &groups, time_left);
            let lookup = match budget.run(backend.name(), pin!(lookup)).await {
                Ok(lookup) => lookup,
                Err(error) => return Err(self.miss_of(&error)),
            };
            match self.judge(address, &groups, &lookup) {
                Verdict::NeedsGroups(all) if !has_all_groups => {
                    self.learn(address, &all);
                    groups = all;
                    has_all_groups = true;
                }
                // The entry was stored with a grace period, and this cache has none.
                Verdict::NeedsTimeLeft if time_left == TimeLeft::NotNeeded => time_left = TimeLeft::Needed,
                verdict => return Ok(JudgedLookup { groups, lookup, verdict }),
            }
        }
    }

    /// Does what [`judged_lookup`](Self::judged_lookup) does for several addresses, in one or two round trips for
    /// all of them.
    pub(crate) async fn judged_lookups(
        &self,
        addresses: &[Address],
        budget: &mut TimeBudget,
    ) -> Vec<Result<JudgedLookup, Miss>> {
        if addresses.is_empty() {
            return Vec::new();
        }
        let questions = addresses.iter().map(|address| (address.key.clone(), self.known_groups(address)));
        let first = self.lookup_many(addresses, questions.collect(), self.time_left(), budget).await;
        let mut judged = match first {
            Ok(judged) => judged.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(miss) => return addresses.iter().map(|_| Err(miss)).collect(),
        };
        let mut again = (Vec::new(), Vec::new());
        let mut time_left = self.time_left();
        for (at, (address, judged)) in addresses.iter().zip(&judged).enumerate() {
            let Ok(JudgedLookup { groups, verdict, .. }) = judged else { continue };
            let groups = match verdict {
                Verdict::NeedsGroups(all) => {
                    self.learn(address, all);
                    all
                }
                Verdict::NeedsTimeLeft if time_left == TimeLeft::NotNeeded => groups,
                _ => continue,
            };
            again.0.push((at, address.clone()));
            again.1.push((address.key.clone(), groups.clone()));
        }
        let (at, addresses): (Vec<_>, Vec<_>) = again.0.into_iter().unzip();
        if !at.is_empty() {
            // An entry whose groups were looked up only now may have a grace period.
            time_left = TimeLeft::Needed;
            let second = self.lookup_many(&addresses, again.1, time_left, budget).await;
            match second {
                Ok(second) => at.into_iter().zip(second).for_each(|(at, new)| judged[at] = Ok(new)),
                Err(miss) => at.into_iter().for_each(|at| judged[at] = Err(miss)),
            }
        }
        judged
    }

    async fn lookup_many(
        &self,
        addresses: &[Address],
        questions: Vec<(Key, Groups)>,
        time_left: TimeLeft,
        budget: &mut TimeBudget,
    ) -> Result<Vec<JudgedLookup>, Miss> {
        let backend = &self.inner().backend;
        let lookups = budget.run(backend.name(), pin!(backend.lookup_many(&questions, time_left))).await;
        let lookups = lookups.and_then(|lookups| {
            let is_complete = lookups.len() == questions.len();
            is_complete.then_some(lookups).ok_or_else(|| Error::new(ErrorKind::Protocol, backend.name()))
        });
        let lookups = lookups.map_err(|error| self.miss_of(&error))?;
        let judged = addresses.iter().zip(questions).zip(lookups).map(|((address, (_, groups)), lookup)| {
            let verdict = self.judge(address, &groups, &lookup);
            JudgedLookup { groups, lookup, verdict }
        });
        Ok(judged.collect())
    }

    /// Returns the groups that the entry at `address` depends on, as far as they are known before its lookup.
    pub(crate) fn known_groups(&self, address: &Address) -> Groups {
        let discovered = self.inner().discovered.extend(&address.key, &address.groups);
        self.inner().with_clear_group(discovered.unwrap_or_else(|| address.groups.clone()))
    }

    /// Remembers all groups that the entry at `address` depends on.
    pub(crate) fn learn(&self, address: &Address, all: &Groups) {
        let named = self.inner().with_clear_group(address.groups.clone());
        self.inner().discovered.learn(&address.key, &named, all);
    }

    /// Returns whether this reader has to know when an entry expires: it may serve the entry as stale, or a
    /// value that is loaded around it must not outlive it.
    fn time_left(&self) -> TimeLeft {
        let needed = !self.options().grace().is_zero() || LoadContext::current().is_some();
        if needed { TimeLeft::Needed } else { TimeLeft::NotNeeded }
    }

    /// Judges what a lookup of `groups` found.
    pub(crate) fn judge(&self, address: &Address, groups: &Groups, lookup: &Lookup) -> Verdict {
        match &lookup.found {
            Found::Absent => Verdict::Miss(Miss::Absent, None),
            Found::Undecodable => Verdict::Miss(Miss::Undecodable, None),
            Found::Entry(entry, expires_at) => {
                let view = EntryView::new(entry, *expires_at, &lookup.current);
                let clear_group = self.inner().clear_group.as_ref();
                judge(address, groups, clear_group, view, self.options(), &*self.inner().clock)
            }
        }
    }

    /// Returns what the reader makes of a valid entry, on which the load around the read depends from now on.
    pub(crate) fn accept_hit<V>(
        &self,
        lookup: &Lookup,
        expires_at: Option<Instant>,
        accept: &impl Fn(&Arc<Entry>) -> Option<V>,
        outer: Option<&LoadContext>,
    ) -> Result<V, Miss> {
        let Found::Entry(entry, _) = &lookup.found else {
            return Err(Miss::Absent);
        };
        let value = accept(entry).ok_or(Miss::Undecodable)?;
        if let Some(outer) = outer {
            outer.after_nested_read(self.id(), entry, expires_at);
            outer.hold(self.id(), std::slice::from_ref(&lookup.guard));
        }
        Ok(value)
    }

    /// Mints the generations that `lookup` lacks, and requests the lease with them if the options want one.
    async fn complete_vector(
        &self,
        address: &Address,
        groups: &Groups,
        lookup: Lookup,
        budget: &mut TimeBudget,
    ) -> Result<CompleteVector> {
        let Lookup { current, guard, .. } = lookup;
        if let Some(vector) = current.complete() {
            return Ok(CompleteVector { vector, guards: vec![guard], claim: LeaseClaim::Unknown });
        }
        if let Some(duration) = self.options().lease {
            let counters = self.inner().counters();
            counters.mints.increment();
            let response = self.request_lease(&address.key, groups, &current, duration, budget);
            let response =
                off_hit_path(response).await.inspect_err(|_| counters.mint_failures.increment())?;
            let guards = vec![guard, response.guard];
            return Ok(CompleteVector { vector: response.vector, guards, claim: response.claim });
        }
        let missing: Vec<Group> = groups
            .iter()
            .zip(current.iter())
            .filter(|(_, generation)| generation.is_none())
            .map(|(group, _)| group.clone())
            .collect();
        let minted = self.inner().mint_within(&missing, budget).await?;
        let mut fresh = minted.vector.iter().copied();
        let vector: Option<GenerationVector> =
            current.iter().map(|known| known.or_else(|| fresh.next())).collect();
        let vector = vector.ok_or_else(|| Error::new(ErrorKind::Protocol, self.inner().backend.name()))?;
        Ok(CompleteVector { vector, guards: vec![guard, minted.guard], claim: LeaseClaim::Unknown })
    }

    /// Turns an error of the backend into a miss: the cache never fails a read.
    #[expect(clippy::unused_self, reason = "one of the steps of a read")]
    pub(crate) fn miss_of(&self, error: &Error) -> Miss {
        tracing::debug!(%error, "the backend failed; reading without the cache");
        if error.kind() == ErrorKind::Timeout { Miss::Timeout } else { Miss::Unavailable }
    }
}

/// Adds the groups of the entry to those that were looked up, without their generations.
///
/// The next load probably depends on them too. It then begins with their generations, even if it declares them
/// only after it has read their data.
pub(crate) fn with_groups_of_entry(
    address: &Address,
    groups: Groups,
    mut lookup: Lookup,
) -> (Groups, Lookup) {
    let Found::Entry(entry, _) = &lookup.found else { return (groups, lookup) };
    if *entry.key() != address.key || groups.contains_all(entry.groups()) {
        return (groups, lookup);
    }
    let all = groups.union(entry.groups());
    let current = |group| groups.binary_search(group).ok().and_then(|at| lookup.current[at]);
    lookup.current = all.iter().map(current).collect();
    (all, lookup)
}
