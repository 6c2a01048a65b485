//! What threads meet at in the table of generations. Under shuttle (see `interleavings.rs`) each is a
//! point at which it may run another thread.

#[cfg(not(all(test, groupcache_shuttle)))]
pub(crate) use std::{
    hash::RandomState,
    sync::atomic::AtomicU64,
    sync::{Mutex, MutexGuard},
};

#[cfg(all(test, groupcache_shuttle))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic::AtomicU64};

/// The same in every execution, so that a schedule can be repeated.
#[cfg(all(test, groupcache_shuttle))]
pub(crate) type RandomState = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

/// Shuttle makes all of them anew for each schedule, and finds more the more threads meet at one.
pub(crate) const SHARDS: usize = if cfg!(all(test, groupcache_shuttle)) { 2 } else { 64 };
