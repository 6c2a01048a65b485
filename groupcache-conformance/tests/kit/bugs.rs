//! The kit finds each bug of `PlainBackend`, by the cases and with the promise that are named here.

use groupcache_conformance::doubles::{Bug, PlainBackend};
use groupcache_conformance::{Expectations, lost_generation, rollback, violations};

macro_rules! finds {
    ($($name:ident: $bug:ident => $promise:literal by [$($case:ident),+ $(,)?]),* $(,)?) => {
        mod finds {
            use super::*;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let make = |_| async { Some(PlainBackend::with_bug(Bug::$bug)) };
                let found = violations(&make, Expectations::new().leases()).await;
                assert!(found.iter().any(|one| one.promise() == $promise), "{found:?}");
                for case in [$(stringify!($case)),+] {
                    assert!(found.iter().any(|one| one.case() == case), "not by {case}: {found:?}");
                }
            })*
        }

        #[test]
        fn every_bug_has_a_test() {
            assert_eq!([$(Bug::$bug),*].as_slice(), Bug::FOUND_BY_CASES);
        }

        #[test]
        fn every_case_finds_a_bug() {
            let mut finding = [$($(stringify!($case)),+),*].to_vec();
            // The tests below show that these find something.
            finding.extend(["connections_see_each_others_writes", "key_prefixes_are_isolated"]);
            for case in groupcache_conformance::__conformance_cases!(names {}) {
                assert!(finding.contains(&case), "no test shows that {case} finds a bug");
            }
        }
    };
}

macro_rules! names {
    ({} $($case:ident)*) => { [$(stringify!($case)),*] };
}

finds! {
    a_mint_that_overwrites: MintOverwrites =>
        "a mint gives a generation only to groups that have none"
        by [a_mint_keeps_existing_generations, a_mint_returns_generations_in_order],
    a_mint_that_returns_its_own: MintReturnsItsOwn =>
        "a mint gives a generation only to groups that have none"
        by [a_mint_keeps_existing_generations],
    a_mint_that_reads_before_it_writes: MintReadsFirst =>
        "of several concurrent mints of a group one wins, and all return its generation"
        by [concurrent_mints_of_a_group_have_one_winner],
    a_bump_that_works_only_once: BumpOnlyOnce =>
        "a bump replaces the generation of each of its groups, or removes it"
        by [
            a_bump_replaces_the_generation_of_every_group_it_names,
            a_generation_never_comes_back,
            a_cache_serves_nothing_stale,
        ],
    a_bump_of_the_first_group_only: BumpOnlyTheFirst =>
        "a bump replaces the generation of each of its groups, or removes it"
        by [
            a_bump_replaces_the_generation_of_every_group_it_names,
            a_dropped_operation_disturbs_no_later_one,
        ],
    a_bump_that_mints: BumpMints =>
        "a bump gives no generation to a group that has none"
        by [a_bump_creates_no_generation],
    a_bump_that_takes_effect_later: BumpLater =>
        "a bump between lookup and store makes the stored entry stale"
        by [
            a_bump_between_lookup_and_store_makes_the_stored_entry_stale,
            a_bump_is_seen_by_every_later_lookup,
        ],
    a_time_to_live_that_is_ignored: TimeToLiveIgnored =>
        "an entry is absent once its time to live is over"
        by [an_entry_expires_when_its_time_to_live_is_over, a_time_to_live_of_zero_is_over_at_once],
    a_time_to_live_in_whole_seconds: TimeToLiveInWholeSeconds =>
        "an entry is absent once its time to live is over"
        by [an_entry_expires_when_its_time_to_live_is_over],
    a_time_to_live_that_becomes_a_date: TimeToLiveBecomesADate =>
        "a long time to live is not shortened"
        by [long_times_to_live_are_not_shortened],
    an_overwrite_that_keeps_the_expiry: OverwriteKeepsExpiry =>
        "storing replaces the previous entry and its expiry"
        by [overwriting_replaces_the_entry_and_its_expiry],
    a_lookup_of_one_group_of_several: OneGroupOfSeveral =>
        "a lookup returns the generation of each group, in order"
        by [generations_are_returned_in_order],
    a_batch_out_of_order: BatchOutOfOrder =>
        "`lookup_many` returns one lookup for each request, in order"
        by [lookup_many_returns_lookups_in_order],
    a_batch_that_leaves_out_misses: BatchLeavesOutMisses =>
        "`lookup_many` returns one lookup for each request, in order"
        by [lookup_many_returns_lookups_in_order],
    long_keys_that_are_truncated: LongKeysCut =>
        "keys of any length and content work and stay distinct"
        by [any_key_works],
    fields_that_are_ignored: FieldsIgnored =>
        "a bump changes no group that it does not name"
        by [a_bump_leaves_other_groups_alone, any_group_works],
    case_that_is_ignored: CaseIgnored =>
        "a bump changes no group that it does not name"
        by [a_bump_leaves_other_groups_alone, any_group_works],
    a_delete_that_is_ignored: DeleteIgnored =>
        "a delete removes the entry"
        by [a_delete_removes_one_entry_and_nothing_else],
    bodies_that_end_at_zero: BodyEndsAtZero =>
        "bodies of any length and content are returned unchanged"
        by [any_body_is_returned_unchanged, an_entry_is_returned_as_it_was_stored],
    a_grace_that_is_lost: GraceForgotten =>
        "an entry is returned as it was stored"
        by [an_entry_is_returned_as_it_was_stored],
    a_time_left_that_is_missing: TimeLeftMissing =>
        "a lookup returns the time left where it is needed"
        by [a_lookup_returns_the_time_left_where_needed],
    a_lookup_that_mints: LookupMints =>
        "only a mint gives a group a generation"
        by [a_lookup_changes_nothing, a_new_store_is_empty],
    a_store_that_takes_generations_from_entries: StoreAdopts =>
        "a missing generation is reported missing, not taken from an entry"
        by [an_entry_stored_under_lost_generations_is_never_valid],
    a_lookup_now_that_guesses: LookupNowGuesses =>
        "`lookup_now` shows what `lookup` returns, at most once"
        by [lookup_now_shows_what_lookup_returns],
    a_lease_for_every_owner: LeaseForEveryOwner =>
        "a lease has one owner at a time"
        by [a_lease_has_one_holder],
    a_lease_that_never_ends: LeaseNeverEnds =>
        "a lease ends when its duration is over, whether or not its owner requested it again"
        by [a_lease_ends],
    a_lease_that_mints_existing_generations: LeaseMintsAll =>
        "a lease gives a generation only to groups that have none, and returns all in order"
        by [a_lease_completes_the_vector],
    one_lease_for_all_keys: OneLeaseForAll =>
        "each key and vector has its own lease"
        by [each_key_and_vector_has_its_own_lease],
    a_release_that_is_ignored: ReleaseIgnored =>
        "a released lease is free"
        by [a_lease_ends],
    a_release_by_any_owner: ReleaseByAnyOwner =>
        "a release does not end the lease of another owner"
        by [a_lease_ends],
    a_lease_that_a_repeated_request_extends: LeaseExtends =>
        "a lease ends when its duration is over, whether or not its owner requested it again"
        by [a_lease_ends],
    a_lease_that_becomes_a_date: LeaseBecomesADate =>
        "a long lease is not shortened"
        by [a_long_lease_is_not_shortened],
    a_lease_that_is_guessed: LeaseGuesses =>
        "a lease has one owner at a time"
        by [a_lease_on_an_outdated_vector_is_not_granted],
}

#[tokio::test]
async fn finds_key_prefixes_that_share_their_data() {
    let one_for_all = PlainBackend::new();
    let make = move |_| {
        let backend = one_for_all.clone();
        async move { Some(backend) }
    };
    let found = violations(&make, Expectations::new()).await;
    let promise = "different key prefixes share no entries and no generations";
    assert!(found.iter().any(|violation| violation.promise() == promise), "{found:?}");
}

#[tokio::test]
async fn finds_connections_that_do_not_share_their_data() {
    let plain = |_: String| async { Some(PlainBackend::new()) };
    let found = violations(&plain, Expectations::new().shared().leases()).await;
    let cases: Vec<_> = found.iter().map(|violation| violation.case()).collect();
    assert_eq!(cases, ["connections_see_each_others_writes"]);
}

#[tokio::test]
async fn a_sound_backend_never_returns_a_lost_generation() {
    let backend = PlainBackend::new();
    lost_generation(&backend, async |group| backend.lose_group(group)).await.unwrap();
}

#[tokio::test]
async fn finds_a_lost_generation_that_is_guessed_or_repeated() {
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
async fn finds_a_rollback_that_the_store_does_not_notice() {
    let sound = PlainBackend::new();
    rollback(&sound, async || sound.snapshot(), async |snapshot| sound.restore(snapshot)).await.unwrap();
    let unnoticed = PlainBackend::with_bug(Bug::RollbackUnnoticed);
    let found = rollback(&unnoticed, async || unnoticed.snapshot(), async |old| unnoticed.restore(old));
    let found = found.await.unwrap_err();
    assert!(found.promise().starts_with("after the store returns to older contents"), "{found}");
    assert!(found.to_string().starts_with("broken promise: after the store returns"), "{found}");
}
