//! What lookups and mints of a backend return.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use crate::data::entry::{Entry, Generation, GenerationVector};

/// Whether the caller of a lookup needs to know when the entry expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there are two cases")]
pub enum TimeLeft {
    /// The caller needs the time, because it may serve the entry as stale.
    Needed,
    /// The caller does not need the time. The store drops the entry when it expires.
    NotNeeded,
}

/// The result of [`Backend::lookup`](crate::Backend::lookup).
#[derive(Debug)]
#[non_exhaustive]
pub struct Lookup {
    /// The entry, if the store has one.
    pub found: Found,
    /// The current generation of each requested group, in order; `None` for groups without one.
    pub current: CurrentGenerations,
    /// Keeps these generations in existence until an entry loaded under them is stored.
    pub guard: GenerationGuard,
}

/// A borrowed entry, and the generations to validate it against.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct EntryView<'a> {
    /// The entry, which may be stale.
    pub entry: &'a Arc<Entry>,
    /// When the entry expires, if that is known.
    pub expires_at: Option<Instant>,
    /// The current generation of each requested group, in order. In a
    /// [`lookup_now`](crate::Backend::lookup_now), of each group of the entry.
    pub current: &'a [Option<Generation>],
}

/// The entry part of a [`Lookup`].
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_enums, reason = "every backend builds it and the cache must handle each case")]
pub enum Found {
    /// There is no entry under the key, or it has expired.
    Absent,
    /// An entry, which may be stale, and when it expires, if that is known.
    Entry(Arc<Entry>, Option<Instant>),
    /// The stored bytes are not an entry of this release's schema.
    Undecodable,
}

/// The current generations of a list of groups, in order; `None` for groups without one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CurrentGenerations(SmallVec<[Option<Generation>; 4]>);

/// The result of [`Backend::mint`](crate::Backend::mint).
#[derive(Debug)]
#[non_exhaustive]
pub struct Minted {
    /// The generation of each group, in order.
    pub vector: GenerationVector,
    /// Keeps these generations in existence until an entry loaded under them is stored.
    pub guard: GenerationGuard,
}

/// Keeps generations in existence between a lookup or a mint and the store of an entry.
///
/// A backend that drops generations which no entry uses returns a guard, and the load holds it until its
/// entry is stored. All other backends return [`GenerationGuard::none`], also those that evict: a guard is
/// never needed for safety. An entry whose generation was evicted during its load is a miss.
#[derive(Default)]
pub struct GenerationGuard(Option<Box<dyn Any + Send + Sync>>);

impl Lookup {
    /// Creates a result without a guard.
    #[must_use]
    pub fn new(found: Found, current: CurrentGenerations) -> Self {
        Self { found, current, guard: GenerationGuard::none() }
    }

    /// Sets the guard that keeps the generations in existence. Defaults to none.
    #[must_use]
    pub fn with_guard(self, guard: GenerationGuard) -> Self {
        Self { guard, ..self }
    }
}

impl<'a> EntryView<'a> {
    /// Creates a view of an entry, the time when it expires, if known, and the current generations.
    #[must_use]
    pub const fn new(
        entry: &'a Arc<Entry>,
        expires_at: Option<Instant>,
        current: &'a [Option<Generation>],
    ) -> Self {
        Self { entry, expires_at, current }
    }
}

impl Minted {
    /// Creates a result without a guard.
    #[must_use]
    pub fn new(vector: GenerationVector) -> Self {
        Self { vector, guard: GenerationGuard::none() }
    }

    /// Sets the guard that keeps the generations in existence. Defaults to none.
    #[must_use]
    pub fn with_guard(self, guard: GenerationGuard) -> Self {
        Self { guard, ..self }
    }
}

impl CurrentGenerations {
    /// Returns the vector, or `None` if a generation is missing.
    #[must_use]
    pub fn complete(&self) -> Option<GenerationVector> {
        self.0.iter().copied().collect::<Option<_>>()
    }

    /// Returns whether these are exactly the generations of `vector`, in order, with none missing.
    #[must_use]
    pub fn equals(&self, vector: &GenerationVector) -> bool {
        self.0.len() == vector.len()
            && self.0.iter().zip(vector.iter()).all(|(current, generation)| *current == Some(*generation))
    }
}

impl Deref for CurrentGenerations {
    type Target = [Option<Generation>];

    fn deref(&self) -> &[Option<Generation>] {
        &self.0
    }
}

impl FromIterator<Option<Generation>> for CurrentGenerations {
    fn from_iter<I: IntoIterator<Item = Option<Generation>>>(generations: I) -> Self {
        Self(generations.into_iter().collect())
    }
}

impl GenerationGuard {
    /// Returns a guard that holds nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Returns a guard that holds `value` until it is dropped.
    #[must_use]
    pub fn new(value: impl Any + Send + Sync) -> Self {
        Self(Some(Box::new(value)))
    }
}

impl fmt::Debug for GenerationGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "GenerationGuard(..)" } else { "GenerationGuard(none)" })
    }
}
