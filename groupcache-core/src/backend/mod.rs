//! Where entries and generations live.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub(crate) mod boxed;
pub(crate) mod circuit_breaker;
pub(crate) mod lease;
pub(crate) mod lookup;
pub(crate) mod shared_connection;

pub use self::circuit_breaker::{BreakerCall, CircuitBreaker};
pub use self::lease::{LeaseHolder, LeaseName, LeaseOwner, LeaseRequest, Leased};
pub use self::lookup::{CurrentGenerations, EntryView, Found, GenerationGuard, Lookup, Minted, TimeLeft};
pub use self::shared_connection::SharedConnection;
pub use crate::data::entry::{Generation, GenerationVector, SCHEMA};

use crate::data::entry::Entry;
use crate::data::group::{Group, Groups};
use crate::data::key::Key;
use crate::error::{Error, ErrorKind, Result};

/// A store of entries and generations.
///
/// A backend speaks of entries and generations rather than of raw keys, so that each store can use
/// its best means. It decides nothing: whether an entry is a hit is decided by
/// [`Cache`](crate::Cache), from what [`lookup`](Self::lookup) returns.
///
/// # Behavior
///
/// These sentences are what the safety of the cache rests on.
///
/// * **Unique.** Each write to a group's generation, by [`mint`](Self::mint) or by
///   [`bump`](Self::bump), installs a generation that was never current for that group before, in no
///   earlier life of the store either: fresh random bits *for each attempt on the wire*, or a counter
///   that outlives every entry.
/// * **Ordered.** Once `bump` has returned `Ok`, no `lookup` that starts later, in any process,
///   returns a generation from before it.
/// * **Lost is missing.** A generation that the store lost, evicted or expired is reported missing,
///   not replaced by a guess. A store that can come back with older contents must make generations
///   from before differ from those after.
/// * **Loud.** A write whose effect is unknown is an `Err`. No silent retry with the same generation.
/// * **Sizes.** Keys, group names and fields of any length and any content work.
/// * Different key prefixes (or other configured name spaces) never meet.
/// * A future dropped before it is ready may or may not have had its effect, as if its answer had
///   been lost.
///
/// Every method is one round trip, for any number of groups; servers that hold different groups are
/// asked at the same time.
pub trait Backend: Send + Sync + 'static {
    /// A short name for errors and logs, such as `memory`.
    fn name(&self) -> &'static str;

    /// The entry under `key` if there is one, and the current generation of each of `groups`, read
    /// after this call began. The entry may be stale; an expired one is absent.
    ///
    /// The time left of the entry is returned at least where `time_left` asks for it and the entry
    /// has a time to live.
    ///
    /// # Errors
    ///
    /// If the store did not answer. An entry that does not decode is
    /// [`Found::Undecodable`], not an error.
    fn lookup(
        &self,
        key: &Key,
        groups: &[Group],
        time_left: TimeLeft,
    ) -> impl Future<Output = Result<Lookup>> + Send;

    /// A look without waiting, for backends that hold everything in this process: shows the entry under
    /// `key` and the current generation of each of its own groups to `judge`, at most once. An expired
    /// entry is absent. Saves the hit path a future and what it would return. Provided as "nothing to
    /// show", after which the cache asks [`lookup`](Self::lookup).
    fn lookup_now(&self, key: &Key, judge: &mut dyn FnMut(EntryView<'_>)) {
        let (_, _) = (key, judge);
    }

    /// Several lookups, answered in order. Provided as lookups at the same time; stores that can
    /// answer all in one round trip do that.
    ///
    /// # Errors
    ///
    /// If any of them failed.
    fn lookup_many(&self, questions: &[(Key, Groups)]) -> impl Future<Output = Result<Vec<Lookup>>> + Send {
        async move {
            let lookups = questions.iter().map(|(key, groups)| self.lookup(key, groups, TimeLeft::NotNeeded));
            futures_util::future::try_join_all(lookups).await
        }
    }

    /// The generation of each of `groups`, in order, giving a fresh one to those that have none. Of
    /// several concurrent mints of a group one wins, and all return the winner's.
    ///
    /// Also makes generations that live by time live long enough for an entry stored from now on.
    ///
    /// # Errors
    ///
    /// If the store did not acknowledge. Nothing may then be stored under these groups; groups minted
    /// before the failure do no harm.
    fn mint(&self, groups: &[Group]) -> impl Future<Output = Result<Minted>> + Send;

    /// As [`mint`](Self::mint) for the groups of `request` that have no generation, and in the same
    /// round trip asks for the lease on computing its entry: at most one owner has it at a time, until
    /// it is released or its time is over, to the store's resolution. Its owner may ask again, which changes
    /// nothing: the lease ends when it would have.
    ///
    /// The lease is one of a complete vector, which is only known once the groups are minted. So it is
    /// asked for under the vector that comes out if the proposed generations win; otherwise the answer
    /// is [`NotAsked`](crate::LeaseHolder::NotAsked), and what was asked for in vain runs out.
    ///
    /// A lease is about cost, not about safety: a store may lose it. Provided as a mint whose lease is
    /// always [`Ours`](crate::LeaseHolder::Ours), for stores of one process.
    ///
    /// # Errors
    ///
    /// As of [`mint`](Self::mint).
    fn lease(&self, request: &LeaseRequest<'_>) -> impl Future<Output = Result<Leased>> + Send {
        mint_only(self, request)
    }

    /// Gives back a lease if `owner` has it; another's stays as it is. Nobody waits for it, so it may
    /// take more than one round trip. Provided as doing nothing.
    ///
    /// # Errors
    ///
    /// If the store did not acknowledge. The lease runs out then.
    fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> impl Future<Output = Result<()>> + Send {
        let (_, _) = (lease, owner);
        std::future::ready(Ok(()))
    }

    /// Replaces the generation of each of `groups` that has one by a fresh one, or removes it. Groups
    /// without one stay without.
    ///
    /// # Errors
    ///
    /// If the store did not acknowledge all of it. Some groups may have been bumped; calling again
    /// does no harm.
    fn bump(&self, groups: &[Group]) -> impl Future<Output = Result<()>> + Send;

    /// Stores `entry` under its key, replacing what is there and its expiry. It is absent once
    /// `time_to_live` is over, to the millisecond, never earlier or later by more than the store's
    /// documented resolution; at once if that is zero, never if it is `None`.
    ///
    /// Keeping less than asked for is allowed: an entry may be evicted, or not kept at all if a
    /// generation of its vector is gone by now.
    ///
    /// # Errors
    ///
    /// If the store did not acknowledge, or if the entry is too large for it
    /// ([`Capacity`](crate::ErrorKind::Capacity)). The cache counts it and goes on.
    fn store(
        &self,
        entry: &Arc<Entry>,
        time_to_live: Option<Duration>,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Removes the entry under `key`; there being none is fine. A computation that is under way may
    /// store it again: to make something stale, invalidate its group.
    ///
    /// # Errors
    ///
    /// If the store did not acknowledge.
    fn delete(&self, key: &Key) -> impl Future<Output = Result<()>> + Send;

    /// How long entries live if nobody says. Stores that other processes share return a duration, so
    /// that whatever they evict by can drop forgotten entries. Provided as `None`: until evicted.
    fn default_time_to_live(&self) -> Option<Duration> {
        None
    }
}

/// The lease on a fill in a store that knows none: always ours. See [`Backend::lease`].
async fn mint_only<B: Backend + ?Sized>(backend: &B, request: &LeaseRequest<'_>) -> Result<Leased> {
    let missing: Vec<Group> = request.missing().cloned().collect();
    let minted = if missing.is_empty() {
        Minted::new(GenerationVector::default())
    } else {
        backend.mint(&missing).await?
    };
    let vector = request.vector(minted.vector.iter().copied());
    let vector = vector.ok_or_else(|| Error::new(ErrorKind::Protocol, backend.name()))?;
    Ok(Leased { vector, guard: minted.guard, holder: LeaseHolder::Ours })
}
