//! Backends that fail, hang, panic or wait where a test needs it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use groupcache_core::backend::{
    EntryView, LeaseName, LeaseOwner, LeaseRequest, Leased, Lookup, Minted, TimeLeft,
};
use groupcache_core::{Backend, Entry, Error, ErrorKind, Group, Groups, Key, Result};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::doubles::counting::Operation;

/// Performs operations as a script requires, and forwards the others to an inner backend.
///
/// `lookup_now` shows nothing, so that every lookup follows the script. Clones share the script.
///
/// ```
/// use groupcache_conformance::doubles::{Operation, PlainBackend, ScriptedBackend, Step};
/// use groupcache_core::{Cache, ErrorKind, Group};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let backend = ScriptedBackend::new(PlainBackend::new());
/// let cache = Cache::builder(backend.clone()).build();
/// backend.next(Operation::Bump, Step::Fail(ErrorKind::Unavailable));
/// assert!(cache.invalidate(Group::new("book")).await.is_err());
/// assert!(cache.invalidate(Group::new("book")).await.is_ok());
/// # }
/// ```
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

/// How a [`ScriptedBackend`] performs an operation.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Step {
    /// Forwards it to the inner backend.
    Pass,
    /// Fails without an effect.
    Fail(ErrorKind),
    /// Has its effect, and fails.
    LoseReply(ErrorKind),
    /// Never returns, and has no effect.
    Hang,
    /// Lets other tasks run, and panics.
    Panic,
    /// Waits at a gate, and then has its effect.
    WaitBefore(Arc<Gate>),
    /// Has its effect, and then waits at a gate.
    WaitAfter(Arc<Gate>),
}

/// Where operations wait until the test opens it.
#[derive(Debug)]
pub struct Gate {
    reached: Semaphore,
    open: Semaphore,
}

/// Fails every operation with an error of one kind.
#[derive(Debug, Clone, Copy)]
pub struct FailingBackend(
    /// The kind of the errors.
    pub ErrorKind,
);

impl<B> ScriptedBackend<B> {
    /// Wraps `inner`, with an empty script.
    pub fn new(inner: B) -> Self {
        Self { inner, script: Arc::default() }
    }

    /// Appends a step for one operation of this kind. The steps of a kind are used in order.
    pub fn next(&self, operation: Operation, step: Step) {
        self.script.lock().once.entry(operation).or_default().push_back(step);
    }

    /// Sets the step of every operation of this kind for which [`next`](Self::next) has none.
    pub fn always(&self, operation: Operation, step: Step) {
        self.script.lock().always.insert(operation, step);
    }

    /// Returns the operations so far, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<Operation> {
        self.script.lock().seen.clone()
    }

    async fn play<T: Send>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T>
    where
        B: Sync,
    {
        match self.step(operation) {
            Step::Pass => call.await,
            Step::Fail(kind) => Err(Error::new(kind, "scripted")),
            Step::LoseReply(kind) => {
                call.await?;
                Err(Error::new(kind, "scripted"))
            }
            Step::Hang => std::future::pending().await,
            Step::Panic => {
                // The caller may poll several times before it lets other tasks run.
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

    fn step(&self, operation: Operation) -> Step {
        let mut script = self.script.lock();
        script.seen.push(operation);
        let once = script.once.get_mut(&operation).and_then(VecDeque::pop_front);
        once.or_else(|| script.always.get(&operation).cloned()).unwrap_or(Step::Pass)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Backend for ScriptedBackend<B> {
    fn name(&self) -> &'static str {
        "scripted"
    }

    async fn lookup(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Result<Lookup> {
        self.play(Operation::Lookup, self.inner.lookup(key, groups, time_left)).await
    }

    fn lookup_now(&self, _: &Key, _: &mut dyn FnMut(EntryView<'_>)) {}

    async fn lookup_many(&self, requests: &[(Key, Groups)]) -> Result<Vec<Lookup>> {
        self.play(Operation::LookupMany, self.inner.lookup_many(requests)).await
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

impl Gate {
    /// Makes a closed gate.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { reached: Semaphore::new(0), open: Semaphore::new(0) })
    }

    /// Waits until the gate is open.
    pub async fn pass(&self) {
        self.reached.add_permits(1);
        drop(self.open.acquire().await);
    }

    /// Waits until one more operation has reached the gate.
    pub async fn reached(&self) {
        if let Ok(permit) = self.reached.acquire().await {
            permit.forget();
        }
    }

    /// Opens the gate for all operations that wait and all that come later.
    pub fn open(&self) {
        self.open.add_permits(1 << 20);
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
