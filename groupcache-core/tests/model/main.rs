//! A model of the protocol, explored exhaustively within bounds.
//!
//! The protocol of groupcache serves nothing stale in any scene. Each of fifteen other protocols, which
//! differ from it in one line, does in one of them. The checker searches breadth first, so it finds the
//! shortest trace to a stale read.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

mod counterexamples;
mod goals;
mod protocol;
mod readers;
mod scenes;
mod state;
mod store;
mod trace;
mod variants;

use groupcache_conformance::scale;
use stateright::{Checker, Model, Property};

use crate::counterexamples::{COUNTEREXAMPLES, Counterexample};
use crate::protocol::{Action, Bounds, Protocol, Steps};
use crate::scenes::Scene;
use crate::state::{Phase, State};
use crate::variants::Variant;

const SAFETY: &str = "no read returns data from before an invalidation that was acknowledged before the read";

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        Self::starts(self)
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(self.next(state, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        if let Some(scene) = self.goals_of {
            return goals::properties(scene);
        }
        vec![Property::always(SAFETY, |_, state: &State| {
            !state.readers.iter().any(|reader| reader.phase == Phase::Done { stale: true })
        })]
    }
}

/// Returns the number of states, or the shortest trace to a stale read.
fn explore(variant: Variant, scene: Scene) -> Result<usize, Vec<String>> {
    let protocol = Protocol { variant, bounds: scene.bounds, goals_of: None };
    let checker = protocol.checker().spawn_bfs().join();
    match checker.discovery(SAFETY) {
        Some(path) => Err(trace::describe(&protocol, &path.into_vec())),
        None => Ok(checker.unique_state_count()),
    }
}

fn is_safe(scene: Scene) {
    match explore(Variant::Shipped, scene) {
        Ok(states) => assert_eq!(states, scene.states, "states of {}", scene.name),
        Err(trace) => panic!("{}:\n{}", scene.name, trace.join("\n")),
    }
    if scale() > 1 {
        let bounds = Bounds { steps: Steps::Fine, ..scene.bounds };
        match explore(Variant::Shipped, Scene { bounds, ..scene }) {
            Ok(states) => println!("{} in fine steps: {states} states", scene.name),
            Err(trace) => panic!("{} in fine steps:\n{}", scene.name, trace.join("\n")),
        }
    }
}

#[test]
fn nothing_stale_is_served_in_races() {
    is_safe(scenes::RACES);
}

#[test]
fn nothing_stale_is_served_when_mints_are_late_and_generations_lost() {
    is_safe(scenes::MINTS);
}

#[test]
fn nothing_stale_is_served_when_bumps_are_late() {
    is_safe(scenes::BUMPS);
}

#[test]
fn nothing_stale_is_served_after_failovers() {
    is_safe(scenes::FAILOVERS);
}

#[test]
fn nothing_stale_is_served_while_migrations_begin_and_are_cancelled() {
    is_safe(scenes::MIGRATIONS);
}

#[test]
fn nothing_stale_is_served_when_leaders_are_cancelled() {
    is_safe(scenes::FLIGHTS);
}

#[test]
fn nothing_stale_is_served_to_a_crowd() {
    is_safe(scenes::CROWD);
}

#[test]
fn nothing_stale_is_served_while_readers_wait_for_the_next_load() {
    is_safe(scenes::QUEUES);
}

#[test]
fn every_scene_reaches_its_goals() {
    for scene in scenes::ALL {
        let protocol =
            Protocol { variant: Variant::Shipped, bounds: scene.bounds, goals_of: Some(scene.name) };
        let found = protocol.checker().spawn_bfs().join().discoveries();
        for goal in protocol.properties() {
            assert!(found.contains_key(goal.name), "{}: never {}", scene.name, goal.name);
        }
        assert!(!found.is_empty(), "{} has no goals", scene.name);
    }
}

#[test]
fn every_other_protocol_serves_something_stale() {
    let mut failures = Vec::new();
    for Counterexample { variant, scene, trace } in COUNTEREXAMPLES {
        match explore(variant, scene) {
            Ok(states) => failures.push(format!("{variant:?}: safe in all {states} states")),
            Err(found) if found != trace => failures.push(format!("{variant:?}:\n{}", found.join("\n"))),
            Err(_) => {}
        }
    }
    assert!(failures.is_empty(), "other traces than expected:\n\n{}", failures.join("\n\n"));
}
