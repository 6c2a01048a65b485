//! Shows whether what one wrote oneself keeps the promises of this crate: a backend, a key strategy,
//! an invalidator. With the feature `conformance`, which only tests need.
//!
//! * [`conformance_tests!`](crate::conformance_tests) makes one test of each sentence of the
//!   documentation of [`Backend`], edges and races included.
//! * [`lost_generation`] and [`rollback`] are two more, for stores that a test can make forget.
//! * [`FaultBackend`] does to a backend what networks and servers do, by a plan that a seed repeats.
//! * [`under_faults`] lets readers and writers of a cache run into these faults.
//! * [`HistoryRecorder`] writes down who read and invalidated what and when, and finds every read
//!   that breaks the promise of the cache.
//! * [`laws`] are what any key strategy and any invalidator has to obey.
//!
//! ```
//! use groupcache_conformance::Expectations;
//! use groupcache_memory::MemoryBackend;
//!
//! // A name space of its own for each test; in process memory, that is a store of its own.
//! async fn backend(_space: String) -> Option<MemoryBackend> {
//!     Some(MemoryBackend::with_max_bytes(64 << 20))
//! }
//!
//! mod conformance {
//!     groupcache_conformance::conformance_tests!(super::backend);
//! }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! # let found = groupcache_conformance::violations(&backend, Expectations::new()).await;
//! # assert!(found.is_empty(), "{found:?}");
//! # }
//! ```
//!
//! Whoever runs it needs tokio with `macros` and `rt-multi-thread`.

#![warn(
    missing_docs,
    missing_debug_implementations,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::exhaustive_enums,
    clippy::unwrap_used
)]
#![doc(test(attr(deny(unused_must_use))))]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should"))]

pub mod cases;
mod disasters;
mod entries;
mod faults;
mod generations;
mod history;
mod kit;
pub mod laws;
mod leases;
mod survival;

pub use self::disasters::{lost_generation, rollback};
pub use self::faults::{Fault, FaultBackend, FaultPlan, Faulted};
pub use self::history::{Checked, HistoryRecorder, Invalidation, Read, StaleRead};
pub use self::kit::{Expectations, Kit, Violation};
pub use self::survival::{Survived, under_faults};

use groupcache_core::Backend;

/// Calls `$then` with `$arguments` and the names of all [`cases`].
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_cases {
    ($($then:ident)::+ { $($arguments:tt)* }) => {
        $($then)::+! { { $($arguments)* }
            a_batch_is_answered_in_the_order_of_its_questions
            a_bump_between_lookup_and_store_makes_the_stored_entry_stale
            a_bump_is_seen_by_every_lookup_that_starts_after_it
            a_bump_leaves_other_groups_alone
            a_bump_leaves_groups_without_a_generation_without
            a_bump_replaces_the_generation_of_every_group_it_names
            a_cache_on_it_serves_nothing_stale
            a_delete_removes_one_entry_and_nothing_else
            a_dropped_operation_leaves_nothing_broken
            a_generation_never_comes_back
            a_glance_shows_what_a_lookup_finds
            a_lease_completes_the_vector
            a_lease_ends
            a_lease_has_one_holder
            a_lease_on_a_vector_that_did_not_come_out_is_nobodys
            a_long_lease_lasts
            a_lookup_changes_nothing
            a_mint_keeps_the_generation_that_is_there
            a_mint_answers_in_the_order_of_its_groups
            a_time_to_live_of_zero_is_over_at_once
            an_empty_store_has_nothing
            an_entry_comes_back_as_it_was_stored
            an_entry_expires_when_its_time_to_live_is_over
            an_entry_stored_under_lost_generations_is_never_valid
            any_body_comes_back
            any_group_works
            any_key_works
            concurrent_mints_of_a_group_have_one_winner
            connections_to_one_store_see_the_same
            generations_are_told_in_the_order_of_the_groups
            leases_never_meet
            long_times_to_live_are_not_cut
            name_spaces_never_meet
            overwriting_replaces_the_entry_and_its_expiry
            the_time_left_is_told_where_it_is_needed
        }
    };
}

/// Makes one test of each promise of [`Backend`], for the backend that `$make` makes.
///
/// `$make` is a path to an `async fn(space: String) -> Option<B>`. `None` says that there is no server
/// to test with: the test is skipped then, visibly, and fails if the environment has `GROUPCACHE_REQUIRE_SERVERS=1`. `space` is a name space (a key prefix) that no other test has.
/// Backends made with the same `space` are connections to the same data if the store is
/// [`shared`](crate::Expectations::shared).
///
/// A second argument says what else to expect; see
/// [`Expectations`](crate::Expectations).
#[macro_export]
macro_rules! conformance_tests {
    ($make:path) => {
        $crate::conformance_tests!($make, $crate::Expectations::new());
    };
    ($make:path, $expectations:expr) => {
        $crate::__conformance_cases!($crate::__conformance_tests { $make, $expectations });
    };
}

/// The tests, one for each name.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ({ $make:path, $expectations:expr } $($case:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let kit = $crate::Kit::new(stringify!($case), &$make, $expectations).await;
            if let Some(kit) = kit
                && let Err(violation) = $crate::cases::$case(&kit).await
            {
                panic!("{violation}");
            }
        })*
    };
}

macro_rules! all_violations {
    ({ $make:ident, $expectations:ident, $found:ident } $($case:ident)*) => {
        $(if let Some(kit) = Kit::new(stringify!($case), $make, $expectations).await {
            $found.extend(cases::$case(&kit).await.err());
        })*
    };
}

/// Runs all [`cases`] one after the other and returns the promises that are broken, none if the
/// backend conforms. What [`conformance_tests!`](crate::conformance_tests) does, for those who
/// want the outcome rather than tests.
pub async fn violations<B, F, Fut>(make: &F, expectations: Expectations) -> Vec<Violation>
where
    B: Backend,
    F: Fn(String) -> Fut + Sync,
    Fut: Future<Output = Option<B>> + Send,
{
    let mut found = Vec::new();
    crate::__conformance_cases!(all_violations { make, expectations, found });
    found
}

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
