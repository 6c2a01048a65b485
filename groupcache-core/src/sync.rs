//! The synchronisation primitives of this crate: the mutex, and what single flight counts and waits with.
//! Under shuttle (see `interleavings.rs`) each operation is a point at which shuttle may switch to another
//! task.

use std::sync::PoisonError;

pub(crate) use self::system::{AtomicU64, Notify, RandomState};
use self::system::{MutexGuard, StdMutex};

/// A mutex without poisoning. Every critical section of this crate leaves its data consistent at each step,
/// so a panic of a holder must not take the cache down.
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

#[cfg(not(all(test, groupcache_shuttle)))]
mod system {
    pub(crate) use std::hash::RandomState;
    pub(crate) use std::sync::atomic::AtomicU64;
    pub(crate) use std::sync::{Mutex as StdMutex, MutexGuard};

    pub(crate) use tokio::sync::Notify;
}

#[cfg(all(test, groupcache_shuttle))]
mod system {
    use std::hash::{BuildHasherDefault, DefaultHasher};

    pub(crate) use shuttle::sync::atomic::AtomicU64;
    use shuttle::sync::atomic::Ordering;
    pub(crate) use shuttle::sync::{Mutex as StdMutex, MutexGuard};
    use tokio::sync::futures::Notified;

    /// Hashes alike in every execution, so that a schedule can be repeated.
    pub(crate) type RandomState = BuildHasherDefault<DefaultHasher>;

    /// tokio's `Notify`, with a switch point before each operation.
    ///
    /// This is sound: tokio calls wakers after it has released its lock, and shuttle's wakers only mark a
    /// task as ready. No other task runs while that lock is held.
    #[derive(Debug)]
    pub(crate) struct Notify {
        notify: tokio::sync::Notify,
        switch: AtomicU64,
    }

    impl Notify {
        pub(crate) const fn new() -> Self {
            Self { notify: tokio::sync::Notify::const_new(), switch: AtomicU64::new(0) }
        }

        pub(crate) fn notified(&self) -> Notified<'_> {
            self.switch();
            self.notify.notified()
        }

        pub(crate) fn notify_one(&self) {
            self.switch();
            self.notify.notify_one();
        }

        pub(crate) fn notify_waiters(&self) {
            self.switch();
            self.notify.notify_waiters();
        }

        fn switch(&self) {
            self.switch.load(Ordering::SeqCst);
        }
    }
}
