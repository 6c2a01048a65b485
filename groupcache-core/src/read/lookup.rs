//! What a read begins with: look, judge, and if it is a miss complete the vector.

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
use crate::read::lease_wait::Claim;
use crate::read::load::LoadPermit;
use crate::read::verdict::{Verdict, judge};
use crate::time_limit::Budget;

/// What a read knows after its lookup.
pub(crate) enum Asked<V> {
    Hit(V),
    Miss(LoadPermit),
    Unanswered(Miss),
}

pub(crate) struct Looked {
    pub(crate) groups: Groups,
    pub(crate) lookup: Lookup,
    pub(crate) verdict: Verdict,
}

impl<B: Backend> Cache<B> {
    /// Step 1 to 3 of a read: look, judge, and if it is a miss complete the vector.
    pub(crate) async fn ask<V>(
        &self,
        address: &Address,
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
        budget: &mut Budget,
    ) -> Asked<V> {
        let looked = match self.look(address, budget).await {
            Ok(looked) => looked,
            Err(miss) => return Asked::Unanswered(miss),
        };
        let (miss, candidate) = match looked.verdict {
            Verdict::Hit(expires_at) => {
                match self.take(&looked.lookup, expires_at, accept, LoadContext::current().as_ref()) {
                    Ok(value) => return Asked::Hit(value),
                    Err(miss) => (miss, None),
                }
            }
            Verdict::Miss(miss, candidate) => (miss, candidate),
            Verdict::AskAlso(_) => (Miss::GroupsChanged, None),
            Verdict::AskTimeLeft => (Miss::Expired, None),
        };
        #[cfg(groupcache_mutants)]
        let seen = Box::new(crate::mutants::with_missing(looked.lookup.current.iter().copied()));
        // In a box, as everything that a hit has no need of: it should not carry its state along.
        match Box::pin(self.complete(address, &looked.groups, looked.lookup, budget)).await {
            Ok((vector, guards, claim)) => Asked::Miss(LoadPermit {
                miss,
                groups: looked.groups,
                vector,
                guards,
                candidate,
                claim,
                #[cfg(groupcache_mutants)]
                seen,
            }),
            Err(error) => Asked::Unanswered(self.unanswered(&error)),
        }
    }

    /// One lookup of the entry and of all groups that it is known to depend on; a second one if it
    /// turns out to depend on more.
    pub(crate) async fn look(&self, address: &Address, budget: &mut Budget) -> Result<Looked, Miss> {
        let backend = &self.inner().backend;
        let learned = self.inner().discovered.extend(&address.key, &address.groups);
        let mut groups = learned.unwrap_or_else(|| address.groups.clone());
        // A computation around this read must not outlive what it was computed from.
        let needed = !self.options().grace().is_zero() || LoadContext::current().is_some();
        let mut time_left = if needed { TimeLeft::Needed } else { TimeLeft::NotNeeded };
        let mut asked_more = false;
        loop {
            let lookup = backend.lookup(&address.key, &groups, time_left);
            let lookup = match budget.run(backend.name(), pin!(lookup)).await {
                Ok(lookup) => lookup,
                Err(error) => return Err(self.unanswered(&error)),
            };
            match self.judge(address, &groups, &lookup) {
                Verdict::AskAlso(all) if !asked_more => {
                    self.inner().discovered.learn(&address.key, &address.groups, &all);
                    groups = all;
                    asked_more = true;
                }
                // Stored by a reader who would use it as stale, asked for by one who would not.
                Verdict::AskTimeLeft if time_left == TimeLeft::NotNeeded => time_left = TimeLeft::Needed,
                verdict => {
                    return Ok(Looked { groups, lookup, verdict });
                }
            }
        }
    }

    pub(crate) fn judge(&self, address: &Address, groups: &Groups, lookup: &Lookup) -> Verdict {
        match &lookup.found {
            Found::Absent => Verdict::Miss(Miss::Absent, None),
            Found::Undecodable => Verdict::Miss(Miss::Undecodable, None),
            Found::Entry(entry, expires_at) => {
                let view = EntryView { entry, expires_at: *expires_at, current: &lookup.current };
                self.judge_view(address, groups, view)
            }
        }
    }

    fn judge_view(&self, address: &Address, groups: &Groups, view: EntryView<'_>) -> Verdict {
        judge(address, groups, view, self.options(), &*self.inner().clock)
    }

    /// What the reader makes of a valid entry; whoever computes around this read depends on it too.
    pub(crate) fn take<V>(
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

    /// The vector of `groups`, minting what is missing, and what was learnt of the lease with it.
    async fn complete(
        &self,
        address: &Address,
        groups: &Groups,
        lookup: Lookup,
        budget: &mut Budget,
    ) -> Result<(GenerationVector, Vec<GenerationGuard>, Claim)> {
        if let Some(vector) = lookup.current.complete() {
            return Ok((vector, vec![lookup.guard], Claim::Unknown));
        }
        if let Some(duration) = self.options().lease {
            let leased = self.complete_with_lease(address, groups, &lookup.current, duration, budget);
            let (vector, hold, claim) = Box::pin(leased).await?;
            return Ok((vector, vec![lookup.guard, hold], claim));
        }
        let missing: Vec<Group> = groups
            .iter()
            .zip(lookup.current.iter())
            .filter(|(_, generation)| generation.is_none())
            .map(|(group, _)| group.clone())
            .collect();
        let minted = self.inner().mint_within(&missing, budget).await?;
        let mut fresh = minted.vector.iter().copied();
        let vector: Option<GenerationVector> =
            lookup.current.iter().map(|known| known.or_else(|| fresh.next())).collect();
        let vector = vector.ok_or_else(|| Error::new(ErrorKind::Protocol, self.inner().backend.name()))?;
        Ok((vector, vec![lookup.guard, minted.guard], Claim::Unknown))
    }

    #[expect(clippy::unused_self, reason = "the place where a failing backend becomes a miss")]
    pub(crate) fn unanswered(&self, error: &Error) -> Miss {
        tracing::debug!(%error, "going on without the cache");
        if error.kind() == ErrorKind::Timeout { Miss::Timeout } else { Miss::Unavailable }
    }
}
