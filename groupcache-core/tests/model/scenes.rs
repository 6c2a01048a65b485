//! The bounds within which the protocol is explored.

use crate::protocol::{Bounds, Steps};
use crate::state::Left;

/// The bounds of one exploration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    pub(crate) bounds: Bounds,
    /// How many states the protocol of groupcache has within these bounds.
    pub(crate) states: usize,
}

const NO_FAULTS: Left = Left {
    entry_evictions: 0,
    generation_evictions: 0,
    replications: 0,
    failovers: 0,
    cancellations: 0,
    duplicates: 0,
    bumps_again: 0,
    mints_again: 0,
    failed_lookups: 0,
    give_ups: 0,
    migrations: 0,
};

const PLAIN: Bounds = Bounds {
    readers: 2,
    processes: 1,
    writers: 1,
    rounds: 2,
    steps: Steps::Coarse,
    queues: false,
    faults: NO_FAULTS,
};

/// Requests and replies that are lost or late, in two processes, in fine steps.
pub(crate) const RACES: Scene =
    Scene { name: "races", bounds: Bounds { processes: 2, steps: Steps::Fine, ..PLAIN }, states: 94_309 };

/// A mint that is sent again and executed late, and a generation that the store loses.
pub(crate) const MINTS: Scene = Scene {
    name: "mints",
    bounds: Bounds {
        rounds: 1,
        faults: Left { generation_evictions: 1, mints_again: 1, ..NO_FAULTS },
        ..PLAIN
    },
    states: 557_686,
};

/// Two writers, and a bump that is sent again and executed late.
pub(crate) const BUMPS: Scene = Scene {
    name: "bumps",
    bounds: Bounds { writers: 2, rounds: 1, faults: Left { bumps_again: 1, ..NO_FAULTS }, ..PLAIN },
    states: 1_028_316,
};

/// A store that returns to older contents.
pub(crate) const FAILOVERS: Scene = Scene {
    name: "failovers",
    bounds: Bounds { faults: Left { replications: 1, failovers: 1, ..NO_FAULTS }, rounds: 1, ..PLAIN },
    states: 252_878,
};

/// A slot that begins to move to another store, does not, and begins once more.
pub(crate) const MIGRATIONS: Scene = Scene {
    name: "migrations",
    bounds: Bounds {
        rounds: 1,
        faults: Left { generation_evictions: 1, migrations: 2, ..NO_FAULTS },
        ..PLAIN
    },
    states: 1_511_547,
};

/// Leaders that are cancelled, stores that are executed twice, entries that are evicted.
pub(crate) const FLIGHTS: Scene = Scene {
    name: "flights",
    bounds: Bounds {
        processes: 2,
        faults: Left { entry_evictions: 1, cancellations: 1, duplicates: 1, ..NO_FAULTS },
        ..PLAIN
    },
    states: 119_881,
};

/// Three readers of one process.
pub(crate) const CROWD: Scene =
    Scene { name: "crowd", bounds: Bounds { readers: 3, ..PLAIN }, states: 708_902 };

/// One load at a time in a process: readers that wait for the next load, with a vector and without, a leader
/// that is cancelled, and a follower that gives up.
pub(crate) const QUEUES: Scene = Scene {
    name: "queues",
    bounds: Bounds {
        readers: 3,
        rounds: 1,
        queues: true,
        faults: Left { failed_lookups: 1, cancellations: 1, give_ups: 1, ..NO_FAULTS },
        ..PLAIN
    },
    states: 3_072_081,
};

pub(crate) const ALL: [Scene; 8] = [RACES, MINTS, BUMPS, FAILOVERS, MIGRATIONS, FLIGHTS, CROWD, QUEUES];
