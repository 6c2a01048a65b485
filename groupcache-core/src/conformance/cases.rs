//! The cases: one for each promise of [`Backend`]. Each returns the promise that is broken.

// Every case breaks off with the promise that is broken; saying so for each would say nothing.
#![expect(clippy::missing_errors_doc, reason = "see above")]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::Barrier;

use super::history::HistoryRecorder;
use super::kit::{Kit, Violation, entry, key, plain, promised};
pub use super::leases::{
    a_lease_completes_the_vector, a_lease_ends, a_lease_has_one_holder,
    a_lease_on_a_vector_that_did_not_come_out_is_nobodys, a_long_lease_lasts, leases_never_meet,
};
use crate::backend::{Backend, Current, Found, TimeLeft};
use crate::cache::Cache;
use crate::clock::{Clock, SystemClock};
use crate::entry::{Entry, Generation, Vector};
use crate::error::ErrorKind;
use crate::group::{Group, Groups};
use crate::key::Key;

const HOUR: Duration = Duration::from_secs(3600);
const THIRTY_DAYS: Duration = Duration::from_secs(30 * 86_400);

/// Names that have led stores astray: empty, long, with every kind of separator, alike but for case
/// or white space.
fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        "",
        " ",
        "  ",
        "a",
        "A",
        "a ",
        " a",
        "a\n",
        "a\r\n",
        "a\0",
        "\0",
        "a b",
        "a\tb",
        "a:b",
        "a{b}",
        "{a}b",
        "a*",
        "a?",
        "[a]",
        "a/b",
        "a\\b",
        "a%20b",
        "a%b",
        "a=b",
        "a,b",
        "\"a\"",
        "'a'",
        "ä",
        "a\u{308}",
        "\u{7f}",
        "\u{1f4da}",
        "\u{feff}a",
        "a\u{200b}",
        "null",
        "None",
        "0",
        "-1",
    ]
    .iter()
    .map(|name| name.as_bytes().to_vec())
    .collect();
    for length in [127, 128, 249, 250, 251, 1024, 65_536] {
        names.push(vec![b'x'; length]);
    }
    // Differ in their last byte only, beyond what some stores look at.
    for last in [b'1', b'2'] {
        let mut name = vec![b'y'; 4096];
        name.push(last);
        names.push(name);
    }
    names
}

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

/// Key, groups, generations, body and grace of an entry are what was stored.
pub async fn an_entry_comes_back_as_it_was_stored<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const PROMISE: &str = "an entry comes back as it was stored";
    for grace in [Duration::ZERO, Duration::from_millis(1), THIRTY_DAYS] {
        let groups =
            Groups::from([Group::new("a"), Group::new("b").with("id", 5), Group::new("c").with_null("x")]);
        let minted = kit.mint(&groups).await?;
        let key = key("k");
        let body = Bytes::from_static(b"\0body\xff");
        let stored = Arc::new(Entry::new(key.clone(), groups.clone(), minted.vector.clone(), body, grace));
        kit.store(&stored, Some(HOUR)).await?;
        let lookup = kit.lookup(&key, &groups).await?;
        let Found::Entry(found, _) = &lookup.found else {
            return Err(kit.violation(PROMISE, format!("{:?}", lookup.found)));
        };
        promised!(kit, PROMISE, found.key() == stored.key(), "the key {:?}", found.key());
        promised!(kit, PROMISE, found.groups() == stored.groups(), "the groups {:?}", found.groups());
        promised!(kit, PROMISE, found.vector() == stored.vector(), "the generations {:?}", found.vector());
        promised!(kit, PROMISE, found.body() == stored.body(), "the body {:?}", found.body());
        promised!(kit, PROMISE, found.grace() == stored.grace(), "the grace {:?}", found.grace());
        promised!(
            kit,
            "an entry whose groups are untouched stays valid",
            lookup.current.equals(stored.vector()),
            "generations {:?} of an entry computed under {:?}",
            lookup.current,
            stored.vector()
        );
    }
    Ok(())
}

/// Keys of any length and any content work and are told apart.
pub async fn any_key_works<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let mut names = odd_names();
    names.push(vec![0xff, 0xfe]);
    names.push((0..=255).collect());
    let keys: Vec<_> = names.iter().map(|name| Key::from_encoded(name)).collect();
    for (at, key) in keys.iter().enumerate() {
        kit.store(&plain(key, at.to_string()), Some(HOUR)).await?;
    }
    for (at, key) in keys.iter().enumerate() {
        let found = kit.find(key).await?;
        promised!(
            kit,
            "keys of any length and any content work and are told apart",
            found.as_ref().is_some_and(|found| found.key() == key && *found.body() == at.to_string()),
            "under a key of {} bytes, {:?}: {found:?}",
            names[at].len(),
            Bytes::copy_from_slice(&names[at][..names[at].len().min(20)])
        );
    }
    Ok(())
}

/// Group names and fields of any length and any content work and are told apart.
pub async fn any_group_works<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const PROMISE: &str = "group names and fields of any length and any content work and are told apart";
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
        promised!(kit, PROMISE, current[0] != Some(minted.vector[at]), "{group:?} is as before its bump");
    }
    let current = kit.lookup(&key("k"), &groups).await?.current;
    for (at, group) in groups.iter().enumerate().filter(|(at, _)| at % 7 != 0) {
        promised!(
            kit,
            PROMISE,
            current[at] == Some(minted.vector[at]),
            "the generation of {group:?} changed with that of another"
        );
    }
    Ok(())
}

/// Bodies of any length and any content come back. One that is too large is refused, or not kept.
pub async fn any_body_comes_back<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let largest = kit.expectations.largest_body_bytes;
    let ramp = |length: usize| Bytes::from_iter((0..length).map(|at| at.to_le_bytes()[at % 2]));
    let mut bodies = vec![Bytes::new(), Bytes::from_static(b"\0"), Bytes::from_static(b"\r\nEND\r\n")];
    bodies.extend([255, 256, 4096, 65_536, 1 << 20, (1 << 20) + 1, largest, largest + 1].map(ramp));
    for (at, body) in bodies.into_iter().enumerate() {
        let key = key(&at.to_string());
        let must_be_kept = body.len() <= largest;
        match kit.backend.store(&plain(&key, body.clone()), Some(HOUR)).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Capacity && !must_be_kept => {}
            Err(error) => kit.answered("store", Err(error))?,
        }
        match kit.find(&key).await? {
            None if !must_be_kept => {}
            None => {
                let found = format!("nothing under a body of {} bytes", body.len());
                return Err(kit.violation("an entry that is not too large is kept", found));
            }
            Some(found) => promised!(
                kit,
                "bodies of any length and any content come back",
                *found.body() == body,
                "{} bytes of {}, or others",
                found.body().len(),
                body.len()
            ),
        }
    }
    Ok(())
}

/// The generations of a lookup are in the order of the groups that were asked for.
pub async fn generations_are_told_in_the_order_of_the_groups<B: Backend>(
    kit: &Kit<B>,
) -> Result<(), Violation> {
    let groups: Vec<_> = (0..40).map(|id| Group::new("g").with("id", id)).collect();
    let minted = kit.mint(&groups[..30]).await?;
    let known = |at: usize| minted.vector.get(at).copied();
    let orders: [Vec<usize>; 3] =
        [(0..40).collect(), (0..40).rev().collect(), (0..40).map(|at| at * 7 % 40).collect()];
    for order in orders {
        let asked: Vec<_> = order.iter().map(|at| groups[*at].clone()).collect();
        let current = kit.lookup(&key("k"), &asked).await?.current;
        let expected: Current = order.iter().map(|at| known(*at)).collect();
        promised!(
            kit,
            "a lookup tells the generation of each of the groups, in order",
            current == expected,
            "{current:?} instead of {expected:?}"
        );
    }
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
        let expected: Vector = minted.vector[..own.len()].iter().copied().collect();
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

/// The time left is told where it is asked for and there is a time to live.
pub async fn the_time_left_is_told_where_it_is_needed<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const PROMISE: &str = "the time left is told where it is needed";
    let key = key("k");
    let slack = kit.expectations.resolution;
    for time in [HOUR, THIRTY_DAYS] {
        let before = SystemClock.now();
        kit.store(&plain(&key, "v"), Some(time)).await?;
        let lookup = kit.answered("lookup", kit.backend.lookup(&key, &[], TimeLeft::Needed).await)?;
        let after = SystemClock.now();
        let Found::Entry(_, Some(expires_at)) = lookup.found else {
            return Err(kit.violation(PROMISE, format!("{:?} of an entry that lives {time:?}", lookup.found)));
        };
        promised!(
            kit,
            PROMISE,
            expires_at + slack >= before + time && expires_at <= after + time + slack,
            "{:?} left of {time:?}",
            expires_at.saturating_duration_since(after)
        );
    }
    Ok(())
}

/// What a glance shows is what a lookup finds, once; nothing where there is no entry.
pub async fn a_glance_shows_what_a_lookup_finds<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const PROMISE: &str = "a glance shows the entry and the generations that a lookup finds, at most once";
    let groups: Vec<_> = (0..2).map(|id| Group::new("g").with("id", id)).collect();
    let minted = kit.mint(&groups).await?;
    let (there, absent) = (key("there"), key("absent"));
    let own: Groups = groups[..].into();
    kit.store(&entry(&there, &own, &minted.vector, "v"), Some(HOUR)).await?;
    // Fresh, then stale by one of its groups.
    for bumped in [&groups[..0], &groups[..1]] {
        kit.bump(bumped).await?;
        for key in [&there, &absent] {
            let mut shown = Vec::new();
            kit.backend.glance(key, &mut |view| {
                let current: Current = view.current.iter().copied().collect();
                shown.push((Arc::clone(view.entry), current));
            });
            promised!(kit, PROMISE, shown.len() <= 1, "{} entries under {key:?}", shown.len());
            let Some((entry, current)) = shown.pop() else { continue };
            let lookup = kit.lookup(key, entry.groups()).await?;
            let same = matches!(&lookup.found, Found::Entry(found, _) if found.body() == entry.body());
            promised!(kit, PROMISE, same, "{entry:?}, and the lookup {:?}", lookup.found);
            let equal = current == lookup.current;
            promised!(kit, PROMISE, equal, "{current:?}, and the lookup {:?}", lookup.current);
        }
    }
    Ok(())
}

/// A mint gives a generation to a group that has none, and leaves the one that is there.
pub async fn a_mint_keeps_the_generation_that_is_there<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
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
    promised!(kit, "a mint of nothing returns nothing", none.vector.is_empty(), "{:?}", none.vector);
    Ok(())
}

/// The generations of a mint are in the order of its groups, those that were there and fresh ones.
pub async fn a_mint_answers_in_the_order_of_its_groups<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let groups: Vec<_> = (0..20).map(|id| Group::new("g").with("id", id)).collect();
    let some: Vec<_> = groups.iter().step_by(3).cloned().collect();
    let known = kit.mint(&some).await?;
    let reversed: Vec<_> = groups.iter().rev().cloned().collect();
    let minted = kit.mint(&reversed).await?;
    let current = kit.lookup(&key("k"), &reversed).await?.current;
    promised!(
        kit,
        "a mint returns the generation of each of the groups, in order",
        current.equals(&minted.vector),
        "{:?}, and {current:?} are current",
        minted.vector
    );
    let kept = some.iter().zip(known.vector.iter()).all(|(group, generation)| {
        reversed.iter().position(|other| other == group).is_some_and(|at| minted.vector[at] == *generation)
    });
    promised!(kit, "a mint keeps the generations that are there", kept, "others than before");
    Ok(())
}

/// Of several concurrent mints of a group one wins, and all return the winner's.
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
        // The holds are kept: what nobody uses may disappear and come back as something else.
        let mut minted = Vec::new();
        while let Some(one) = minters.join_next().await {
            let one = one.map_err(|error| kit.violation("a mint does not panic", error.to_string()))?;
            minted.push(kit.answered("mint", one)?);
        }
        let current = kit.lookup(&key("k"), &groups).await?.current;
        let same = minted.iter().all(|one| current.equals(&one.vector));
        promised!(
            kit,
            "of several concurrent mints of a group one wins, and all return the winner's generation",
            same,
            "{:?}, and {current:?} are current",
            minted.iter().map(|one| &one.vector).collect::<Vec<_>>()
        );
    }
    Ok(())
}

/// A bump replaces the generation of each of its groups by a fresh one, or removes it.
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
                "{group:?} has the same generation after bump {} of it",
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
    let held = kit.mint(&[book(5)]).await?;
    kit.bump(&[book(5)]).await?;
    let current = kit.lookup(&key("k"), &others).await?.current;
    drop(held);
    for (at, other) in others.iter().enumerate() {
        promised!(
            kit,
            "a bump changes no group that it does not name",
            current[at] == Some(minted.vector[at]),
            "{other:?} changed when {:?} was bumped",
            book(5)
        );
    }
    Ok(())
}

/// A bump of a group that has no generation leaves nothing behind.
pub async fn a_bump_leaves_groups_without_a_generation_without<B: Backend>(
    kit: &Kit<B>,
) -> Result<(), Violation> {
    let groups: Vec<_> = (0..10).map(|id| Group::new("never cached").with("id", id)).collect();
    kit.bump(&groups).await?;
    let current = kit.lookup(&key("k"), &groups).await?.current;
    promised!(
        kit,
        "a bump leaves groups without a generation without one",
        current.iter().all(Option::is_none),
        "{current:?}"
    );
    Ok(())
}

/// Once a bump has returned, no lookup that starts later returns a generation from before it, with
/// other bumps, mints and lookups under way.
pub async fn a_bump_is_seen_by_every_lookup_that_starts_after_it<B: Backend>(
    kit: &Kit<B>,
) -> Result<(), Violation> {
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

/// Each write to a generation installs one that was never current for that group before.
pub async fn a_generation_never_comes_back<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let groups = [Group::new("g")];
    let mut seen: HashSet<Generation> = HashSet::new();
    for round in 0..200 {
        // Every second time nothing holds the group, so that it may disappear in between.
        let minted = kit.mint(&groups).await?;
        let held = (round % 2 == 0).then_some(minted.hold);
        promised!(
            kit,
            "each write to a group's generation installs one that was never current before",
            seen.insert(minted.vector[0]),
            "{:?} is back after {} writes",
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
                "{generation:?} is back after {} writes",
                seen.len()
            );
        }
        drop(held);
        kit.bump(&groups).await?;
    }
    Ok(())
}

/// An entry that was computed under generations from before a bump is stale however it is stored.
pub async fn a_bump_between_lookup_and_store_makes_the_stored_entry_stale<B: Backend>(
    kit: &Kit<B>,
) -> Result<(), Violation> {
    let (key, groups) = (key("k"), Groups::from([Group::new("a"), Group::new("b")]));
    for bumped in 0..2 {
        let _held = kit.mint(&groups).await?;
        let lookup = kit.lookup(&key, &groups).await?;
        let Some(vector) = lookup.current.complete() else {
            return Err(kit.violation("a minted generation is current", format!("{:?}", lookup.current)));
        };
        kit.bump(&groups[bumped..=bumped]).await?;
        kit.store(&entry(&key, &groups, &vector, "computed before"), Some(HOUR)).await?;
        let lookup = kit.lookup(&key, &groups).await?;
        let valid = matches!(&lookup.found, Found::Entry(entry, _) if lookup.current.equals(entry.vector()));
        promised!(
            kit,
            "a bump between lookup and store makes the stored entry stale",
            !valid,
            "it is valid after {:?} was bumped",
            groups[bumped]
        );
    }
    Ok(())
}

/// An entry under a generation that is not current, and never will be, is not valid.
pub async fn an_entry_stored_under_lost_generations_is_never_valid<B: Backend>(
    kit: &Kit<B>,
) -> Result<(), Violation> {
    let (key, groups) = (key("k"), Groups::from([Group::new("a"), Group::new("b")]));
    let vector: Vector = [Generation::random(), Generation::random()].into_iter().collect();
    let orphan = entry(&key, &groups, &vector, "orphan");
    for minted in [&groups[..0], &groups[..1], &groups[..]] {
        kit.store(&orphan, Some(HOUR)).await?;
        let _held = kit.mint(minted).await?;
        let lookup = kit.lookup(&key, &groups).await?;
        promised!(
            kit,
            "a generation that is not there is missing, not taken from an entry",
            !lookup.current.equals(&vector),
            "the generations of an entry became current by storing it"
        );
    }
    Ok(())
}

/// Storing replaces the entry that is there, and its expiry.
pub async fn overwriting_replaces_the_entry_and_its_expiry<B: Backend>(
    kit: &Kit<B>,
) -> Result<(), Violation> {
    const PROMISE: &str = "storing replaces what is there and its expiry";
    let short = kit.expectations.resolution.max(Duration::from_millis(20)) * 2;
    let [longer, unlimited, shorter, limited] = ["longer", "unlimited", "shorter", "limited"].map(key);
    for (key, first, second) in [
        (&longer, Some(short), Some(HOUR)),
        (&unlimited, Some(short), None),
        (&shorter, Some(HOUR), Some(short)),
        (&limited, None, Some(short)),
    ] {
        kit.store(&plain(key, "first"), first).await?;
        kit.store(&plain(key, "second"), second).await?;
    }
    kit.outlive(short).await;
    for key in [&longer, &unlimited] {
        let found = kit.find(key).await?;
        let second = found.as_ref().is_some_and(|found| found.body() == "second");
        promised!(kit, PROMISE, second, "{found:?} under {key:?} once the first time to live is over");
    }
    for key in [&shorter, &limited] {
        let found = kit.find(key).await?;
        promised!(
            kit,
            PROMISE,
            found.is_none(),
            "{found:?} under {key:?} once the second time to live is over"
        );
    }
    Ok(())
}

/// An entry is there until its time to live is over, and absent afterwards.
pub async fn an_entry_expires_when_its_time_to_live_is_over<B: Backend>(
    kit: &Kit<B>,
) -> Result<(), Violation> {
    let resolution = kit.expectations.resolution;
    let lives = [1, 300, 500].map(Duration::from_millis);
    let began = tokio::time::Instant::now();
    for time in lives {
        kit.store(&plain(&key(&format!("{time:?}")), "v"), Some(time)).await?;
    }
    for time in lives {
        let found = kit.find(&key(&format!("{time:?}"))).await?;
        // A machine under load may have taken longer than the entry lives.
        let early = began.elapsed() + resolution < time;
        promised!(
            kit,
            "an entry does not expire before its time to live is over",
            !early || found.is_some(),
            "nothing {:?} after an entry of {time:?} was stored",
            began.elapsed()
        );
    }
    for time in lives {
        kit.outlive(time.saturating_sub(began.elapsed())).await;
        let found = kit.find(&key(&format!("{time:?}"))).await?;
        promised!(
            kit,
            "an entry is absent once its time to live is over",
            found.is_none(),
            "{found:?} after {:?}, stored for {time:?}",
            began.elapsed()
        );
    }
    Ok(())
}

/// An entry with a time to live of zero is absent at once, and so is what it replaced.
pub async fn a_time_to_live_of_zero_is_over_at_once<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let key = key("k");
    for before in [None, Some(HOUR)] {
        if before.is_some() {
            kit.store(&plain(&key, "before"), before).await?;
        }
        kit.store(&plain(&key, "v"), Some(Duration::ZERO)).await?;
        let found = kit.find(&key).await?;
        promised!(
            kit,
            "an entry with a time to live of zero is absent at once",
            found.is_none(),
            "{found:?}"
        );
    }
    Ok(())
}

/// Times to live of 30 days and more, and none at all, keep an entry for now.
pub async fn long_times_to_live_are_not_cut<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let second = Duration::from_secs(1);
    let lives = [
        Some(THIRTY_DAYS),
        Some(THIRTY_DAYS + second),
        Some(12 * THIRTY_DAYS),
        Some(Duration::from_secs(u32::MAX.into())),
        Some(Duration::MAX),
        None,
    ];
    for time in lives {
        kit.store(&plain(&key(&format!("{time:?}")), "v"), time).await?;
    }
    kit.outlive(Duration::ZERO).await;
    for time in lives {
        let found = kit.find(&key(&format!("{time:?}"))).await?;
        promised!(kit, "a long time to live is not cut", found.is_some(), "nothing, stored for {time:?}");
    }
    Ok(())
}

/// A delete removes the entry under its key, no other, and no generation.
pub async fn a_delete_removes_one_entry_and_nothing_else<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let groups = Groups::from(Group::new("g"));
    let minted = kit.mint(&groups).await?;
    let (one, other) = (key("one"), key("other"));
    for key in [&one, &other] {
        kit.store(&entry(key, &groups, &minted.vector, "v"), Some(HOUR)).await?;
    }
    for _ in 0..2 {
        kit.answered("delete of an entry, or of none", kit.backend.delete(&one).await)?;
        let found = kit.find(&one).await?;
        promised!(kit, "a delete removes the entry", found.is_none(), "{found:?}");
    }
    let lookup = kit.lookup(&other, &groups).await?;
    promised!(
        kit,
        "a delete removes no other entry",
        matches!(lookup.found, Found::Entry(..)),
        "{:?}",
        lookup.found
    );
    promised!(
        kit,
        "a delete changes no generation",
        lookup.current.equals(&minted.vector),
        "{:?} instead of {:?}",
        lookup.current,
        minted.vector
    );
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
