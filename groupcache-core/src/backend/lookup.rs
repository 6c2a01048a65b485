//! What a backend returns.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use crate::data::entry::{Entry, Generation, GenerationVector};

/// Whether a lookup needs to know when the entry expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a question with two answers")]
pub enum TimeLeft {
    /// The caller treats the end of the time to live in a way of its own.
    Needed,
    /// The store's own expiry is all that matters.
    NotNeeded,
}

/// What a lookup found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Lookup {
    /// The entry, if there is one.
    pub found: Found,
    /// The current generation of each group that was asked for, in that order; `None` for those that
    /// have none.
    pub current: CurrentGenerations,
    /// Keeps those generations in existence until the entry computed under them is stored.
    pub guard: GenerationGuard,
}

/// An entry that was found and what there is to validate it by.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct EntryView<'a> {
    /// The entry. It may be stale.
    pub entry: &'a Arc<Entry>,
    /// When it expires, if that is known.
    pub expires_at: Option<Instant>,
    /// The current generation of each group that was asked for, or of each of the entry's at a
    /// [`lookup_now`](Backend::lookup_now), in that order.
    pub current: &'a [Option<Generation>],
}

/// The entry part of a [`Lookup`].
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_enums, reason = "every backend builds it and the cache must treat each case")]
pub enum Found {
    /// Nothing under that key, or nothing that has not expired.
    Absent,
    /// An entry, which may be stale, and when it expires if that is known.
    Entry(Arc<Entry>, Option<Instant>),
    /// Bytes that are not an entry of this release's schema.
    Undecodable,
}

/// The generations of some groups at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CurrentGenerations(SmallVec<[Option<Generation>; 4]>);

/// What [`Backend::mint`] returns.
#[derive(Debug)]
#[non_exhaustive]
pub struct Minted {
    /// One generation for each group, in order.
    pub vector: GenerationVector,
    /// Keeps them in existence until the entry computed under them is stored.
    pub guard: GenerationGuard,
}

/// Keeps generations in existence while nothing else does: a backend that drops groups which no
/// entry uses returns one, and the computation carries it until its entry is stored. Backends whose
/// generations live by time return [`GenerationGuard::none`].
#[derive(Default)]
pub struct GenerationGuard(Option<Box<dyn Any + Send + Sync>>);

impl Lookup {
    /// Returns a lookup whose generations need no guard.
    #[must_use]
    pub fn new(found: Found, current: CurrentGenerations) -> Self {
        Self { found, current, guard: GenerationGuard::none() }
    }

    /// Sets the guard that keeps the generations in existence.
    #[must_use]
    pub fn with_guard(self, guard: GenerationGuard) -> Self {
        Self { guard, ..self }
    }
}

impl<'a> EntryView<'a> {
    /// Returns a view of `entry`, which expires at `expires_at` if that is known, beside the current
    /// generations of its groups.
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
    /// Returns minted generations that need no guard.
    #[must_use]
    pub fn new(vector: GenerationVector) -> Self {
        Self { vector, guard: GenerationGuard::none() }
    }

    /// Sets the guard that keeps the generations in existence.
    #[must_use]
    pub fn with_guard(self, guard: GenerationGuard) -> Self {
        Self { guard, ..self }
    }
}

impl CurrentGenerations {
    /// The vector, if no generation is missing.
    #[must_use]
    pub fn complete(&self) -> Option<GenerationVector> {
        self.0.iter().copied().collect::<Option<_>>()
    }

    /// Whether these are the generations of `vector`, all of them, none missing.
    #[must_use]
    pub fn equals(&self, vector: &GenerationVector) -> bool {
        self.0.len() == vector.len()
            && self.0.iter().zip(vector.iter()).all(|(one, other)| *one == Some(*other))
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
    /// Holds nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Holds `what` until dropped.
    #[must_use]
    pub fn new(what: impl Any + Send + Sync) -> Self {
        Self(Some(Box::new(what)))
    }
}

impl fmt::Debug for GenerationGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Hold(..)" } else { "Hold(none)" })
    }
}
