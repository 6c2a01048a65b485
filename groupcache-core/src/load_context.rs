//! A computation under way: the groups it depends on and the generations they had before it read
//! their data.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use crate::backend::lookup::{GenerationGuard, Minted};
use crate::data::entry::{Entry, Generation, GenerationVector};
use crate::data::group::{Group, Groups};
use crate::error::Result;
use crate::sync::Mutex;

tokio::task_local! {
    static CURRENT: LoadContext;
}

/// Declares that the computation under way depends on `groups`, wherever in its call tree this is
/// called. **Await it before reading the data of those groups.**
///
/// One round trip for groups that the computation does not depend on yet, none for others. If the
/// generations cannot be had, the computed value is served and not stored. Outside a computation of
/// a cache this does nothing, so that code which is sometimes cached can always call it. A task
/// spawned by the computation is outside: take [`LoadContext::current`] along.
///
/// ```
/// # use groupcache_core::{Backend, Cache, Group, depend};
/// # async fn book(id: i64) -> (String, i64) { (String::new(), id) }
/// # async fn author(id: i64) -> String { id.to_string() }
/// # async fn example(cache: Cache<impl Backend>) -> Result<(), std::io::Error> {
/// let page: String = cache
///     .get_or_load(&("page", 5), Group::new("book").with("id", 5), || async {
///         let (title, author_id) = book(5).await;
///         depend(Group::new("author").with("id", author_id)).await;
///         Ok::<_, std::io::Error>(format!("{title} by {}", author(author_id).await))
///     })
///     .await?;
/// # Ok(())
/// # }
/// ```
pub fn depend<G: Into<Groups>>(groups: G) -> impl Future<Output = ()> + Send + use<G> {
    let fill = LoadContext::current().map(|fill| (fill, groups.into()));
    async move {
        if let Some((fill, groups)) = fill {
            fill.mint(groups).await;
        }
    }
}

/// A computation under way. Cheap to clone; clones are the same computation.
#[derive(Clone)]
pub struct LoadContext(Arc<Inner>);

struct Inner {
    /// Which cache this computation fills: generations of one mean nothing to another.
    cache: CacheId,
    minter: Arc<dyn Minter>,
    state: Mutex<State>,
}

/// Identifies a cache as long as something of it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheId(pub(crate) usize);

/// A read inside the computation that the current task is in, if any. Whatever takes the place of a
/// value that the read did not return, because it failed or was given up, has groups that nobody has
/// declared to that computation.
pub(crate) struct NestedRead {
    outer: Option<LoadContext>,
    answered: bool,
}

/// What a fill needs of its cache.
#[async_trait]
pub(crate) trait Minter: Send + Sync {
    async fn mint(&self, groups: &[Group]) -> Result<Minted>;
}

struct State {
    dependencies: Vec<Dependency>,
    guards: Vec<GenerationGuard>,
    late: Vec<Group>,
    expires_at: Option<Instant>,
    storable: bool,
    sealed: bool,
}

struct Dependency {
    group: Group,
    generation: Generation,
    /// Whether this computation said that it depends on it; otherwise an earlier one did, and its
    /// generation was fetched in case this one does too.
    declared: bool,
}

/// What a computation turned out to depend on.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) groups: Groups,
    pub(crate) vector: GenerationVector,
    pub(crate) guards: Vec<GenerationGuard>,
    /// Groups found after their data was read.
    pub(crate) late: Vec<Group>,
    pub(crate) expires_at: Option<Instant>,
    pub(crate) storable: bool,
}

impl LoadContext {
    /// The computation that the current task is in, if any.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// Like the function [`depend`], for code that carries the fill along.
    pub fn depend<G: Into<Groups>>(&self, groups: G) -> impl Future<Output = ()> + Send + use<G> {
        self.clone().mint(groups.into())
    }

    async fn mint(self, groups: Groups) {
        let unknown: Groups = {
            let mut state = self.0.state.lock();
            if !state.storable || state.sealed {
                return;
            }
            groups.iter().filter(|group| !state.declare(group)).cloned().collect()
        };
        if unknown.is_empty() {
            return;
        }
        // Given up while it waits, it leaves a computation that may read the data all the same.
        let given_up = CancelledDepend(&self);
        let minted = self.0.minter.mint(&unknown).await;
        std::mem::forget(given_up);
        let mut state = self.0.state.lock();
        match minted {
            // After the end there is no entry left to add it to.
            Ok(_) if state.sealed => {}
            Ok(minted) => {
                state.guards.push(minted.guard);
                for (group, generation) in unknown.iter().zip(minted.vector.iter()) {
                    #[cfg(groupcache_mutants)]
                    if crate::mutants::is_on("later_generation") {
                        state.dependencies.retain(|known| known.group != *group);
                    }
                    // Somebody may have declared it meanwhile. Either generation is from before this
                    // declarer's read, only the earlier one is from before the other's too.
                    if !state.declare(group) {
                        state.add(group.clone(), *generation, true);
                    }
                }
            }
            Err(_) => state.storable = false,
        }
    }

    /// Declares a dependency whose data was already read. The value is served and not stored, and
    /// the group remembered, so that the next computation of this key has its generation from the
    /// start and can be stored.
    pub fn depend_late(&self, groups: impl Into<Groups>) {
        let mut state = self.0.state.lock();
        for group in &groups.into() {
            if !state.declare(group) && !state.late.contains(group) {
                state.late.push(group.clone());
            }
        }
    }

    /// The value will be served to whoever asked for it, and not stored or shared.
    pub fn do_not_store(&self) {
        self.0.state.lock().storable = false;
    }

    /// Whether this computation fills that cache.
    pub(crate) fn is_of(&self, cache: CacheId) -> bool {
        self.0.cache == cache
    }

    pub(crate) fn new(cache: CacheId, minter: Arc<dyn Minter>) -> Self {
        let state = State {
            dependencies: Vec::new(),
            guards: Vec::new(),
            late: Vec::new(),
            expires_at: None,
            storable: true,
            sealed: false,
        };
        Self(Arc::new(Inner { cache, minter, state: Mutex::new(state) }))
    }

    /// Starts with the generations of `groups`, of which those in `declared` are depended on
    /// already.
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

    /// Runs a computation as this fill.
    pub(crate) async fn scope<F: Future>(self, computation: F) -> F::Output {
        CURRENT.scope(self, computation).await
    }

    /// The end of the computation: what comes later has no effect.
    pub(crate) fn seal(&self) -> Sealed {
        let mut state = self.0.state.lock();
        state.sealed = true;
        let mut declared: Vec<_> =
            state.dependencies.drain(..).filter(|dependency| dependency.declared).collect();
        declared.sort_by(|one, other| one.group.cmp(&other.group));
        let vector = declared.iter().map(|dependency| dependency.generation).collect();
        Sealed {
            groups: declared.into_iter().map(|dependency| dependency.group).collect(),
            vector,
            guards: std::mem::take(&mut state.guards),
            late: std::mem::take(&mut state.late),
            expires_at: state.expires_at,
            storable: state.storable,
        }
    }

    /// Before a read inside this computation: a read of another cache tells nothing about this
    /// one's generations, so they are fetched before that read looks at anything.
    pub(crate) async fn before_nested_read(&self, cache: CacheId, groups: &Groups) {
        if !self.is_of(cache) {
            self.depend(groups).await;
        }
    }

    /// After a read inside this computation that returned what `entry` guards: whoever shows a value
    /// depends on all that the value depends on. Costs no round trip within one cache, as the
    /// entry's generations are from before its data was read.
    pub(crate) fn after_nested_read(&self, cache: CacheId, entry: &Entry, expires_at: Option<Instant>) {
        if !self.is_of(cache) {
            self.depend_late(entry.groups().clone());
            return;
        }
        let mut state = self.0.state.lock();
        for (group, generation) in entry.groups().iter().zip(entry.vector().iter()) {
            if !state.declare(group) {
                state.add(group.clone(), *generation, true);
            } else if !state.has(group, *generation) {
                // Invalidated between two reads of this computation: it has seen both states.
                state.storable = false;
            }
        }
        state.expires_at = earlier(state.expires_at, expires_at);
    }
}

/// A `depend` that was dropped before it had its generations.
struct CancelledDepend<'a>(&'a LoadContext);

impl Drop for CancelledDepend<'_> {
    fn drop(&mut self) {
        #[cfg(groupcache_mutants)]
        if crate::mutants::is_on("given_up_unnoticed") {
            return;
        }
        self.0.do_not_store();
    }
}

impl NestedRead {
    pub(crate) fn begin() -> Self {
        Self { outer: LoadContext::current(), answered: false }
    }

    pub(crate) const fn outer(&self) -> Option<&LoadContext> {
        self.outer.as_ref()
    }

    /// The read ended, and has said what whoever computes around it depends on.
    pub(crate) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for NestedRead {
    fn drop(&mut self) {
        if let Some(outer) = self.outer.as_ref().filter(|_| !self.answered) {
            outer.do_not_store();
        }
    }
}

impl State {
    /// Marks `group` as depended on if its generation is known; whether it is.
    fn declare(&mut self, group: &Group) -> bool {
        let known = self.dependencies.iter_mut().find(|dependency| dependency.group == *group);
        known.map(|dependency| dependency.declared = true).is_some()
    }

    fn has(&self, group: &Group, generation: Generation) -> bool {
        self.dependencies.iter().any(|known| known.group == *group && known.generation == generation)
    }

    fn add(&mut self, group: Group, generation: Generation, declared: bool) {
        self.dependencies.push(Dependency { group, generation, declared });
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
        let declared = state.dependencies.iter().filter(|known| known.declared).map(|known| &known.group);
        f.debug_struct("Fill")
            .field("groups", &declared.collect::<Vec<_>>())
            .field("storable", &state.storable)
            .finish_non_exhaustive()
    }
}
