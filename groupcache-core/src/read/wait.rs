//! The wait for another reader's load, which is bounded.

use std::sync::Arc;
use std::time::Duration;

use crate::read::follower::{Arrival, Follower};
use crate::time_limit::within;

/// How long a leader stays woken and is not polled before its followers stop waiting, at least; twice as long
/// at most.
const STALL: Duration = Duration::from_millis(250);

/// Waits until there is something to do for `follower`. If the leader makes no progress, another flight takes
/// the place of its own, which `stalled` is called for.
///
/// A leader makes no progress if it is woken and not polled, or if its load takes longer than `limit`.
pub(crate) async fn wait(follower: &Follower, limit: Duration, stalled: impl Fn()) -> Arrival {
    let mut seen = None;
    loop {
        if let Some(arrival) = within(STALL.min(limit), follower.arrive()).await {
            return arrival;
        }
        let mut wake = None;
        let superseded = follower.supersede(|flight| {
            #[cfg(groupcache_mutants)]
            if crate::mutants::is_on("unnoticed_stall") {
                return false;
            }
            wake = flight.progress.unanswered_wake().map(|wake| (Arc::as_ptr(flight).addr(), wake));
            // A leader that cannot be polled because a thread is blocked has its turn before the second check.
            wake.is_some() && wake == seen || flight.age() >= limit
        });
        if superseded {
            tracing::debug!("a load made no progress; another reader loads");
            stalled();
        }
        seen = wake;
    }
}
