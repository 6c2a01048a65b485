//! What any key strategy and any invalidator has to obey.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Debug;

use super::kit::Violation;
use groupcache_core::Backend;
use groupcache_core::BoxInvalidator;
use groupcache_core::Cache;
use groupcache_core::Key;
use groupcache_core::KeyStrategy;
use groupcache_core::{Error, ErrorKind, Result};
use groupcache_core::{Group, Groups};
use groupcache_core::{Invalidator, RecordingInvalidator};
use groupcache_core::{Model, groups_of};

/// Equal calls have equal keys and groups: `again` makes each of `calls` anew.
///
/// # Errors
///
/// The call whose key or groups differ from those of its twin.
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

/// Calls whose values may differ have different keys: no two of `calls`, all of which differ, have
/// the same. Calls without a key are not cached, and have none in common.
///
/// # Errors
///
/// Two calls with one key.
pub fn injective<C: Debug>(strategy: &impl KeyStrategy<C>, calls: &[C]) -> Result<(), Violation> {
    let mut known: HashMap<Key, &C> = HashMap::new();
    for call in calls {
        let Ok(key) = strategy.key(call) else { continue };
        if let Some(other) = known.insert(key, call) {
            return Err(broken(
                "calls whose values may differ have different keys",
                format!("{call:?} and {other:?} have the same"),
            ));
        }
    }
    Ok(())
}

/// A key does not change from release to release: the encoding of `call`'s key is `golden`.
///
/// # Errors
///
/// The encoding it has now.
pub fn stable<C: Debug>(strategy: &impl KeyStrategy<C>, call: &C, golden: &[u8]) -> Result<(), Violation> {
    let key = strategy.key(call).map_err(|error| broken("a call has a key", error.to_string()))?;
    if key.as_bytes() == golden {
        return Ok(());
    }
    Err(broken("a key is the same in every release", format!("{call:?}: {key:?}")))
}

/// The groups named when `call` is read are among those invalidated when `row`, which it shows,
/// changes.
///
/// # Errors
///
/// The group that nobody would invalidate, or that the call or the row has none.
pub fn consistent<C: Debug, M: Model>(
    strategy: &impl KeyStrategy<C>,
    call: &C,
    row: &M,
) -> Result<(), Violation> {
    const PROMISE: &str = "the groups named at read are those that are invalidated when the value changes";
    let failed = |error: Error| broken(PROMISE, format!("{call:?}: {error}"));
    let read = strategy.groups(call).map_err(failed)?;
    let invalidated = groups_of(row).map_err(failed)?;
    match read.iter().find(|group| !invalidated.contains(group)) {
        None => Ok(()),
        Some(group) => {
            Err(broken(PROMISE, format!("{call:?} depends on {group:?}, and its row is in {invalidated:?}")))
        }
    }
}

/// `Ok` means effective: what `invalidator` acknowledges, `cache` does not serve any more.
///
/// # Errors
///
/// That it acknowledged and the old value is served, or that it did not acknowledge.
pub async fn acknowledged_means_effective<B: Backend>(
    invalidator: &impl Invalidator,
    cache: &Cache<B>,
) -> Result<(), Violation> {
    const PROMISE: &str = "`Ok` means that every read that starts afterwards sees values computed later";
    let groups = Groups::from(Group::new("law of acknowledgement"));
    let read = |value: u32| {
        let groups = groups.clone();
        async move {
            let compute = || async move { Ok::<_, Infallible>(value) };
            match cache.get_or_load("law of acknowledgement", groups, compute).await {
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
            return Err(broken(PROMISE, format!("a value of {now} rounds ago is served")));
        }
        invalidator.invalidate(&groups).await.map_err(|error| broken(PROMISE, error.to_string()))?;
    }
    Ok(())
}

/// An invalidator made of two tells both, even if one fails, and fails if one does.
///
/// # Errors
///
/// Which of it does not hold.
pub async fn both_sides_are_told<I: Invalidator>(
    make: impl Fn(BoxInvalidator, BoxInvalidator) -> I,
) -> Result<(), Violation> {
    let groups = Groups::from(Group::new("law of both sides"));
    for failing in [None, Some(0), Some(1)] {
        let told = [RecordingInvalidator::default(), RecordingInvalidator::default()];
        let side = |at: usize| {
            let told = told[at].clone();
            if failing == Some(at) { BoxInvalidator::new(Failing(told)) } else { BoxInvalidator::new(told) }
        };
        let outcome = make(side(0), side(1)).invalidate(&groups).await;
        if outcome.is_err() != failing.is_some() {
            return Err(broken(
                "an invalidation that failed on one side is an error, and one that did not is none",
                format!("{outcome:?}, failing side: {failing:?}"),
            ));
        }
        for (at, told) in told.iter().enumerate() {
            if told.recorded() != [groups.clone()] {
                return Err(broken(
                    "both sides are told, even if one fails",
                    format!("side {at} was told {:?}, failing side: {failing:?}", told.recorded()),
                ));
            }
        }
    }
    Ok(())
}

/// What is rolled back tells nobody: `change` gets an invalidator, changes something, and rolls it
/// back.
///
/// # Errors
///
/// What was told.
pub async fn nothing_after_a_rollback(
    change: impl AsyncFnOnce(RecordingInvalidator),
) -> Result<(), Violation> {
    let told = RecordingInvalidator::default();
    change(told.clone()).await;
    let recorded = told.recorded();
    if recorded.is_empty() {
        return Ok(());
    }
    Err(broken("nothing is invalidated after a rollback", format!("{recorded:?}")))
}

/// A row that moves from one group to another concerns both: `change` gets an invalidator and moves
/// `old` to `new`.
///
/// # Errors
///
/// A group of either that was not told, or that the rows have none.
pub async fn old_and_new_groups_of_a_moved_row<M: Model + Sync>(
    old: &M,
    new: &M,
    change: impl AsyncFnOnce(RecordingInvalidator),
) -> Result<(), Violation> {
    const PROMISE: &str = "the groups of the old and of the new row are invalidated";
    let failed = |error: Error| broken(PROMISE, error.to_string());
    let expected = groups_of(old).map_err(failed)?.union(&groups_of(new).map_err(failed)?);
    let told = RecordingInvalidator::default();
    change(told.clone()).await;
    let recorded: Groups =
        told.recorded().iter().flat_map(|groups| groups.iter().cloned().collect::<Vec<_>>()).collect();
    match expected.iter().find(|group| !recorded.contains(group)) {
        None => Ok(()),
        Some(group) => Err(broken(PROMISE, format!("{group:?} was not; {recorded:?} were"))),
    }
}

/// Remembers what it was told, and says that it failed.
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
