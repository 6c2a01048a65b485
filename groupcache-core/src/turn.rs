//! Waiting for this process's turn to compute, where a lease is wanted.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::backend::{Backend, Current, Found, Hold};
use crate::cache::{Cache, Inner};
use crate::compute::Ticket;
use crate::entry::{Entry, Vector};
use crate::error::{Error, ErrorKind, Result};
use crate::fill::Fill;
use crate::group::Groups;
use crate::key::Key;
use crate::key_strategy::Address;
use crate::lease::{LeaseHolder, LeaseName, LeaseRequest};
use crate::single_flight::{FlightId, Landing, Lead};
use crate::time_limit::Budget;
use crate::verdict::Verdict;

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
pub(crate) enum Patience {
    /// For about twice as long as a lease lasts, from then on.
    Since(Instant),
    /// There is something to serve meanwhile.
    None,
}

/// What a leader does next.
pub(crate) enum Turn<V> {
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
        current: &Current,
        lasts: Duration,
        budget: &mut Budget,
    ) -> Result<(Vector, Hold, Claim)> {
        let counters = self.inner().counters();
        counters.mints.increment();
        let leased = self.ask_lease(&address.key, groups, current, lasts, budget).await;
        if leased.is_err() {
            counters.mint_failures.increment();
        }
        leased
    }

    /// Waits for this process's turn to compute: not at all where no lease is wanted.
    ///
    /// Those who wait for `lead` get what another process has stored.
    pub(crate) async fn take_turn<V>(
        &self,
        address: &Address,
        ticket: &mut Ticket,
        lead: &mut Lead,
        patience: Patience,
        budget: &mut Budget,
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
    ) -> Turn<V> {
        let Some(lasts) = self.options().lease else {
            return Turn::Compute;
        };
        let mut claim = std::mem::replace(&mut ticket.claim, Claim::Unknown);
        // It came with a mint: nobody else can have stored anything under a generation that is ours.
        if let Claim::Ours(lease) = claim {
            lead.keep(lease);
            return Turn::Compute;
        }
        let mut pause = FIRST_PAUSE;
        // From a leader that went away.
        while !lead.has_lease() {
            if matches!(claim, Claim::Unknown) {
                claim = match self.claim(&address.key, ticket, lasts, budget).await {
                    Ok(claim) => claim,
                    Err(error) => {
                        tracing::debug!(%error, "computing without a lease");
                        return Turn::Compute;
                    }
                };
            }
            let ours = matches!(claim, Claim::Ours(_));
            if let Claim::Ours(lease) = std::mem::replace(&mut claim, Claim::Unknown) {
                lead.keep(lease);
            }
            if !ours && matches!(patience, Patience::None) {
                return Turn::Others;
            }
            // After the lease was asked for: whoever had given it back had stored before.
            let Ok(looked) = self.look(address, budget).await else {
                return Turn::Compute;
            };
            if let (Verdict::Hit(expires_at), Found::Entry(entry, _)) =
                (&looked.verdict, &looked.lookup.found)
                && let Some(value) = accept(entry)
            {
                // Whether it is for them too, those who wait check for themselves.
                lead.land(Landing::Shared(Arc::clone(entry), *expires_at));
                if let Some(outer) = Fill::current() {
                    outer.after_nested_read(self.id(), entry, *expires_at);
                }
                return Turn::Found(value);
            }
            let left = match patience {
                Patience::Since(began) => {
                    let deadline = began.min(lead.began()) + lasts.saturating_mul(2);
                    deadline.saturating_duration_since(Instant::now())
                }
                Patience::None => Duration::ZERO,
            };
            let unchanged = looked.groups == ticket.groups && looked.lookup.current.equals(&ticket.vector);
            if !unchanged && !left.is_zero() {
                lead.land(Landing::Changed);
                return Turn::Changed;
            }
            if ours || left.is_zero() || Handle::try_current().is_err() {
                return Turn::Compute;
            }
            if pause == FIRST_PAUSE {
                self.inner().counters().lease_waits.increment();
            }
            // So that processes which began at the same time do not ask at the same time for ever.
            tokio::time::sleep(pause.mul_f64(0.75 + 0.5 * rand::random::<f64>()).min(left)).await;
            pause = pause.mul_f64(1.5).min(LONGEST_PAUSE);
            *budget = Budget::new(self.inner().soft_time_limit);
        }
        Turn::Compute
    }

    /// Whether a read that began then still waits for other processes.
    pub(crate) fn is_patient(&self, began: Option<Instant>) -> bool {
        let patience = self.options().lease.zip(began);
        patience.is_some_and(|(lasts, began)| began.elapsed() < lasts.saturating_mul(2))
    }

    async fn claim(&self, key: &Key, ticket: &Ticket, lasts: Duration, budget: &mut Budget) -> Result<Claim> {
        let current = ticket.vector.iter().copied().map(Some).collect();
        Ok(self.ask_lease(key, &ticket.groups, &current, lasts, budget).await?.2)
    }

    async fn ask_lease(
        &self,
        key: &Key,
        groups: &Groups,
        current: &Current,
        lasts: Duration,
        budget: &mut Budget,
    ) -> Result<(Vector, Hold, Claim)> {
        let backend = &self.inner().backend;
        let protocol = || Error::new(ErrorKind::Protocol, backend.name());
        let request = LeaseRequest::new(key, groups, current, self.inner().owner, lasts);
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
                    until: asked_at + lasts,
                    runtime: Handle::try_current().ok(),
                }))
            }
            LeaseHolder::Other => Claim::Other,
            LeaseHolder::NotAsked => Claim::Unknown,
        };
        Ok((leased.vector, leased.hold, claim))
    }
}

/// Keeps `lead` for a moment, so that of the readers who have something to serve while another
/// process computes, not every one asks whether it still does.
pub(crate) fn keep_for_a_moment(lead: Lead) {
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
    pub(crate) fn lasts(&self) -> bool {
        Instant::now() < self.until
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take().filter(|_| self.lasts()) else {
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
        let lease = LeaseName::of(&flight.key, &flight.groups, &flight.vector);
        let mut budget = Budget::new(limit.min(self.hard_time_limit));
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
