//! One flight: a load that several readers of one process wait for.

use std::sync::Arc;
use std::time::Instant;

use crate::data::entry::Entry;
use crate::read::flight_id::FlightId;
use crate::read::held_lease::HeldLease;
use crate::read::progress::Progress;
use crate::read::wait_graph::{WaitEdge, WaitNode};
use crate::sync::{Mutex, Notify};

/// A load of one key, from the moment at which a reader wants it until its entry is stored.
#[derive(Debug)]
pub(crate) struct Flight {
    /// What this flight waits for, and who waits for it.
    pub(crate) node: Arc<WaitNode>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) state: Mutex<State>,
    pub(crate) changed: Notify,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    /// What the leader loads, once it knows. `None` if it loads without the store.
    pub(crate) id: Option<FlightId>,
    /// How often a leader has begun to load: a leader that is dropped is followed by another one.
    pub(crate) begins: u64,
    /// How many loads failed, and had no failure to share.
    pub(crate) failures: u64,
    /// How many loads panicked.
    pub(crate) panics: u64,
    /// When the flight had its first leader.
    pub(crate) began: tokio::time::Instant,
    /// When the flight had its last leader, or when that leader began to load.
    pub(crate) since: tokio::time::Instant,
    /// Readers that wait or are about to. A vacant flight without waiters is removed.
    pub(crate) waiters: usize,
    /// Waiters that have a stale value to serve if the load fails.
    pub(crate) waiters_with_stale: usize,
    /// Passed from leader to leader, and released when the flight ends.
    pub(crate) lease: Option<Box<HeldLease>>,
    /// The flight that has to end before this one begins.
    pub(crate) behind: Option<WaitEdge>,
}

#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// Behind another flight of the key. It has no leader yet.
    Queued,
    /// Has a leader that has not begun to load.
    Preparing,
    Loading,
    /// The leader was dropped, or it was this flight's turn. The next waiter takes over.
    Vacant,
    /// The leader made no progress. Another flight has taken its place, which the waiters join.
    Superseded,
    Finished(FlightOutcome),
}

/// What a load came to, for its followers.
#[derive(Debug, Clone)]
pub(crate) enum FlightOutcome {
    /// The load resulted in an entry.
    Loaded(SharedLoad),
    /// A failure that the loader shares.
    Failed(SharedLoad),
    /// An entry of another process, and when its time to live ends. Each follower checks it.
    Found { entry: Arc<Entry>, expires_at: Option<Instant> },
    /// There is nothing to share: the value is private, or the load panicked.
    Private,
    /// Nothing was loaded: the leader found an entry, or a group was invalidated while it waited for a lease.
    LookAgain,
}

/// An entry that this process has loaded.
#[derive(Debug, Clone)]
pub(crate) struct SharedLoad {
    pub(crate) entry: Arc<Entry>,
    pub(crate) expires_at: Option<Instant>,
    /// Whether the entry has the generation of every group that the load depends on. Otherwise only a reader
    /// that joined before the load began may have it.
    pub(crate) is_complete: bool,
    /// Whether it is stored or about to be, so that a load around the reader may be stored as well.
    pub(crate) is_stored: bool,
}

/// Why a follower may share an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joined {
    /// It joined before the load began. Whatever was acknowledged before its read, the load has seen.
    BeforeLoad,
    /// It joined later, with the vector of the load.
    WithVector,
}

impl Flight {
    pub(crate) fn new(phase: Phase) -> Self {
        let now = tokio::time::Instant::now();
        Self {
            node: WaitNode::new(),
            progress: Arc::default(),
            state: Mutex::new(State {
                phase,
                id: None,
                begins: 0,
                failures: 0,
                panics: 0,
                began: now,
                since: now,
                waiters: 0,
                waiters_with_stale: 0,
                lease: None,
                behind: None,
            }),
            changed: Notify::new(),
        }
    }
}

impl State {
    /// Takes the place of a dropped leader, if it is vacant.
    pub(crate) fn take_over(&mut self) -> bool {
        let vacant = matches!(self.phase, Phase::Vacant);
        if vacant {
            self.phase = Phase::Preparing;
            self.since = tokio::time::Instant::now();
        }
        vacant
    }

    /// Whether a reader with `id` may share the load, which has begun.
    pub(crate) fn loads(&self, id: Option<&FlightId>) -> bool {
        id.is_some() && self.id.as_ref() == id
    }
}
