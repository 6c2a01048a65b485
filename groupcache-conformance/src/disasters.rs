//! What happens to stores in life, where a test can make it happen.

use std::time::Duration;

use bytes::Bytes;

use super::kit::{Violation, entry, key};
use groupcache_core::Backend;
use groupcache_core::Result;
use groupcache_core::backend::{Found, TimeLeft};
use groupcache_core::{Group, Groups};

/// Shows that a generation which the store loses, as `lose` makes it, is reported missing and
/// never comes back, nor revives the entry that was computed under it.
///
/// # Errors
///
/// The promise that is broken.
pub async fn lost_generation<B: Backend>(backend: &B, lose: impl AsyncFn(&Group)) -> Result<(), Violation> {
    const CASE: &str = "lost_generation";
    let answered =
        |error| Violation::new(CASE, "a store that works answers without an error", format!("{error}"));
    let group = Group::new("lost");
    let groups = Groups::from(group.clone());
    let key = key("lost");
    let mut seen = Vec::new();
    for _ in 0..3 {
        let minted = backend.mint(&groups).await.map_err(answered)?;
        let fresh = minted.vector[0];
        if seen.contains(&fresh) {
            return Err(Violation::new(
                CASE,
                "each write to a group's generation installs one that was never current before",
                format!("{fresh:?} is back after the group was lost"),
            ));
        }
        seen.push(fresh);
        let entry = entry(&key, &groups, &minted.vector, Bytes::from_static(b"value"));
        backend.store(&entry, Some(Duration::from_secs(3600))).await.map_err(answered)?;
        drop(minted);
        lose(&group).await;
        let lookup = backend.lookup(&key, &groups, TimeLeft::NotNeeded).await.map_err(answered)?;
        if let Some(generation) = lookup.current[0] {
            return Err(Violation::new(
                CASE,
                "a generation that the store lost is reported missing, not replaced by a guess",
                format!("it reports {generation:?}"),
            ));
        }
    }
    Ok(())
}

/// Shows that a store which comes back with older contents, as `save` and `restore` make it, does
/// not bring back an entry together with a generation that was replaced meanwhile.
///
/// # Errors
///
/// The promise that is broken.
pub async fn rollback<B: Backend, S>(
    backend: &B,
    save: impl AsyncFnOnce() -> S,
    restore: impl AsyncFnOnce(S),
) -> Result<(), Violation> {
    const CASE: &str = "rollback";
    let answered =
        |error| Violation::new(CASE, "a store that works answers without an error", format!("{error}"));
    let groups = Groups::from(Group::new("rolled back"));
    let key = key("rolled back");
    let minted = backend.mint(&groups).await.map_err(answered)?;
    let old = entry(&key, &groups, &minted.vector, Bytes::from_static(b"old"));
    backend.store(&old, Some(Duration::from_secs(3600))).await.map_err(answered)?;
    let snapshot = save().await;
    backend.bump(&groups).await.map_err(answered)?;
    restore(snapshot).await;
    let lookup = backend.lookup(&key, &groups, TimeLeft::NotNeeded).await.map_err(answered)?;
    match lookup.found {
        Found::Entry(entry, _) if lookup.current.equals(entry.vector()) => Err(Violation::new(
            CASE,
            "a store that can come back with older contents makes generations from before differ from \
             those after",
            "an entry is valid again that was invalidated before the store came back".to_owned(),
        )),
        _ => Ok(()),
    }
}
