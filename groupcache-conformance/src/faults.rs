//! What networks and servers do to a backend.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use groupcache_core::backend::{Found, Lookup, Minted, TimeLeft};

use groupcache_core::Backend;
use groupcache_core::Entry;
use groupcache_core::Key;
use groupcache_core::backend::{LeaseName, LeaseOwner, LeaseRequest, Leased};
use groupcache_core::{Error, ErrorKind, Result};
use groupcache_core::{Group, Groups};
use parking_lot::Mutex;

/// How many of the entries and groups it has seen a [`FaultBackend`] remembers, to bring them back.
const REMEMBERED: usize = 256;

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The request is lost: no effect, and an error.
    DropRequest,
    /// The reply is lost: the effect, and an error.
    DropReply,
    /// The caller's time limit is over, and the effect comes after operations that begin later.
    Delay,
    /// The request arrives a second time, later.
    Duplicate,
    /// The entry that is asked for was evicted.
    EvictEntry,
    /// A generation was lost, and somebody else has given its group another.
    EvictGeneration,
    /// The server comes back with older entries, as another incarnation.
    RollBack,
    /// No room: a write has no effect, and an error says so.
    OutOfMemory,
    /// Only the first half of several groups or questions is done, and an error.
    PartOfBatch,
    /// A bit of the stored entry is not as it was written.
    FlipBit,
}

/// Which faults come how often. The same seed gives the same faults to the same operations in the
/// same order.
#[derive(Debug, Clone)]
#[must_use]
pub struct FaultPlan {
    seed: u64,
    /// Of a thousand operations.
    rates: Vec<(Fault, u32)>,
}

/// A backend to which faults happen. Everything it does not disturb is done by the backend inside.
/// Does not glance, so that nothing escapes it. Clones share the plan and what was done.
pub struct FaultBackend<B> {
    inner: Arc<B>,
    shared: Arc<Shared>,
}

/// How often each fault happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faulted(HashMap<Fault, u64>);

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
    faulted: Faulted,
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers in every release.
pub(crate) struct SplitMix(u64);

/// An effect that comes later than its request.
#[derive(Clone)]
enum Late {
    Bump(Groups),
    Mint(Groups),
    Store(Arc<Entry>, Option<Duration>),
    Delete(Key),
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::DropRequest,
        Self::DropReply,
        Self::Delay,
        Self::Duplicate,
        Self::EvictEntry,
        Self::EvictGeneration,
        Self::RollBack,
        Self::OutOfMemory,
        Self::PartOfBatch,
        Self::FlipBit,
    ];
}

impl FaultPlan {
    /// No faults yet.
    pub const fn new(seed: u64) -> Self {
        Self { seed, rates: Vec::new() }
    }

    /// Every fault, each in this many of a thousand operations.
    pub fn all(seed: u64, per_mille: u32) -> Self {
        Fault::ALL.into_iter().fold(Self::new(seed), |plan, fault| plan.with(fault, per_mille))
    }

    /// This fault in this many of a thousand operations. The rates of all faults together count up
    /// to a thousand; what is beyond never happens.
    pub fn with(mut self, fault: Fault, per_mille: u32) -> Self {
        self.rates.push((fault, per_mille));
        self
    }
}

impl Faulted {
    /// How often this fault happened.
    #[must_use]
    pub fn count(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or(0)
    }

    /// How many faults happened in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

impl<B: Backend> FaultBackend<B> {
    /// Disturbs `inner` by this plan.
    pub fn new(inner: B, plan: FaultPlan) -> Self {
        let state = State {
            random: SplitMix::new(plan.seed),
            operations: 0,
            late: Vec::new(),
            entries: VecDeque::new(),
            groups: HashSet::new(),
            faulted: Faulted::default(),
        };
        let shared = Shared { plan, stopped: AtomicBool::new(false), state: Mutex::new(state) };
        Self { inner: Arc::new(inner), shared: Arc::new(shared) }
    }

    /// No more faults from now on. What is still under way has its effect now.
    ///
    /// # Errors
    ///
    /// Of the backend inside.
    pub async fn stop(&self) -> Result<()> {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let late = std::mem::take(&mut self.shared.state.lock().late);
        for (_, late) in late {
            self.arrive(late).await?;
        }
        Ok(())
    }

    /// How often each fault happened so far.
    #[must_use]
    pub fn faulted(&self) -> Faulted {
        self.shared.state.lock().faulted.clone()
    }

    /// The next operation begins: what was delayed until now arrives, and a fault may be drawn.
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
            let mut at = u32::try_from(state.random.below(1000)).unwrap_or(0);
            let mut fault = None;
            for (candidate, per_mille) in &self.shared.plan.rates {
                if at < *per_mille {
                    fault = Some(*candidate);
                    break;
                }
                at -= per_mille;
            }
            (arrived, fault)
        };
        for (_, late) in arrived {
            self.arrive(late).await?;
        }
        Ok(fault)
    }

    fn count(&self, fault: Fault) {
        *self.shared.state.lock().faulted.0.entry(fault).or_insert(0) += 1;
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
            if state.groups.len() < REMEMBERED {
                state.groups.insert(group.clone());
            }
        }
    }

    /// An older state of the store comes back. As another incarnation it has no generation in common
    /// with the one before.
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

    /// A write, with whatever happens to it on the way.
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

    /// What came back, with one bit not as it was written.
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

impl SplitMix {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One of this many places.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }
}

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

    async fn lookup_many(&self, questions: &[(Key, Groups)]) -> Result<Vec<Lookup>> {
        let fault = self.draw().await?;
        match fault {
            Some(fault @ (Fault::DropRequest | Fault::DropReply | Fault::PartOfBatch)) => {
                return self.fail(fault, ErrorKind::Unavailable);
            }
            Some(fault @ Fault::Delay) => return self.fail(fault, ErrorKind::Timeout),
            _ => {}
        }
        let lookups = self.inner.lookup_many(questions).await?;
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
            if state.entries.len() == REMEMBERED {
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
