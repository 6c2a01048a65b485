//! Setting up the pages of an application.

use std::fmt;

use groupcache_core::{Backend, BoxBackend, BoxInvalidator, Cache, Invalidator};

use crate::pages::Pages;

/// Bodies larger than this pass by unless something else is said.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Sets up [`Pages`].
#[must_use = "nothing is set up before `build`"]
pub struct PagesBuilder<B = BoxBackend> {
    cache: Cache<B>,
    invalidator: BoxInvalidator,
    body_bytes_max: usize,
}

impl<B: Backend> PagesBuilder<B> {
    pub(crate) fn new(cache: Cache<B>) -> Self {
        let invalidator = BoxInvalidator::new(cache.clone());
        Self { cache, invalidator, body_bytes_max: BODY_BYTES_MAX }
    }

    /// Tells `next` of every change too, after the cache and whoever was added before: a CDN in front
    /// of this application, the cache of another region. A change is acknowledged when all have
    /// acknowledged it. Defaults to the cache alone.
    pub fn downstream_invalidator(mut self, next: impl Invalidator) -> Self {
        self.invalidator = BoxInvalidator::new((self.invalidator, next));
        self
    }

    /// Responses with a larger body than this pass by without being stored or held back; a view can say
    /// otherwise. Defaults to 1 MiB.
    pub const fn body_bytes_max(mut self, body_bytes_max: usize) -> Self {
        self.body_bytes_max = body_bytes_max;
        self
    }

    /// The pages.
    #[must_use]
    pub fn build(self) -> Pages<B> {
        Pages::from_builder(self.cache, self.invalidator, self.body_bytes_max)
    }
}

impl<B: Backend> fmt::Debug for PagesBuilder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagesBuilder")
            .field("cache", &self.cache)
            .field("body_bytes_max", &self.body_bytes_max)
            .finish_non_exhaustive()
    }
}
