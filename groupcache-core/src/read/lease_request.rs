//! Requests a lease from the backend, together with the generations that are missing.

use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::backend::Backend;
use crate::backend::lease::{LeaseHolder, LeaseName, LeaseRequest};
use crate::backend::lookup::{CurrentGenerations, GenerationGuard};
use crate::cache::{Cache, Inner};
use crate::data::entry::GenerationVector;
use crate::data::group::Groups;
use crate::data::key::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::read::flight_id::FlightId;
use crate::read::held_lease::{HeldLease, LeaseClaim, ReleaseLease};
use crate::time_limit::TimeBudget;

/// A complete vector, and who may load under it.
pub(crate) struct LeaseResponse {
    pub(crate) vector: GenerationVector,
    pub(crate) guard: GenerationGuard,
    pub(crate) claim: LeaseClaim,
}

impl<B: Backend> Cache<B> {
    /// Requests the lease on loading `key` for `duration`, and mints the generations of `groups` that are
    /// missing in `current`. One round trip.
    pub(crate) async fn request_lease(
        &self,
        key: &Key,
        groups: &Groups,
        current: &CurrentGenerations,
        duration: Duration,
        budget: &mut TimeBudget,
    ) -> Result<LeaseResponse> {
        let backend = &self.inner().backend;
        let protocol_error = || Error::new(ErrorKind::Protocol, backend.name());
        let request = LeaseRequest::new(key, groups, current, self.inner().owner, duration);
        let request = request.ok_or_else(protocol_error)?;
        let requested_at = Instant::now();
        let leased = budget.run(backend.name(), pin!(backend.lease(&request))).await?;
        if leased.vector.len() != groups.len() {
            return Err(protocol_error());
        }
        let claim = match leased.holder {
            LeaseHolder::Ours => {
                let flight =
                    FlightId { key: key.clone(), groups: groups.clone(), vector: leased.vector.clone() };
                let lease = HeldLease::new(self.shared_inner(), flight, requested_at + duration);
                LeaseClaim::Ours(Box::new(lease))
            }
            LeaseHolder::Other => LeaseClaim::Other,
            LeaseHolder::Unknown => LeaseClaim::Unknown,
        };
        Ok(LeaseResponse { vector: leased.vector, guard: leased.guard, claim })
    }
}

#[async_trait]
impl<B: Backend> ReleaseLease for Inner<B> {
    async fn release(&self, flight: &FlightId, time_limit: Duration) {
        if self.flights.contains(flight) {
            return;
        }
        let lease = LeaseName::new(&flight.key, &flight.groups, &flight.vector);
        let mut budget = TimeBudget::new(time_limit.min(self.write_time_limit));
        let release = pin!(self.backend.release(&lease, self.owner));
        if let Err(error) = budget.run(self.backend.name(), release).await {
            tracing::debug!(%error, "failed to release a lease; it will expire");
        }
    }
}
