//! The bugs that a backend can have, one promise each.

/// A bug of a [`PlainBackend`](crate::doubles::PlainBackend). Each breaks one promise of
/// [`Backend`](groupcache_core::Backend).
///
/// ```
/// use groupcache_conformance::doubles::{Bug, PlainBackend};
/// use groupcache_conformance::{Expectations, violations};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let backend = |_key_prefix| async { Some(PlainBackend::with_bug(Bug::DeleteIgnored)) };
/// let found = violations(&backend, Expectations::new().leases()).await;
/// assert_eq!(found[0].promise(), "a delete removes the entry");
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bug {
    /// A mint gives a fresh generation to a group that has one.
    MintOverwrites,
    /// A mint returns a generation of its own instead of the existing one.
    MintReturnsItsOwn,
    /// A mint reads first and writes later, so that concurrent mints both win.
    MintReadsFirst,
    /// A bump has no effect on a group that was bumped before.
    BumpOnlyOnce,
    /// A bump has no effect on the second and later groups.
    BumpOnlyTheFirst,
    /// A bump gives a generation to a group that has none.
    BumpMints,
    /// A bump is acknowledged at once and takes effect with the next delete.
    BumpLater,
    /// Generations count from one each time a group returns.
    GenerationsRepeat,
    /// Entries never expire.
    TimeToLiveIgnored,
    /// A time to live is truncated to seconds, and zero means no expiry.
    TimeToLiveInWholeSeconds,
    /// A time to live of more than 30 days is taken for a date in the past.
    TimeToLiveBecomesADate,
    /// Overwriting an entry keeps the expiry of the old one.
    OverwriteKeepsExpiry,
    /// A lookup of several groups returns the generation of the first for all.
    OneGroupOfSeveral,
    /// `lookup_many` returns its lookups in the wrong order.
    BatchOutOfOrder,
    /// `lookup_many` leaves out the lookups that found no entry.
    BatchLeavesOutMisses,
    /// Keys are truncated to 250 bytes.
    LongKeysCut,
    /// Groups with the same name are one group, whatever their fields.
    FieldsIgnored,
    /// Names that differ in case only are equal.
    CaseIgnored,
    /// A delete is acknowledged and has no effect.
    DeleteIgnored,
    /// Bodies end at the first zero byte.
    BodyEndsAtZero,
    /// The grace of an entry is lost.
    GraceForgotten,
    /// No lookup returns the time left.
    TimeLeftMissing,
    /// A lookup gives a generation to groups that have none.
    LookupMints,
    /// Storing an entry makes its generations current where there are none.
    StoreAdopts,
    /// `lookup_now` shows the generations of the entry as the current ones.
    LookupNowGuesses,
    /// Every owner is granted the lease.
    LeaseForEveryOwner,
    /// A lease never ends.
    LeaseNeverEnds,
    /// A lease gives a fresh generation to every group.
    LeaseMintsAll,
    /// All keys and vectors have the same lease.
    OneLeaseForAll,
    /// A release is acknowledged and has no effect.
    ReleaseIgnored,
    /// Any owner can release a lease.
    ReleaseByAnyOwner,
    /// A repeated request extends the lease.
    LeaseExtends,
    /// A lease of more than 30 days has ended long ago.
    LeaseBecomesADate,
    /// An owner whose proposed generations lost is granted the lease all the same.
    LeaseGuesses,
    /// A lost generation is reported as the last one that was known.
    LostIsGuessed,
    /// A store that returns to older contents reports their generations as current.
    RollbackUnnoticed,
}

impl Bug {
    /// The bugs that the [`cases`](crate::cases) find.
    ///
    /// [`lost_generation`](crate::lost_generation) and [`rollback`](crate::rollback) find the others.
    pub const FOUND_BY_CASES: &[Self] = &[
        Self::MintOverwrites,
        Self::MintReturnsItsOwn,
        Self::MintReadsFirst,
        Self::BumpOnlyOnce,
        Self::BumpOnlyTheFirst,
        Self::BumpMints,
        Self::BumpLater,
        Self::TimeToLiveIgnored,
        Self::TimeToLiveInWholeSeconds,
        Self::TimeToLiveBecomesADate,
        Self::OverwriteKeepsExpiry,
        Self::OneGroupOfSeveral,
        Self::BatchOutOfOrder,
        Self::BatchLeavesOutMisses,
        Self::LongKeysCut,
        Self::FieldsIgnored,
        Self::CaseIgnored,
        Self::DeleteIgnored,
        Self::BodyEndsAtZero,
        Self::GraceForgotten,
        Self::TimeLeftMissing,
        Self::LookupMints,
        Self::StoreAdopts,
        Self::LookupNowGuesses,
        Self::LeaseForEveryOwner,
        Self::LeaseNeverEnds,
        Self::LeaseMintsAll,
        Self::OneLeaseForAll,
        Self::ReleaseIgnored,
        Self::ReleaseByAnyOwner,
        Self::LeaseExtends,
        Self::LeaseBecomesADate,
        Self::LeaseGuesses,
    ];
}
