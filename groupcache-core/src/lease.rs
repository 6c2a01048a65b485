//! The lease on a fill: of several processes that miss the same entry, one computes it.
//!
//! What a flight is within a process, a lease is among processes that share a store; it is named by
//! what identifies a flight, the key *and* the complete vector. So nobody who reads after an
//! invalidation waits for a computation from before it. It saves work and decides nothing: an entry
//! is a hit by its vector alone, and whoever computes without a lease has merely done it once more.
//!
//! (Leases on misses: Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013, section 3.2.1. There
//! the lease also guards the store against stale sets; here the vector does.)

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::backend::{Backend, Current, Found, Hold, Minted};
use crate::cache::{Cache, Inner};
use crate::compute::Ticket;
use crate::entry::{Entry, Generation, Vector};
use crate::error::{Error, ErrorKind, Result};
use crate::group::{Group, Groups};
use crate::key::Key;
use crate::key_strategy::Address;
use crate::single_flight::{Landing, Lead};
use crate::time_limit::Budget;
use crate::verdict::Verdict;

/// How long one who waits for another process pauses before it looks again, first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Asks a backend for the lease on one computation, and for the generations that it still lacks.
#[derive(Debug, Clone, Copy)]
pub struct LeaseRequest<'a> {
    key: &'a Key,
    groups: &'a [Group],
    current: &'a Current,
    owner: LeaseOwner,
    lasts: Duration,
}

/// What [`Backend::lease`] returns.
#[derive(Debug)]
pub struct Leased {
    /// One generation for each group of the request, in order: those that were known, and minted ones
    /// for the others.
    pub vector: Vector,
    /// Keeps them in existence until the entry computed under them is stored.
    pub hold: Hold,
    /// Who has the lease on computing under that vector.
    pub holder: LeaseHolder,
}

/// Who has a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "every backend builds it and the cache must treat each case")]
pub enum LeaseHolder {
    /// The owner named in the request, since now or since before.
    Ours,
    /// Somebody else.
    Other,
    /// Unknown: the lease was asked for under a vector that did not come out, because another process
    /// was the first to mint one of the groups.
    NotAsked,
}

/// The name of a lease: what a store keeps the owner under, beside its prefix. The same in every
/// process and release.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseName([u8; 32]);

/// Who asks for leases: one [`Cache`] and its clones. Readers of one cache share what it computes, so
/// a lease belongs to all of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseOwner([u8; 16]);

impl<'a> LeaseRequest<'a> {
    /// A request for the lease on computing the entry of `key` under the generations of `groups`, of
    /// which `current` are known, to last for `lasts`. `None` if `current` is not about `groups`.
    #[must_use]
    pub fn new(
        key: &'a Key,
        groups: &'a [Group],
        current: &'a Current,
        owner: LeaseOwner,
        lasts: Duration,
    ) -> Option<Self> {
        (groups.len() == current.len()).then_some(Self { key, groups, current, owner, lasts })
    }

    /// The groups that the vector is of.
    #[must_use]
    pub const fn groups(&self) -> &'a [Group] {
        self.groups
    }

    /// The groups that have no generation and are to be minted, in order.
    pub fn missing(&self) -> impl Iterator<Item = &'a Group> + use<'a> {
        self.groups
            .iter()
            .zip(self.current.iter())
            .filter(|(_, known)| known.is_none())
            .map(|(group, _)| group)
    }

    /// The complete vector, with these generations for the [`missing`](Self::missing) groups, in that
    /// order. `None` if there are more or fewer of them.
    #[must_use]
    pub fn vector(&self, fresh: impl IntoIterator<Item = Generation>) -> Option<Vector> {
        let mut fresh = fresh.into_iter();
        let vector = self.current.iter().map(|known| known.or_else(|| fresh.next())).collect();
        if fresh.next().is_some() { None } else { vector }
    }

    /// The name of the lease on computing under `vector`.
    #[must_use]
    pub fn name(&self, vector: &Vector) -> LeaseName {
        LeaseName::of(self.key, vector)
    }

    /// Who asks.
    #[must_use]
    pub const fn owner(&self) -> LeaseOwner {
        self.owner
    }

    /// How long the lease lasts unless it is released.
    #[must_use]
    pub const fn lasts(&self) -> Duration {
        self.lasts
    }
}

impl LeaseName {
    fn of(key: &Key, vector: &Vector) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("groupcache 2026-11 lease on a fill");
        hasher.update(&key.hash());
        for generation in vector.iter() {
            hasher.update(&generation.get().to_be_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The digest that it is.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl LeaseOwner {
    /// One that nobody else is: 128 random bits.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The bits.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// What one process knows of a lease since it asked last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    holder: LeaseHolder,
    /// Before the request was sent: the lease cannot run out earlier than its time after this.
    asked_at: Instant,
}

/// A lease that is ours. Dropped, by whatever path, it is released for those who wait elsewhere.
pub(crate) struct HeldLease<B: Backend> {
    inner: Arc<Inner<B>>,
    name: LeaseName,
    until: Instant,
}

/// What a leader does next.
pub(crate) enum Turn<B: Backend, V> {
    /// Compute; with a lease, if there is one.
    Compute(Option<HeldLease<B>>),
    /// Another process has stored it.
    Found(V),
    /// Something it depends on was invalidated while it waited: start again.
    Again,
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

    async fn ask_lease(
        &self,
        key: &Key,
        groups: &[Group],
        current: &Current,
        lasts: Duration,
        budget: &mut Budget,
    ) -> Result<(Vector, Hold, Claim)> {
        let backend = &self.inner().backend;
        let protocol = || Error::new(ErrorKind::Protocol, backend.name());
        let request = LeaseRequest::new(key, groups, current, self.inner().owner, lasts);
        let request = request.ok_or_else(protocol)?;
        let asked_at = Instant::now();
        let leased = budget.run(backend.name(), backend.lease(&request)).await?;
        if leased.vector.len() != groups.len() {
            return Err(protocol());
        }
        Ok((leased.vector, leased.hold, Claim { holder: leased.holder, asked_at }))
    }

    /// Waits for this process's turn to compute. At once where no lease is wanted; never longer than
    /// twice the time that a lease lasts.
    ///
    /// Those who wait for `lead` get what another process has stored, if it is under the vector of
    /// their flight.
    pub(crate) async fn take_turn<V>(
        &self,
        address: &Address,
        ticket: &mut Ticket,
        lead: &mut Lead,
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
    ) -> Turn<B, V> {
        let Some(lasts) = self.options().lease else {
            return Turn::Compute(None);
        };
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            // While it waits the store may fail: then nobody else's entry is to be had either.
            let Ok(held) = self.claim(address, ticket, lasts).await else {
                return Turn::Compute(None);
            };
            if held.is_some() || began.elapsed() >= lasts.saturating_mul(2) {
                return Turn::Compute(held);
            }
            if pause == FIRST_PAUSE {
                self.inner().counters().lease_waits.increment();
            }
            // So that processes which began at the same time do not ask at the same time for ever.
            tokio::time::sleep(pause.mul_f64(0.75 + 0.5 * rand::random::<f64>())).await;
            pause = pause.mul_f64(1.5).min(LONGEST_PAUSE);
            let mut budget = Budget::new(self.inner().soft_time_limit);
            let Ok(looked) = self.look(address, &mut budget).await else {
                return Turn::Compute(None);
            };
            let same_vector = looked.groups == ticket.groups && looked.lookup.current.equals(&ticket.vector);
            match (&looked.verdict, &looked.lookup.found) {
                (Verdict::Hit(expires_at), Found::Entry(entry, _)) => {
                    let Some(value) = accept(entry) else {
                        return Turn::Compute(None);
                    };
                    let landing = Landing::Shared(Arc::clone(entry), *expires_at);
                    lead.land(if same_vector { landing } else { Landing::Again });
                    if let Some(outer) = crate::fill::Fill::current() {
                        outer.after_nested_read(self.id(), entry, *expires_at);
                    }
                    return Turn::Found(value);
                }
                (Verdict::Miss(..), _) if same_vector => {}
                _ => {
                    lead.land(Landing::Again);
                    return Turn::Again;
                }
            }
        }
    }

    /// The lease if it is ours by now; `None` if another process has it.
    ///
    /// # Errors
    ///
    /// If the store did not answer.
    pub(crate) async fn claim(
        &self,
        address: &Address,
        ticket: &mut Ticket,
        lasts: Duration,
    ) -> Result<Option<HeldLease<B>>> {
        let known = ticket
            .claim
            .take()
            .filter(|claim| claim.holder != LeaseHolder::NotAsked && claim.asked_at.elapsed() < lasts);
        let claim = match known {
            Some(claim) => claim,
            None => {
                let current = ticket.vector.iter().copied().map(Some).collect();
                let mut budget = Budget::new(self.inner().soft_time_limit);
                self.ask_lease(&address.key, &ticket.groups, &current, lasts, &mut budget).await?.2
            }
        };
        Ok((claim.holder == LeaseHolder::Ours).then(|| HeldLease {
            inner: self.shared_inner(),
            name: LeaseName::of(&address.key, &ticket.vector),
            until: claim.asked_at + lasts,
        }))
    }
}

/// The lease on a fill in a store that knows none: always ours. See [`Backend::lease`].
pub(crate) async fn mint_only<B: Backend + ?Sized>(
    backend: &B,
    request: &LeaseRequest<'_>,
) -> Result<Leased> {
    let missing: Vec<Group> = request.missing().cloned().collect();
    let minted = if missing.is_empty() {
        Minted { vector: Vector::default(), hold: Hold::none() }
    } else {
        backend.mint(&missing).await?
    };
    let vector = request.vector(minted.vector.iter().copied());
    let vector = vector.ok_or_else(|| Error::new(ErrorKind::Protocol, backend.name()))?;
    Ok(Leased { vector, hold: minted.hold, holder: LeaseHolder::Ours })
}

impl<B: Backend> Drop for HeldLease<B> {
    fn drop(&mut self) {
        // Past its time it may be another's by now.
        if Instant::now() >= self.until {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (inner, name) = (Arc::clone(&self.inner), self.name);
        let limit = self.until.saturating_duration_since(Instant::now()).min(inner.hard_time_limit);
        // Nobody waits for it: a lease that is not released runs out.
        drop(runtime.spawn(async move {
            let released = Budget::new(limit).run(inner.backend.name(), inner.backend.release(&name)).await;
            if let Err(error) = released {
                tracing::debug!(%error, "a lease was not released and will run out");
            }
        }));
    }
}

impl fmt::Debug for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseName({})", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for LeaseOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseOwner({:032x})", u128::from_be_bytes(self.0))
    }
}
