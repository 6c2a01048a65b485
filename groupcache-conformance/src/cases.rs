//! The cases: one for each promise of [`Backend`]. Each returns the promise that is broken.

// Every case breaks off with the promise that is broken; saying so for each would say nothing.
#![expect(clippy::missing_errors_doc, reason = "see above")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

pub use super::entries::{
    a_delete_removes_one_entry_and_nothing_else, a_glance_shows_what_a_lookup_finds,
    a_time_to_live_of_zero_is_over_at_once, an_entry_comes_back_as_it_was_stored,
    an_entry_expires_when_its_time_to_live_is_over, any_body_comes_back, any_key_works,
    long_times_to_live_are_not_cut, overwriting_replaces_the_entry_and_its_expiry,
    the_time_left_is_told_where_it_is_needed,
};
pub use super::generations::{
    a_bump_between_lookup_and_store_makes_the_stored_entry_stale,
    a_bump_is_seen_by_every_lookup_that_starts_after_it, a_bump_leaves_groups_without_a_generation_without,
    a_bump_leaves_other_groups_alone, a_bump_replaces_the_generation_of_every_group_it_names,
    a_generation_never_comes_back, a_mint_answers_in_the_order_of_its_groups,
    a_mint_keeps_the_generation_that_is_there, an_entry_stored_under_lost_generations_is_never_valid,
    any_group_works, concurrent_mints_of_a_group_have_one_winner,
    generations_are_told_in_the_order_of_the_groups,
};
use super::history::HistoryRecorder;
use super::kit::{Kit, Violation, entry, key, promised};
pub use super::leases::{
    a_lease_completes_the_vector, a_lease_ends, a_lease_has_one_holder,
    a_lease_on_a_vector_that_did_not_come_out_is_nobodys, a_long_lease_lasts, leases_never_meet,
};
use groupcache_core::Backend;
use groupcache_core::Cache;
use groupcache_core::backend::GenerationVector;
use groupcache_core::backend::{Found, TimeLeft};
use groupcache_core::{Group, Groups};

const HOUR: Duration = Duration::from_secs(3600);

/// Nothing is found in a new name space, and no group has a generation.
pub async fn an_empty_store_has_nothing<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let groups = [Group::new("a"), Group::new("b")];
    let lookup = kit.lookup(&key("k"), &groups).await?;
    promised!(
        kit,
        "an entry that was never stored is absent",
        matches!(lookup.found, Found::Absent),
        "{:?}",
        lookup.found
    );
    promised!(
        kit,
        "a group that was never minted has no generation",
        lookup.current.iter().all(Option::is_none),
        "{:?}",
        lookup.current
    );
    promised!(
        kit,
        "a lookup without groups tells of none",
        kit.lookup(&key("k"), &[]).await?.current.is_empty(),
        "some"
    );
    Ok(())
}

/// A lookup gives no group a generation.
pub async fn a_lookup_changes_nothing<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let group = [Group::new("g")];
    for _ in 0..3 {
        let current = kit.lookup(&key("k"), &group).await?.current;
        promised!(kit, "only a mint gives a group a generation", current[0].is_none(), "{current:?}");
    }
    let minted = kit.mint(&group).await?;
    for _ in 0..3 {
        let current = kit.lookup(&key("k"), &group).await?.current;
        promised!(
            kit,
            "a generation stays current until it is replaced",
            current.equals(&minted.vector),
            "{current:?} instead of {:?}",
            minted.vector
        );
    }
    Ok(())
}

/// Several lookups are answered in order, one for each, whatever is there.
pub async fn a_batch_is_answered_in_the_order_of_its_questions<B: Backend>(
    kit: &Kit<B>,
) -> Result<(), Violation> {
    const PROMISE: &str = "several lookups are answered in order";
    let groups: Vec<_> = (0..5).map(|id| Group::new("g").with("id", id)).collect();
    let minted = kit.mint(&groups).await?;
    let mut questions = Vec::new();
    for at in 0..60_usize {
        let key = key(&at.to_string());
        let own: Groups = groups[..at % 5].into();
        if at % 3 != 0 {
            let vector = minted.vector[..at % 5].iter().copied().collect();
            kit.store(&entry(&key, &own, &vector, at.to_string()), Some(HOUR)).await?;
        }
        questions.push((key, own));
    }
    questions.push(questions[7].clone());
    let answers = kit.answered("lookup_many", kit.backend.lookup_many(&questions).await)?;
    promised!(
        kit,
        PROMISE,
        answers.len() == questions.len(),
        "{} answers to {} questions",
        answers.len(),
        questions.len()
    );
    for (at, ((key, own), answer)) in questions.iter().zip(&answers).enumerate() {
        let right = match &answer.found {
            Found::Absent => at % 3 == 0 && at < 60,
            Found::Entry(entry, _) => entry.key() == key,
            Found::Undecodable => false,
        };
        promised!(kit, PROMISE, right, "to the question for {key:?}: {:?}", answer.found);
        let expected: GenerationVector = minted.vector[..own.len()].iter().copied().collect();
        promised!(
            kit,
            PROMISE,
            answer.current.equals(&expected),
            "to the question for {key:?} and {} groups: {:?}",
            own.len(),
            answer.current
        );
    }
    let none = kit.answered("lookup_many", kit.backend.lookup_many(&[]).await)?;
    promised!(kit, PROMISE, none.is_empty(), "{} answers to no question", none.len());
    Ok(())
}

/// Entries and generations of different name spaces never meet.
pub async fn name_spaces_never_meet<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const PROMISE: &str = "entries and generations of different name spaces never meet";
    let (key, groups) = (key("k"), Groups::from(Group::new("g")));
    let here = kit.mint(&groups).await?;
    kit.store(&entry(&key, &groups, &here.vector, "here"), Some(HOUR)).await?;
    let lookup = kit.lookup_of(&kit.elsewhere, &key, &groups).await?;
    promised!(kit, PROMISE, matches!(lookup.found, Found::Absent), "{:?}", lookup.found);
    promised!(kit, PROMISE, lookup.current[0].is_none(), "{:?}", lookup.current);
    let there = kit.mint_in(&kit.elsewhere, &groups).await?;
    promised!(kit, PROMISE, there.vector != here.vector, "one generation in both");
    kit.answered("bump", kit.elsewhere.bump(&groups).await)?;
    kit.answered("delete", kit.elsewhere.delete(&key).await)?;
    let lookup = kit.lookup(&key, &groups).await?;
    promised!(kit, PROMISE, matches!(lookup.found, Found::Entry(..)), "a delete elsewhere removed it");
    promised!(kit, PROMISE, lookup.current.equals(&here.vector), "a bump elsewhere changed a generation");
    Ok(())
}

/// Connections to the same name space see the same entries and generations, at once.
pub async fn connections_to_one_store_see_the_same<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const PROMISE: &str = "what one connection wrote is what the next lookup of another returns";
    let Some(again) = &kit.again else { return Ok(()) };
    let (key, groups) = (key("k"), Groups::from([Group::new("a"), Group::new("b")]));
    for _ in 0..20 {
        let minted = kit.mint(&groups).await?;
        let same = kit.mint_in(again, &groups).await?;
        promised!(kit, PROMISE, minted.vector == same.vector, "two generations of one group");
        kit.store(&entry(&key, &groups, &minted.vector, "v"), Some(HOUR)).await?;
        let lookup = kit.lookup_of(again, &key, &groups).await?;
        promised!(kit, PROMISE, matches!(lookup.found, Found::Entry(..)), "{:?}", lookup.found);
        promised!(kit, PROMISE, lookup.current.equals(&minted.vector), "{:?}", lookup.current);
        kit.answered("bump", again.bump(&groups[1..]).await)?;
        let lookup = kit.lookup(&key, &groups).await?;
        promised!(
            kit,
            "once a bump has returned, no lookup in any process returns a generation from before it",
            lookup.current[1] != Some(minted.vector[1]),
            "{:?} after a bump by another connection",
            lookup.current
        );
    }
    Ok(())
}

/// A future that is dropped before it is ready may have had its effect; everything works after it.
pub async fn a_dropped_operation_leaves_nothing_broken<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let (key, groups) = (key("k"), Groups::from([Group::new("a"), Group::new("b")]));
    for round in 0..20 {
        let minted = kit.mint(&groups).await?;
        let entry = entry(&key, &groups, &minted.vector, round.to_string());
        // Polled once and dropped: what is not ready then was given up on the way.
        drop(kit.backend.bump(&groups).now_or_never());
        drop(kit.backend.mint(&groups).now_or_never());
        drop(kit.backend.store(&entry, Some(HOUR)).now_or_never());
        drop(kit.backend.lookup(&key, &groups, TimeLeft::NotNeeded).now_or_never());
        drop(kit.backend.delete(&key).now_or_never());
        kit.bump(&groups).await?;
        let lookup = kit.lookup(&key, &groups).await?;
        let old = lookup.current.iter().zip(minted.vector.iter()).any(|(now, old)| *now == Some(*old));
        promised!(
            kit,
            "a dropped operation leaves nothing broken",
            !old,
            "{:?} after a bump of {:?}",
            lookup.current,
            minted.vector
        );
        let fresh = kit.mint(&groups).await?;
        let lookup = kit.lookup(&key, &groups).await?;
        promised!(
            kit,
            "a dropped operation leaves nothing broken",
            lookup.current.equals(&fresh.vector),
            "{:?} right after {:?} were minted",
            lookup.current,
            fresh.vector
        );
    }
    Ok(())
}

/// Readers and writers of one cache on it, all at once: no read returns what was computed before an
/// invalidation that was acknowledged before the read, and what nobody touches stays.
pub async fn a_cache_on_it_serves_nothing_stale<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const KEYS: u64 = 3;
    let cache = Cache::builder(Arc::clone(&kit.backend)).build();
    let history = HistoryRecorder::new(0);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..6_u64 {
        let (cache, history) = (cache.clone(), history.clone());
        tasks.spawn(async move {
            for round in 0..100 {
                let key = (task + round) % KEYS;
                if task < 2 && round % 5 == 0 {
                    // A failure is recorded as one; it promises nothing.
                    drop(history.write(&cache, key).await);
                } else {
                    history.read(&cache, key).await;
                }
                tokio::task::yield_now().await;
            }
        });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome.map_err(|error| kit.violation("a cache does not panic", error.to_string()))?;
    }
    if let Err(stale) = history.check() {
        return Err(kit.violation(
            "no read returns what was computed before an invalidation acknowledged before the read",
            stale.to_string(),
        ));
    }
    for key in 0..KEYS {
        let loads = cache.stats().loads;
        history.read(&cache, key).await;
        history.read(&cache, key).await;
        promised!(
            kit,
            "an entry whose groups are untouched is a hit",
            cache.stats().loads <= loads + 1,
            "key {key} was computed {} times by two reads in a row",
            cache.stats().loads - loads
        );
    }
    Ok(())
}
