//! The protocol as it is, and as others have it or as it could be misread: each differs in one line of
//! `protocol.rs`.

/// Which protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// The one that groupcache has.
    Shipped,
    /// The generations stored with a value are read after it was computed.
    LateGenerations,
    /// The same, and the store refuses the value if they changed again before it arrives.
    LateGenerationsConditional,
    /// A bump that is sent again has the same token.
    SameBumpToken,
    /// A mint that is sent again has the same token.
    SameMintToken,
    /// A mint that nobody acknowledged is taken to have happened.
    UnacknowledgedMint,
    /// Generations are counters that start anew when they were lost.
    SmallCounter,
    /// The invalidation comes before the commit.
    BumpBeforeCommit,
    /// The data is read from a snapshot that is older than the vector.
    OldSnapshot,
    /// A generation at the store that a slot is moving to counts.
    AskCounts,
    /// A generation is its token alone, in all lives of the store.
    NoIncarnation,
    /// Whoever reads the same key waits for the same flight.
    FlightByKey,
    /// Whoever found the same generations waits for the same flight, missing ones being equal.
    FlightOnMissing,
    /// Those who waited take a value without looking at the groups that it turned out to have.
    UncheckedLateGroups,
}
