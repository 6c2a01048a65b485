//! Leases: of several processes that miss the same entry, one loads it.
//!
//! A lease does among the processes that share a store what single flight does within a process. Its name is
//! made of what identifies a flight: the key *and* the complete vector. A reader therefore never waits for a
//! load from before an invalidation that it has to see.
//!
//! Leases save work and have no part in safety. Only its vector makes an entry a hit, and a process that
//! loads without a lease merely repeats the work.
//!
//! Leases on misses are described by Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013, section
//! 3.2.1. There the lease also protects the store against stale sets; here the vector does.

use std::fmt;
use std::time::Duration;

use crate::backend::lookup::{CurrentGenerations, GenerationGuard};
use crate::data::entry::{Generation, GenerationVector};
use crate::data::group::Group;
use crate::data::key::Key;

/// A request for the lease on one load, and for the generations that the load still lacks.
#[derive(Debug, Clone, Copy)]
pub struct LeaseRequest<'a> {
    key: &'a Key,
    groups: &'a [Group],
    current: &'a CurrentGenerations,
    owner: LeaseOwner,
    duration: Duration,
}

/// The result of [`Backend::lease`](crate::Backend::lease).
#[derive(Debug)]
#[non_exhaustive]
pub struct Leased {
    /// The generation of each group of the request, in order: known ones, and minted ones for the other
    /// groups.
    pub vector: GenerationVector,
    /// Keeps these generations in existence until an entry loaded under them is stored.
    pub guard: GenerationGuard,
    /// Who holds the lease on the load under that vector.
    pub holder: LeaseHolder,
}

/// Who holds a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "every backend builds it and the cache must handle each case")]
pub enum LeaseHolder {
    /// The owner in the request, since this request or an earlier one.
    Ours,
    /// Another owner.
    Other,
    /// Not known, because another process minted one of the groups first. The lease was requested under a
    /// vector that did not result.
    Unknown,
}

/// The name of a lease, under which a store keeps the owner. The same in every process and release.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseName([u8; 32]);

/// The identity of a lease owner, which is a [`Cache`](crate::Cache) with its clones.
///
/// The readers of a cache share its loads, so they also share its leases.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseOwner([u8; 16]);

impl Leased {
    /// Creates a result without a guard.
    #[must_use]
    pub fn new(vector: GenerationVector, holder: LeaseHolder) -> Self {
        Self { vector, guard: GenerationGuard::none(), holder }
    }

    /// Sets the guard that keeps the generations in existence. Defaults to none.
    #[must_use]
    pub fn with_guard(self, guard: GenerationGuard) -> Self {
        Self { guard, ..self }
    }
}

impl<'a> LeaseRequest<'a> {
    /// Creates a request for the lease on the load of the entry of `key` under the generations of `groups`,
    /// of which `current` are known. The lease lasts for `duration`.
    ///
    /// Returns `None` if `current` does not have as many items as `groups`.
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

    /// Returns the groups of the vector.
    #[must_use]
    pub const fn groups(&self) -> &'a [Group] {
        self.groups
    }

    /// Iterates over the groups that have no generation and are to be minted, in order.
    pub fn missing(&self) -> impl Iterator<Item = &'a Group> + use<'a> {
        self.groups
            .iter()
            .zip(self.current.iter())
            .filter(|(_, known)| known.is_none())
            .map(|(group, _)| group)
    }

    /// Returns the complete vector, with `minted` as the generations of the [`missing`](Self::missing) groups
    /// in order. Returns `None` if there are more or fewer of them than missing groups.
    #[must_use]
    pub fn vector(&self, minted: impl IntoIterator<Item = Generation>) -> Option<GenerationVector> {
        let mut minted = minted.into_iter();
        let vector = self.current.iter().map(|known| known.or_else(|| minted.next())).collect();
        if minted.next().is_some() { None } else { vector }
    }

    /// Returns the name of the lease on the load under `vector`.
    #[must_use]
    pub fn name(&self, vector: &GenerationVector) -> LeaseName {
        LeaseName::new(self.key, self.groups, vector)
    }

    /// Returns the owner that requests the lease.
    #[must_use]
    pub const fn owner(&self) -> LeaseOwner {
        self.owner
    }

    /// Returns how long the lease lasts unless it is released.
    #[must_use]
    pub const fn duration(&self) -> Duration {
        self.duration
    }
}

impl LeaseName {
    /// Returns the name of the lease on the load of the entry of `key` under the `vector` of `groups`.
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

    /// Returns the digest of key, groups and vector.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl LeaseOwner {
    /// Returns an owner that differs from every other one: 128 random bits.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Returns the bits.
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
