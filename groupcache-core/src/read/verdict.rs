//! The verdict on what a lookup found. No other file decides whether an entry is a hit.

use std::sync::Arc;
use std::time::Instant;

use crate::backend::lookup::EntryView;
use crate::clock::Clock;
use crate::data::address::Address;
use crate::data::entry::{Entry, Generation};
use crate::data::group::{Group, Groups};
use crate::data::key::Key;
use crate::options::EntryOptions;
use crate::outcome::Miss;

/// What a lookup amounts to.
pub(crate) enum Verdict {
    /// The entry is valid, at least until this moment if there is one.
    Hit(Option<Instant>),
    Miss(Miss, Option<StaleCandidate>),
    /// The entry depends on more groups than were looked up: look all of these up.
    NeedsGroups(Groups),
    /// The verdict depends on when the entry expires: look that up too.
    NeedsTimeLeft,
}

/// An entry that is no hit, and what it may still be served for.
pub(crate) struct StaleCandidate {
    entry: Arc<Entry>,
    while_revalidate: bool,
    if_error: bool,
}

enum Freshness {
    Valid,
    Stale(Miss),
    /// Some of the entry's groups were not looked up.
    Unknown,
}

impl StaleCandidate {
    /// Returns the value to serve while a new one is loaded, if the options allow it.
    pub(crate) fn while_revalidate<V>(&self, accept: &impl Fn(&Arc<Entry>) -> Option<V>) -> Option<V> {
        if self.while_revalidate { accept(&self.entry) } else { None }
    }

    /// Returns the value to serve after a failed load, if the options allow it.
    pub(crate) fn if_error<V>(&self, accept: &impl Fn(&Arc<Entry>) -> Option<V>) -> Option<V> {
        if self.if_error { accept(&self.entry) } else { None }
    }
}

/// Judges an entry that was found for `address`. `groups` were looked up: those of the address, and maybe
/// more. If the cache can be cleared, the entry has to depend on `clear_group`.
pub(crate) fn judge(
    address: &Address,
    groups: &Groups,
    clear_group: Option<&Group>,
    view: EntryView<'_>,
    options: &EntryOptions,
    clock: &dyn Clock,
) -> Verdict {
    let EntryView { entry, expires_at, current, .. } = view;
    if current.len() != groups.len() {
        // A backend that answers another question than was asked validates nothing.
        return Verdict::Miss(Miss::Undecodable, None);
    }
    if *entry.key() != address.key {
        return Verdict::Miss(Miss::Absent, None);
    }
    let same_groups = entry.groups() == groups;
    let nothing_discovered = groups.is(&address.groups);
    if !(same_groups && nothing_discovered || entry.groups().contains_all(&address.groups))
        || !can_be_cleared(entry, clear_group)
    {
        return Verdict::Miss(Miss::GroupsChanged, None);
    }
    #[cfg(groupcache_mutants)]
    if entry.is_placeholder() && crate::mutants::is_on("placeholder_served") {
        return Verdict::Hit(None);
    }
    let freshness =
        if same_groups { compare_same(entry, current) } else { compare_some(entry, groups, current) };
    match freshness {
        Freshness::Valid => {}
        Freshness::Unknown => return Verdict::NeedsGroups(groups.union(entry.groups())),
        Freshness::Stale(_) if entry.is_placeholder() => return Verdict::Miss(Miss::GroupsChanged, None),
        Freshness::Stale(miss) => {
            let candidate = options.serve_invalidated.then(|| StaleCandidate {
                entry: Arc::clone(entry),
                while_revalidate: !options.stale_while_revalidate.is_zero(),
                if_error: !options.stale_if_error.is_zero(),
            });
            return Verdict::Miss(miss, candidate);
        }
    }
    judge_age(entry, expires_at, options, clock)
}

/// Judges an entry of a backend in this process, shown with its own groups. Returns `Some` if it is a hit for
/// `key` and for a reader that names `groups`: until when at least.
pub(crate) fn judge_now(
    key: &Key,
    groups: Option<&Groups>,
    clear_group: Option<&Group>,
    view: EntryView<'_>,
    options: &EntryOptions,
    clock: &dyn Clock,
) -> Option<Option<Instant>> {
    let EntryView { entry, expires_at, current, .. } = view;
    let is_valid = *entry.key() == *key
        && groups.is_none_or(|groups| entry.groups().contains_all(groups))
        && can_be_cleared(entry, clear_group)
        && entry.vector().is_current(current);
    if !is_valid {
        return None;
    }
    match judge_age(entry, expires_at, options, clock) {
        Verdict::Hit(expires_at) => Some(expires_at),
        _ => None,
    }
}

/// Whether the entry becomes stale when the cache is cleared, if that is possible.
fn can_be_cleared(entry: &Entry, clear_group: Option<&Group>) -> bool {
    #[cfg(groupcache_mutants)]
    if crate::mutants::is_on("clear_unchecked") {
        return true;
    }
    clear_group.is_none_or(|all| entry.groups().contains(all))
}

/// Judges the age of an entry whose vector is current.
fn judge_age(
    entry: &Arc<Entry>,
    expires_at: Option<Instant>,
    options: &EntryOptions,
    clock: &dyn Clock,
) -> Verdict {
    if entry.grace().is_zero() {
        return Verdict::Hit(expires_at);
    }
    // The time to live ends before the backend's own expiry, by the grace period.
    let Some(expires_at) = expires_at else {
        return Verdict::NeedsTimeLeft;
    };
    let now = clock.now();
    let left = expires_at.saturating_duration_since(now);
    if left > entry.grace() {
        return Verdict::Hit(Some(now + (left - entry.grace())));
    }
    let stale_for = entry.grace() - left;
    let candidate = StaleCandidate {
        entry: Arc::clone(entry),
        while_revalidate: stale_for < options.stale_while_revalidate,
        if_error: stale_for < options.stale_if_error,
    };
    Verdict::Miss(Miss::Expired, Some(candidate))
}

/// Compares an entry whose groups are those that were looked up.
fn compare_same(entry: &Entry, current: &[Option<Generation>]) -> Freshness {
    if entry.vector().is_current(current) {
        return Freshness::Valid;
    }
    let missing = current.iter().any(Option::is_none);
    Freshness::Stale(if missing { Miss::GroupMissing } else { Miss::Invalidated })
}

/// Compares an entry whose groups are not exactly those that were looked up.
fn compare_some(entry: &Entry, groups: &Groups, current: &[Option<Generation>]) -> Freshness {
    let mut unknown = false;
    for (group, generation) in entry.groups().iter().zip(entry.vector().iter()) {
        match groups.binary_search(group).map(|at| current[at]) {
            Ok(Some(current)) if current == *generation => {}
            Ok(Some(_)) => return Freshness::Stale(Miss::Invalidated),
            Ok(None) => return Freshness::Stale(Miss::GroupMissing),
            Err(_) => unknown = true,
        }
    }
    if unknown { Freshness::Unknown } else { Freshness::Valid }
}
