//! The cases on entries: what comes back, for how long.

// As of the other cases: each breaks off with the promise that is broken.
#![expect(clippy::missing_errors_doc, reason = "see above")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::kit::{Kit, Violation, entry, key, odd_names, plain, promised};
use groupcache_core::Backend;
use groupcache_core::Entry;
use groupcache_core::ErrorKind;
use groupcache_core::Key;
use groupcache_core::backend::{CurrentGenerations, Found, TimeLeft};
use groupcache_core::{Clock, SystemClock};
use groupcache_core::{Group, Groups};

const HOUR: Duration = Duration::from_secs(3600);
const THIRTY_DAYS: Duration = Duration::from_secs(30 * 86_400);

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
            kit.backend.lookup_now(key, &mut |view| {
                let current: CurrentGenerations = view.current.iter().copied().collect();
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
    // Each lives from some moment between the two on.
    let stored = tokio::time::Instant::now();
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
        kit.outlive(time.saturating_sub(stored.elapsed())).await;
        let found = kit.find(&key(&format!("{time:?}"))).await?;
        promised!(
            kit,
            "an entry is absent once its time to live is over",
            found.is_none(),
            "{found:?} after {:?}, stored for {time:?}",
            stored.elapsed()
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
