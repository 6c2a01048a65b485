//! The wait for this process's turn to load, where the options ask for a lease.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::backend::Backend;
use crate::backend::lookup::Found;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::Entry;
use crate::error::Result;
use crate::load_context::LoadContext;
use crate::read::flight::FlightOutcome;
use crate::read::held_lease::LeaseClaim;
use crate::read::leader::Leader;
use crate::read::lookup::JudgedLookup;
use crate::read::permit::LoadPermit;
use crate::read::verdict::Verdict;
use crate::time_limit::TimeBudget;

/// The first and the longest pause between two lookups while another process loads.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How long a leader waits for another process.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WaitLimit {
    /// Not at all: there is a stale value to serve.
    Zero,
    /// For twice the duration of a lease, from the start of the read.
    Since { start: Instant, limit: Duration },
}

/// What a leader does next.
pub(crate) enum LeaseDecision<V> {
    /// Another process has stored the entry.
    Found(V),
    /// Another process loads, and the leader does not wait.
    HeldElsewhere,
    /// A group was invalidated meanwhile: start again.
    Invalidated,
    /// Load: this process holds the lease, or has waited long enough.
    Load,
}

impl<B: Backend> Cache<B> {
    /// Waits for this process's turn to load. Returns at once if no lease is wanted.
    ///
    /// The followers of `leader` get what another process has stored.
    pub(crate) async fn await_lease<V>(
        &self,
        address: &Address,
        permit: &mut LoadPermit,
        leader: &mut Leader,
        wait_limit: WaitLimit,
        budget: &mut TimeBudget,
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
    ) -> LeaseDecision<V> {
        let Some(duration) = self.options().lease else {
            return LeaseDecision::Load;
        };
        let mut claim = std::mem::replace(&mut permit.claim, LeaseClaim::Unknown);
        // The lease came with a mint: no other process can have stored anything under our own generation.
        if let LeaseClaim::Ours(lease) = claim {
            leader.set_lease(lease);
            return LeaseDecision::Load;
        }
        let mut pause = PAUSE_MIN;
        // The flight may have a lease already, from a leader that was cancelled.
        while !leader.has_lease() {
            if matches!(claim, LeaseClaim::Unknown) {
                claim = match self.claim_lease(address, permit, duration, budget).await {
                    Ok(claim) => claim,
                    Err(error) => {
                        tracing::debug!(%error, "loading without a lease");
                        return LeaseDecision::Load;
                    }
                };
            }
            let is_ours = matches!(claim, LeaseClaim::Ours(_));
            if let LeaseClaim::Ours(lease) = std::mem::replace(&mut claim, LeaseClaim::Unknown) {
                leader.set_lease(lease);
            } else if matches!(wait_limit, WaitLimit::Zero) {
                return LeaseDecision::HeldElsewhere;
            }
            // Looked up after the request for the lease: the process that held it before has stored by now.
            let Ok(judged) = self.judged_lookup(address, budget).await else {
                return LeaseDecision::Load;
            };
            if let Some(value) = self.accept_stored(&judged, leader, accept) {
                return LeaseDecision::Found(value);
            }
            let left = wait_limit.left(leader.began());
            if !left.is_zero() && !is_unchanged(&judged, permit) {
                leader.finish(FlightOutcome::LookAgain);
                return LeaseDecision::Invalidated;
            }
            if is_ours || left.is_zero() || Handle::try_current().is_err() {
                return LeaseDecision::Load;
            }
            if pause == PAUSE_MIN {
                self.inner().counters().lease_waits.increment();
            }
            pause = sleep_with_jitter(pause, left).await;
            *budget = TimeBudget::new(self.inner().read_time_limit);
        }
        LeaseDecision::Load
    }

    async fn claim_lease(
        &self,
        address: &Address,
        permit: &LoadPermit,
        duration: Duration,
        budget: &mut TimeBudget,
    ) -> Result<LeaseClaim> {
        let current = permit.vector.iter().copied().map(Some).collect();
        let response = self.request_lease(&address.key, &permit.groups, &current, duration, budget);
        Ok(response.await?.claim)
    }

    /// Takes the entry that another process has stored, for this reader and for the followers of `leader`.
    fn accept_stored<V>(
        &self,
        judged: &JudgedLookup,
        leader: &mut Leader,
        accept: &impl Fn(&Arc<Entry>) -> Option<V>,
    ) -> Option<V> {
        let (Verdict::Hit(expires_at), Found::Entry(entry, _)) = (&judged.verdict, &judged.lookup.found)
        else {
            return None;
        };
        let (expires_at, value) = (*expires_at, accept(entry)?);
        // Followers check for themselves whether they may share it.
        leader.finish(FlightOutcome::Found { entry: Arc::clone(entry), expires_at });
        if let Some(outer) = LoadContext::current() {
            outer.after_nested_read(self.id(), entry, expires_at);
        }
        Some(value)
    }
}

impl WaitLimit {
    /// Returns the limit of a read that starts now.
    pub(crate) fn from_now(lease: Option<Duration>) -> Self {
        lease.map_or(Self::Zero, |duration| Self::Since {
            start: Instant::now(),
            limit: duration.saturating_mul(2),
        })
    }

    /// Whether the limit is not used up.
    pub(crate) fn is_left(self) -> bool {
        match self {
            Self::Zero => false,
            Self::Since { start, limit } => start.elapsed() < limit,
        }
    }

    /// Returns what is left for a leader of a flight that began at `flight_began`.
    fn left(self, flight_began: Instant) -> Duration {
        match self {
            Self::Zero => Duration::ZERO,
            Self::Since { start, limit } => {
                (start.min(flight_began) + limit).saturating_duration_since(Instant::now())
            }
        }
    }
}

/// Keeps `leader` for one pause. Readers that have a stale value to serve then do not each ask whether
/// another process still loads.
pub(crate) fn hold_for_a_pause(leader: Leader) {
    if let Ok(runtime) = Handle::try_current() {
        // Detached: a follower takes over when the leader is dropped.
        drop(runtime.spawn(async move {
            tokio::time::sleep(PAUSE_MAX).await;
            drop(leader);
        }));
    }
}

/// Whether the groups and generations are still those of the permit.
fn is_unchanged(judged: &JudgedLookup, permit: &LoadPermit) -> bool {
    judged.groups == permit.groups && judged.lookup.current.equals(&permit.vector)
}

/// Sleeps for about `pause` and returns the next one. The jitter keeps processes that began at the same time
/// from asking at the same time for ever.
async fn sleep_with_jitter(pause: Duration, left: Duration) -> Duration {
    tokio::time::sleep(pause.mul_f64(0.75 + 0.5 * rand::random::<f64>()).min(left)).await;
    pause.mul_f64(1.5).min(PAUSE_MAX)
}
