//! The trait of backends, and what their authors need.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub(crate) mod boxed;
pub(crate) mod circuit_breaker;
pub(crate) mod lease;
pub(crate) mod lookup;
pub(crate) mod shared_connection;
pub(crate) mod shared_reads;

pub use self::circuit_breaker::{BreakerCall, CircuitBreaker};
pub use self::lease::{LeaseHolder, LeaseName, LeaseOwner, LeaseRequest, Leased};
pub use self::lookup::{CurrentGenerations, EntryView, Found, GenerationGuard, Lookup, Minted, TimeLeft};
pub use self::shared_connection::SharedConnection;
pub use self::shared_reads::{ReadExchange, ReadLimits, SharedReads};
pub use crate::data::entry::{Generation, GenerationVector, SCHEMA};

use crate::data::entry::Entry;
use crate::data::group::{Group, Groups};
use crate::data::key::Key;
use crate::error::{Error, ErrorKind, Result};

/// A store of entries and generations.
///
/// The methods are about entries and generations, not about raw keys, so each backend can use the best means
/// of its store. A backend makes no decisions: [`Cache`](crate::Cache) judges from what
/// [`lookup`](Self::lookup) returns whether an entry is a hit.
///
/// # Behavior
///
/// The safety of the cache rests on these promises. The crate `groupcache-conformance` tests them.
///
/// * **Unique.** Each write to the generation of a group, by [`mint`](Self::mint) or by [`bump`](Self::bump),
///   installs a generation that was never current for that group before, in any incarnation of the store. Use
///   fresh random bits *for each attempt to send the write*, or a counter that outlives every entry.
/// * **Ordered.** After `bump` has returned `Ok`, no `lookup` that starts later, in any process, returns a
///   generation from before the bump.
/// * **Lost means missing.** A generation that the store lost, evicted or expired is reported as missing.
/// * **Incarnations differ.** If a store can come back with older contents, generations from before differ
///   from those after.
/// * **No silent failure.** A write whose effect is unknown is an `Err`. It is not retried with the same
///   generation.
/// * **Any size.** Keys, group names and fields of any length and any content work.
/// * **Isolated.** Backends with different key prefixes, or other configured namespaces, share nothing.
/// * **Cancellation.** A future that is dropped before it is ready may or may not have had its effect, as if
///   its response had been lost.
///
/// Every method costs one round trip for any number of groups. Servers that hold different groups are
/// contacted concurrently.
///
/// # Notes for authors
///
/// * A bounded store may evict entries and generations independently, in any order. An entry without its
///   generation is a miss. Evict the least recently used generation, and count lookups and mints as uses:
///   otherwise popular groups are lost, and their entries with them.
/// * The time limits of the cache cannot interrupt a call that blocks. Keep such calls short, or move them to
///   `spawn_blocking`.
/// * A generation is 128 bits: store `generation.get().to_be_bytes()`, and read it with
///   [`Generation::new`].
/// * A backend in this process takes a [`Clock`](crate::Clock), so that tests can advance the time.
///
/// # Examples
///
/// A complete backend in memory. It is not bounded; a real one evicts entries and forgets unused generations.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::{Arc, Mutex};
/// use std::time::{Duration, Instant};
///
/// use groupcache_core::backend::{Found, Generation, Lookup, Minted, TimeLeft};
/// use groupcache_core::{Backend, Entry, Group, Key, Result};
///
/// #[derive(Default)]
/// struct MapBackend {
///     entries: Mutex<HashMap<Key, (Arc<Entry>, Option<Instant>)>>,
///     generations: Mutex<HashMap<Group, Generation>>,
/// }
///
/// impl Backend for MapBackend {
///     fn name(&self) -> &'static str {
///         "map"
///     }
///
///     async fn lookup(&self, key: &Key, groups: &[Group], _: TimeLeft) -> Result<Lookup> {
///         let found = match self.entries.lock().unwrap().get(key) {
///             Some((_, Some(expires_at))) if *expires_at <= Instant::now() => Found::Absent,
///             Some((entry, expires_at)) => Found::Entry(Arc::clone(entry), *expires_at),
///             None => Found::Absent,
///         };
///         let generations = self.generations.lock().unwrap();
///         let current = groups.iter().map(|group| generations.get(group).copied());
///         Ok(Lookup::new(found, current.collect()))
///     }
///
///     async fn mint(&self, groups: &[Group]) -> Result<Minted> {
///         let mut generations = self.generations.lock().unwrap();
///         let vector = groups.iter().map(|group| {
///             *generations.entry(group.clone()).or_insert_with(Generation::random)
///         });
///         Ok(Minted::new(vector.collect()))
///     }
///
///     async fn bump(&self, groups: &[Group]) -> Result<()> {
///         let mut generations = self.generations.lock().unwrap();
///         for group in groups {
///             if let Some(generation) = generations.get_mut(group) {
///                 *generation = Generation::random();
///             }
///         }
///         Ok(())
///     }
///
///     async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<()> {
///         let expires_at = time_to_live.and_then(|time| Instant::now().checked_add(time));
///         let mut entries = self.entries.lock().unwrap();
///         entries.insert(entry.key().clone(), (Arc::clone(entry), expires_at));
///         Ok(())
///     }
///
///     async fn delete(&self, key: &Key) -> Result<()> {
///         self.entries.lock().unwrap().remove(key);
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let cache = groupcache_core::Cache::builder(MapBackend::default()).build();
/// let load = || async { Ok::<_, groupcache_core::Error>("Emma".to_owned()) };
/// cache.get_or_load("title", Group::new("book"), load).await?;
/// assert_eq!(cache.get("title", Group::new("book")).await, Some("Emma".to_owned()));
/// cache.invalidate(Group::new("book")).await?;
/// assert_eq!(cache.get::<String, _, _>("title", Group::new("book")).await, None);
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a cache backend",
    label = "does not implement `Backend`",
    note = "the backends are `MemoryBackend`, `RedisBackend` and `MemcachedBackend`, each in a crate of its own",
    note = "use `BoxBackend` to choose one at run time; an `Arc` of a backend is a backend"
)]
pub trait Backend: Send + Sync + 'static {
    /// Returns a short name for errors and logs, such as `memory`.
    fn name(&self) -> &'static str;

    /// Returns the entry under `key`, and the current generation of each of `groups` in order, `None` for
    /// those without one. Both are read after this call began.
    ///
    /// The entry may be stale. An expired one is absent. The time when it expires is returned at least if
    /// `time_left` is [`TimeLeft::Needed`] and the entry has a time to live.
    ///
    /// A lookup changes nothing. It costs one round trip.
    ///
    /// # Errors
    ///
    /// Fails if the store did not respond. An entry that cannot be decoded is [`Found::Undecodable`], not an
    /// error.
    fn lookup(
        &self,
        key: &Key,
        groups: &[Group],
        time_left: TimeLeft,
    ) -> impl Future<Output = Result<Lookup>> + Send;

    /// Passes the entry under `key` to `visit`, with the current generation of each of its own groups. Calls
    /// `visit` at most once, and not at all if the entry is absent or expired.
    ///
    /// For backends that store everything in this process, where it saves a hit the cost of a future. `visit`
    /// does not call the backend: it may run under the backend's own lock. The provided method does nothing;
    /// the cache then calls [`lookup`](Self::lookup).
    fn lookup_now(&self, key: &Key, visit: &mut dyn FnMut(EntryView<'_>)) {
        let (_, _) = (key, visit);
    }

    /// Performs several lookups, and returns their results in order.
    ///
    /// The provided method performs them concurrently. Backends that can look up everything in one round trip
    /// override it.
    ///
    /// # Errors
    ///
    /// Fails if one of the lookups fails.
    fn lookup_many(&self, requests: &[(Key, Groups)]) -> impl Future<Output = Result<Vec<Lookup>>> + Send {
        async move {
            let lookups = requests.iter().map(|(key, groups)| self.lookup(key, groups, TimeLeft::NotNeeded));
            futures_util::future::try_join_all(lookups).await
        }
    }

    /// Returns the generation of each of `groups`, in order, and gives a fresh one to those that have none.
    ///
    /// If several callers mint the same group concurrently, all of them get the same generation. In a store
    /// where generations expire, minting extends their lives, so that they outlive an entry stored from now
    /// on.
    ///
    /// Costs one round trip.
    ///
    /// # Errors
    ///
    /// Fails if the store did not acknowledge. Nothing may then be stored under these groups. Generations
    /// minted before the failure do no harm.
    fn mint(&self, groups: &[Group]) -> impl Future<Output = Result<Minted>> + Send;

    /// Mints the groups of `request` that have no generation, as [`mint`](Self::mint) does, and requests the
    /// lease on the load of its entry, in the same round trip.
    ///
    /// At most one owner holds a lease at a time, until it is released or has expired, to the resolution of
    /// the store. A holder that requests its lease again still holds it, and the lease expires no later than
    /// before.
    ///
    /// A lease belongs to a complete vector, which is only known after the mint. The lease is therefore
    /// requested under the vector that results if all proposed generations win. If another process wins one
    /// of the groups, the holder is [`LeaseHolder::Unknown`], and the requested lease expires unused.
    ///
    /// Leases save work; safety does not depend on them, so a store may lose them. The provided method mints
    /// and returns [`LeaseHolder::Ours`], which suits stores of a single process.
    ///
    /// # Errors
    ///
    /// Fails as [`mint`](Self::mint) does.
    fn lease(&self, request: &LeaseRequest<'_>) -> impl Future<Output = Result<Leased>> + Send {
        mint_only(self, request)
    }

    /// Releases a lease if `owner` holds it, and leaves leases of other owners as they are. The provided
    /// method does nothing.
    ///
    /// No reader waits for it, so it may cost more than one round trip.
    ///
    /// # Errors
    ///
    /// Fails if the store did not acknowledge. The lease then expires.
    fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> impl Future<Output = Result<()>> + Send {
        let (_, _) = (lease, owner);
        std::future::ready(Ok(()))
    }

    /// Replaces the generation of each of `groups` that has one by a fresh one, or removes it. Groups without
    /// a generation stay without.
    ///
    /// Costs one round trip.
    ///
    /// # Errors
    ///
    /// Fails if the store did not acknowledge all of it. Some groups may have been bumped. Repeating the call
    /// does no harm.
    fn bump(&self, groups: &[Group]) -> impl Future<Output = Result<()>> + Send;

    /// Stores `entry` under its key, and replaces the previous entry and its expiry.
    ///
    /// The entry expires after `time_to_live`, which is precise to the millisecond, or to the documented
    /// resolution of the store. It is absent at once if `time_to_live` is zero, and never expires if it is
    /// `None`.
    ///
    /// Until then lookups return the entry unchanged, but the store may evict it at any time. It may also not
    /// store it at all, for example because a generation of its vector is no longer current.
    ///
    /// Costs one round trip.
    ///
    /// # Errors
    ///
    /// Fails if the store did not acknowledge, or with [`ErrorKind::Capacity`] if the entry is too large for
    /// it. The cache counts the failure and returns the value to its reader.
    fn store(
        &self,
        entry: &Arc<Entry>,
        time_to_live: Option<Duration>,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Removes the entry under `key`. Succeeds if there is none.
    ///
    /// A load in flight may store the entry again. To make an entry stale, invalidate one of its groups.
    ///
    /// Costs one round trip.
    ///
    /// # Errors
    ///
    /// Fails if the store did not acknowledge.
    fn delete(&self, key: &Key) -> impl Future<Output = Result<()>> + Send;

    /// Returns the time to live of entries whose options set none; `None` if they live until evicted.
    ///
    /// Stores that several processes share return a duration, so that forgotten entries expire even if the
    /// store evicts nothing. The provided method returns `None`.
    fn default_time_to_live(&self) -> Option<Duration> {
        None
    }
}

/// Implements [`Backend::lease`] for stores without leases.
async fn mint_only<B: Backend + ?Sized>(backend: &B, request: &LeaseRequest<'_>) -> Result<Leased> {
    let missing: Vec<Group> = request.missing().cloned().collect();
    let minted = if missing.is_empty() {
        Minted::new(GenerationVector::default())
    } else {
        backend.mint(&missing).await?
    };
    let vector = request.vector(minted.vector.iter().copied());
    let vector = vector.ok_or_else(|| Error::new(ErrorKind::Protocol, backend.name()))?;
    Ok(Leased::new(vector, LeaseHolder::Ours).with_guard(minted.guard))
}
