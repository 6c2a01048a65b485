//! Waiting for this process's turn to compute, where a lease is wanted.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::backend::Backend;
use crate::backend::lease::{LeaseHolder, LeaseName, LeaseRequest};
use crate::backend::lookup::{CurrentGenerations, Found, GenerationGuard};
use crate::cache::{Cache, Inner};
use crate::data::address::Address;
use crate::data::entry::{Entry, GenerationVector};
use crate::data::group::Groups;
use crate::data::key::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::load_context::LoadContext;
use crate::read::load::LoadPermit;
use crate::read::single_flight::{FlightId, FlightOutcome, Leader};
use crate::read::verdict::Verdict;
use crate::time_limit::Budget;

/// How long one who waits for another process pauses before it looks again, first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// What a process was told when it asked for a lease.
#[derive(Debug)]
pub(crate) enum Claim {
    /// It is ours.
    Ours(Box<HeldLease>),
    /// Another process has it.
    Other,
    /// Nobody was asked, or only about another vector.
    Unknown,
}

/// A lease that is ours. Dropped, it is given back for those who wait elsewhere, unless a flight of
/// this process goes on with it.
pub(crate) struct HeldLease {
    leases: Arc<dyn Leases>,
    flight: FlightId,
    until: Instant,
    /// Where it was asked for; it may be dropped elsewhere.
    runtime: Option<Handle>,
}

/// What a lease needs of its cache to be given back.
#[async_trait]
trait Leases: Send + Sync {
    async fn give_back(&self, flight: &FlightId, limit: Duration);
}

/// Whether a leader waits for its turn.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WaitLimit {
    /// For about twice as long as a lease lasts, from then on.
    Since(Instant),
    /// There is something to serve meanwhile.
    None,
}

/// What a leader does next.
pub(crate) enum LeaseDecision<V> {
    /// Compute: it is this process's turn, or the others take too long.
    Compute,
    /// Another process has stored it.
    Found(V),
    /// Something it depends on was invalidated meanwhile: start again.
    Changed,
    /// Another process computes it, and there is no patience.
    Others,
}

impl<B: Backend> Cache<B> {
    /// The vector of `groups`, minting what is missing and asking for the lease at the same time.
    pub(crate) async fn complete_with_lease(
        &self,
        address: &Address,
        groups: &Groups,
        current: &CurrentGenerations,
        duration: Duration,
        budget: &mut Budget,
    ) -> Result<(GenerationVector, GenerationGuard, Claim)> {
        let counters = self.inner().counters();
        counters.mints.increment();
        let leased = self.ask_lease(&address.key, groups, current, duration, budget).await;
        if leased.is_err() {
            counters.mint_failures.increment();
        }
        leased
    }

    /// Waits for this process's turn to compute: not at all where no lease is wanted.
    ///
    /// Those who wait for `lead` get what another process has stored.
    pub(crate) async fn await_lease<V>(
        &self,
        address: &Address,
        ticket: &mut LoadPermit,
        lead: &mut Leader,
        patience: WaitLimit,
        budget: &mut Budget,
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
    ) -> LeaseDecision<V> {
        let Some(duration) = self.options().lease else {
            return LeaseDecision::Compute;
        };
        let mut claim = std::mem::replace(&mut ticket.claim, Claim::Unknown);
        // It came with a mint: nobody else can have stored anything under a generation that is ours.
        if let Claim::Ours(lease) = claim {
            lead.keep(lease);
            return LeaseDecision::Compute;
        }
        let mut pause = FIRST_PAUSE;
        // From a leader that went away.
        while !lead.has_lease() {
            if matches!(claim, Claim::Unknown) {
                claim = match self.claim(&address.key, ticket, duration, budget).await {
                    Ok(claim) => claim,
                    Err(error) => {
                        tracing::debug!(%error, "computing without a lease");
                        return LeaseDecision::Compute;
                    }
                };
            }
            let ours = matches!(claim, Claim::Ours(_));
            if let Claim::Ours(lease) = std::mem::replace(&mut claim, Claim::Unknown) {
                lead.keep(lease);
            }
            if !ours && matches!(patience, WaitLimit::None) {
                return LeaseDecision::Others;
            }
            // After the lease was asked for: whoever had given it back had stored before.
            let Ok(looked) = self.look(address, budget).await else {
                return LeaseDecision::Compute;
            };
            if let (Verdict::Hit(expires_at), Found::Entry(entry, _)) =
                (&looked.verdict, &looked.lookup.found)
                && let Some(value) = accept(entry)
            {
                // Whether it is for them too, those who wait check for themselves.
                lead.land(FlightOutcome::Shared(Arc::clone(entry), *expires_at));
                if let Some(outer) = LoadContext::current() {
                    outer.after_nested_read(self.id(), entry, *expires_at);
                }
                return LeaseDecision::Found(value);
            }
            let left = match patience {
                WaitLimit::Since(began) => {
                    let deadline = began.min(lead.began()) + duration.saturating_mul(2);
                    deadline.saturating_duration_since(Instant::now())
                }
                WaitLimit::None => Duration::ZERO,
            };
            let unchanged = looked.groups == ticket.groups && looked.lookup.current.equals(&ticket.vector);
            if !unchanged && !left.is_zero() {
                lead.land(FlightOutcome::Changed);
                return LeaseDecision::Changed;
            }
            if ours || left.is_zero() || Handle::try_current().is_err() {
                return LeaseDecision::Compute;
            }
            if pause == FIRST_PAUSE {
                self.inner().counters().lease_waits.increment();
            }
            // So that processes which began at the same time do not ask at the same time for ever.
            tokio::time::sleep(pause.mul_f64(0.75 + 0.5 * rand::random::<f64>()).min(left)).await;
            pause = pause.mul_f64(1.5).min(LONGEST_PAUSE);
            *budget = Budget::new(self.inner().read_time_limit);
        }
        LeaseDecision::Compute
    }

    /// Whether a read that began then still waits for other processes.
    pub(crate) fn is_patient(&self, began: Option<Instant>) -> bool {
        let patience = self.options().lease.zip(began);
        patience.is_some_and(|(duration, began)| began.elapsed() < duration.saturating_mul(2))
    }

    async fn claim(
        &self,
        key: &Key,
        ticket: &LoadPermit,
        duration: Duration,
        budget: &mut Budget,
    ) -> Result<Claim> {
        let current = ticket.vector.iter().copied().map(Some).collect();
        Ok(self.ask_lease(key, &ticket.groups, &current, duration, budget).await?.2)
    }

    async fn ask_lease(
        &self,
        key: &Key,
        groups: &Groups,
        current: &CurrentGenerations,
        duration: Duration,
        budget: &mut Budget,
    ) -> Result<(GenerationVector, GenerationGuard, Claim)> {
        let backend = &self.inner().backend;
        let protocol = || Error::new(ErrorKind::Protocol, backend.name());
        let request = LeaseRequest::new(key, groups, current, self.inner().owner, duration);
        let request = request.ok_or_else(protocol)?;
        let asked_at = Instant::now();
        let leased = budget.run(backend.name(), pin!(backend.lease(&request))).await?;
        if leased.vector.len() != groups.len() {
            return Err(protocol());
        }
        let claim = match leased.holder {
            LeaseHolder::Ours => {
                let (key, groups, vector) = (key.clone(), groups.clone(), leased.vector.clone());
                Claim::Ours(Box::new(HeldLease {
                    leases: self.shared_inner(),
                    flight: FlightId { key, groups, vector },
                    until: asked_at + duration,
                    runtime: Handle::try_current().ok(),
                }))
            }
            LeaseHolder::Other => Claim::Other,
            LeaseHolder::Unknown => Claim::Unknown,
        };
        Ok((leased.vector, leased.guard, claim))
    }
}

/// Keeps `lead` for a moment, so that of the readers who have something to serve while another
/// process computes, not every one asks whether it still does.
pub(crate) fn keep_for_a_moment(lead: Leader) {
    if let Ok(runtime) = Handle::try_current() {
        // Nobody waits for it: those who wait for the flight take over when it is dropped.
        drop(runtime.spawn(async move {
            tokio::time::sleep(LONGEST_PAUSE).await;
            drop(lead);
        }));
    }
}

impl HeldLease {
    /// Whether it has not run out yet.
    pub(crate) fn duration(&self) -> bool {
        Instant::now() < self.until
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take().filter(|_| self.duration()) else {
            return;
        };
        let (leases, flight) = (Arc::clone(&self.leases), self.flight.clone());
        let limit = self.until.saturating_duration_since(Instant::now());
        // Nobody waits for it: a lease that is not given back runs out.
        drop(runtime.spawn(async move { leases.give_back(&flight, limit).await }));
    }
}

#[async_trait]
impl<B: Backend> Leases for Inner<B> {
    async fn give_back(&self, flight: &FlightId, limit: Duration) {
        if self.flights.has(flight) {
            return;
        }
        let lease = LeaseName::new(&flight.key, &flight.groups, &flight.vector);
        let mut budget = Budget::new(limit.min(self.write_time_limit));
        let release = pin!(self.backend.release(&lease, self.owner));
        let released = budget.run(self.backend.name(), release).await;
        if let Err(error) = released {
            tracing::debug!(%error, "a lease was not given back and will run out");
        }
    }
}

impl fmt::Debug for HeldLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldLease").field("flight", &self.flight).finish_non_exhaustive()
    }
}
