//! Cases about generations: minted, bumped, looked up.

#![expect(clippy::missing_errors_doc, reason = "the error of every case is the broken promise")]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use groupcache_core::backend::{CurrentGenerations, Found, Generation, GenerationVector, TimeLeft};
use groupcache_core::{Backend, Group, Groups};
use tokio::sync::Barrier;

use crate::kit::{Kit, Violation, entry, key, odd_names, promised};

const HOUR: Duration = Duration::from_secs(3600);

/// Group names and fields of any length and content work and stay distinct.
pub async fn any_group_works<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const PROMISE: &str = "group names and fields of any length and content work and stay distinct";
    let mut groups = Vec::new();
    for name in odd_names() {
        let name = String::from_utf8_lossy(&name).into_owned();
        groups.push(Group::new(&name));
        groups.push(Group::new("g").with(&name, "v"));
        groups.push(Group::new("g").with("f", &name));
    }
    groups.push(Group::new("g").with_null("f"));
    let groups = Groups::from(groups);
    let minted = kit.mint(&groups).await?;
    let distinct: HashSet<_> = minted.vector.iter().collect();
    promised!(
        kit,
        PROMISE,
        distinct.len() == groups.len(),
        "{} generations for {} groups",
        distinct.len(),
        groups.len()
    );
    for (at, group) in groups.iter().enumerate().step_by(7) {
        kit.bump(std::slice::from_ref(group)).await?;
        let current = kit.lookup(&key("k"), std::slice::from_ref(group)).await?.current;
        promised!(
            kit,
            PROMISE,
            current[0] != Some(minted.vector[at]),
            "{group:?} has the same generation after a bump"
        );
    }
    let current = kit.lookup(&key("k"), &groups).await?.current;
    for (at, group) in groups.iter().enumerate().filter(|(at, _)| at % 7 != 0) {
        promised!(
            kit,
            PROMISE,
            current[at] == Some(minted.vector[at]),
            "the generation of {group:?} changed from {:?} to {:?} while others were minted and bumped; is the store \
             too small for {} groups?",
            minted.vector[at],
            current[at],
            groups.len()
        );
    }
    Ok(())
}

/// A lookup returns generations in the order of the groups.
pub async fn generations_are_returned_in_order<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let groups: Vec<_> = (0..40).map(|id| Group::new("g").with("id", id)).collect();
    let minted = kit.mint(&groups[..30]).await?;
    let known = |at: usize| minted.vector.get(at).copied();
    let orders: [Vec<usize>; 3] =
        [(0..40).collect(), (0..40).rev().collect(), (0..40).map(|at| at * 7 % 40).collect()];
    for order in orders {
        let requested: Vec<_> = order.iter().map(|at| groups[*at].clone()).collect();
        let current = kit.lookup(&key("k"), &requested).await?.current;
        let expected: CurrentGenerations = order.iter().map(|at| known(*at)).collect();
        promised!(
            kit,
            "a lookup returns the generation of each group, in order",
            current == expected,
            "{current:?} instead of {expected:?}"
        );
    }
    Ok(())
}

/// A mint gives a generation to a group that has none, and keeps an existing one.
pub async fn a_mint_keeps_existing_generations<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let group = [Group::new("g")];
    let first = kit.mint(&group).await?;
    for _ in 0..3 {
        let again = kit.mint(&group).await?;
        let current = kit.lookup(&key("k"), &group).await?.current;
        promised!(
            kit,
            "a mint gives a generation only to groups that have none",
            again.vector == first.vector && current.equals(&first.vector),
            "minted {:?}, then {:?}, and {current:?} is current",
            first.vector,
            again.vector
        );
    }
    let none = kit.mint(&[]).await?;
    promised!(
        kit,
        "a mint of no groups returns an empty vector",
        none.vector.is_empty(),
        "{:?}",
        none.vector
    );
    Ok(())
}

/// A mint returns existing and fresh generations in the order of its groups.
pub async fn a_mint_returns_generations_in_order<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let groups: Vec<_> = (0..20).map(|id| Group::new("g").with("id", id)).collect();
    let some: Vec<_> = groups.iter().step_by(3).cloned().collect();
    let known = kit.mint(&some).await?;
    let reversed: Vec<_> = groups.iter().rev().cloned().collect();
    let minted = kit.mint(&reversed).await?;
    let current = kit.lookup(&key("k"), &reversed).await?.current;
    promised!(
        kit,
        "a mint returns the generation of each group, in order",
        current.equals(&minted.vector),
        "{:?}, but {current:?} are current",
        minted.vector
    );
    let kept = some.iter().zip(known.vector.iter()).all(|(group, generation)| {
        reversed.iter().position(|other| other == group).is_some_and(|at| minted.vector[at] == *generation)
    });
    promised!(kit, "a mint keeps existing generations", kept, "it replaced some");
    Ok(())
}

/// Of several concurrent mints of a group one wins, and all return its generation.
pub async fn concurrent_mints_of_a_group_have_one_winner<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const MINTERS: usize = 8;
    for round in 0..20 {
        let groups: Arc<[Group]> =
            (0..3).map(|id| Group::new("race").with("round", round).with("id", id)).collect();
        let start = Arc::new(Barrier::new(MINTERS));
        let mut minters = tokio::task::JoinSet::new();
        for _ in 0..MINTERS {
            let (backend, groups, start) =
                (Arc::clone(&kit.backend), Arc::clone(&groups), Arc::clone(&start));
            minters.spawn(async move {
                start.wait().await;
                backend.mint(&groups).await
            });
        }
        // Keeps the guards: a group without one may be dropped and get another generation.
        let mut minted = Vec::new();
        while let Some(one) = minters.join_next().await {
            let one = one.map_err(|error| kit.violation("a mint does not panic", error.to_string()))?;
            minted.push(kit.answered("mint", one)?);
        }
        let current = kit.lookup(&key("k"), &groups).await?.current;
        let same = minted.iter().all(|one| current.equals(&one.vector));
        promised!(
            kit,
            "of several concurrent mints of a group one wins, and all return its generation",
            same,
            "{:?}, but {current:?} are current",
            minted.iter().map(|one| &one.vector).collect::<Vec<_>>()
        );
    }
    Ok(())
}

/// A bump replaces the generation of each of its groups with a fresh one, or removes it.
pub async fn a_bump_replaces_the_generation_of_every_group_it_names<B: Backend>(
    kit: &Kit<B>,
) -> Result<(), Violation> {
    let groups: Vec<_> = (0..50).map(|id| Group::new("g").with("id", id)).collect();
    for round in 0..3 {
        let minted = kit.mint(&groups).await?;
        kit.bump(&groups).await?;
        let current = kit.lookup(&key("k"), &groups).await?.current;
        for (at, group) in groups.iter().enumerate() {
            promised!(
                kit,
                "a bump replaces the generation of each of its groups, or removes it",
                current[at] != Some(minted.vector[at]),
                "{group:?} has the same generation after bump {}",
                round + 1
            );
        }
    }
    kit.bump(&[]).await
}

/// A bump changes no group that it does not name.
pub async fn a_bump_leaves_other_groups_alone<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let book = |id: u32| Group::new("book").with("id", id);
    let others = [
        Group::new("book"),
        book(50),
        Group::new("Book").with("id", 5),
        Group::new("book").with("ID", 5),
        Group::new("book").with("id", 5).with("shelf", 1),
        Group::new("book").with_null("id"),
        Group::new("boo").with("kid", 5),
    ];
    let minted = kit.mint(&others).await?;
    let guarded = kit.mint(&[book(5)]).await?;
    kit.bump(&[book(5)]).await?;
    let current = kit.lookup(&key("k"), &others).await?.current;
    drop(guarded);
    for (at, other) in others.iter().enumerate() {
        promised!(
            kit,
            "a bump changes no group that it does not name",
            current[at] == Some(minted.vector[at]),
            "{other:?} changed with a bump of {:?}",
            book(5)
        );
    }
    Ok(())
}

/// A bump of a group that has no generation stores nothing.
pub async fn a_bump_creates_no_generation<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let groups: Vec<_> = (0..10).map(|id| Group::new("never cached").with("id", id)).collect();
    kit.bump(&groups).await?;
    let current = kit.lookup(&key("k"), &groups).await?.current;
    promised!(
        kit,
        "a bump gives no generation to a group that has none",
        current.iter().all(Option::is_none),
        "{current:?}"
    );
    Ok(())
}

/// Once a bump has returned, no lookup that starts later returns a generation from before it, while
/// other bumps, mints and lookups are in flight.
pub async fn a_bump_is_seen_by_every_later_lookup<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let group = Group::new("race");
    let mut bumpers = tokio::task::JoinSet::new();
    for bumper in 0..4 {
        let (backend, groups) = (Arc::clone(&kit.backend), [group.clone()]);
        bumpers.spawn(async move {
            for round in 0..100 {
                let before = if (bumper + round) % 2 == 0 {
                    backend.mint(&groups).await?.vector.first().copied()
                } else {
                    backend.lookup(&key("k"), &groups, TimeLeft::NotNeeded).await?.current[0]
                };
                backend.bump(&groups).await?;
                let after = backend.lookup(&key("k"), &groups, TimeLeft::NotNeeded).await?.current[0];
                if before.is_some() && before == after {
                    return Ok(before);
                }
            }
            Ok(None)
        });
    }
    while let Some(outcome) = bumpers.join_next().await {
        let outcome = outcome.map_err(|error| kit.violation("a bump does not panic", error.to_string()))?;
        if let Some(generation) = kit.answered("bump", outcome)? {
            return Err(kit.violation(
                "once a bump has returned, no lookup that starts later returns a generation from before it",
                format!("{generation:?} was current before a bump and after it"),
            ));
        }
    }
    Ok(())
}

/// Each write to a group's generation installs one that was never current before.
pub async fn a_generation_never_comes_back<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let groups = [Group::new("g")];
    let mut seen: HashSet<Generation> = HashSet::new();
    for round in 0..200 {
        // In every second round no guard keeps the group, so the store may drop it in between.
        let minted = kit.mint(&groups).await?;
        let guard = (round % 2 == 0).then_some(minted.guard);
        promised!(
            kit,
            "each write to a group's generation installs one that was never current before",
            seen.insert(minted.vector[0]),
            "{:?} returned after {} writes",
            minted.vector[0],
            seen.len()
        );
        kit.bump(&groups).await?;
        let current = kit.lookup(&key("k"), &groups).await?;
        if let Some(generation) = current.current[0] {
            promised!(
                kit,
                "each write to a group's generation installs one that was never current before",
                seen.insert(generation),
                "{generation:?} returned after {} writes",
                seen.len()
            );
        }
        drop(guard);
        kit.bump(&groups).await?;
    }
    Ok(())
}

/// An entry loaded under generations from before a bump is stale even if it is stored after the bump.
pub async fn a_bump_between_lookup_and_store_makes_the_stored_entry_stale<B: Backend>(
    kit: &Kit<B>,
) -> Result<(), Violation> {
    let (key, groups) = (key("k"), Groups::from([Group::new("a"), Group::new("b")]));
    for bumped in 0..2 {
        let _guarded = kit.mint(&groups).await?;
        let lookup = kit.lookup(&key, &groups).await?;
        let Some(vector) = lookup.current.complete() else {
            return Err(kit.violation("a minted generation is current", format!("{:?}", lookup.current)));
        };
        kit.bump(&groups[bumped..=bumped]).await?;
        kit.store(&entry(&key, &groups, &vector, "loaded before the bump"), Some(HOUR)).await?;
        let lookup = kit.lookup(&key, &groups).await?;
        let valid = matches!(&lookup.found, Found::Entry(entry, _) if lookup.current.equals(entry.vector()));
        promised!(
            kit,
            "a bump between lookup and store makes the stored entry stale",
            !valid,
            "it is valid after a bump of {:?}",
            groups[bumped]
        );
    }
    Ok(())
}

/// An entry whose generations the store does not have is not valid, whatever is minted later.
pub async fn an_entry_stored_under_lost_generations_is_never_valid<B: Backend>(
    kit: &Kit<B>,
) -> Result<(), Violation> {
    let (key, groups) = (key("k"), Groups::from([Group::new("a"), Group::new("b")]));
    let vector: GenerationVector = [Generation::random(), Generation::random()].into_iter().collect();
    let orphan = entry(&key, &groups, &vector, "orphan");
    for minted in [&groups[..0], &groups[..1], &groups[..]] {
        kit.store(&orphan, Some(HOUR)).await?;
        let _guarded = kit.mint(minted).await?;
        let lookup = kit.lookup(&key, &groups).await?;
        promised!(
            kit,
            "a missing generation is reported missing, not taken from an entry",
            !lookup.current.equals(&vector),
            "storing an entry made its generations current"
        );
    }
    Ok(())
}
