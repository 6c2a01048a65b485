//! What a backend is called for.

/// A method of [`Backend`](groupcache_core::Backend) that is a round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named after the methods of `Backend`")]
#[non_exhaustive]
pub enum Operation {
    Lookup,
    LookupMany,
    Mint,
    Lease,
    Release,
    Bump,
    Store,
    Delete,
}

impl Operation {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::Delete as usize + 1;
}
