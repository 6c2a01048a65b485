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
        let discovered = self.inner().discovered.extend(&address.key, &address.groups);
        let mut groups = discovered.unwrap_or_else(|| address.groups.clone());
        // A value that is loaded around this read must not outlive the entry.
        let needed = !self.options().grace().is_zero() || LoadContext::current().is_some();
        let mut time_left = if needed { TimeLeft::Needed } else { TimeLeft::NotNeeded };
        let mut has_all_groups = false;
        loop {
            let lookup = backend.lookup(&address.key, &groups, time_left);
            let lookup = match budget.run(backend.name(), pin!(lookup)).await {
                Ok(lookup) => lookup,
                Err(error) => return Err(self.miss_of(&error)),
            };
            match self.judge(address, &groups, &lookup) {
                Verdict::NeedsGroups(all) if !has_all_groups => {
                    self.inner().discovered.learn(&address.key, &address.groups, &all);
                    groups = all;
                    has_all_groups = true;
                }
                // The entry was stored with a grace period, and this cache has none.
                Verdict::NeedsTimeLeft if time_left == TimeLeft::NotNeeded => time_left = TimeLeft::Needed,
                verdict => return Ok(JudgedLookup { groups, lookup, verdict }),
            }
        }
    }

    /// Judges what a lookup of `groups` found.
    pub(crate) fn judge(&self, address: &Address, groups: &Groups, lookup: &Lookup) -> Verdict {
        match &lookup.found {
            Found::Absent => Verdict::Miss(Miss::Absent, None),
            Found::Undecodable => Verdict::Miss(Miss::Undecodable, None),
            Found::Entry(entry, expires_at) => {
                let view = EntryView::new(entry, *expires_at, &lookup.current);
                judge(address, groups, view, self.options(), &*self.inner().clock)
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
