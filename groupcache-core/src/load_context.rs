//! The context of a load: the groups that it depends on, and the generations they had before it read their
//! data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use crate::backend::lookup::{GenerationGuard, Minted};
use crate::data::entry::{Entry, Generation, GenerationVector};
use crate::data::group::{Group, Groups};
use crate::error::Result;
use crate::read::wait_graph::WaitNode;
use crate::sync::Mutex;

tokio::task_local! {
    static CURRENT: LoadContext;
}

/// Declares that the current load depends on `groups`. **Await it before reading the data of those groups.**
///
/// May be called anywhere in the call tree of a loader. Outside a load it does nothing but log at debug level, so
/// code that is only sometimes cached can always call it. A task that the loader spawns is outside the load unless
/// it [inherits](LoadContext::inherit) it; see [`LoadContext`].
///
/// One round trip if any of the groups is new to the load, none otherwise. If the backend does not return the
/// generations, or if this future is dropped before it is ready, the loaded value is served and not stored.
///
/// ```
/// use groupcache_core::{Cache, Group, depend};
/// use groupcache_memory::MemoryBackend;
///
/// # async fn book(id: i64) -> (String, i64) { ("Emma".to_owned(), id + 2) }
/// # async fn author(id: i64) -> String { format!("author {id}") }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).build();
/// let page: String = cache
///     .get_or_load(&("page", 5), Group::new("book").with("id", 5), || async {
///         let (title, author_id) = book(5).await;
///         depend(Group::new("author").with("id", author_id)).await;
///         Ok::<_, std::io::Error>(format!("{title} by {}", author(author_id).await))
///     })
///     .await?;
/// assert_eq!(page, "Emma by author 7");
/// # Ok(())
/// # }
/// ```
pub fn depend<G: Into<Groups>>(groups: G) -> impl Future<Output = ()> + Send + use<G> {
    let groups = groups.into();
    let context = LoadContext::current();
    if context.is_none() {
        tracing::debug!(?groups, "`depend` outside a load has no effect");
    }
    async move {
        if let Some(context) = context {
            context.mint(groups).await;
        }
    }
}

/// The context of a load: what the loaded value depends on.
///
/// Cloning is cheap, and clones are the same context.
///
/// # Tasks and shared futures
///
/// A load context belongs to the task that the loader runs in. [`depend`] and reads of a cache find it in everything
/// that the loader polls itself: `join!`, `join_all`, `select!`, `FuturesUnordered`, `buffered` streams. They do not
/// find it elsewhere. There a read is like one outside any load: **the loaded value does not depend on it**, and
/// stays cached when the inner value is invalidated.
///
/// * `tokio::spawn`, `JoinSet`, `spawn_blocking` and threads: wrap the future in [`inherit`](Self::inherit), or take
///   a clone of the context along. The loader has to await the task: what is declared after the end of the load has
///   no effect, and is counted in [`Stats::dependencies_after_load`](crate::Stats::dependencies_after_load).
/// * `Shared` and other futures that several loads poll: the dependencies go to the load that polls the future at
///   that moment, and to no other. Each load calls [`depend`] on the groups before it awaits the future. A value that
///   several loads need at once need not be such a future: [`get_or_load`](crate::Cache::get_or_load) shares loads.
/// * A `DataLoader`, an actor or any other task that serves requests of several loads: it is in none of them. Each
///   load calls [`depend`] on the groups of what it requests, before the request. With
///   [`get_many_or_load`](crate::Cache::get_many_or_load) there is no need for one.
///
/// ```
/// use groupcache_core::{Cache, Group, LoadContext, depend};
/// use groupcache_memory::MemoryBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).build();
/// let total: u32 = cache
///     .get_or_load("total", Group::new("orders"), || async {
///         let rates = async {
///             depend(Group::new("rates")).await;
///             7
///         };
///         tokio::spawn(LoadContext::inherit(rates)).await
///     })
///     .await?;
/// cache.invalidate(Group::new("rates")).await?;
/// assert_eq!(cache.get::<u32, _, _>("total", Group::new("orders")).await, None);
/// # assert_eq!(total, 7);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LoadContext(Arc<Inner>);

struct Inner {
    /// The cache that this load is for. Generations of one cache mean nothing to another.
    cache: CacheId,
    minter: Arc<dyn Minter>,
    /// What this load waits for, and who waits for it.
    node: Arc<WaitNode>,
    state: Mutex<State>,
}

/// Identifies a cache as long as any of its clones lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheId(pub(crate) usize);

/// A read inside a load.
///
/// If the read fails or is cancelled, the load may use another value instead, whose groups nothing declares
/// to it. So the load is not stored unless the read completes.
pub(crate) struct NestedRead {
    outer: Option<LoadContext>,
    is_completed: bool,
}

/// What a load context needs of its cache.
#[async_trait]
pub(crate) trait Minter: Send + Sync {
    async fn mint(&self, groups: &[Group]) -> Result<Minted>;

    /// Counts groups that were declared after the end of the load.
    fn count_after_load(&self, groups: usize);
}

struct State {
    dependencies: BTreeMap<Group, Dependency>,
    guards: Vec<GenerationGuard>,
    late: BTreeSet<Group>,
    expires_at: Option<Instant>,
    storable: bool,
    /// Whether only the reader that runs the load may have the value.
    private: bool,
    sealed: bool,
}

struct Dependency {
    generation: Generation,
    /// Whether this load has declared the group. Otherwise an earlier load of the key did, and the generation
    /// was read in case this one does too.
    declared: bool,
}

/// What a load turned out to depend on.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) groups: Groups,
    pub(crate) vector: GenerationVector,
    pub(crate) guards: Vec<GenerationGuard>,
    /// Groups that were declared after their data was read.
    pub(crate) late: Vec<Group>,
    pub(crate) expires_at: Option<Instant>,
    pub(crate) storable: bool,
    pub(crate) private: bool,
}

impl LoadContext {
    /// Returns the context of the load that the current task is in, if any.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// Returns `work` as a part of the load that the current task is in, for a task of its own: [`depend`] and reads
    /// of a cache in it are dependencies of that load. Outside a load, `work` is unchanged.
    ///
    /// The load is that of the moment of this call, not of the first poll. The loader has to await the task. If it
    /// aborts the task during a read or a [`depend`], the loaded value is served and not stored.
    pub fn inherit<F: Future>(work: F) -> impl Future<Output = F::Output> + use<F> {
        let context = Self::current();
        async move {
            match context {
                Some(context) => context.scope(work).await,
                None => work.await,
            }
        }
    }

    /// Runs `work` as a part of this load, like [`inherit`](Self::inherit).
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// Declares that this load depends on `groups`, like the function [`depend`].
    pub fn depend<G: Into<Groups>>(&self, groups: G) -> impl Future<Output = ()> + Send + use<G> {
        self.clone().mint(groups.into())
    }

    async fn mint(self, groups: Groups) {
        let unknown: Groups = {
            let mut state = self.0.state.lock();
            if state.sealed {
                self.0.minter.count_after_load(groups.len());
            }
            if !state.storable || state.sealed {
                return;
            }
            groups.iter().filter(|group| !state.declare(group)).cloned().collect()
        };
        if unknown.is_empty() {
            return;
        }
        // If this future is dropped while it waits, the loader may read the data all the same.
        let cancelled = CancelledDepend(&self);
        let minted = self.0.minter.mint(&unknown).await;
        std::mem::forget(cancelled);
        let mut state = self.0.state.lock();
        match minted {
            // The load has ended: there is no entry left to add the groups to.
            Ok(_) if state.sealed => self.0.minter.count_after_load(unknown.len()),
            Ok(minted) => {
                state.guards.push(minted.guard);
                for (group, generation) in unknown.iter().zip(minted.vector.iter()) {
                    #[cfg(groupcache_mutants)]
                    if crate::mutants::is_on("later_generation") {
                        state.dependencies.remove(group);
                    }
                    // Another task may have declared the group meanwhile. Both generations are from before
                    // this task reads, but only the earlier one is from before the other task reads.
                    if !state.declare(group) {
                        state.add(group.clone(), *generation, true);
                    }
                }
            }
            Err(_) => state.storable = false,
        }
    }

    /// Declares that this load depends on `groups` whose data was already read.
    ///
    /// The loaded value is served and not stored. The backend stores a placeholder that names the groups, so that
    /// the next load of this key, in any process, starts with their generations and can be stored. No round trip,
    /// and one in the background for the placeholder.
    pub fn depend_late(&self, groups: impl Into<Groups>) {
        let groups = groups.into();
        let mut state = self.0.state.lock();
        if state.sealed {
            self.0.minter.count_after_load(groups.len());
            return;
        }
        for group in &groups {
            if !state.declare(group) {
                state.late.insert(group.clone());
            }
        }
    }

    /// Keeps the loaded value from being stored and shared. Its reader still gets it.
    pub fn do_not_store(&self) {
        let mut state = self.0.state.lock();
        (state.storable, state.private) = (false, true);
    }

    /// Keeps the loaded value from being stored. Readers that wait for it may share it.
    pub(crate) fn keep_from_store(&self) {
        self.0.state.lock().storable = false;
    }

    pub(crate) fn node(&self) -> &Arc<WaitNode> {
        &self.0.node
    }

    /// Whether this load is for that cache.
    pub(crate) fn is_of(&self, cache: CacheId) -> bool {
        self.0.cache == cache
    }

    pub(crate) fn new(cache: CacheId, minter: Arc<dyn Minter>, node: Arc<WaitNode>) -> Self {
        let state = State {
            dependencies: BTreeMap::new(),
            guards: Vec::new(),
            late: BTreeSet::new(),
            expires_at: None,
            storable: true,
            private: false,
            sealed: false,
        };
        Self(Arc::new(Inner { cache, minter, node, state: Mutex::new(state) }))
    }

    /// Adds the generations of `groups`. The load depends on those that are in `declared`.
    pub(crate) fn with_vector(
        self,
        groups: &Groups,
        vector: &GenerationVector,
        declared: &Groups,
        guards: Vec<GenerationGuard>,
    ) -> Self {
        let mut state = self.0.state.lock();
        for (group, generation) in groups.iter().zip(vector.iter()) {
            state.add(group.clone(), *generation, declared.contains(group));
        }
        state.guards.extend(guards);
        drop(state);
        self
    }

    /// Ends the load. Later declarations have no effect.
    pub(crate) fn seal(&self) -> Sealed {
        let mut state = self.0.state.lock();
        state.sealed = true;
        let mut declared = std::mem::take(&mut state.dependencies);
        declared.retain(|_, dependency| dependency.declared);
        // In the order of the groups, as a list of groups is.
        let vector = declared.values().map(|dependency| dependency.generation).collect();
        Sealed {
            groups: declared.into_keys().collect(),
            vector,
            guards: std::mem::take(&mut state.guards),
            late: std::mem::take(&mut state.late).into_iter().collect(),
            expires_at: state.expires_at,
            storable: state.storable,
            private: state.private,
        }
    }

    /// Prepares for a read inside this load. A read of another cache returns no generations of this one, so
    /// they are minted before that read looks at its data.
    pub(crate) async fn before_nested_read(&self, cache: CacheId, groups: &Groups) {
        if !self.is_of(cache) {
            self.depend(groups).await;
        }
    }

    /// Adds the dependencies of `entry` after a read inside this load. No round trip within one cache: the
    /// entry's generations are from before its data was read.
    pub(crate) fn after_nested_read(&self, cache: CacheId, entry: &Entry, expires_at: Option<Instant>) {
        if !self.is_of(cache) {
            self.depend_late(entry.groups().clone());
            self.expire_at(expires_at);
            return;
        }
        let mut state = self.0.state.lock();
        if state.sealed {
            self.0.minter.count_after_load(entry.groups().len());
            return;
        }
        for (group, generation) in entry.groups().iter().zip(entry.vector().iter()) {
            if !state.declare(group) {
                state.add(group.clone(), *generation, true);
            } else if !state.has(group, *generation) {
                // The group was invalidated between two reads of this load, which has seen both states.
                state.storable = false;
            }
        }
        state.expires_at = earlier(state.expires_at, expires_at);
    }

    /// Keeps the generations of a read inside this load in existence until the loaded value is stored. Otherwise it
    /// could not be stored if the inner value was not, or was evicted meanwhile.
    pub(crate) fn hold(&self, cache: CacheId, guards: &[GenerationGuard]) {
        if self.is_of(cache) {
            let guards = guards.iter().filter(|guard| !guard.is_none());
            self.0.state.lock().guards.extend(guards.cloned());
        }
    }

    /// Ends the time to live of the loaded value at `expires_at` at the latest.
    fn expire_at(&self, expires_at: Option<Instant>) {
        let mut state = self.0.state.lock();
        state.expires_at = earlier(state.expires_at, expires_at);
    }
}

/// Notices a `depend` that is dropped before it has its generations.
struct CancelledDepend<'a>(&'a LoadContext);

impl Drop for CancelledDepend<'_> {
    fn drop(&mut self) {
        #[cfg(groupcache_mutants)]
        if crate::mutants::is_on("cancelled_unnoticed") {
            return;
        }
        self.0.keep_from_store();
    }
}

impl NestedRead {
    pub(crate) fn begin() -> Self {
        Self { outer: LoadContext::current(), is_completed: false }
    }

    pub(crate) const fn outer(&self) -> Option<&LoadContext> {
        self.outer.as_ref()
    }

    /// The read has completed, and the outer load has its dependencies.
    pub(crate) fn completed(mut self) {
        self.is_completed = true;
    }
}

impl Drop for NestedRead {
    fn drop(&mut self) {
        if let Some(outer) = self.outer.as_ref().filter(|_| !self.is_completed) {
            outer.keep_from_store();
        }
    }
}

impl State {
    /// Marks `group` as declared if its generation is known. Returns whether it is.
    fn declare(&mut self, group: &Group) -> bool {
        let known = self.dependencies.get_mut(group);
        known.map(|dependency| dependency.declared = true).is_some()
    }

    fn has(&self, group: &Group, generation: Generation) -> bool {
        self.dependencies.get(group).is_some_and(|known| known.generation == generation)
    }

    fn add(&mut self, group: Group, generation: Generation, declared: bool) {
        self.dependencies.insert(group, Dependency { generation, declared });
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl fmt::Debug for LoadContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.lock();
        let declared = state.dependencies.iter().filter(|(_, known)| known.declared).map(|(group, _)| group);
        f.debug_struct("LoadContext")
            .field("groups", &declared.collect::<Vec<_>>())
            .field("storable", &state.storable)
            .finish_non_exhaustive()
    }
}
