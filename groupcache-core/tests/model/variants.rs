//! The protocol of groupcache, and fifteen others that differ from it in one line.

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// The protocol of groupcache.
    Shipped,
    /// The generations of an entry are read after its load.
    LateGenerations,
    /// The same, and the store refuses the entry if they are no longer current.
    LateGenerationsConditional,
    /// A bump that is sent again has the same token.
    SameBumpToken,
    /// A mint that is sent again has the same token.
    SameMintToken,
    /// A mint without an acknowledgement is taken to have happened.
    UnacknowledgedMint,
    /// Generations are counters that start from one again after a loss.
    SmallCounter,
    /// The invalidation comes before the commit.
    BumpBeforeCommit,
    /// The data is read from a snapshot that is older than the vector.
    OldSnapshot,
    /// A generation counts at the store that the slot is moving to.
    AskCounts,
    /// A generation is its token alone, without the incarnation of the store.
    NoIncarnation,
    /// Readers of the same key join the same flight.
    FlightByKey,
    /// Readers that found the same generations join the same flight, and missing ones are equal.
    FlightOnMissing,
    /// Readers join a flight that has begun, whatever their vector.
    LateJoin,
    /// Followers share a value without a check of its discovered groups.
    UncheckedLateGroups,
    /// A placeholder, which names groups that a load found too late, is served as if it had a valid value.
    PlaceholderServed,
}
