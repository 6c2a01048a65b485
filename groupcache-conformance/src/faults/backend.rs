//! A backend that suffers what networks and servers do.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use groupcache_core::backend::{
    EntryView, Found, LeaseName, LeaseOwner, LeaseRequest, Leased, Lookup, Minted, TimeLeft,
};
use groupcache_core::{Backend, Entry, Error, ErrorKind, Group, Groups, Key, Result};
use parking_lot::Mutex;

use crate::faults::plan::{Fault, FaultCounts, FaultPlan, SplitMix};

/// How many entries and groups a [`FaultBackend`] remembers for [`Fault::RollBack`].
const REMEMBERED_MAX: usize = 256;

/// A backend that suffers the faults of a [`FaultPlan`].
///
/// Forwards every operation without a fault to the inner backend. `lookup_now` shows nothing, so that
/// every lookup can suffer a fault. Clones share the plan and the inner backend.
///
/// ```
/// use groupcache_conformance::{Fault, FaultBackend, FaultPlan};
/// use groupcache_core::{Cache, Group};
/// # use groupcache_memory::MemoryBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let plan = FaultPlan::new(1).with(Fault::DropReply, 1000);
/// let backend = FaultBackend::new(MemoryBackend::with_max_bytes(1 << 20), plan);
/// let cache = Cache::builder(backend.clone()).build();
/// assert!(cache.invalidate(Group::new("book")).await.is_err());
/// assert_eq!(backend.counts().count(Fault::DropReply), 1);
/// # }
/// ```
pub struct FaultBackend<B> {
    inner: Arc<B>,
    shared: Arc<Shared>,
}

struct Shared {
    plan: FaultPlan,
    stopped: AtomicBool,
    state: Mutex<State>,
}

struct State {
    random: SplitMix,
    operations: u64,
    late: Vec<(u64, Late)>,
    entries: VecDeque<(Arc<Entry>, Option<Duration>)>,
    groups: HashSet<Group>,
    counts: FaultCounts,
}

/// The effect of a write that happens later than its request.
#[derive(Clone)]
enum Late {
    Bump(Groups),
    Mint(Groups),
    Store(Arc<Entry>, Option<Duration>),
    Delete(Key),
}

impl<B: Backend> FaultBackend<B> {
    /// Wraps `inner`, which suffers the faults of `plan`.
    pub fn new(inner: B, plan: FaultPlan) -> Self {
        let state = State {
            random: SplitMix::new(plan.seed()),
            operations: 0,
            late: Vec::new(),
            entries: VecDeque::new(),
            groups: HashSet::new(),
            counts: FaultCounts::default(),
        };
        let shared = Shared { plan, stopped: AtomicBool::new(false), state: Mutex::new(state) };
        Self { inner: Arc::new(inner), shared: Arc::new(shared) }
    }

    /// Ends the faults. Delayed writes take effect now.
    ///
    /// # Errors
    ///
    /// Returns the error of the inner backend.
    pub async fn stop(&self) -> Result<()> {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let late = std::mem::take(&mut self.shared.state.lock().late);
        for (_, late) in late {
            self.arrive(late).await?;
        }
        Ok(())
    }

    /// Returns how often each fault happened so far.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        self.shared.state.lock().counts.clone()
    }

    /// Begins an operation: applies the delayed writes that are due, and draws the fault it suffers.
    async fn draw(&self) -> Result<Option<Fault>> {
        if self.shared.stopped.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let (arrived, fault) = {
            let mut state = self.shared.state.lock();
            state.operations += 1;
            let now = state.operations;
            let (arrived, later) =
                std::mem::take(&mut state.late).into_iter().partition(|(due, _)| *due <= now);
            state.late = later;
            let arrived: Vec<(u64, Late)> = arrived;
            (arrived, self.shared.plan.draw(&mut state.random))
        };
        for (_, late) in arrived {
            self.arrive(late).await?;
        }
        Ok(fault)
    }

    fn count(&self, fault: Fault) {
        self.shared.state.lock().counts.add(fault);
    }

    async fn arrive(&self, late: Late) -> Result<()> {
        match late {
            Late::Bump(groups) => self.inner.bump(&groups).await,
            Late::Mint(groups) => self.inner.mint(&groups).await.map(drop),
            Late::Store(entry, time_to_live) => match self.inner.store(&entry, time_to_live).await {
                Err(error) if error.kind() == ErrorKind::Capacity => Ok(()),
                stored => stored,
            },
            Late::Delete(key) => self.inner.delete(&key).await,
        }
    }

    fn postpone(&self, late: Late) {
        let mut state = self.shared.state.lock();
        let due = state.operations + 1 + state.random.below(20);
        state.late.push((due, late));
    }

    fn remember_groups(&self, groups: &[Group]) {
        let mut state = self.shared.state.lock();
        for group in groups {
            if state.groups.len() < REMEMBERED_MAX {
                state.groups.insert(group.clone());
            }
        }
    }

    /// Restores older entries. The restarted server is another incarnation, so every generation changes.
    async fn roll_back(&self) -> Result<()> {
        let (groups, entries) = {
            let state = self.shared.state.lock();
            let groups: Groups = state.groups.iter().cloned().collect();
            let older = state.entries.len() / 2;
            (groups, state.entries.iter().take(older).cloned().collect::<Vec<_>>())
        };
        self.inner.bump(&groups).await?;
        for (entry, time_to_live) in entries {
            self.arrive(Late::Store(entry, time_to_live)).await?;
        }
        Ok(())
    }

    /// Performs a write with the fault that it suffers.
    async fn write<T: Send>(&self, late: Late, effect: impl Future<Output = Result<T>> + Send) -> Result<T> {
        match self.draw().await? {
            Some(fault @ Fault::DropRequest) => self.fail(fault, ErrorKind::Unavailable),
            Some(fault @ Fault::DropReply) => {
                effect.await?;
                self.fail(fault, ErrorKind::Timeout)
            }
            Some(fault @ Fault::Delay) => {
                self.postpone(late);
                self.fail(fault, ErrorKind::Timeout)
            }
            Some(fault @ Fault::Duplicate) => {
                self.count(fault);
                let outcome = effect.await;
                self.postpone(late);
                outcome
            }
            Some(fault @ Fault::OutOfMemory) if !matches!(late, Late::Delete(_)) => {
                self.fail(fault, ErrorKind::Capacity)
            }
            Some(fault @ Fault::PartOfBatch) => match late {
                Late::Bump(groups) if groups.len() > 1 => {
                    self.inner.bump(&groups[..groups.len() / 2]).await?;
                    self.fail(fault, ErrorKind::Unavailable)
                }
                Late::Mint(groups) if groups.len() > 1 => {
                    drop(self.inner.mint(&groups[..groups.len() / 2]).await?);
                    self.fail(fault, ErrorKind::Unavailable)
                }
                _ => effect.await,
            },
            Some(fault @ Fault::RollBack) => {
                self.count(fault);
                self.roll_back().await?;
                effect.await
            }
            _ => effect.await,
        }
    }

    fn fail<T>(&self, fault: Fault, kind: ErrorKind) -> Result<T> {
        self.count(fault);
        Err(Error::new(kind, "fault").with_message(format!("{fault:?}")))
    }

    /// Flips one bit of the entry that was found.
    fn flip_bit(&self, lookup: Lookup) -> Lookup {
        let Found::Entry(entry, expires_at) = &lookup.found else { return lookup };
        let mut bytes = entry.encode();
        let at = self.shared.state.lock().random.index(8 * bytes.len());
        bytes[at / 8] ^= 1 << (at % 8);
        let found = match Entry::decode(&Bytes::from(bytes)) {
            Ok(entry) => Found::Entry(Arc::new(entry), *expires_at),
            Err(_) => Found::Undecodable,
        };
        self.count(Fault::FlipBit);
        Lookup::new(found, lookup.current).with_guard(lookup.guard)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Backend for FaultBackend<B> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn lookup(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Result<Lookup> {
        let fault = self.draw().await?;
        match fault {
            Some(fault @ (Fault::DropRequest | Fault::DropReply)) => {
                return self.fail(fault, ErrorKind::Unavailable);
            }
            Some(fault @ Fault::Delay) => return self.fail(fault, ErrorKind::Timeout),
            Some(Fault::EvictEntry) => {
                self.count(Fault::EvictEntry);
                self.inner.delete(key).await?;
            }
            Some(Fault::EvictGeneration) if !groups.is_empty() => {
                self.count(Fault::EvictGeneration);
                self.inner.bump(&groups[..1]).await?;
            }
            Some(Fault::RollBack) => {
                self.count(Fault::RollBack);
                self.roll_back().await?;
            }
            _ => {}
        }
        let lookup = self.inner.lookup(key, groups, time_left).await?;
        Ok(if fault == Some(Fault::FlipBit) { self.flip_bit(lookup) } else { lookup })
    }

    fn lookup_now(&self, _: &Key, _: &mut dyn FnMut(EntryView<'_>)) {}

    async fn lookup_many(&self, requests: &[(Key, Groups)]) -> Result<Vec<Lookup>> {
        let fault = self.draw().await?;
        match fault {
            Some(fault @ (Fault::DropRequest | Fault::DropReply | Fault::PartOfBatch)) => {
                return self.fail(fault, ErrorKind::Unavailable);
            }
            Some(fault @ Fault::Delay) => return self.fail(fault, ErrorKind::Timeout),
            _ => {}
        }
        let lookups = self.inner.lookup_many(requests).await?;
        let flip = fault == Some(Fault::FlipBit);
        Ok(lookups.into_iter().map(|one| if flip { self.flip_bit(one) } else { one }).collect())
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        self.remember_groups(groups);
        self.write(Late::Mint(groups.into()), self.inner.mint(groups)).await
    }

    async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased> {
        let missing: Groups = request.missing().cloned().collect();
        self.remember_groups(&missing);
        self.write(Late::Mint(missing), self.inner.lease(request)).await
    }

    async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()> {
        match self.draw().await? {
            Some(fault @ Fault::DropRequest) => self.fail(fault, ErrorKind::Unavailable),
            _ => self.inner.release(lease, owner).await,
        }
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        self.write(Late::Bump(groups.into()), self.inner.bump(groups)).await
    }

    async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<()> {
        {
            let mut state = self.shared.state.lock();
            if state.entries.len() == REMEMBERED_MAX {
                state.entries.pop_front();
            }
            state.entries.push_back((Arc::clone(entry), time_to_live));
        }
        self.write(Late::Store(Arc::clone(entry), time_to_live), self.inner.store(entry, time_to_live)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.write(Late::Delete(key.clone()), self.inner.delete(key)).await
    }

    fn default_time_to_live(&self) -> Option<Duration> {
        self.inner.default_time_to_live()
    }
}

impl<B> Clone for FaultBackend<B> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), shared: Arc::clone(&self.shared) }
    }
}

impl<B: Backend> fmt::Debug for FaultBackend<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultBackend")
            .field("inner", &self.inner.name())
            .field("plan", &self.shared.plan)
            .finish_non_exhaustive()
    }
}
