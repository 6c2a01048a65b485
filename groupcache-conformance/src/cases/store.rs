//! Cases about the store as a whole: lookups, key prefixes, connections, dropped operations, a cache.

#![expect(clippy::missing_errors_doc, reason = "the error of every case is the broken promise")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use groupcache_core::backend::{Found, GenerationVector, TimeLeft};
use groupcache_core::{Backend, Cache, Group, Groups};

use crate::history::HistoryRecorder;
use crate::kit::{Kit, Violation, entry, key, promised};

const HOUR: Duration = Duration::from_secs(3600);

/// Under a fresh key prefix there is no entry, and no group has a generation.
pub async fn a_new_store_is_empty<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
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
        "a lookup without groups returns no generations",
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

/// `lookup_many` returns one lookup for each request, in order, hits and misses alike.
pub async fn lookup_many_returns_lookups_in_order<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const PROMISE: &str = "`lookup_many` returns one lookup for each request, in order";
    let groups: Vec<_> = (0..5).map(|id| Group::new("g").with("id", id)).collect();
    let minted = kit.mint(&groups).await?;
    let mut requests = Vec::new();
    for at in 0..60_usize {
        let key = key(&at.to_string());
        let own: Groups = groups[..at % 5].into();
        if at % 3 != 0 {
            let vector = minted.vector[..at % 5].iter().copied().collect();
            kit.store(&entry(&key, &own, &vector, at.to_string()), Some(HOUR)).await?;
        }
        requests.push((key, own));
    }
    requests.push(requests[7].clone());
    let answers = kit.answered("lookup_many", kit.backend.lookup_many(&requests).await)?;
    promised!(
        kit,
        PROMISE,
        answers.len() == requests.len(),
        "{} lookups for {} requests",
        answers.len(),
        requests.len()
    );
    for (at, ((key, own), answer)) in requests.iter().zip(&answers).enumerate() {
        let right = match &answer.found {
            Found::Absent => at % 3 == 0 && at < 60,
            Found::Entry(entry, _) => entry.key() == key,
            Found::Undecodable => false,
        };
        promised!(kit, PROMISE, right, "for {key:?}: {:?}", answer.found);
        let expected: GenerationVector = minted.vector[..own.len()].iter().copied().collect();
        promised!(
            kit,
            PROMISE,
            answer.current.equals(&expected),
            "for {key:?} and {} groups: {:?}",
            own.len(),
            answer.current
        );
    }
    let none = kit.answered("lookup_many", kit.backend.lookup_many(&[]).await)?;
    promised!(kit, PROMISE, none.is_empty(), "{} lookups for no request", none.len());
    Ok(())
}

/// Different key prefixes share no entries and no generations.
pub async fn key_prefixes_are_isolated<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const PROMISE: &str = "different key prefixes share no entries and no generations";
    let (key, groups) = (key("k"), Groups::from(Group::new("g")));
    let here = kit.mint(&groups).await?;
    kit.store(&entry(&key, &groups, &here.vector, "here"), Some(HOUR)).await?;
    let lookup = kit.lookup_of(&kit.other_prefix, &key, &groups).await?;
    promised!(kit, PROMISE, matches!(lookup.found, Found::Absent), "{:?}", lookup.found);
    promised!(kit, PROMISE, lookup.current[0].is_none(), "{:?}", lookup.current);
    let there = kit.mint_in(&kit.other_prefix, &groups).await?;
    promised!(kit, PROMISE, there.vector != here.vector, "both have the same generation");
    kit.answered("bump", kit.other_prefix.bump(&groups).await)?;
    kit.answered("delete", kit.other_prefix.delete(&key).await)?;
    let lookup = kit.lookup(&key, &groups).await?;
    promised!(
        kit,
        PROMISE,
        matches!(lookup.found, Found::Entry(..)),
        "a delete under the other prefix removed it"
    );
    promised!(
        kit,
        PROMISE,
        lookup.current.equals(&here.vector),
        "a bump under the other prefix changed a generation"
    );
    Ok(())
}

/// Connections under one key prefix see the same entries and generations, without delay.
pub async fn connections_see_each_others_writes<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const PROMISE: &str = "a lookup on one connection sees the earlier writes of another";
    let Some(second) = kit.second_connection() else { return Ok(()) };
    let (key, groups) = (key("k"), Groups::from([Group::new("a"), Group::new("b")]));
    for _ in 0..20 {
        let minted = kit.mint(&groups).await?;
        let same = kit.mint_in(second, &groups).await?;
        promised!(kit, PROMISE, minted.vector == same.vector, "one group has two generations");
        kit.store(&entry(&key, &groups, &minted.vector, "v"), Some(HOUR)).await?;
        let lookup = kit.lookup_of(second, &key, &groups).await?;
        promised!(kit, PROMISE, matches!(lookup.found, Found::Entry(..)), "{:?}", lookup.found);
        promised!(kit, PROMISE, lookup.current.equals(&minted.vector), "{:?}", lookup.current);
        kit.answered("bump", second.bump(&groups[1..]).await)?;
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

/// A future that is dropped before it is ready may have had its effect. Later operations work.
pub async fn a_dropped_operation_disturbs_no_later_one<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const PROMISE: &str = "a dropped operation does not disturb later ones";
    let (key, groups) = (key("k"), Groups::from([Group::new("a"), Group::new("b")]));
    for round in 0..20 {
        let minted = kit.mint(&groups).await?;
        let entry = entry(&key, &groups, &minted.vector, round.to_string());
        // Polls each once. An operation that is not ready by then is cancelled half-way.
        drop(kit.backend.bump(&groups).now_or_never());
        drop(kit.backend.mint(&groups).now_or_never());
        drop(kit.backend.store(&entry, Some(HOUR)).now_or_never());
        drop(kit.backend.lookup(&key, &groups, TimeLeft::NotNeeded).now_or_never());
        drop(kit.backend.delete(&key).now_or_never());
        kit.bump(&groups).await?;
        let lookup = kit.lookup(&key, &groups).await?;
        let old = lookup.current.iter().zip(minted.vector.iter()).any(|(now, old)| *now == Some(*old));
        promised!(kit, PROMISE, !old, "{:?} after a bump of {:?}", lookup.current, minted.vector);
        let fresh = kit.mint(&groups).await?;
        let lookup = kit.lookup(&key, &groups).await?;
        promised!(
            kit,
            PROMISE,
            lookup.current.equals(&fresh.vector),
            "{:?} right after {:?} were minted",
            lookup.current,
            fresh.vector
        );
    }
    Ok(())
}

/// Readers and writers of one cache run at once. No read returns a value whose load began before an
/// invalidation that was acknowledged before the read, and an untouched entry is a hit.
pub async fn a_cache_serves_nothing_stale<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
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
                    // A write that fails promises nothing, so the history leaves it out.
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
            "no read returns a value loaded before an invalidation that was acknowledged before the read",
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
            "two reads in a row loaded key {key} {} times",
            cache.stats().loads - loads
        );
    }
    Ok(())
}
