//! Laws of key strategies and invalidators.
//!
//! Each function checks one law for the calls or rows that a test passes in. Pass many, for example from a
//! property test.
//!
//! ```
//! use groupcache_conformance::laws;
//! use groupcache_core::{ByArguments, NamedCall};
//!
//! # fn main() -> Result<(), groupcache_conformance::Violation> {
//! let calls = [NamedCall::new("feed").with("page", 1), NamedCall::new("feed").with("page", 2)];
//! let strategy = ByArguments::all();
//! laws::deterministic(&strategy, &calls, Clone::clone)?;
//! laws::injective(&strategy, &calls)
//! # }
//! ```

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Debug;

use groupcache_core::{
    Backend, BoxInvalidator, Cache, Error, ErrorKind, Group, Groups, Invalidator, Key, KeyStrategy, Model,
    RecordingInvalidator, Result, groups_of,
};

use crate::kit::Violation;

/// Checks that equal calls have equal keys and groups. `again` makes an equal call.
///
/// # Errors
///
/// Returns the call whose key or groups differ from those of the equal call.
pub fn deterministic<C: Debug>(
    strategy: &impl KeyStrategy<C>,
    calls: &[C],
    again: impl Fn(&C) -> C,
) -> Result<(), Violation> {
    for call in calls {
        let (one, other) = (strategy.address(call).ok(), strategy.address(&again(call)).ok());
        if one != other {
            return Err(broken(
                "equal calls have equal keys and groups",
                format!("{call:?}: {one:?} and {other:?}"),
            ));
        }
    }
    Ok(())
}

/// Checks that calls whose values may differ have different keys. No two of `calls` may be equal.
///
/// Ignores calls without a key, as they are not cached.
///
/// # Errors
///
/// Returns two calls with the same key.
pub fn injective<C: Debug>(strategy: &impl KeyStrategy<C>, calls: &[C]) -> Result<(), Violation> {
    let mut known: HashMap<Key, &C> = HashMap::new();
    for call in calls {
        let Ok(key) = strategy.key(call) else { continue };
        if let Some(other) = known.insert(key, call) {
            return Err(broken(
                "calls whose values may differ have different keys",
                format!("{call:?} and {other:?} have the same key"),
            ));
        }
    }
    Ok(())
}

/// Checks that the encoding of the key of `call` is `golden`, so that it is the same in every release.
///
/// # Errors
///
/// Returns the encoding that the key has now.
pub fn stable<C: Debug>(strategy: &impl KeyStrategy<C>, call: &C, golden: &[u8]) -> Result<(), Violation> {
    let key = strategy.key(call).map_err(|error| broken("a call has a key", error.to_string()))?;
    if key.as_bytes() == golden {
        return Ok(());
    }
    Err(broken("a key is the same in every release", format!("{call:?}: {key:?}")))
}

/// Checks that a change of `row` invalidates every group that `call` depends on. `call` shows `row`.
///
/// # Errors
///
/// Returns the group that no change of the row invalidates, or the error of the strategy or the model.
pub fn consistent<C: Debug, M: Model>(
    strategy: &impl KeyStrategy<C>,
    call: &C,
    row: &M,
) -> Result<(), Violation> {
    const PROMISE: &str = "a change of a row invalidates every group of the calls that show it";
    let failed = |error: Error| broken(PROMISE, format!("{call:?}: {error}"));
    let read = strategy.groups(call).map_err(failed)?;
    let invalidated = groups_of(row).map_err(failed)?;
    match read.iter().find(|group| !invalidated.contains(group)) {
        None => Ok(()),
        Some(group) => {
            Err(broken(PROMISE, format!("{call:?} depends on {group:?}, but its row is in {invalidated:?}")))
        }
    }
}

/// Checks that `cache` serves no value that `invalidator` has acknowledged to invalidate.
///
/// # Errors
///
/// Returns that the cache served the old value, or that the invalidator failed.
pub async fn acknowledged_means_effective<B: Backend>(
    invalidator: &impl Invalidator,
    cache: &Cache<B>,
) -> Result<(), Violation> {
    const PROMISE: &str = "after `Ok`, every read that starts later returns a value loaded later";
    let groups = Groups::from(Group::new("law of acknowledgement"));
    let read = |value: u32| {
        let groups = groups.clone();
        async move {
            let load = || async move { Ok::<_, Infallible>(value) };
            match cache.get_or_load("law of acknowledgement", groups, load).await {
                Ok(value) => value,
                Err(impossible) => match impossible {},
            }
        }
    };
    for round in 1..=3 {
        read(round).await;
        invalidator.invalidate(&groups).await.map_err(|error| broken(PROMISE, error.to_string()))?;
        let now = read(round + 1).await;
        if now != round + 1 {
            return Err(broken(PROMISE, format!("the cache serves value {now} in round {round}")));
        }
        invalidator.invalidate(&groups).await.map_err(|error| broken(PROMISE, error.to_string()))?;
    }
    Ok(())
}

/// Checks that an invalidator made of two notifies both, even if one fails, and fails if one does.
///
/// # Errors
///
/// Returns the side that was not notified, or the outcome that hides a failure.
pub async fn both_sides_are_notified<I: Invalidator>(
    make: impl Fn(BoxInvalidator, BoxInvalidator) -> I,
) -> Result<(), Violation> {
    let groups = Groups::from(Group::new("law of both sides"));
    for failing in [None, Some(0), Some(1)] {
        let recorders = [RecordingInvalidator::default(), RecordingInvalidator::default()];
        let side = |at: usize| {
            let recorder = recorders[at].clone();
            if failing == Some(at) {
                BoxInvalidator::new(Failing(recorder))
            } else {
                BoxInvalidator::new(recorder)
            }
        };
        let outcome = make(side(0), side(1)).invalidate(&groups).await;
        if outcome.is_err() != failing.is_some() {
            return Err(broken(
                "an invalidation is an error exactly if it failed on one side",
                format!("{outcome:?}, failing side: {failing:?}"),
            ));
        }
        for (at, recorder) in recorders.iter().enumerate() {
            if recorder.recorded() != [groups.clone()] {
                return Err(broken(
                    "both sides are notified, even if one fails",
                    format!("side {at} was notified of {:?}, failing side: {failing:?}", recorder.recorded()),
                ));
            }
        }
    }
    Ok(())
}

/// Checks that a change which is rolled back invalidates nothing.
///
/// `change` gets an invalidator, changes something and rolls it back.
///
/// # Errors
///
/// Returns the groups that were invalidated.
pub async fn nothing_after_a_rollback(
    change: impl AsyncFnOnce(RecordingInvalidator),
) -> Result<(), Violation> {
    let recorder = RecordingInvalidator::default();
    change(recorder.clone()).await;
    let recorded = recorder.recorded();
    if recorded.is_empty() {
        return Ok(());
    }
    Err(broken("nothing is invalidated after a rollback", format!("{recorded:?}")))
}

/// Checks that a row which moves to other groups invalidates the old and the new ones.
///
/// `change` gets an invalidator and changes `old` to `new`.
///
/// # Errors
///
/// Returns a group that was not invalidated, or the error of the model.
pub async fn old_and_new_groups_of_a_moved_row<M: Model + Sync>(
    old: &M,
    new: &M,
    change: impl AsyncFnOnce(RecordingInvalidator),
) -> Result<(), Violation> {
    const PROMISE: &str = "the groups of the old and of the new row are invalidated";
    let failed = |error: Error| broken(PROMISE, error.to_string());
    let expected = groups_of(old).map_err(failed)?.union(&groups_of(new).map_err(failed)?);
    let recorder = RecordingInvalidator::default();
    change(recorder.clone()).await;
    let recorded: Groups =
        recorder.recorded().iter().flat_map(|groups| groups.iter().cloned().collect::<Vec<_>>()).collect();
    match expected.iter().find(|group| !recorded.contains(group)) {
        None => Ok(()),
        Some(group) => Err(broken(PROMISE, format!("{group:?} was not invalidated, only {recorded:?}"))),
    }
}

/// Records the invalidation, and fails.
struct Failing(RecordingInvalidator);

impl Invalidator for Failing {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        self.0.invalidate(groups).await?;
        Err(Error::new(ErrorKind::Unavailable, "failing"))
    }
}

fn broken(promise: &'static str, found: String) -> Violation {
    Violation::new("laws", promise, found)
}
