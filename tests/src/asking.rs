//! Short words for asking a backend.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groupcache_core::backend::{Found, GenerationVector, Lookup, TimeLeft};
use groupcache_core::{Backend, Entry, Group, Groups, Key};
use tokio::time::sleep;

/// So many milliseconds.
#[must_use]
pub const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The key of this name.
#[must_use]
pub fn key(name: &(impl ToString + ?Sized)) -> Key {
    Key::of(&name.to_string()).expect("a key")
}

/// Groups `book` with `id` from 0.
#[must_use]
pub fn groups(count: usize) -> Groups {
    (0..count).map(|id| Group::new("book").with("id", id)).collect()
}

/// What the group's generation is called in a shared store, or an entry (`e`) of this hash.
#[must_use]
pub fn stored_name(kind: char, hash: [u8; 32]) -> String {
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("groupcache:{kind}:{hex}")
}

/// An entry that cost nothing to compute.
#[must_use]
pub fn entry(key: Key, groups: &Groups, vector: GenerationVector, body: impl Into<Bytes>) -> Arc<Entry> {
    Arc::new(Entry::new(key, groups.clone(), vector, body.into(), Duration::ZERO))
}

/// Mints the groups and stores an entry under them.
///
/// # Panics
///
/// If the backend does not do so.
pub async fn store(backend: &impl Backend, key: Key, groups: &Groups, time_to_live: Option<Duration>) {
    let vector = backend.mint(groups).await.expect("mints").vector;
    backend.store(&entry(key, groups, vector, "body"), time_to_live).await.expect("stores");
}

/// A lookup.
///
/// # Panics
///
/// If the backend does not answer.
pub async fn look(backend: &impl Backend, key: &Key, groups: &[Group]) -> Lookup {
    backend.lookup(key, groups, TimeLeft::NotNeeded).await.expect("looks up")
}

/// Whether a current entry was found.
#[must_use]
pub fn is_hit(lookup: &Lookup) -> bool {
    matches!(&lookup.found, Found::Entry(entry, _) if lookup.current.equals(entry.vector()))
}

/// Waits until it guards, for some seconds at most.
///
/// # Panics
///
/// If it never does.
pub async fn eventually(what: &str, mut guards: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if guards().await {
            return;
        }
        sleep(millis(10)).await;
    }
    panic!("waited in vain until {what}");
}
