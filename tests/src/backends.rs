//! Backends around other backends: one that counts, one that follows a script, one that fails.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use groupcache_core::backend::{LeaseName, LeaseOwner, LeaseRequest, Leased, Lookup, Minted, TimeLeft};

use groupcache_core::{Backend, Entry, Error, ErrorKind, Group, Groups, Key, Result};
use tokio::sync::Semaphore;

/// What a backend is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named after the methods of `Backend`")]
pub enum Operation {
    Lookup,
    LookupMany,
    Mint,
    Lease,
    Release,
    Bump,
    Store,
    Delete,
}

/// Fails every operation at once.
#[derive(Debug, Clone, Copy)]
pub struct FailingBackend(
    /// With errors of this kind.
    pub ErrorKind,
);

/// Counts round trips. Does not glance: every lookup of its inner backend is one that counts.
#[derive(Debug, Clone)]
pub struct CountingBackend<B> {
    inner: B,
    counts: Arc<[AtomicUsize; 8]>,
}

/// How often each operation was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "named after the methods of `Backend`")]
pub struct Counts {
    pub lookups: usize,
    pub lookups_of_many: usize,
    pub mints: usize,
    pub leases: usize,
    pub releases: usize,
    pub bumps: usize,
    pub stores: usize,
    pub deletes: usize,
}

/// Does what its script says for the next operation of a kind, and what its inner backend does for
/// the others. Does not glance. Clones follow the same script.
#[derive(Debug, Clone)]
pub struct ScriptedBackend<B> {
    inner: B,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug, Default)]
struct Script {
    once: HashMap<Operation, VecDeque<Step>>,
    always: HashMap<Operation, Step>,
    seen: Vec<Operation>,
}

/// How an operation goes.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_enums, reason = "tests build it")]
pub enum Step {
    /// As the inner backend does it.
    Pass,
    /// Fails without an effect.
    Fail(ErrorKind),
    /// Has its effect, and fails.
    LoseReply(ErrorKind),
    /// Never ends, without an effect.
    Hang,
    /// Panics, after others had their turn.
    Panic,
    /// Waits at a gate before it takes effect.
    WaitBefore(Arc<Gate>),
    /// Takes effect, then waits at a gate.
    WaitAfter(Arc<Gate>),
}

/// Where somebody stops until the test lets everybody pass.
#[derive(Debug)]
pub struct Gate {
    reached: Semaphore,
    open: Semaphore,
}

impl Gate {
    /// A closed one.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { reached: Semaphore::new(0), open: Semaphore::new(0) })
    }

    /// Waits until the gate is open.
    pub async fn pass(&self) {
        self.reached.add_permits(1);
        drop(self.open.acquire().await.unwrap());
    }

    /// Waits until one more has come to the gate.
    pub async fn reached(&self) {
        self.reached.acquire().await.unwrap().forget();
    }

    /// Lets those who wait pass, and all who come.
    pub fn open(&self) {
        self.open.add_permits(1 << 20);
    }
}

impl<B> CountingBackend<B> {
    /// Counts what `inner` is asked for.
    pub fn new(inner: B) -> Self {
        Self { inner, counts: Arc::default() }
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let [lookups, lookups_of_many, mints, leases, releases, bumps, stores, deletes] =
            std::array::from_fn(|at| self.counts[at].load(Ordering::SeqCst));
        Counts { lookups, lookups_of_many, mints, leases, releases, bumps, stores, deletes }
    }

    /// What was counted while `work` ran.
    pub async fn counting(&self, work: impl Future<Output = ()> + Send) -> Counts
    where
        B: Sync,
    {
        let before = self.counts();
        work.await;
        let after = self.counts();
        Counts {
            lookups: after.lookups - before.lookups,
            lookups_of_many: after.lookups_of_many - before.lookups_of_many,
            mints: after.mints - before.mints,
            leases: after.leases - before.leases,
            releases: after.releases - before.releases,
            bumps: after.bumps - before.bumps,
            stores: after.stores - before.stores,
            deletes: after.deletes - before.deletes,
        }
    }

    fn count(&self, operation: Operation) -> &B {
        self.counts[operation as usize].fetch_add(1, Ordering::SeqCst);
        &self.inner
    }
}

impl<B: Backend> Backend for CountingBackend<B> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn lookup(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Result<Lookup> {
        self.count(Operation::Lookup).lookup(key, groups, time_left).await
    }

    async fn lookup_many(&self, questions: &[(Key, Groups)]) -> Result<Vec<Lookup>> {
        self.count(Operation::LookupMany).lookup_many(questions).await
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        self.count(Operation::Mint).mint(groups).await
    }

    async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased> {
        self.count(Operation::Lease).lease(request).await
    }

    async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()> {
        self.count(Operation::Release).release(lease, owner).await
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        self.count(Operation::Bump).bump(groups).await
    }

    async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<()> {
        self.count(Operation::Store).store(entry, time_to_live).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.count(Operation::Delete).delete(key).await
    }

    fn default_time_to_live(&self) -> Option<Duration> {
        self.inner.default_time_to_live()
    }
}

impl<B> ScriptedBackend<B> {
    /// With an empty script.
    pub fn new(inner: B) -> Self {
        Self { inner, script: Arc::default() }
    }

    /// The next operation of this kind that has no step yet goes like this.
    pub fn next(&self, operation: Operation, step: Step) {
        self.script.lock().unwrap().once.entry(operation).or_default().push_back(step);
    }

    /// Every operation of this kind goes like this from now on.
    pub fn always(&self, operation: Operation, step: Step) {
        self.script.lock().unwrap().always.insert(operation, step);
    }

    /// What it was asked for so far, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<Operation> {
        self.script.lock().unwrap().seen.clone()
    }

    async fn play<T: Send>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T>
    where
        B: Sync,
    {
        let step = {
            let mut script = self.script.lock().unwrap();
            script.seen.push(operation);
            let once = script.once.get_mut(&operation).and_then(VecDeque::pop_front);
            once.or_else(|| script.always.get(&operation).cloned()).unwrap_or(Step::Pass)
        };
        match step {
            Step::Pass => call.await,
            Step::Fail(kind) => Err(Error::new(kind, "scripted")),
            Step::LoseReply(kind) => {
                call.await?;
                Err(Error::new(kind, "scripted"))
            }
            Step::Hang => std::future::pending().await,
            Step::Panic => {
                // Whoever asks may poll more than once before it lets others run.
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
                panic!("scripted");
            }
            Step::WaitBefore(gate) => {
                gate.pass().await;
                call.await
            }
            Step::WaitAfter(gate) => {
                let outcome = call.await;
                gate.pass().await;
                outcome
            }
        }
    }
}

impl<B: Backend> Backend for ScriptedBackend<B> {
    fn name(&self) -> &'static str {
        "scripted"
    }

    async fn lookup(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Result<Lookup> {
        self.play(Operation::Lookup, self.inner.lookup(key, groups, time_left)).await
    }

    async fn lookup_many(&self, questions: &[(Key, Groups)]) -> Result<Vec<Lookup>> {
        self.play(Operation::LookupMany, self.inner.lookup_many(questions)).await
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        self.play(Operation::Mint, self.inner.mint(groups)).await
    }

    async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased> {
        self.play(Operation::Lease, self.inner.lease(request)).await
    }

    async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()> {
        self.play(Operation::Release, self.inner.release(lease, owner)).await
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        self.play(Operation::Bump, self.inner.bump(groups)).await
    }

    async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<()> {
        self.play(Operation::Store, self.inner.store(entry, time_to_live)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.play(Operation::Delete, self.inner.delete(key)).await
    }

    fn default_time_to_live(&self) -> Option<Duration> {
        self.inner.default_time_to_live()
    }
}

impl FailingBackend {
    fn error(self) -> Error {
        Error::new(self.0, "failing")
    }
}

impl Backend for FailingBackend {
    fn name(&self) -> &'static str {
        "failing"
    }

    async fn lookup(&self, _: &Key, _: &[Group], _: TimeLeft) -> Result<Lookup> {
        Err(self.error())
    }

    async fn mint(&self, _: &[Group]) -> Result<Minted> {
        Err(self.error())
    }

    async fn bump(&self, _: &[Group]) -> Result<()> {
        Err(self.error())
    }

    async fn store(&self, _: &Arc<Entry>, _: Option<Duration>) -> Result<()> {
        Err(self.error())
    }

    async fn delete(&self, _: &Key) -> Result<()> {
        Err(self.error())
    }
}
