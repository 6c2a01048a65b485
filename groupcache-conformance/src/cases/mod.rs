//! The cases, one for each promise of [`Backend`](groupcache_core::Backend).
//!
//! Each takes a [`Kit`](crate::Kit) and returns the broken promise as its error.

mod entries;
mod generations;
mod leases;
mod store;

pub use self::entries::{
    a_delete_removes_one_entry_and_nothing_else, a_lookup_returns_the_time_left_where_needed,
    a_time_to_live_of_zero_is_over_at_once, an_entry_expires_when_its_time_to_live_is_over,
    an_entry_is_returned_as_it_was_stored, any_body_is_returned_unchanged, any_key_works,
    long_times_to_live_are_not_shortened, lookup_now_shows_what_lookup_returns,
    overwriting_replaces_the_entry_and_its_expiry,
};
pub use self::generations::{
    a_bump_between_lookup_and_store_makes_the_stored_entry_stale, a_bump_creates_no_generation,
    a_bump_is_seen_by_every_later_lookup, a_bump_leaves_other_groups_alone,
    a_bump_replaces_the_generation_of_every_group_it_names, a_generation_never_comes_back,
    a_mint_keeps_existing_generations, a_mint_returns_generations_in_order,
    an_entry_stored_under_lost_generations_is_never_valid, any_group_works,
    concurrent_mints_of_a_group_have_one_winner, generations_are_returned_in_order,
};
pub use self::leases::{
    a_lease_completes_the_vector, a_lease_ends, a_lease_has_one_holder,
    a_lease_on_an_outdated_vector_is_not_granted, a_long_lease_is_not_shortened,
    each_key_and_vector_has_its_own_lease,
};
pub use self::store::{
    a_cache_serves_nothing_stale, a_dropped_operation_disturbs_no_later_one, a_lookup_changes_nothing,
    a_new_store_is_empty, connections_see_each_others_writes, key_prefixes_are_isolated,
    lookup_many_returns_lookups_in_order,
};
