//! The laws find strategies and invalidators that break them. Core's own tests check its own strategies
//! and invalidators.

use std::sync::atomic::{AtomicU64, Ordering};

use groupcache_conformance::laws;
use groupcache_core::{
    Address, BoxInvalidator, ByArguments, ByModel, Cache, Call as _, Group, Groups, Invalidator, Key,
    KeyStrategy, Model, NamedCall, RecordingInvalidator, Result, groups_of,
};
use groupcache_memory::MemoryBackend;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Book {
    id: i64,
    author_id: u32,
}

impl Model for Book {
    const NAME: &'static str = "book";
    const GROUPS: &'static [&'static [&'static str]] = &[&["id"], &["author_id"]];
}

fn memory() -> Cache<MemoryBackend> {
    Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build()
}

fn two_calls() -> [NamedCall; 2] {
    [1, 2].map(|id| NamedCall::new("view").with("id", id))
}

#[test]
fn finds_a_strategy_that_gives_different_calls_one_key() {
    const PROMISE: &str = "calls whose values may differ have different keys";
    let by_name_only = |call: &NamedCall| -> Result<Address> {
        Ok(Address { key: Key::of(call.name())?, groups: Groups::none() })
    };
    assert_eq!(laws::injective(&by_name_only, &two_calls()).unwrap_err().promise(), PROMISE);

    // Concatenates names and values without delimiters, as django-groupcache hashed them.
    let undelimited = |call: &NamedCall| -> Result<Address> {
        let text: String = [call.name().to_owned()]
            .into_iter()
            .chain(call.arguments().iter().flat_map(|(name, value)| [name.to_string(), value.to_string()]))
            .collect();
        Ok(Address { key: Key::of(&text)?, groups: Groups::none() })
    };
    let alike = [NamedCall::new("feed").with("a", "bc"), NamedCall::new("feed").with("ab", "c")];
    laws::injective(&ByArguments::all(), &alike).unwrap();
    assert_eq!(laws::injective(&undelimited, &alike).unwrap_err().promise(), PROMISE);
}

#[test]
fn finds_a_strategy_that_gives_equal_calls_different_keys_or_groups() {
    const PROMISE: &str = "equal calls have equal keys and groups";
    let counter = AtomicU64::new(0);
    let key_by_turn = |_: &NamedCall| -> Result<Address> {
        let turn = counter.fetch_add(1, Ordering::SeqCst);
        Ok(Address { key: Key::of(&turn)?, groups: Groups::none() })
    };
    let found = laws::deterministic(&key_by_turn, &two_calls(), Clone::clone).unwrap_err();
    assert_eq!(found.promise(), PROMISE);

    let groups_by_turn = |call: &NamedCall| -> Result<Address> {
        let turn = counter.fetch_add(1, Ordering::SeqCst);
        let key = ByArguments::all().key(call)?;
        Ok(Address { key, groups: Group::new("turn").with("n", turn).into() })
    };
    let found = laws::deterministic(&groups_by_turn, &two_calls(), Clone::clone).unwrap_err();
    assert_eq!(found.promise(), PROMISE);
}

#[test]
fn finds_a_key_that_changed_since_its_golden_bytes() {
    let [call, other] = two_calls();
    let golden = ByArguments::all().key(&call).unwrap();
    laws::stable(&ByArguments::all(), &call, golden.as_bytes()).unwrap();
    let found = laws::stable(&ByArguments::all(), &other, golden.as_bytes()).unwrap_err();
    assert_eq!(found.promise(), "a key is the same in every release");
}

#[test]
fn finds_a_group_that_no_change_of_the_row_invalidates() {
    let row = Book { id: 1, author_id: 7 };
    let [call, other] = two_calls();
    laws::consistent(&ByModel::<Book>::new(), &call, &row).unwrap();
    let found = laws::consistent(&ByArguments::all(), &call, &row).unwrap_err();
    assert_eq!(found.promise(), "a change of a row invalidates every group of the calls that show it");
    let found = laws::consistent(&ByModel::<Book>::new(), &other, &row).unwrap_err();
    assert!(found.to_string().contains("id=2"), "{found}");
}

#[tokio::test]
async fn finds_an_acknowledgement_without_effect() {
    let cache = memory();
    laws::acknowledged_means_effective(&cache, &cache).await.unwrap();
    laws::acknowledged_means_effective(&RecordingInvalidator::default(), &cache).await.unwrap_err();
    laws::acknowledged_means_effective(&memory(), &cache).await.unwrap_err();

    /// Acknowledges before the effect.
    struct Later<I>(I);
    impl<I: Invalidator + Clone + 'static> Invalidator for Later<I> {
        async fn invalidate(&self, groups: &Groups) -> Result<()> {
            let (inner, groups) = (self.0.clone(), groups.clone());
            drop(tokio::spawn(async move { inner.invalidate(&groups).await }));
            Ok(())
        }
    }
    laws::acknowledged_means_effective(&Later(cache.clone()), &cache).await.unwrap_err();
}

#[tokio::test]
async fn finds_a_pair_that_leaves_out_a_side_or_hides_a_failure() {
    struct FirstOnly(BoxInvalidator);
    impl Invalidator for FirstOnly {
        async fn invalidate(&self, groups: &Groups) -> Result<()> {
            self.0.invalidate(groups).await
        }
    }
    struct InTurn(BoxInvalidator, BoxInvalidator);
    impl Invalidator for InTurn {
        async fn invalidate(&self, groups: &Groups) -> Result<()> {
            self.0.invalidate(groups).await?;
            self.1.invalidate(groups).await
        }
    }
    struct Swallows(BoxInvalidator, BoxInvalidator);
    impl Invalidator for Swallows {
        async fn invalidate(&self, groups: &Groups) -> Result<()> {
            drop((self.0.invalidate(groups).await, self.1.invalidate(groups).await));
            Ok(())
        }
    }
    laws::both_sides_are_notified(|one, other| (one, other)).await.unwrap();
    laws::both_sides_are_notified(|one, _| FirstOnly(one)).await.unwrap_err();
    laws::both_sides_are_notified(InTurn).await.unwrap_err();
    laws::both_sides_are_notified(Swallows).await.unwrap_err();
}

#[tokio::test]
async fn finds_an_invalidation_after_a_rollback() {
    laws::nothing_after_a_rollback(async |_| {}).await.unwrap();
    let too_early = async |recorder: RecordingInvalidator| {
        recorder.invalidate(&Group::new("g").into()).await.unwrap();
    };
    laws::nothing_after_a_rollback(too_early).await.unwrap_err();
}

#[tokio::test]
async fn finds_a_moved_row_whose_old_groups_are_not_invalidated() {
    let old = Book { id: 1, author_id: 1 };
    let new = Book { author_id: 2, ..old.clone() };
    let both = async |recorder: RecordingInvalidator| {
        recorder.invalidate(&groups_of(&old).unwrap()).await.unwrap();
        recorder.invalidate(&groups_of(&new).unwrap()).await.unwrap();
    };
    laws::old_and_new_groups_of_a_moved_row(&old, &new, both).await.unwrap();
    let new_only = async |recorder: RecordingInvalidator| {
        recorder.invalidate(&groups_of(&new).unwrap()).await.unwrap();
    };
    let found = laws::old_and_new_groups_of_a_moved_row(&old, &new, new_only).await.unwrap_err();
    assert!(found.to_string().contains("author_id=1"), "{found}");
}
