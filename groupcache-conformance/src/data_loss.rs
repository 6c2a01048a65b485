//! Checks of stores that a test can make lose data.

use std::time::Duration;

use bytes::Bytes;
use groupcache_core::backend::{Found, TimeLeft};
use groupcache_core::{Backend, Error, Group, Groups, Result};

use crate::kit::{Violation, entry, key};

const HOUR: Duration = Duration::from_secs(3600);

/// Checks that a lost generation is reported missing, never returns, and revives no entry.
///
/// `lose` makes the store lose the generation of a group.
///
/// ```
/// # use groupcache_conformance::doubles::PlainBackend;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), groupcache_conformance::Violation> {
/// let backend = PlainBackend::new();
/// groupcache_conformance::lost_generation(&backend, async |group| backend.lose_group(group)).await
/// # }
/// ```
///
/// # Errors
///
/// Returns the broken promise.
pub async fn lost_generation<B: Backend>(backend: &B, lose: impl AsyncFn(&Group)) -> Result<(), Violation> {
    const CASE: &str = "lost_generation";
    let failed = |error| store_failed(CASE, &error);
    let group = Group::new("lost");
    let groups = Groups::from(group.clone());
    let key = key("lost");
    let mut seen = Vec::new();
    for _ in 0..3 {
        let minted = backend.mint(&groups).await.map_err(failed)?;
        let fresh = minted.vector[0];
        if seen.contains(&fresh) {
            return Err(Violation::new(
                CASE,
                "each write to a group's generation installs one that was never current before",
                format!("{fresh:?} returned after the group was lost"),
            ));
        }
        seen.push(fresh);
        let entry = entry(&key, &groups, &minted.vector, Bytes::from_static(b"value"));
        backend.store(&entry, Some(HOUR)).await.map_err(failed)?;
        drop(minted);
        lose(&group).await;
        let lookup = backend.lookup(&key, &groups, TimeLeft::NotNeeded).await.map_err(failed)?;
        if let Some(generation) = lookup.current[0] {
            return Err(Violation::new(
                CASE,
                "a generation that the store lost is reported missing, not replaced by a guess",
                format!("a lookup returns {generation:?}"),
            ));
        }
    }
    Ok(())
}

/// Checks that a store which returns to older contents revives no entry that was invalidated meanwhile.
///
/// `save` takes a snapshot of the store, and `restore` makes the store return to it.
///
/// ```
/// # use groupcache_conformance::{doubles::PlainBackend, rollback};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), groupcache_conformance::Violation> {
/// let backend = PlainBackend::new();
/// let save = async || backend.snapshot();
/// rollback(&backend, save, async |snapshot| backend.restore(snapshot)).await
/// # }
/// ```
///
/// # Errors
///
/// Returns the broken promise.
pub async fn rollback<B: Backend, S>(
    backend: &B,
    save: impl AsyncFnOnce() -> S,
    restore: impl AsyncFnOnce(S),
) -> Result<(), Violation> {
    const CASE: &str = "rollback";
    let failed = |error| store_failed(CASE, &error);
    let groups = Groups::from(Group::new("rolled back"));
    let key = key("rolled back");
    let minted = backend.mint(&groups).await.map_err(failed)?;
    let old = entry(&key, &groups, &minted.vector, Bytes::from_static(b"old"));
    backend.store(&old, Some(HOUR)).await.map_err(failed)?;
    let snapshot = save().await;
    backend.bump(&groups).await.map_err(failed)?;
    restore(snapshot).await;
    let lookup = backend.lookup(&key, &groups, TimeLeft::NotNeeded).await.map_err(failed)?;
    match lookup.found {
        Found::Entry(entry, _) if lookup.current.equals(entry.vector()) => Err(Violation::new(
            CASE,
            "after the store returns to older contents, no generation from before is current",
            "an entry that was invalidated before the restore is valid after it",
        )),
        _ => Ok(()),
    }
}

fn store_failed(case: &'static str, error: &Error) -> Violation {
    Violation::new(case, "a healthy store returns no error", error.to_string())
}
