//! The lease on a fill: of several processes that miss the same entry, one computes it.
//!
//! What a flight is within a process, a lease is among processes that share a store; it is named by
//! what identifies a flight, the key *and* the complete vector. So nobody who reads after an
//! invalidation waits for a computation from before it. It saves work and decides nothing: an entry
//! is a hit by its vector alone, and whoever computes without a lease has merely done it once more.
//!
//! (Leases on misses: Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013, section 3.2.1. There
//! the lease also guards the store against stale sets; here the vector does.)

use std::fmt;
use std::time::Duration;

use crate::backend::lookup::{CurrentGenerations, GenerationGuard};
use crate::data::entry::{Generation, GenerationVector};
use crate::data::group::Group;
use crate::data::key::Key;

/// Asks a backend for the lease on one computation, and for the generations that it still lacks.
#[derive(Debug, Clone, Copy)]
pub struct LeaseRequest<'a> {
    key: &'a Key,
    groups: &'a [Group],
    current: &'a CurrentGenerations,
    owner: LeaseOwner,
    duration: Duration,
}

/// What [`Backend::lease`] returns.
#[derive(Debug)]
#[non_exhaustive]
pub struct Leased {
    /// One generation for each group of the request, in order: those that were known, and minted ones
    /// for the others.
    pub vector: GenerationVector,
    /// Keeps them in existence until the entry computed under them is stored.
    pub guard: GenerationGuard,
    /// Who has the lease on computing under that vector.
    pub holder: LeaseHolder,
}

/// Who has a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "every backend builds it and the cache must treat each case")]
pub enum LeaseHolder {
    /// The owner named in the request, since now or since before.
    Ours,
    /// Somebody else.
    Other,
    /// Unknown: the lease was asked for under a vector that did not come out, because another process
    /// was the first to mint one of the groups.
    NotAsked,
}

/// The name of a lease: what a store keeps the owner under, beside its prefix. The same in every
/// process and release.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseName([u8; 32]);

/// Who asks for leases: one [`Cache`](crate::Cache) and its clones. Readers of one cache share what it computes, so
/// a lease belongs to all of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseOwner([u8; 16]);

impl Leased {
    /// Returns a vector whose generations need no guard, and the holder of its lease.
    #[must_use]
    pub fn new(vector: GenerationVector, holder: LeaseHolder) -> Self {
        Self { vector, guard: GenerationGuard::none(), holder }
    }

    /// Sets the guard that keeps the generations in existence.
    #[must_use]
    pub fn with_guard(self, guard: GenerationGuard) -> Self {
        Self { guard, ..self }
    }
}

impl<'a> LeaseRequest<'a> {
    /// A request for the lease on computing the entry of `key` under the generations of `groups`, of
    /// which `current` are known, to last for `duration`. `None` if `current` is not about `groups`.
    #[must_use]
    pub fn new(
        key: &'a Key,
        groups: &'a [Group],
        current: &'a CurrentGenerations,
        owner: LeaseOwner,
        duration: Duration,
    ) -> Option<Self> {
        (groups.len() == current.len()).then_some(Self { key, groups, current, owner, duration })
    }

    /// The groups that the vector is of.
    #[must_use]
    pub const fn groups(&self) -> &'a [Group] {
        self.groups
    }

    /// The groups that have no generation and are to be minted, in order.
    pub fn missing(&self) -> impl Iterator<Item = &'a Group> + use<'a> {
        self.groups
            .iter()
            .zip(self.current.iter())
            .filter(|(_, known)| known.is_none())
            .map(|(group, _)| group)
    }

    /// The complete vector, with these generations for the [`missing`](Self::missing) groups, in that
    /// order. `None` if there are more or fewer of them.
    #[must_use]
    pub fn vector(&self, fresh: impl IntoIterator<Item = Generation>) -> Option<GenerationVector> {
        let mut fresh = fresh.into_iter();
        let vector = self.current.iter().map(|known| known.or_else(|| fresh.next())).collect();
        if fresh.next().is_some() { None } else { vector }
    }

    /// The name of the lease on computing under `vector`.
    #[must_use]
    pub fn name(&self, vector: &GenerationVector) -> LeaseName {
        LeaseName::new(self.key, self.groups, vector)
    }

    /// Who asks.
    #[must_use]
    pub const fn owner(&self) -> LeaseOwner {
        self.owner
    }

    /// How long the lease lasts unless it is released.
    #[must_use]
    pub const fn duration(&self) -> Duration {
        self.duration
    }
}

impl LeaseName {
    /// Returns the name of the lease on computing the entry of `key` under the `vector` of `groups`.
    #[must_use]
    pub fn new(key: &Key, groups: &[Group], vector: &GenerationVector) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("groupcache 2026-11 lease on a fill");
        hasher.update(&key.hash());
        for (group, generation) in groups.iter().zip(vector.iter()) {
            hasher.update(blake3::hash(group.encoded()).as_bytes());
            hasher.update(&generation.get().to_be_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The digest that it is.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl LeaseOwner {
    /// One that nobody else is: 128 random bits.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The bits.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseName({})", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for LeaseOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseOwner({:032x})", u128::from_be_bytes(self.0))
    }
}
