//! One read: looks up, and joins flights until there is something to serve or to load.

use std::pin::pin;
use std::sync::Arc;

use crate::backend::Backend;
use crate::backend::lookup::TimeLeft;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::Entry;
use crate::load_context::LoadContext;
use crate::outcome::{Miss, ServedFrom};
use crate::read::flight::{FlightOutcome, Joined, SharedLoad};
use crate::read::follower::Arrival;
use crate::read::leader::Leader;
use crate::read::lease_wait::{LeaseDecision, WaitLimit};
use crate::read::lookup::LookupOutcome;
use crate::read::permit::{LoadPermit, Missed};
use crate::read::single_flight::{Reader, Role};
use crate::read::wait::wait;
use crate::time_limit::TimeBudget;

/// How many attempts a read makes to share a load of another reader before it loads on its own. Each
/// further attempt means that a group was invalidated during the attempt before.
const SHARED_ATTEMPTS_MAX: u32 = 3;

/// What a read does next.
pub(crate) enum Step<V> {
    /// Starts again with a new lookup.
    Retry,
    /// Serves a value that is in the cache or was loaded by another reader.
    Serve { value: V, from: ServedFrom, miss: Option<Miss> },
    /// Serves an expired value, and refreshes it.
    Revalidate { value: V, permit: Box<LoadPermit> },
    /// Loads, as the leader of a flight or alone.
    Load { missed: Missed, leader: Option<Leader> },
}

/// One read.
pub(crate) struct Read<'a, B, A> {
    pub(crate) cache: &'a Cache<B>,
    pub(crate) address: &'a Address,
    pub(crate) accept: &'a A,
    /// The load context of the load that this read is nested in.
    pub(crate) outer: Option<&'a LoadContext>,
    pub(crate) state: ReadState,
}

/// What a read has used up, and what it keeps from attempt to attempt.
pub(crate) struct ReadState {
    budget: TimeBudget,
    wait_limit: WaitLimit,
    attempt: u32,
    /// The flights of the key that had finished before the last lookup.
    finished: u64,
    /// The lead that this read took over after a wait, while it looks up again.
    pub(crate) leader: Option<Leader>,
    /// Whether this read could not share a load whose vector it had. It joins no load that has begun then.
    wants_later_load: bool,
}

impl<'a, B, A, V> Read<'a, B, A>
where
    B: Backend,
    A: Fn(&Arc<Entry>) -> Option<V> + Sync,
{
    pub(crate) fn new(
        cache: &'a Cache<B>,
        address: &'a Address,
        accept: &'a A,
        outer: Option<&'a LoadContext>,
    ) -> Self {
        let state = ReadState {
            budget: TimeBudget::new(cache.inner().read_time_limit),
            wait_limit: WaitLimit::from_now(cache.options().lease),
            attempt: 0,
            finished: 0,
            leader: None,
            wants_later_load: false,
        };
        Self { cache, address, accept, outer, state }
    }

    /// Looks the entry up, and decides what to do if it is no hit.
    pub(crate) async fn look(&mut self) -> Result<Step<V>, Missed> {
        self.state.attempt += 1;
        self.state.finished = self.cache.inner().flights.finished_count(&self.address.key);
        match self.cache.look_up(self.address, self.accept, &mut self.state.budget).await {
            LookupOutcome::Hit(value) => {
                self.let_followers_look_again();
                Ok(Step::Serve { value, from: ServedFrom::Hit, miss: None })
            }
            LookupOutcome::Unavailable(miss) => Err(Missed { miss, permit: None }),
            LookupOutcome::Miss(permit) => match permit.stale_while_revalidate(self.accept) {
                Some(value) => {
                    self.let_followers_look_again();
                    self.keep_outer_from_storing();
                    Ok(Step::Revalidate { value, permit })
                }
                None => Err(Missed { miss: permit.miss, permit: Some(permit) }),
            },
        }
    }

    /// Joins a flight of this key: leads it, or waits for its leader.
    pub(crate) async fn join(&mut self, missed: Missed) -> Step<V> {
        let id = missed.permit.as_ref().map(|permit| permit.flight_id(self.address));
        if let Some(leader) = self.state.leader.take() {
            return self.lead(missed, leader).await;
        }
        let flights = &self.cache.inner().flights;
        if flights.unshared.contains(&self.address.key) {
            return Step::Load { missed, leader: None };
        }
        let has_stale = missed.stale_if_error(self.accept).is_some();
        loop {
            let within = self.outer.map(LoadContext::node);
            let id = id.as_ref().filter(|_| !self.state.wants_later_load);
            let reader = Reader { key: &self.address.key, id, has_stale, within };
            let follower = match flights.join(&reader) {
                Role::Leader(leader) => return self.lead(missed, leader).await,
                Role::Landed(outcome) => return self.follow(missed, outcome, Joined::WithVector).await,
                Role::Follower(follower) => follower,
                Role::Alone => {
                    self.cache.inner().counters().wait_cycles.increment();
                    return Step::Load { missed, leader: None };
                }
            };
            let stalled = || self.cache.inner().counters().stalled_loads.increment();
            match wait(&follower, self.cache.inner().load_wait_limit, stalled).await {
                Arrival::Outcome(outcome, joined) => return self.follow(missed, outcome, joined).await,
                Arrival::TakeOver(leader) => {
                    // The vector of this read may be outdated by now, and a new one is needed before the load.
                    self.state.leader = Some(leader);
                    self.state.attempt -= 1;
                    self.state.budget = TimeBudget::new(self.cache.inner().read_time_limit);
                    return Step::Retry;
                }
                Arrival::Failed => {
                    if let Some(step) = self.serve_stale(&missed) {
                        return step;
                    }
                }
                Arrival::Rejoin => {}
            }
        }
    }

    /// Leads a flight: waits for this process's turn if there is a lease, then loads.
    async fn lead(&mut self, mut missed: Missed, mut leader: Leader) -> Step<V> {
        let Some(permit) = &mut missed.permit else {
            leader.prepare(None);
            return Step::Load { missed, leader: Some(leader) };
        };
        leader.prepare(Some(permit.flight_id(self.address)));
        // What this read is to load was loaded since its lookup: it is being stored, or may be stored by now.
        if let Some(outcome) = leader.landed().filter(|landed| !self.is_too_old(landed)) {
            leader.finish(FlightOutcome::LookAgain);
            return self.follow(missed, outcome, Joined::WithVector).await;
        }
        if self.may_retry()
            && self.cache.inner().flights.finished_count(&self.address.key) != self.state.finished
        {
            self.state.leader = Some(leader);
            return Step::Retry;
        }
        let progress = leader.progress();
        let decision = self.cache.await_lease(
            self.address,
            permit,
            &mut leader,
            self.state.wait_limit,
            &mut self.state.budget,
            self.accept,
        );
        match progress.of(Box::pin(decision)).await {
            LeaseDecision::Load | LeaseDecision::HeldElsewhere => Step::Load { missed, leader: Some(leader) },
            LeaseDecision::Found(value) => shared(value, missed.miss),
            LeaseDecision::Invalidated => Step::Retry,
        }
    }

    /// Takes what the flight came to, if it is for this reader too.
    async fn follow(&mut self, missed: Missed, outcome: FlightOutcome, joined: Joined) -> Step<V> {
        let is_too_old = self.is_too_old(&outcome);
        match outcome {
            FlightOutcome::Loaded(load) => {
                if !is_too_old && self.may_share(&missed, &load, joined).await {
                    if let Some(value) = (self.accept)(&load.entry) {
                        self.depend_on(&load);
                        return shared(value, missed.miss);
                    }
                } else if self.may_retry() {
                    self.state.wants_later_load = true;
                    return Step::Retry;
                }
            }
            FlightOutcome::Failed(failure) => {
                if let Some(step) = self.serve_stale(&missed) {
                    return step;
                }
                if self.may_share(&missed, &failure, joined).await
                    && let Some(value) = (self.accept)(&failure.entry)
                {
                    self.keep_outer_from_storing();
                    return shared(value, missed.miss);
                }
            }
            FlightOutcome::Found { entry, expires_at } => {
                let found = SharedLoad { entry, expires_at, is_complete: true, is_stored: true };
                if !is_too_old && self.may_share(&missed, &found, Joined::WithVector).await {
                    if let Some(value) = (self.accept)(&found.entry) {
                        self.depend_on(&found);
                        return shared(value, missed.miss);
                    }
                } else if self.may_retry() {
                    return Step::Retry;
                }
            }
            FlightOutcome::LookAgain if self.may_retry() || self.state.wait_limit.is_left() => {
                return Step::Retry;
            }
            FlightOutcome::LookAgain | FlightOutcome::Private => {}
        }
        Step::Load { missed, leader: None }
    }

    /// Whether the time to live of the value has ended: its entry is still being stored, or the reader was
    /// woken late. A value that is not to be stored is as old as this wait is long.
    fn is_too_old(&self, outcome: &FlightOutcome) -> bool {
        let expires_at = match outcome {
            FlightOutcome::Loaded(load) if load.is_stored => load.expires_at,
            FlightOutcome::Found { expires_at, .. } => *expires_at,
            _ => None,
        };
        expires_at.is_some_and(|expires_at| expires_at <= self.cache.inner().clock.now())
    }

    /// Serves a stale entry after a failed load, if there is one.
    fn serve_stale(&self, missed: &Missed) -> Option<Step<V>> {
        let value = missed.stale_if_error(self.accept)?;
        self.keep_outer_from_storing();
        Some(Step::Serve { value, from: ServedFrom::StaleIfError, miss: Some(missed.miss) })
    }

    /// The load around this read depends on what `load` depends on.
    fn depend_on(&self, load: &SharedLoad) {
        match self.outer {
            Some(outer) if load.is_stored && load.entry.groups().contains_all(&self.address.groups) => {
                outer.after_nested_read(self.cache.id(), &load.entry, load.expires_at);
            }
            _ => self.keep_outer_from_storing(),
        }
    }

    /// Ends the flight that this read took over, if it did: its followers find an entry too.
    fn let_followers_look_again(&mut self) {
        if let Some(mut leader) = self.state.leader.take() {
            leader.finish(FlightOutcome::LookAgain);
        }
    }

    /// Whether a follower may take what the flight it waited for has loaded.
    ///
    /// If it joined before the load began, it may. Otherwise the flight and the follower have equal vectors.
    /// Groups that the load discovered are checked here: they may have been invalidated after the load began
    /// and before this read began. Such followers may have named other groups than the leader: the entry has
    /// to depend on those too.
    async fn may_share(&mut self, missed: &Missed, load: &SharedLoad, joined: Joined) -> bool {
        #[cfg(groupcache_mutants)]
        if ["unchecked_late_groups", "flight_by_key", "flight_on_missing", "late_join"]
            .into_iter()
            .any(crate::mutants::is_on)
        {
            return true;
        }
        if joined == Joined::BeforeLoad {
            return true;
        }
        let (entry, Some(permit)) = (&load.entry, &missed.permit) else {
            return false;
        };
        if !load.is_complete || !entry.groups().contains_all(&self.address.groups) {
            return false;
        }
        if permit.covers(entry) {
            return true;
        }
        let backend = &self.cache.inner().backend;
        let lookup = backend.lookup(entry.key(), entry.groups(), TimeLeft::NotNeeded);
        match self.state.budget.run(backend.name(), pin!(lookup)).await {
            Ok(lookup) => lookup.current.equals(entry.vector()),
            Err(error) => {
                self.cache.miss_of(&error);
                false
            }
        }
    }

    const fn may_retry(&self) -> bool {
        self.state.attempt < SHARED_ATTEMPTS_MAX
    }

    /// The load around this read has seen a value whose groups it does not know.
    fn keep_outer_from_storing(&self) {
        if let Some(outer) = self.outer {
            outer.keep_from_store();
        }
    }
}

const fn shared<V>(value: V, miss: Miss) -> Step<V> {
    Step::Serve { value, from: ServedFrom::Shared(miss), miss: Some(miss) }
}
