//! Turns of the tests of one binary, which share the machine.
//!
//! A history keeps every core busy for seconds. A test that measures time would fail beside it, and many
//! histories at once would slow each other down until their time limits are over. So at most
//! [`HISTORIES_AT_ONCE`] histories run at a time, and none beside a test that measures time. Other tests run
//! beside both.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How many histories run at the same time.
pub const HISTORIES_AT_ONCE: u32 = 2;

static TURNS: RwLock<()> = RwLock::const_with_max_readers((), HISTORIES_AT_ONCE);

/// Waits for the turn of a test that keeps the machine busy. The turn ends when the guard is dropped.
pub async fn history() -> RwLockReadGuard<'static, ()> {
    TURNS.read().await
}

/// Waits for the turn of a test that measures time. The turn ends when the guard is dropped.
pub async fn timing() -> RwLockWriteGuard<'static, ()> {
    TURNS.write().await
}

/// The same as [`timing`], for a test without a runtime.
pub fn blocking_timing() -> RwLockWriteGuard<'static, ()> {
    TURNS.blocking_write()
}
