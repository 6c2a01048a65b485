//! Runs the cases: as tests, or one after the other.

use groupcache_core::Backend;

use crate::cases;
use crate::kit::{Expectations, Kit, Violation};

/// Calls `$then` with `$arguments` and the names of all [`cases`].
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_cases {
    ($($then:ident)::+ { $($arguments:tt)* }) => {
        $($then)::+! { { $($arguments)* }
            a_bump_between_lookup_and_store_makes_the_stored_entry_stale
            a_bump_creates_no_generation
            a_bump_is_seen_by_every_later_lookup
            a_bump_leaves_other_groups_alone
            a_bump_replaces_the_generation_of_every_group_it_names
            a_cache_serves_nothing_stale
            a_delete_removes_one_entry_and_nothing_else
            a_dropped_operation_disturbs_no_later_one
            a_generation_never_comes_back
            a_lease_completes_the_vector
            a_lease_ends
            a_lease_has_one_holder
            a_lease_on_an_outdated_vector_is_not_granted
            a_long_lease_is_not_shortened
            a_lookup_changes_nothing
            a_lookup_returns_the_time_left_where_needed
            a_mint_keeps_existing_generations
            a_mint_returns_generations_in_order
            a_new_store_is_empty
            a_time_to_live_of_zero_is_over_at_once
            an_entry_expires_when_its_time_to_live_is_over
            an_entry_is_returned_as_it_was_stored
            an_entry_stored_under_lost_generations_is_never_valid
            any_body_is_returned_unchanged
            any_group_works
            any_key_works
            concurrent_mints_of_a_group_have_one_winner
            connections_see_each_others_writes
            each_key_and_vector_has_its_own_lease
            generations_are_returned_in_order
            key_prefixes_are_isolated
            long_times_to_live_are_not_shortened
            lookup_many_returns_lookups_in_order
            lookup_now_shows_what_lookup_returns
            overwriting_replaces_the_entry_and_its_expiry
        }
    };
}

/// Makes one test for each promise of [`Backend`](groupcache_core::Backend), for the backend that
/// `$make` makes.
///
/// `$make` is a path to an `async fn(key_prefix: String) -> Option<B>`. No other test uses the same
/// `key_prefix`. If the store is [`shared`](crate::Expectations::shared), backends made with the same
/// prefix are connections to the same data.
///
/// `None` means that there is no server to test with. The test is then skipped with a line on standard
/// error, or fails if the environment has `GROUPCACHE_REQUIRE_SERVERS=1`.
///
/// The optional second argument is the [`Expectations`](crate::Expectations) of the store.
///
/// ```
/// use groupcache_conformance::Expectations;
/// # use groupcache_conformance::doubles::PlainBackend;
///
/// async fn backend(key_prefix: String) -> Option<PlainBackend> {
///     Some(PlainBackend::shared(&key_prefix))
/// }
///
/// mod conformance {
///     groupcache_conformance::conformance_tests!(
///         super::backend,
///         super::Expectations::new().shared().leases()
///     );
/// }
/// # fn main() {}
/// ```
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

/// Runs all [`cases`] one after the other and returns the broken promises, none if the backend conforms.
///
/// `make` is what [`conformance_tests!`](crate::conformance_tests) takes as its first argument. Cases
/// without a server are skipped in the same way.
///
/// # Panics
///
/// Panics if there is no server and the environment has `GROUPCACHE_REQUIRE_SERVERS=1`.
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
