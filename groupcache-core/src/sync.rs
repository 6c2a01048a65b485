//! The one mutex of this crate: a panic while it is held does not make it unusable.

use std::sync::{Mutex as StdMutex, MutexGuard, PoisonError};

/// A mutex without poisoning: every critical section of this crate leaves its data consistent at
/// each step, so a panic elsewhere in the holder must not take the cache down.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(StdMutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(StdMutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
