//! A lease that this process holds, and how it is released.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::read::flight_id::FlightId;

/// What the backend answered to a request for a lease.
#[derive(Debug)]
pub(crate) enum LeaseClaim {
    /// This process holds the lease.
    Ours(Box<HeldLease>),
    /// Another process holds it.
    Other,
    /// The lease was not requested, or only for another vector.
    Unknown,
}

/// A lease that this process holds. Dropping it releases it for the processes that wait, unless a flight of
/// this process continues with it.
pub(crate) struct HeldLease {
    releaser: Arc<dyn ReleaseLease>,
    flight: FlightId,
    until: Instant,
    /// The runtime that the lease was requested on. The lease may be dropped on another one.
    runtime: Option<Handle>,
}

/// What a lease needs of its cache to be released.
#[async_trait]
pub(crate) trait ReleaseLease: Send + Sync {
    async fn release(&self, flight: &FlightId, time_limit: Duration);
}

impl HeldLease {
    pub(crate) fn new(releaser: Arc<dyn ReleaseLease>, flight: FlightId, until: Instant) -> Self {
        Self { releaser, flight, until, runtime: Handle::try_current().ok() }
    }

    /// Whether it is the lease on this load.
    pub(crate) fn is_for(&self, flight: &FlightId) -> bool {
        self.flight == *flight
    }

    /// Whether the lease has not expired yet.
    pub(crate) fn is_valid(&self) -> bool {
        Instant::now() < self.until
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take().filter(|_| self.is_valid()) else {
            return;
        };
        let (releaser, flight) = (Arc::clone(&self.releaser), self.flight.clone());
        let time_limit = self.until.saturating_duration_since(Instant::now());
        // Detached: a lease that is not released expires.
        drop(runtime.spawn(async move { releaser.release(&flight, time_limit).await }));
    }
}

impl fmt::Debug for HeldLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldLease").field("flight", &self.flight).finish_non_exhaustive()
    }
}
