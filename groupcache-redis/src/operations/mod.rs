//! The operations of the backend, as Redis commands.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use groupcache_core::Clock;

use crate::operations::names::Names;
use crate::route::Route;
use crate::settings::EntrySettings;

mod lookups;
#[cfg(groupcache_mutants)]
mod mutants;
mod names;
mod writes;

/// What the operations need: where to send commands, and under which names.
pub(crate) struct Operations {
    pub(crate) route: Route,
    names: Names,
    pub(crate) default_time_to_live: Duration,
    max_entry_bytes: usize,
    clock: Arc<dyn Clock>,
    /// The longest time to live of an entry that this process has stored so far, in milliseconds.
    longest_millis: AtomicU64,
}

impl Operations {
    pub(crate) fn new(route: Route, settings: EntrySettings) -> Self {
        Self {
            route,
            names: Names::new(settings.key_prefix),
            default_time_to_live: settings.default_time_to_live,
            max_entry_bytes: settings.max_entry_bytes,
            clock: settings.clock,
            longest_millis: AtomicU64::new(0),
        }
    }

    pub(crate) fn key_prefix(&self) -> &str {
        self.names.prefix()
    }
}
