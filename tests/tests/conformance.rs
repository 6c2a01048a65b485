//! The conformance kit: run for every backend and wrapper, and shown to find what it is there to
//! find.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::sync::Arc;

use groupcache_conformance::{Expectations, lost_generation, rollback, violations};
use groupcache_core::BoxBackend;
use groupcache_memory::MemoryBackend;
use groupcache_tests::{Bug, CountingBackend, PlainBackend, ScriptedBackend};

async fn memory(_: String) -> Option<MemoryBackend> {
    Some(MemoryBackend::with_max_bytes(64 << 20))
}

async fn boxed(space: String) -> Option<BoxBackend> {
    Some(BoxBackend::new(memory(space).await?))
}

async fn shared_pointer(space: String) -> Option<Arc<MemoryBackend>> {
    Some(Arc::new(memory(space).await?))
}

async fn boxed_pointer_to_plain(_: String) -> Option<BoxBackend> {
    Some(BoxBackend::new(Arc::new(PlainBackend::new())))
}

async fn plain(_: String) -> Option<PlainBackend> {
    Some(PlainBackend::new())
}

/// Name spaces in one store, several connections to each.
async fn plain_and_shared(space: String) -> Option<PlainBackend> {
    Some(PlainBackend::shared(&space))
}

async fn wrapped(space: String) -> Option<ScriptedBackend<CountingBackend<PlainBackend>>> {
    Some(ScriptedBackend::new(CountingBackend::new(plain(space).await?)))
}

mod of_memory {
    groupcache_conformance::conformance_tests!(super::memory);
}

mod of_a_boxed_backend {
    groupcache_conformance::conformance_tests!(super::boxed);
}

mod of_a_shared_pointer {
    groupcache_conformance::conformance_tests!(super::shared_pointer);
}

mod of_a_boxed_pointer {
    groupcache_conformance::conformance_tests!(
        super::boxed_pointer_to_plain,
        super::Expectations::new().leases()
    );
}

mod of_a_plain_backend {
    groupcache_conformance::conformance_tests!(
        super::plain_and_shared,
        super::Expectations::new().shared().leases()
    );
}

mod of_wrappers {
    groupcache_conformance::conformance_tests!(super::wrapped, super::Expectations::new().leases());
}

macro_rules! finds {
    ($($name:ident: $bug:ident => $promise:literal by [$($case:ident),+]),* $(,)?) => {
        /// A backend with one mistake, the promise that the kit says it breaks, and what finds it.
        mod finds {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let make = |_| async { Some(super::PlainBackend::with_bug(super::Bug::$bug)) };
                let found = super::violations(&make, super::Expectations::new().leases()).await;
                assert!(found.iter().any(|one| one.promise() == $promise), "{found:?}");
                for case in [$(stringify!($case)),+] {
                    assert!(found.iter().any(|one| one.case() == case), "not by {case}: {found:?}");
                }
            })*
        }

        #[test]
        fn every_mistake_has_a_test() {
            assert_eq!([$(Bug::$bug),*].as_slice(), Bug::ALL_THAT_SHOW_BY_THEMSELVES);
        }

        #[test]
        fn every_case_finds_something() {
            let mut finding = [$($(stringify!($case)),+),*].to_vec();
            // Shown by tests of their own.
            finding.extend(["connections_to_one_store_see_the_same", "name_spaces_never_meet"]);
            for case in groupcache_conformance::__conformance_cases!(names {}) {
                assert!(finding.contains(&case), "{case} has not been seen to find anything");
            }
        }
    };
}

macro_rules! names {
    ({} $($case:ident)*) => { [$(stringify!($case)),*] };
}

finds! {
    a_mint_that_overwrites: MintOverwrites => "a mint gives a generation only to groups that have none" by [a_mint_keeps_the_generation_that_is_there, a_mint_answers_in_the_order_of_its_groups],
    a_mint_that_returns_its_own: MintReturnsItsOwn => "a mint gives a generation only to groups that have none" by [a_mint_keeps_the_generation_that_is_there],
    a_mint_that_looks_and_writes_apart: MintLooksFirst =>
        "of several concurrent mints of a group one wins, and all return the winner's generation" by [concurrent_mints_of_a_group_have_one_winner],
    a_bump_that_is_lost_where_the_group_is_new: BumpOnlyOnce =>
        "a bump replaces the generation of each of its groups, or removes it" by [a_bump_replaces_the_generation_of_every_group_it_names, a_generation_never_comes_back, a_cache_on_it_serves_nothing_stale],
    a_bump_of_the_first_group_only: BumpOnlyTheFirst =>
        "a bump replaces the generation of each of its groups, or removes it" by [a_bump_replaces_the_generation_of_every_group_it_names, a_dropped_operation_leaves_nothing_broken],
    a_bump_that_mints: BumpMints => "a bump leaves groups without a generation without one" by [a_bump_leaves_groups_without_a_generation_without],
    a_bump_that_comes_later: BumpLater => "a bump between lookup and store makes the stored entry stale" by [a_bump_between_lookup_and_store_makes_the_stored_entry_stale, a_bump_is_seen_by_every_lookup_that_starts_after_it],
    a_time_to_live_that_is_ignored: TimeToLiveIgnored =>
        "an entry is absent once its time to live is over" by [an_entry_expires_when_its_time_to_live_is_over, a_time_to_live_of_zero_is_over_at_once],
    a_time_to_live_in_whole_seconds: TimeToLiveInWholeSeconds =>
        "an entry is absent once its time to live is over" by [an_entry_expires_when_its_time_to_live_is_over],
    a_time_to_live_that_becomes_a_date: TimeToLiveBecomesADate => "a long time to live is not cut" by [long_times_to_live_are_not_cut],
    an_overwrite_that_keeps_the_expiry: OverwriteKeepsExpiry => "storing replaces what is there and its expiry" by [overwriting_replaces_the_entry_and_its_expiry],
    one_group_of_several: OneGroupOfSeveral => "a lookup tells the generation of each of the groups, in order" by [generations_are_told_in_the_order_of_the_groups],
    a_batch_out_of_order: BatchOutOfOrder => "several lookups are answered in order" by [a_batch_is_answered_in_the_order_of_its_questions],
    a_batch_that_leaves_out_misses: BatchLeavesOutMisses => "several lookups are answered in order" by [a_batch_is_answered_in_the_order_of_its_questions],
    long_keys_that_are_cut: LongKeysCut => "keys of any length and any content work and are told apart" by [any_key_works],
    fields_that_are_ignored: FieldsIgnored => "a bump changes no group that it does not name" by [a_bump_leaves_other_groups_alone, any_group_works],
    case_that_is_ignored: CaseIgnored => "a bump changes no group that it does not name" by [a_bump_leaves_other_groups_alone, any_group_works],
    a_delete_that_is_ignored: DeleteIgnored => "a delete removes the entry" by [a_delete_removes_one_entry_and_nothing_else],
    bodies_that_end_at_zero: BodyEndsAtZero => "bodies of any length and any content come back" by [any_body_comes_back, an_entry_comes_back_as_it_was_stored],
    a_grace_that_is_forgotten: GraceForgotten => "an entry comes back as it was stored" by [an_entry_comes_back_as_it_was_stored],
    a_time_left_that_is_not_told: TimeLeftNotTold => "the time left is told where it is needed" by [the_time_left_is_told_where_it_is_needed],
    a_lookup_that_mints: LookupMints => "only a mint gives a group a generation"
        by [a_lookup_changes_nothing, an_empty_store_has_nothing],
    a_store_that_takes_generations_from_entries: StoreAdopts =>
        "a generation that is not there is missing, not taken from an entry"
        by [an_entry_stored_under_lost_generations_is_never_valid],
    a_glance_that_guesses: GlanceGuesses =>
        "a glance shows the entry and the generations that a lookup finds, at most once"
        by [a_glance_shows_what_a_lookup_finds],
    a_lease_for_all: LeaseForAll => "a lease has one owner at a time" by [a_lease_has_one_holder],
    a_lease_that_never_ends: LeaseNeverEnds => "a lease is free once its time is over, whether or not its owner asked again" by [a_lease_ends],
    a_lease_that_mints_what_is_there: LeaseMintsAll =>
        "a lease gives a generation only to groups that have none, and tells all of them in order"
        by [a_lease_completes_the_vector],
    leases_that_meet: LeasesMeet => "each key and each vector has a lease of its own" by [leases_never_meet],
    a_release_that_is_ignored: ReleaseIgnored => "a lease that was released is free" by [a_lease_ends],
    a_release_by_anybody: ReleaseByAnybody => "a release takes away nobody else's lease" by [a_lease_ends],
    a_lease_that_lasts_longer_when_asked_again: LeaseExtends =>
        "a lease is free once its time is over, whether or not its owner asked again" by [a_lease_ends],
    a_lease_that_becomes_a_date: LeaseBecomesADate => "a long lease is not cut short" by [a_long_lease_lasts],
    a_lease_that_is_guessed: LeaseGuesses => "a lease has one owner at a time"
        by [a_lease_on_a_vector_that_did_not_come_out_is_nobodys],
}

#[tokio::test]
async fn name_spaces_that_meet_are_found() {
    let one_for_all = PlainBackend::new();
    let make = move |_| {
        let backend = one_for_all.clone();
        async move { Some(backend) }
    };
    let found = violations(&make, Expectations::new()).await;
    let promise = "entries and generations of different name spaces never meet";
    assert!(found.iter().any(|violation| violation.promise() == promise), "{found:?}");
}

#[tokio::test]
async fn connections_that_do_not_see_each_other_are_found() {
    let found = violations(&plain, Expectations::new().shared().leases()).await;
    let cases: Vec<_> = found.iter().map(|violation| violation.case()).collect();
    assert_eq!(cases, ["connections_to_one_store_see_the_same"]);
}

#[tokio::test]
async fn a_sound_backend_loses_generations_for_good() {
    let backend = PlainBackend::new();
    lost_generation(&backend, async |group| backend.lose_group(group)).await.unwrap();
}

#[tokio::test]
async fn a_lost_generation_that_is_guessed_or_repeated_is_found() {
    let guesses = PlainBackend::with_bug(Bug::LostIsGuessed);
    let found = lost_generation(&guesses, async |group| guesses.lose_group(group)).await.unwrap_err();
    assert_eq!(
        found.promise(),
        "a generation that the store lost is reported missing, not replaced by a guess"
    );
    let repeats = PlainBackend::with_bug(Bug::GenerationsRepeat);
    let found = lost_generation(&repeats, async |group| repeats.lose_group(group)).await.unwrap_err();
    assert_eq!(
        found.promise(),
        "each write to a group's generation installs one that was never current before"
    );
}

#[tokio::test]
async fn a_rollback_that_nobody_notices_is_found_and_one_that_is_noticed_is_sound() {
    let sound = PlainBackend::new();
    rollback(&sound, async || sound.snapshot(), async |snapshot| sound.restore(snapshot)).await.unwrap();
    let unnoticed = PlainBackend::with_bug(Bug::RollbackUnnoticed);
    let found = rollback(&unnoticed, async || unnoticed.snapshot(), async |old| unnoticed.restore(old));
    let found = found.await.unwrap_err();
    assert!(found.promise().starts_with("a store that can come back with older contents"));
    assert!(found.to_string().starts_with("broken promise: a store that can come back"), "{found}");
}

#[tokio::test]
async fn without_a_server_the_kit_skips_or_fails_where_servers_are_required() {
    let no_server = |_: String| async { None::<PlainBackend> };
    let kit = tokio::spawn(async move { violations(&no_server, Expectations::new()).await });
    match std::env::var("GROUPCACHE_REQUIRE_SERVERS").as_deref() {
        Ok("1") => assert!(kit.await.unwrap_err().is_panic()),
        _ => assert_eq!(kit.await.unwrap(), []),
    }
}
