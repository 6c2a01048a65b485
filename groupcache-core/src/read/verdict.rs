//! Whether what a lookup found is a hit. The only place that decides it.

use std::sync::Arc;
use std::time::Instant;

use crate::backend::EntryView;
use crate::clock::Clock;
use crate::data::address::Address;
use crate::data::entry::{Entry, Generation};
use crate::data::group::Groups;
use crate::data::key::Key;
use crate::options::EntryOptions;
use crate::outcome::Miss;

/// What a lookup amounts to.
pub(crate) enum Verdict {
    /// The entry that was found is valid, until then at least.
    Hit(Option<Instant>),
    Miss(Miss, Option<StaleCandidate>),
    /// The entry depends on more groups than were asked for: ask for all of these.
    AskAlso(Groups),
    /// Whether it is a hit depends on when it expires: ask for that too.
    AskTimeLeft,
}

/// An entry that is no hit, and what it may be used for all the same.
pub(crate) struct StaleCandidate {
    pub(crate) entry: Arc<Entry>,
    pub(crate) while_revalidate: bool,
    pub(crate) if_error: bool,
}

enum Freshness {
    Valid,
    Stale(Miss),
    /// Some of its groups were not asked for.
    Unknown,
}

/// Whether an entry that was found is a hit for this address, `groups` having been asked for: those
/// of the address and maybe more.
pub(crate) fn judge(
    address: &Address,
    groups: &Groups,
    view: EntryView<'_>,
    options: &EntryOptions,
    clock: &dyn Clock,
) -> Verdict {
    let EntryView { entry, expires_at, current } = view;
    if current.len() != groups.len() {
        // A backend that answers something else than was asked validates nothing.
        return Verdict::Miss(Miss::Undecodable, None);
    }
    if *entry.key() != address.key {
        return Verdict::Miss(Miss::Absent, None);
    }
    let same_groups = entry.groups() == groups;
    let nothing_learned = groups.is(&address.groups);
    if !(same_groups && nothing_learned || entry.groups().contains_all(&address.groups)) {
        return Verdict::Miss(Miss::GroupsChanged, None);
    }
    let freshness = if same_groups { equal(entry, current) } else { compare(entry, groups, current) };
    match freshness {
        Freshness::Valid => {}
        Freshness::Unknown => return Verdict::AskAlso(groups.union(entry.groups())),
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

/// Whether an entry that was glanced at, with its own groups, is a hit for this key and for who names
/// these groups; and until when at least.
pub(crate) fn judge_now(
    key: &Key,
    named: Option<&Groups>,
    view: EntryView<'_>,
    options: &EntryOptions,
    clock: &dyn Clock,
) -> Option<Option<Instant>> {
    let EntryView { entry, expires_at, current } = view;
    let is_valid = *entry.key() == *key
        && named.is_none_or(|named| entry.groups().contains_all(named))
        && entry.vector().is_current(current);
    if !is_valid {
        return None;
    }
    match judge_age(entry, expires_at, options, clock) {
        Verdict::Hit(expires_at) => Some(expires_at),
        _ => None,
    }
}

/// Whether the time to live of an entry that is valid otherwise is over.
fn judge_age(
    entry: &Arc<Entry>,
    expires_at: Option<Instant>,
    options: &EntryOptions,
    clock: &dyn Clock,
) -> Verdict {
    if entry.grace().is_zero() {
        return Verdict::Hit(expires_at);
    }
    // The end of the time to live comes before the store's own expiry. Without the time left
    // nobody can say whether it has come.
    let Some(expires_at) = expires_at else {
        return Verdict::AskTimeLeft;
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

/// The groups that were asked for are the entry's.
fn equal(entry: &Entry, current: &[Option<Generation>]) -> Freshness {
    if entry.vector().is_current(current) {
        return Freshness::Valid;
    }
    let missing = current.iter().any(Option::is_none);
    Freshness::Stale(if missing { Miss::GroupMissing } else { Miss::Invalidated })
}

/// The groups that were asked for are some of the entry's, or also others.
fn compare(entry: &Entry, asked: &Groups, current: &[Option<Generation>]) -> Freshness {
    let mut unknown = false;
    for (group, generation) in entry.groups().iter().zip(entry.vector().iter()) {
        match asked.binary_search(group).map(|at| current[at]) {
            Ok(Some(current)) if current == *generation => {}
            Ok(Some(_)) => return Freshness::Stale(Miss::Invalidated),
            Ok(None) => return Freshness::Stale(Miss::GroupMissing),
            Err(_) => unknown = true,
        }
    }
    if unknown { Freshness::Unknown } else { Freshness::Valid }
}
