//! Cases about entries: what a lookup returns, and for how long.

#![expect(clippy::missing_errors_doc, reason = "the error of every case is the broken promise")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groupcache_core::backend::{CurrentGenerations, Found, TimeLeft};
use groupcache_core::{Backend, Clock, Entry, ErrorKind, Group, Groups, Key, SystemClock};

use crate::kit::{Kit, Violation, entry, key, odd_names, plain, promised};

const HOUR: Duration = Duration::from_secs(3600);
const THIRTY_DAYS: Duration = Duration::from_secs(30 * 86_400);

/// A lookup returns the key, groups, generations, body and grace that were stored.
pub async fn an_entry_is_returned_as_it_was_stored<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const PROMISE: &str = "an entry is returned as it was stored";
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
            "generations {:?} of an entry loaded under {:?}",
            lookup.current,
            stored.vector()
        );
    }
    Ok(())
}

/// Keys of any length and content work and stay distinct.
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
            "keys of any length and content work and stay distinct",
            found.as_ref().is_some_and(|found| found.key() == key && *found.body() == at.to_string()),
            "under a key of {} bytes, {:?}: {found:?}",
            names[at].len(),
            Bytes::copy_from_slice(&names[at][..names[at].len().min(20)])
        );
    }
    Ok(())
}

/// Bodies of any length and content are returned unchanged. One that is too large is refused or not kept.
pub async fn any_body_is_returned_unchanged<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
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
                let found = format!("no entry after a body of {} bytes was stored", body.len());
                return Err(kit.violation("an entry within the size limit is kept", found));
            }
            Some(found) => promised!(
                kit,
                "bodies of any length and content are returned unchanged",
                *found.body() == body,
                "{} bytes for {}, or other bytes",
                found.body().len(),
                body.len()
            ),
        }
    }
    Ok(())
}

/// A lookup returns the time left of an entry that has a time to live, if the caller needs it.
pub async fn a_lookup_returns_the_time_left_where_needed<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const PROMISE: &str = "a lookup returns the time left where it is needed";
    let key = key("k");
    let slack = kit.expectations.resolution;
    for time in [HOUR, THIRTY_DAYS] {
        let before = SystemClock.now();
        kit.store(&plain(&key, "v"), Some(time)).await?;
        let lookup = kit.answered("lookup", kit.backend.lookup(&key, &[], TimeLeft::Needed).await)?;
        let after = SystemClock.now();
        let Found::Entry(_, Some(expires_at)) = lookup.found else {
            return Err(kit.violation(
                PROMISE,
                format!("{:?} of an entry with a time to live of {time:?}", lookup.found),
            ));
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

/// `lookup_now` shows what `lookup` returns, at most once, and nothing where there is no entry.
pub async fn lookup_now_shows_what_lookup_returns<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const PROMISE: &str = "`lookup_now` shows what `lookup` returns, at most once";
    let groups: Vec<_> = (0..2).map(|id| Group::new("g").with("id", id)).collect();
    let minted = kit.mint(&groups).await?;
    let (there, absent) = (key("there"), key("absent"));
    let own: Groups = groups[..].into();
    kit.store(&entry(&there, &own, &minted.vector, "v"), Some(HOUR)).await?;
    // First valid, then stale by one of its groups.
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
            promised!(kit, PROMISE, same, "{entry:?}, but `lookup` returns {:?}", lookup.found);
            let equal = current == lookup.current;
            promised!(kit, PROMISE, equal, "{current:?}, but `lookup` returns {:?}", lookup.current);
        }
    }
    Ok(())
}

/// Storing replaces the previous entry and its expiry.
pub async fn overwriting_replaces_the_entry_and_its_expiry<B: Backend>(
    kit: &Kit<B>,
) -> Result<(), Violation> {
    const PROMISE: &str = "storing replaces the previous entry and its expiry";
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
        promised!(kit, PROMISE, second, "{found:?} under {key:?} after the first time to live");
    }
    for key in [&shorter, &limited] {
        let found = kit.find(key).await?;
        promised!(kit, PROMISE, found.is_none(), "{found:?} under {key:?} after the second time to live");
    }
    Ok(())
}

/// An entry is found until its time to live is over, and absent afterwards.
pub async fn an_entry_expires_when_its_time_to_live_is_over<B: Backend>(
    kit: &Kit<B>,
) -> Result<(), Violation> {
    let resolution = kit.expectations.resolution;
    let lives = [1, 300, 500].map(Duration::from_millis);
    let began = tokio::time::Instant::now();
    for time in lives {
        kit.store(&plain(&key(&format!("{time:?}")), "v"), Some(time)).await?;
    }
    // The time to live of each begins between `began` and `stored`.
    let stored = tokio::time::Instant::now();
    for time in lives {
        let found = kit.find(&key(&format!("{time:?}"))).await?;
        // A busy machine may reach this line only after the entry has expired.
        let early = began.elapsed() + resolution < time;
        promised!(
            kit,
            "an entry does not expire before its time to live is over",
            !early || found.is_some(),
            "nothing {:?} after an entry with a time to live of {time:?} was stored",
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

/// An entry with a time to live of zero is absent at once, and so is the entry it replaced.
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

/// An entry with a time to live of 30 days or more, or with none, is found.
pub async fn long_times_to_live_are_not_shortened<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
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
        promised!(
            kit,
            "a long time to live is not shortened",
            found.is_some(),
            "nothing, stored for {time:?}"
        );
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
        kit.answered("delete", kit.backend.delete(&one).await)?;
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
