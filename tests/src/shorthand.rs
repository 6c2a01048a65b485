//! Short functions for calls of a backend.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groupcache_core::backend::{Found, GenerationVector, Lookup, TimeLeft};
use groupcache_core::{Backend, Entry, Group, Groups, Key};
use tokio::time::sleep;

/// Returns a duration in milliseconds.
#[must_use]
pub const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Returns the key of this name.
#[must_use]
pub fn key(name: &(impl ToString + ?Sized)) -> Key {
    Key::of(&name.to_string()).expect("a key")
}

/// Returns `count` groups `book`, with `id` from 0.
#[must_use]
pub fn groups(count: usize) -> Groups {
    (0..count).map(|id| Group::new("book").with("id", id)).collect()
}

/// Returns the name of a generation (`g`) or an entry (`e`) with this hash in a shared store.
#[must_use]
pub fn stored_name(kind: char, hash: [u8; 32]) -> String {
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("groupcache:{kind}:{hex}")
}

/// Makes an entry without a grace period.
#[must_use]
pub fn entry(key: Key, groups: &Groups, vector: GenerationVector, body: impl Into<Bytes>) -> Arc<Entry> {
    Arc::new(Entry::new(key, groups.clone(), vector, body.into(), Duration::ZERO))
}

/// Mints the groups and stores an entry under them.
///
/// # Panics
///
/// Panics if the backend fails.
pub async fn store(backend: &impl Backend, key: Key, groups: &Groups, time_to_live: Option<Duration>) {
    let vector = backend.mint(groups).await.expect("mints").vector;
    backend.store(&entry(key, groups, vector, "body"), time_to_live).await.expect("stores");
}

/// Looks up an entry and generations.
///
/// # Panics
///
/// Panics if the backend fails.
pub async fn look(backend: &impl Backend, key: &Key, groups: &[Group]) -> Lookup {
    backend.lookup(key, groups, TimeLeft::NotNeeded).await.expect("looks up")
}

/// Returns whether the lookup found a valid entry.
#[must_use]
pub fn is_hit(lookup: &Lookup) -> bool {
    matches!(&lookup.found, Found::Entry(entry, _) if lookup.current.equals(entry.vector()))
}

/// Waits until `condition` is true.
///
/// # Panics
///
/// Panics after some seconds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if condition().await {
            return;
        }
        sleep(millis(10)).await;
    }
    panic!("waited in vain until {what}");
}
